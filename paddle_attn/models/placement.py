"""Where an attention sits: which slot of which block its authors chose. Data, written once.

A slot is a place in a block's or a network's `forward`:

    pre_bn      behind the block's last 3x3 (or depthwise) convolution, before what follows it, a batch norm in most blocks
    post_bn     at the end of the block's branch, before the addition
    post_add    behind the addition, before the last ReLU
    stage       behind every stage but the last
    unit        instead of a bottleneck's 3x3 convolution, its batch norm and its ReLU
    pre_pool    VGG: before each of the five max-pools
    post_pool   TowerNet: after the max-pools of b3, b4 and inside b5
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paddle import nn

from ..attention import ATTENTION, SelectiveKernel, build
from ..errors import UserError, unknown_name

REPLACEMENTS = {"sk": SelectiveKernel}  # what replaces a convolution, and is no module behind one

# block: {attention: slot}; '*' is every attention that is not named, None a place that no paper has
PAPER: dict[str, dict[str, str | None]] = {
    "basic": {"simam": "pre_bn", "bam": "stage", "*": "post_bn"},
    "bottleneck": {"simam": "pre_bn", "bam": "stage", "sk": "unit", "*": "post_bn"},
    "preact_basic": {"bam": "stage", "*": "post_bn"},
    "preact_bottleneck": {"simam": "pre_bn", "bam": "stage", "*": "post_bn"},
    "inverted_residual": {"simam": "pre_bn", "bam": None, "*": "post_bn"},
    "vgg": {"*": "pre_pool"},
    "towernet": {"*": "post_pool"},
}

# block: the slots that its code has
SLOTS: dict[str, tuple[str, ...]] = {
    "basic": ("pre_bn", "post_bn", "post_add", "stage"),
    "bottleneck": ("pre_bn", "post_bn", "post_add", "stage", "unit"),
    "preact_basic": (
        "post_bn",
        "post_add",
        "stage",
    ),  # its branch ends with the 3x3 convolution: pre_bn would be the same
    "preact_bottleneck": ("pre_bn", "post_bn", "post_add", "stage"),
    "inverted_residual": ("pre_bn", "post_bn", "post_add"),
    "vgg": ("pre_pool",),
    "towernet": ("post_pool",),
}


@dataclass(frozen=True)
class Placement:
    """What one stage of a network needs to put an attention into its blocks: the slot, and `make(channels)` to build one."""

    slot: str | None = None
    make: Callable[..., nn.Layer | None] = lambda channels, **kwargs: None


NO_ATTENTION = Placement()


def place(
    block: str,
    stages: int,
    attn: str | None,
    attn_kwargs: dict[str, Any] | None = None,
    attn_pos: str = "paper",
) -> list[Placement]:
    """The placement of an attention in each stage of a network.

    Args:
        block: the kind of the network's blocks, a key of PAPER.
        stages: how many stages it has.
        attn: a name of `list_attention()`, 'sk' for bottlenecks, or None (or 'none') for no attention.
        attn_kwargs: the attention's own arguments. A list gives one value for each stage, as ECA's released `k_size`; `stages`
            names the stages that get one, counted from 1, all of them by default.
        attn_pos: 'paper', the slot that its authors chose, or a slot by its name.

    Raises: UserError for an unknown name, a place that there is not, or arguments that do not fit.
    """
    kwargs = dict(attn_kwargs or {})
    if attn in (None, "none"):  # as the configs' names have it
        if kwargs:
            raise UserError(
                f"attn_kwargs {kwargs} were given without an attention, expected attn to name one"
            )
        return [NO_ATTENTION] * stages
    slot = _slot(block, attn, attn_pos)
    chosen = kwargs.pop("stages", list(range(1, stages + 1)))
    if (
        not isinstance(chosen, (list, tuple))
        or not chosen
        or not all(number in range(1, stages + 1) for number in chosen)
    ):
        raise UserError(f"stages must be a list of numbers from 1 to {stages}, found {chosen!r}")
    for key, value in kwargs.items():
        if isinstance(value, (list, tuple)) and len(value) != stages:
            raise UserError(
                f"{key} must be one value or a list of {stages}, one for each stage, found {value!r}"
            )
    return [
        Placement(slot, _maker(attn, _of_stage(kwargs, stage))) if stage + 1 in chosen else NO_ATTENTION
        for stage in range(stages)
    ]


def _slot(block: str, attn: str, attn_pos: str) -> str:
    if attn not in ATTENTION and attn not in REPLACEMENTS:
        raise unknown_name("attention", attn, [*ATTENTION, *REPLACEMENTS])
    if attn in REPLACEMENTS and "unit" not in SLOTS[block]:
        raise UserError(
            f"'{attn}' replaces the 3x3 convolution of a bottleneck, which this network has not: expected resnet50 or a deeper one"
        )
    if attn in REPLACEMENTS and attn_pos not in ("paper", "unit"):
        raise UserError(
            f"'{attn}' replaces a convolution and has no other place: expected attn_pos 'paper', found '{attn_pos}'"
        )
    if attn_pos == "paper":
        slot = PAPER[block].get(attn, PAPER[block]["*"])
        if slot is None:
            raise UserError(
                f"no paper puts '{attn}' into this network: expected attn_pos to name a place, one of {', '.join(SLOTS[block])}"
            )
        return slot
    if attn_pos not in SLOTS[block] or (attn_pos == "unit" and attn not in REPLACEMENTS):
        places = [slot for slot in SLOTS[block] if slot != "unit"]
        raise unknown_name("attention position for this network", attn_pos, ["paper", *places])
    return attn_pos


def _of_stage(kwargs: dict[str, Any], stage: int) -> dict[str, Any]:
    return {key: value[stage] if isinstance(value, (list, tuple)) else value for key, value in kwargs.items()}


def _maker(attn: str, kwargs: dict[str, Any]) -> Callable[..., nn.Layer]:
    if attn in REPLACEMENTS:
        if "stride" in kwargs:
            raise UserError(f"attention '{attn}': the stride is the network's, expected no such argument")
        return lambda channels, **inner: build(attn, REPLACEMENTS[attn], channels, kwargs | inner)
    return lambda channels: build(attn, ATTENTION[attn], channels, kwargs)
