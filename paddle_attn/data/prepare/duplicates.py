"""Near-duplicates: images that two sets share, possibly resized, compressed again or mirrored.

Each image becomes 16x16 pixels. Two are near-duplicates when few of the 112 signs of the brightness steps in
it differ (Krawetz's difference hash, along both axes) and its colours are close. The second condition keeps
apart pictures of different colours on an empty ground, whose steps are few. Copies that are cropped, rotated
or brightened are not found.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 16  # of a thumbnail, in pixels
MAX_STEPS = 12  # of the 112 signs that may differ
MAX_COLOUR = 22.0  # root mean square difference of the thumbnails' values, 0 to 255
BLOCK = 2048  # images compared at once
LUMA = np.asarray([0.299, 0.587, 0.114], "float32")


class Pair(NamedTuple):
    """Two near-duplicates, as indices into the two sets that were compared."""

    first: int
    second: int
    mirrored: bool


def thumbnail(image: Image.Image) -> np.ndarray:
    """An RGB image as uint8 `[16, 16, 3]`, whatever its size and aspect ratio."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def find_near_duplicates(first: np.ndarray, second: np.ndarray) -> list[Pair]:
    """For each image of `first` its nearest near-duplicate in `second`, if it has one.

    Args:
        first, second: thumbnails `[N, 16, 16, 3]` and `[M, 16, 16, 3]`.
    """
    found: dict[int, tuple[float, Pair]] = {}
    for mirrored in (False, True):
        views = first[:, :, ::-1] if mirrored else first
        for index, other, distance in _candidates(views, second):
            if index not in found or distance < found[index][0]:
                found[index] = distance, Pair(index, other, mirrored)
    return [pair for _, (_, pair) in sorted(found.items())]


def _candidates(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """For an image of `first` and a block of `second` the nearest near-duplicate and its colour distance."""
    for start in range(0, len(first), BLOCK):
        views = first[start : start + BLOCK]
        signs = _signs(views)
        for other_start in range(0, len(second), BLOCK):
            others = second[other_start : other_start + BLOCK]
            agreement = signs @ _signs(others).T  # the signs that agree minus those that differ
            near = agreement >= signs.shape[1] - 2 * MAX_STEPS
            for row in np.flatnonzero(near.any(1)):
                columns = np.flatnonzero(near[row])
                difference = others[columns].astype("float32") - views[row]
                distances = np.sqrt(np.square(difference).mean((1, 2, 3)))
                best = int(distances.argmin())
                if distances[best] <= MAX_COLOUR:
                    yield start + int(row), other_start + int(columns[best]), float(distances[best])


def _signs(thumbnails: np.ndarray) -> np.ndarray:
    """`[N, 16, 16, 3]` to `[N, 112]`: 1 where a cell of an 8x8 grid is brighter than the last, else -1."""
    luma = thumbnails.astype("float32") @ LUMA
    grid = luma.reshape(-1, 8, 2, 8, 2).mean((2, 4))
    across, down = grid[:, :, 1:] > grid[:, :, :-1], grid[:, 1:] > grid[:, :-1]
    signs = np.concatenate([across.reshape(len(grid), -1), down.reshape(len(grid), -1)], axis=1)
    return np.where(signs, np.float32(1), np.float32(-1))
