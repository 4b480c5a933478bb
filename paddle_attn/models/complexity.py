"""What a network costs: trainable parameters and multiply-accumulates, the attention's own shown apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle
from paddle import nn

from ..attention import Attention, SelectiveKernel, list_attention
from . import create_model, list_models, model_spec
from .dry_run import dry_run


@dataclass(frozen=True)
class Profile:
    """Counts for one image. `params` and `macs` are the whole network's; `attn_*` the part of it that the attention makes."""

    params: int
    macs: int
    attn_params: int
    attn_macs: int
    attn_sites: int

    def __str__(self) -> str:
        line = f"{self.params:,} trainable parameters, {self.macs / 1e9:.3f} GMACs"
        if not self.attn_sites:
            return line + ", no attention"
        return (
            line
            + f"; of these the attention at {self.attn_sites} places: {self.attn_params:,} parameters, {self.attn_macs / 1e9:.4f} GMACs"
        )


def profile(net: nn.Layer, size: int = 224) -> Profile:
    """Count the trainable parameters and the multiply-accumulates of one image of `size` x `size` px.

    Convolutions and linear layers count their products; an attention adds the elementwise work that its `macs` declares; batch
    norm, activations and pooling of the backbone count nothing, as in the published tables. The network is left as it was.
    """
    macs = attn_macs = 0
    attentions = [
        layer for layer in net.sublayers(include_self=True) if isinstance(layer, (Attention, SelectiveKernel))
    ]
    inside = {id(layer) for attn in attentions for layer in attn.sublayers()}

    def count(layer: nn.Layer, inputs: tuple, output: paddle.Tensor) -> None:
        nonlocal macs, attn_macs
        if isinstance(layer, (Attention, SelectiveKernel)):
            cost = layer.macs(inputs[0].shape[2], inputs[0].shape[3])
            attn_macs += cost
        else:
            cost = _products(layer, output)
            attn_macs += cost if id(layer) in inside else 0
        macs += cost

    counted = [
        layer
        for layer in net.sublayers(include_self=True)
        if isinstance(layer, (nn.Conv1D, nn.Conv2D, nn.Linear, Attention, SelectiveKernel))
    ]
    dry_run(net, size, counted, count)
    attn_params = sum(trainable_params(attn) for attn in attentions)
    return Profile(trainable_params(net), int(macs), attn_params, int(attn_macs), len(attentions))


def tables() -> str:
    """Two tables in Markdown: every model without attention, and what each attention adds to a ResNet-50."""
    lines = ["| model | input | classes | parameters | GMACs |", "|---|---|---|---|---|"]
    for model in list_models():
        spec = model_spec(model)
        base = profile(create_model(model), spec.input_size)
        lines.append(
            f"| `{model}` | {spec.input_size} | {spec.num_classes} | {base.params:,} | {base.macs / 1e9:.3f} |"
        )
    base = profile(create_model("resnet50"))
    lines += ["", "| resnet50 with | places | + parameters | + GMACs |", "|---|---|---|---|"]
    for attn in [*list_attention(), "sk"]:
        with_it = profile(create_model("resnet50", attn))
        lines.append(
            f"| `{attn}` | {with_it.attn_sites} | {with_it.params - base.params:,} | {(with_it.macs - base.macs) / 1e9:.4f} |"
        )
    return "\n".join(lines)


def trainable_params(net: nn.Layer) -> int:
    """The number of trainable parameters; a batch norm's running statistics are none."""
    return sum(int(np.prod(p.shape)) for p in net.parameters() if not p.stop_gradient)


def _products(layer: nn.Layer, output: paddle.Tensor) -> int:
    weight = layer.weight.shape
    per_output = weight[0] if isinstance(layer, nn.Linear) else int(np.prod(weight[1:]))
    return int(np.prod(output.shape)) * per_output
