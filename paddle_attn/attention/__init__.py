"""Attention modules, one paper a file, each usable alone: `[N, C, H, W] -> [N, C, H, W]`."""

from __future__ import annotations

import fnmatch
from typing import Any

from ..errors import UserError, unknown_name
from .base import Attention
from .cbam import CBAM
from .se import SqueezeExcite
from .sge import SpatialGroupEnhance
from .simam import SimAM

ATTENTION: dict[str, type[Attention]] = {
    "cbam": CBAM,
    "se": SqueezeExcite,
    "sge": SpatialGroupEnhance,
    "simam": SimAM,
}

__all__ = ["ATTENTION", "CBAM", "Attention", "SimAM", "SpatialGroupEnhance", "SqueezeExcite", "create_attention", "list_attention"]


def list_attention(pattern: str = "*") -> list[str]:
    """The names that `create_attention` takes, sorted; `pattern` is a glob."""
    return sorted(fnmatch.filter(ATTENTION, pattern))


def create_attention(name: str, channels: int, **kwargs: Any) -> Attention:
    """An attention module by its name.

    Args:
        name: one of `list_attention()`.
        channels: of the maps that it will get.
        kwargs: the module's own arguments, such as `reduction=16` or `e_lambda=0.1`.

    Raises: UserError (a ValueError) for an unknown name, an argument that the module does not take, or a value that it refuses.
    """
    if name not in ATTENTION:
        raise unknown_name("attention", name, ATTENTION)
    try:
        return ATTENTION[name](channels, **kwargs)
    except (TypeError, ValueError) as error:
        raise UserError(f"attention '{name}' with channels={channels}{_listed(kwargs)}: {error}") from None


def _listed(kwargs: dict[str, Any]) -> str:
    return "".join(f", {key}={value!r}" for key, value in kwargs.items())
