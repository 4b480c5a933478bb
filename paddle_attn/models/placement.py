"""Where an attention sits: which slot of which block its authors chose. Data, written once.

A slot is a place in a block's `forward`:

    pre_bn      ResNet: between the last 3x3 convolution and its batch norm; MobileNetV2: between the depthwise one and its
    post_bn     after the block's last batch norm, before the addition
    pre_pool    VGG: before each of the five max-pools
    post_pool   TowerNet: after the max-pools of b3, b4 and inside b5
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paddle import nn

from ..attention import create_attention
from ..errors import UserError, unknown_name

PAPER: dict[str, dict[str, str]] = {
    # block: {attention: slot}, '*' for every attention that is not named
    "basic": {"simam": "pre_bn", "*": "post_bn"},
    "bottleneck": {"simam": "pre_bn", "*": "post_bn"},
    "inverted_residual": {"simam": "pre_bn", "*": "post_bn"},
    "vgg": {"*": "pre_pool"},
    "towernet": {"*": "post_pool"},
}


@dataclass(frozen=True)
class Placement:
    """What a network needs to put an attention into its blocks: `make(channels)` builds one, `slot` is its place."""

    slot: str | None
    make: Callable[[int], nn.Layer | None]


NO_ATTENTION = Placement(None, lambda channels: None)


def place(block: str, attn: str | None, attn_kwargs: dict[str, Any] | None = None, attn_pos: str = "paper") -> Placement:
    """The placement of an attention in a kind of block.

    Args:
        block: a key of PAPER.
        attn: a name of `list_attention()`, or None (or 'none') for no attention.
        attn_kwargs: the attention's own arguments.
        attn_pos: 'paper', the slot that its authors chose.

    Raises: UserError for an unknown position, or arguments without an attention.
    """
    if attn_pos != "paper":
        raise unknown_name("attention position", attn_pos, ["paper"])
    kwargs = dict(attn_kwargs or {})
    if attn in (None, "none"):  # as the configs' names have it
        if kwargs:
            raise UserError(f"attn_kwargs {kwargs} were given without an attention, expected attn to name one")
        return NO_ATTENTION
    slots = PAPER[block]
    return Placement(slots.get(attn, slots["*"]), lambda channels: create_attention(attn, channels, **kwargs))
