"""Where an attention sits in a network.

A slot is a place in the `forward` of a block or a network:

    pre_conv    before every convolution, also the one of the stem and that of a shortcut
    pre_bn      after the block's last 3x3 (or depthwise) convolution, usually before a batch norm
    post_bn     at the end of the block's branch, before the addition
    post_add    after the addition, before the last ReLU
    post_relu   after the last ReLU
    inner       before the block's last convolution, after the batch norm and ReLU in front of it
    pre_project MobileNetV2: the same place, in the blocks that expand their input
    stage       after every stage except the last
    unit        replaces a bottleneck's 3x3 convolution with its batch norm and its ReLU
    pre_pool    VGG: before each of the five max-pools
    post_pool   TowerNet: after the max-pools of b3 and b4 and the two inside b5

Each attention's class states the slot that its paper uses (`paper_slot`); each model's spec lists the slots
that its code has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paddle import nn

from ..attention import ATTENTION, build
from ..errors import UserError, unknown_name
from .spec import ModelSpec

# replace a convolution instead of following one
REPLACEMENTS = {name: module for name, module in ATTENTION.items() if module.paper_slot == "unit"}


@dataclass(frozen=True)
class Placement:
    """What one stage needs for an attention in its blocks: the slot, and `make(channels)` to build one."""

    slot: str | None = None
    make: Callable[..., nn.Layer | None] = lambda channels, **kwargs: None
    every: int = 1  # the distance between the blocks that have one

    def block(self, index: int) -> Placement:
        """What the block of this number in its stage needs, counted from 0."""
        return self if (index + 1) % self.every == 0 else NO_ATTENTION


NO_ATTENTION = Placement()


def place(
    spec: ModelSpec, attn: str | None, attn_kwargs: dict[str, Any] | None = None, attn_pos: str = "paper"
) -> list[Placement]:
    """The placement of an attention in each stage of a network.

    Args:
        spec: of the network.
        attn: a name of `list_attention()`, or None (or 'none') for no attention.
        attn_kwargs: the attention's own arguments. A list gives one value for each stage, as in ECA's
            released `k_size`; `stages` lists the stages that get an attention, counted from 1; `every` is the
            distance between the blocks of a stage that get one, 2 for every second. The defaults are the
            authors': mostly all stages and blocks.
        attn_pos: 'paper', the slot that its authors chose, or the name of a slot.

    Raises: UserError for an unknown name, a slot that the network lacks, or arguments that do not fit.
    """
    kwargs = dict(attn_kwargs or {})
    if attn in (None, "none"):  # 'none' as in the names of configs
        if kwargs:
            raise UserError(f"attn_kwargs {kwargs} needs an attention: expected attn to name one, found none")
        return [NO_ATTENTION] * spec.stages
    slot = find_slot(spec, attn, attn_pos)
    numbers = range(1, spec.stages + 1)
    module = ATTENTION[attn]
    chosen = kwargs.pop("stages", [stage for stage in module.paper_stages or numbers if stage in numbers])
    every = kwargs.pop("every", module.paper_every)
    if not isinstance(chosen, (list, tuple)) or not chosen or any(stage not in numbers for stage in chosen):
        raise UserError(f"stages must be a list of numbers from 1 to {spec.stages}, found {chosen!r}")
    if type(every) is not int or every < 1:
        raise UserError(f"every must be a whole number from 1, found {every!r}")
    for key, value in kwargs.items():
        if isinstance(value, (list, tuple)) and len(value) != spec.stages:
            raise UserError(
                f"{key} must be one value or a list of {spec.stages}, one for each stage, found {value!r}"
            )
    return [
        Placement(slot, _maker(attn, module.stage_kwargs(side) | _of_stage(kwargs, stage)), every)
        if stage in chosen
        else NO_ATTENTION
        for stage, side in zip(numbers, spec.stage_sides, strict=True)
    ]


def paper_slot(spec: ModelSpec, attn: str) -> str | None:
    """The slot that a paper gives an attention in a network; None when no paper combines the two."""
    slot = ATTENTION[attn].paper_slot
    if slot in spec.slots:
        return slot
    if attn in REPLACEMENTS or slot in spec.unpublished_slots:
        return None
    return spec.default_slot


def find_slot(spec: ModelSpec, attn: str, attn_pos: str = "paper") -> str:
    """The slot for an attention: its paper's, or the one that `attn_pos` names. Raises UserError."""
    if attn not in ATTENTION:
        raise unknown_name("attention", attn, ATTENTION)
    slot = paper_slot(spec, attn)
    if attn in REPLACEMENTS:
        if slot is None:
            raise UserError(
                f"'{attn}' replaces the 3x3 convolution of a bottleneck, which this network lacks: "
                f"expected resnet50 or a deeper one"
            )
        if attn_pos not in ("paper", slot):
            raise UserError(
                f"'{attn}' replaces a convolution and has no other place: "
                f"expected attn_pos 'paper', found '{attn_pos}'"
            )
        return slot
    places = [place for place in spec.slots if place != "unit"]
    if attn_pos != "paper":
        if attn_pos not in places:
            raise unknown_name("attention position for this network", attn_pos, ["paper", *places])
        return attn_pos
    if slot is None:
        raise UserError(
            f"no paper puts '{attn}' into this network: "
            f"expected attn_pos to name a place, one of {', '.join(places)}"
        )
    return slot


def _of_stage(kwargs: dict[str, Any], stage: int) -> dict[str, Any]:
    """The arguments for one stage, counted from 1."""
    return {
        key: value[stage - 1] if isinstance(value, (list, tuple)) else value for key, value in kwargs.items()
    }


def _maker(attn: str, kwargs: dict[str, Any]) -> Callable[..., nn.Layer]:
    if attn in REPLACEMENTS:
        if "stride" in kwargs:
            raise UserError(f"attention '{attn}': the network sets the stride, expected no such argument")
        return lambda channels, **inner: build(attn, ATTENTION[attn], channels, kwargs | inner)
    return lambda channels: build(attn, ATTENTION[attn], channels, kwargs)
