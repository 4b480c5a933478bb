"""Maps and gates as pixels, for pages; `figure.py` draws the same colours with axes and captions."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from PIL import Image

from .gates import Gate

COLOURS = colormaps["inferno"]  # of maps: its brightness grows with the value, for every kind of sight
OPACITY = 0.55  # of a map over its image, which is grey and pale so that the brightness is the map's
PALE = (0.3, 1.0)  # the grey of the image's black and white
MIN_RANGE = 0.02  # of a gate's colours: the noise of a constant gate is not amplified
BAR = (0, 114, 178)  # the colour of channel weights, Okabe and Ito's blue


def pale_grey(image: np.ndarray) -> np.ndarray:
    """uint8 `[H, W, 3]` to grey values `[H, W]` within `PALE`."""
    return PALE[0] + (PALE[1] - PALE[0]) * (image @ np.asarray([0.299, 0.587, 0.114])) / 255


def limits_of(values: np.ndarray) -> tuple[float, float]:
    """The values at the ends of a gate's colours: its range, at least `MIN_RANGE` wide."""
    low, high = float(values.min()), float(values.max())
    if high - low < MIN_RANGE:
        low, high = (low + high - MIN_RANGE) / 2, (low + high + MIN_RANGE) / 2
    return low, high


def tile_masks(masks: np.ndarray) -> np.ndarray:
    """Small maps `[M, h, w]` beside and below each other, as one `[H, W]` with NaN between them."""
    count, height, width = masks.shape
    across = int(np.ceil(np.sqrt(count)))
    down = -(-count // across)
    gap = max(1, height // 8)
    sheet = np.full([down * (height + gap) - gap, across * (width + gap) - gap], np.nan)
    for number, mask in enumerate(masks):
        top, left = number // across * (height + gap), number % across * (width + gap)
        sheet[top : top + height, left : left + width] = mask
    return sheet


def overlay(image: np.ndarray, map_: np.ndarray, limits: tuple[float, float] = (0.0, 1.0)) -> Image.Image:
    """A map in colours over its image.

    Args:
        image: uint8 `[H, W, 3]`, as the network sees it.
        map_: `[h, w]`; it is enlarged to the image.
        limits: the values at the ends of the colours.
    """
    height, width = image.shape[:2]
    grown = Image.fromarray(map_.astype("float32")).resize((width, height), Image.Resampling.BILINEAR)
    coloured = COLOURS(_scaled(np.asarray(grown), limits))[..., :3]
    return _picture(OPACITY * coloured + (1 - OPACITY) * pale_grey(image)[..., None])


def gate_picture(image: np.ndarray, gate: Gate, index: int = 0) -> Image.Image:
    """One image's gate: a map over the image, the masks of groups, or a bar for each channel.

    Args:
        image: uint8 `[H, W, 3]`, as the network sees it.
        index: of the image in the gate's batch.
    """
    if gate.maps is None:
        return _bars(gate.channels[index], *image.shape[:2])
    maps = gate.maps[index]
    if len(maps) == 1:
        return overlay(image, maps[0], limits_of(maps))
    sheet = tile_masks(maps)
    pixels = COLOURS(_scaled(sheet, limits_of(maps)))[..., :3]
    pixels[np.isnan(sheet)] = 0.5
    return _picture(pixels).resize(image.shape[1::-1], Image.Resampling.NEAREST)


def _scaled(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return (values - limits[0]) / (limits[1] - limits[0])


def _picture(pixels: np.ndarray) -> Image.Image:
    """`[H, W, 3]` in 0..1 as an image."""
    return Image.fromarray((255 * pixels.clip(0, 1)).round().astype("uint8"))


def _bars(weights: np.ndarray, height: int, width: int) -> Image.Image:
    """Channel weights from left to right; the full height is 1, or the largest weight above it."""
    column = weights[np.arange(width) * len(weights) // width]
    tops = height * (1 - column / max(1.0, float(weights.max())))
    filled = np.arange(height)[:, None] >= tops[None, :]
    return Image.fromarray(np.where(filled[..., None], BAR, (242, 242, 242)).astype("uint8"))
