"""The gates of a network's own attentions: what each multiplies its input by.

A gate lies between 0 and 1 (BAM's between 1 and 2) and belongs to no class: it says where, or in which
channels, a layer lets more through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ..attention import CBAM, Attention, GlobalContext, SpatialGroupEnhance
from ..errors import UserError, did_you_mean, nearest
from .recording import evaluating, hooked, list_attentions


@dataclass(frozen=True)
class Gate:
    """The gate of one attention for a batch. It has maps, channels or both.

    Attributes:
        layer: the name of the attention's sublayer.
        attention: its class, such as 'SimAM'.
        maps: float32 `[N, M, h, w]`: one map, or one for each of SGE's groups; None without a spatial gate.
        channels: float32 `[N, C]`, the weight of each channel; None without a channel gate.
        content: what `maps` or, without them, `channels` show, for a title.
    """

    layer: str
    attention: str
    maps: np.ndarray | None
    channels: np.ndarray | None
    content: str


View = tuple[Tensor | None, Tensor | None, str]  # maps [N, M, h, w], channels [N, C, 1, 1], content


def _cbam(attention: CBAM, x: Tensor) -> View:
    channels = attention.channel_gate(x)
    if attention.spatial_gate is None:
        return None, channels, "channel weights"
    return attention.spatial_gate(x * channels), channels, "spatial gate"


def _sge(attention: SpatialGroupEnhance, x: Tensor) -> View:
    """A mask is the same in all channels of its group: the first channel of each."""
    masks = attention.gate(x)[:, :: attention.channels // attention.groups]
    return masks, None, f"masks of {attention.groups} groups"


def _global_context(attention: GlobalContext, x: Tensor) -> View:
    """The weights of the average that is the context, 1 on average; the channels' when it multiplies."""
    channels = attention.gate(x) if attention.fusion == "mul" else None
    if attention.mask is None:
        if channels is None:
            raise UserError(
                "GC with pooling='avg' and fusion='add' has no gate: it adds one context everywhere"
            )
        return None, channels, "channel weights"
    mask = attention.mask(x)
    weights = F.softmax(mask.flatten(2), axis=2) * (mask.shape[2] * mask.shape[3])
    return weights.reshape(mask.shape), channels, "weights of the context"


def _general(attention: Attention, x: Tensor) -> View:
    """By the shape of `gate(x)`: channel weights, a map, or the mean of the channels' maps."""
    gate = attention.gate(x)
    if gate.shape[2] * gate.shape[3] == 1 and x.shape[2] * x.shape[3] > 1:
        return None, gate, "channel weights"
    content = "gate" if gate.shape[1] == 1 else "gate, mean of the channels"
    return gate.mean(1, keepdim=True), None, content


VIEWS: dict[type[Attention], Callable[..., View]] = {
    CBAM: _cbam,
    SpatialGroupEnhance: _sge,
    GlobalContext: _global_context,
}


def attention_gates(net: nn.Layer, images: Tensor, layers: Sequence[str] | None = None) -> list[Gate]:
    """The gates of a network's attentions for a batch of images, in the network's order.

    The network runs in eval mode and is left as it was, also after an error; no other thread may use it
    meanwhile.

    Args:
        net: a network of this zoo with an attention, or one that `insert_attention` changed.
        images: float32 `[N, 3, H, W]`, preprocessed.
        layers: names of attentions, as `list_attentions` gives them; None takes all of them.

    Raises: UserError when the network has no attention, or not those, or one has no gate.
    """
    attentions = list_attentions(net)
    if not attentions:
        raise UserError(
            f"{type(net).__name__} has no attention whose gate could be shown: expected one, "
            "or a method such as 'grad-cam'"
        )
    for name in layers or ():
        if name not in attentions:
            hint = did_you_mean(nearest(name, attentions))
            raise UserError(f"'{name}' is not an attention: expected one of {', '.join(attentions)}{hint}")
    chosen = {name: attentions[name] for name in layers or attentions}
    received: dict[int, Tensor] = {}

    def record(attention: Attention, inputs: tuple, output: Tensor) -> None:
        received[id(attention)] = inputs[0]

    with evaluating(net), paddle.no_grad():
        with hooked(chosen.values(), record):
            net(images)
        return [_gate(name, attention, received[id(attention)]) for name, attention in chosen.items()]


def _gate(name: str, attention: Attention, x: Tensor) -> Gate:
    maps, channels, content = VIEWS.get(type(attention), _general)(attention, x)
    return Gate(
        name,
        type(attention).__name__,
        None if maps is None else maps.numpy(),
        None if channels is None else channels.flatten(1).numpy(),
        content,
    )
