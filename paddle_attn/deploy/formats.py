"""The formats of an exported network. A new format is one file beside this one, and one line in `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from paddle import nn

from . import paddle_inference


class Engine(Protocol):
    """Runs an exported network."""

    def run(self, images: np.ndarray) -> np.ndarray:
        """Contiguous float32 images `[N, 3, H, W]` to probabilities `[N, num_classes]`."""
        ...


@dataclass(frozen=True)
class Format:
    """What the file of a format provides."""

    files: tuple[str, ...]  # the names of what `write` makes
    write: Callable[[nn.Layer, Path, int | None], None]  # network, folder, image size (None: any size)
    engine: Callable[[Path, int], Engine]  # folder, threads


FORMATS = {
    "paddle": Format(paddle_inference.FILES, paddle_inference.write, paddle_inference.Engine),
}
