"""The cost of a network: trainable parameters and multiply-accumulates, the attention's part apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import nn

from ..attention import ATTENTION, Attention, list_attention
from . import create_model, list_models, model_spec
from .dry_run import dry_run

WITH_PRODUCTS = (nn.Conv1D, nn.Conv2D, nn.Linear)


@dataclass(frozen=True)
class Profile:
    """Counts for one image: of the whole network (`params`, `macs`) and of its attention (`attn_*`)."""

    params: int
    macs: int
    attn_params: int
    attn_macs: int
    attn_sites: int

    def __str__(self) -> str:
        line = f"{self.params:,} trainable parameters, {self.macs / 1e9:.3f} GMACs"
        if not self.attn_sites:
            return f"{line}, no attention"
        return (
            f"{line}; of these the attention at {self.attn_sites} places: "
            f"{self.attn_params:,} parameters, {self.attn_macs / 1e9:.4f} GMACs"
        )


def profile(net: nn.Layer, size: int = 224) -> Profile:
    """Count the trainable parameters and the multiply-accumulates of one image of `size` x `size` px.

    Convolutions and linear layers count their products. An attention adds its elementwise work
    (`Attention.macs`). The backbone's batch norms, activations and poolings are not counted, as in the
    published tables. The network is left unchanged.
    """
    layers = net.sublayers(include_self=True)
    attentions = [layer for layer in layers if isinstance(layer, Attention)]
    inside = {id(layer) for attention in attentions for layer in attention.sublayers(include_self=True)}
    macs = {True: 0, False: 0}  # by whether a layer belongs to an attention

    def count(layer: nn.Layer, inputs: tuple, output: paddle.Tensor) -> None:
        if isinstance(layer, Attention):
            cost = layer.macs(*inputs[0].shape[2:])
        else:
            cost = _products(layer, output)
        macs[id(layer) in inside] += cost

    counted = [layer for layer in layers if isinstance(layer, (Attention, *WITH_PRODUCTS))]
    dry_run(net, [1, 3, size, size], counted, count)
    return Profile(
        params=trainable_params(net),
        macs=macs[True] + macs[False],
        attn_params=sum(trainable_params(attention) for attention in attentions),
        attn_macs=macs[True],
        attn_sites=len(attentions),
    )


def trainable_params(net: nn.Layer) -> int:
    """The number of trainable parameters. A batch norm's running statistics are not trainable."""
    return sum(int(np.prod(parameter.shape)) for parameter in net.parameters() if not parameter.stop_gradient)


def tables(progress: Callable[[str], object]) -> str:
    """Three tables in Markdown: every model without attention, what each attention adds to a ResNet-50, and
    what those need that do not take every map.

    `progress` receives each network's name before it is counted, which takes about a second.
    """
    lines = ["| model | input | classes | parameters | GMACs |", "|---|---|---|---|---|"]
    for model in list_models():
        spec = model_spec(model)
        progress(model)
        base = profile(create_model(model), spec.input_size)
        lines.append(
            f"| `{model}` | {spec.input_size} | {spec.num_classes} "
            f"| {base.params:,} | {base.macs / 1e9:.3f} |"
        )
    base = profile(create_model("resnet50"))
    lines += ["", "| resnet50 with | places | + parameters | + GMACs |", "|---|---|---|---|"]
    for attn in list_attention():
        progress(f"resnet50 with {attn}")
        found = profile(create_model("resnet50", attn))
        params, macs = found.params - base.params, found.macs - base.macs
        lines.append(f"| `{attn}` | {found.attn_sites} | {params:,} | {macs / 1e9:.4f} |")
    lines += ["", "| attention | needs |", "|---|---|"]
    lines += [f"| `{attn}` | {ATTENTION[attn].needs} |" for attn in list_attention() if ATTENTION[attn].needs]
    return "\n".join(lines)


def _products(layer: nn.Layer, output: paddle.Tensor) -> int:
    """The products of a convolution or a linear layer: output elements times weights per element."""
    weight = layer.weight.shape
    per_element = weight[0] if isinstance(layer, nn.Linear) else int(np.prod(weight[1:]))
    return int(np.prod(output.shape)) * per_element
