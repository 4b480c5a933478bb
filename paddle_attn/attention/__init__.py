"""Attention modules, one paper per file, each usable alone: `[N, C, H, W] -> [N, C, H, W]`."""

from __future__ import annotations

import fnmatch
import typing
from typing import Any

from paddle import nn

from ..errors import UserError, unknown_name
from .bam import BAM
from .base import Attention
from .cbam import CBAM
from .coordatt import CoordinateAttention
from .eca import ECA
from .ema import EfficientMultiScaleAttention
from .fca import FrequencyChannelAttention
from .gc import GlobalContext
from .gct import GatedChannelTransformation
from .lsk import LargeSelectiveKernel
from .lska import LargeSeparableKernelAttention
from .mlca import MixedLocalChannelAttention
from .nam import NormalizationAttention
from .nonlocal_block import NonLocal
from .psa import PolarizedSelfAttention
from .scse import SpatialChannelSE
from .se import SqueezeExcite
from .sge import SpatialGroupEnhance
from .shuffle import ShuffleAttention
from .simam import SimAM
from .sk import SelectiveKernel
from .srm import SRM
from .triplet import TripletAttention

ATTENTION: dict[str, type[Attention]] = {
    "bam": BAM,
    "cbam": CBAM,
    "coordatt": CoordinateAttention,
    "eca": ECA,
    "ema": EfficientMultiScaleAttention,
    "fca": FrequencyChannelAttention,
    "gc": GlobalContext,
    "gct": GatedChannelTransformation,
    "lsk": LargeSelectiveKernel,
    "lska": LargeSeparableKernelAttention,
    "mlca": MixedLocalChannelAttention,
    "nam": NormalizationAttention,
    "nonlocal": NonLocal,
    "psa": PolarizedSelfAttention,
    "scse": SpatialChannelSE,
    "se": SqueezeExcite,
    "sge": SpatialGroupEnhance,
    "shuffle": ShuffleAttention,
    "simam": SimAM,
    "sk": SelectiveKernel,
    "srm": SRM,
    "triplet": TripletAttention,
}

__all__ = [
    "ATTENTION",
    "Attention",
    "create_attention",
    "list_attention",
    *(module.__name__ for module in ATTENTION.values()),
]


def list_attention(pattern: str = "*") -> list[str]:
    """The names that `create_attention` takes, sorted; `pattern` is a glob.

    `ATTENTION[name].needs` is what a module needs, such as a number of channels; empty when every map fits.
    """
    return sorted(fnmatch.filter(ATTENTION, pattern))


def create_attention(name: str, channels: int, **kwargs: Any) -> Attention:
    """An attention module by its name.

    Args:
        name: one of `list_attention()`.
        channels: of the module's input.
        kwargs: the module's own arguments, such as `reduction=16` or `e_lambda=0.1`.

    Raises: UserError (a ValueError) for an unknown name, an unknown argument, or a value that the module
    rejects.
    """
    if name not in ATTENTION:
        raise unknown_name("attention", name, ATTENTION)
    return build(name, ATTENTION[name], channels, kwargs)


def build(name: str, module: type[nn.Layer], channels: int, kwargs: dict[str, Any]) -> nn.Layer:
    """`module(channels, **kwargs)`. Raises UserError for arguments that the module lacks or rejects."""
    hints = typing.get_type_hints(module.__init__)
    for key, value in kwargs.items():
        if key not in hints or key in ("return", "channels"):
            raise unknown_name(f"argument of attention '{name}'", key, set(hints) - {"return", "channels"})
        if not _fits(value, hints[key]):
            words = getattr(hints[key], "__name__", None) or str(hints[key])
            raise UserError(f"attention '{name}': {key} must be of type {words}, found {value!r}")
    try:
        return module(channels, **kwargs)
    except (ValueError, OverflowError) as error:
        listed = "".join(f", {key}={value!r}" for key, value in kwargs.items())
        raise UserError(f"attention '{name}' with channels={channels}{listed}: {error}") from None


def _fits(value: object, hint: Any) -> bool:
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, hint) or (hint is float and isinstance(value, int))
