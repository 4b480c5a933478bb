"""Top-1 on slightly corrupted eval images: blur, noise, JPEG compression and darkness, three strengths each.

After Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, arxiv.org/abs/1903.12261, but applied to the resized image that the network sees.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn
from PIL import Image, ImageFilter

from ..data.base import ImageDataset
from ..plotting.bar import track
from ..train.intervals import wilson


class Corruption(NamedTuple):
    """A change of an image `[size, size, 3]`, uint8, by a strength."""

    change: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    strengths: tuple[float, float, float]
    unit: str  # of the strengths, for readers


class CorruptedTop1(NamedTuple):
    """Top-1 on all eval images with one corruption."""

    corruption: str
    strength: float
    unit: str
    top1: float
    interval: tuple[float, float]


def _blur(pixels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    radius = strength / 100 * pixels.shape[0]
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def _noise(pixels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    noisy = pixels + rng.normal(0, strength, pixels.shape)
    return noisy.round().clip(0, 255).astype("uint8")


def _jpeg(pixels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=int(strength))
    return np.asarray(Image.open(buffer, formats=("JPEG",)).convert("RGB"))


def _darken(pixels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    return (pixels * (strength / 100)).round().astype("uint8")


CORRUPTIONS: dict[str, Corruption] = {
    "blur": Corruption(_blur, (0.5, 1, 2), "Gaussian radius, % of the image's side"),
    "noise": Corruption(_noise, (8, 16, 32), "standard deviation of 255"),
    "JPEG": Corruption(_jpeg, (50, 25, 10), "quality"),
    "brightness": Corruption(_darken, (75, 50, 25), "% of the original's"),
}


@paddle.no_grad()
def corrupted_top1(network: nn.Layer, dataset: ImageDataset, batch_size: int) -> list[CorruptedTop1]:
    """The top-1 of a network in eval mode on each corruption of all images of a data set.

    Args:
        network: `[N, 3, H, W] -> [N, classes]`.
        dataset: without augmentation.
        batch_size: images at once.
    """
    cases = [(name, strength) for name, kind in CORRUPTIONS.items() for strength in kind.strengths]
    hits = np.zeros(len(cases), dtype=int)
    starts = range(0, len(dataset), batch_size)
    for start in track(starts, "corrupting images"):
        indices = range(start, min(start + batch_size, len(dataset)))
        images = [dataset.preprocess.resize(dataset.image(index)) for index in indices]
        labels = np.array([dataset.label(index) for index in indices])
        for place, (name, strength) in enumerate(cases):
            change = CORRUPTIONS[name].change
            changed = [
                change(pixels, strength, np.random.default_rng(index))
                for index, pixels in zip(indices, images, strict=True)
            ]
            batch = np.stack([dataset.preprocess.normalise(pixels) for pixels in changed])
            predicted = network(paddle.to_tensor(batch)).numpy().argmax(1)
            hits[place] += int((predicted == labels).sum())
    count = len(dataset)
    return [
        CorruptedTop1(name, strength, CORRUPTIONS[name].unit, float(hit / count), wilson(int(hit), count))
        for (name, strength), hit in zip(cases, hits, strict=True)
    ]
