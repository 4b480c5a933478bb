"""int8 and bf16: an exported network in lower precision, and what that costs on the eval images."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.base import ImageDataset
from ..errors import UserError
from ..files import atomic_directory
from .description import exported_files, read_description
from .formats import FORMATS
from .predictor import Predictor

BATCH = 8
RUNS = 20  # of one image, for its time


@dataclass(frozen=True)
class Measured:
    """A precision on the eval images, by the fastest engine that is installed."""

    precision: str
    engine: str
    top1: float  # a fraction of 1
    images: int
    milliseconds: float  # of the network for one image
    megabytes: float  # of the network's file


def measure(folder: Path, precision: str, dataset: ImageDataset) -> Measured:
    """Evaluate an exported network in a precision.

    Raises: UserError when the folder, the engines or the CPU do not support it.
    """
    predictor = Predictor(folder, precision=precision)
    hits = 0
    for indices, images in _batches(dataset, range(len(dataset))):
        labels = [dataset.label(index) for index in indices]
        hits += int((predictor.probabilities(images).argmax(1) == labels).sum())
    image = images[:1]
    for _ in range(2):
        predictor.probabilities(image)
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        predictor.probabilities(image)
        seconds.append(time.perf_counter() - began)
    return Measured(
        precision=precision,
        engine=predictor.engine,
        top1=hits / len(dataset),
        images=len(dataset),
        milliseconds=1000 * statistics.median(seconds),
        megabytes=predictor.path.stat().st_size / 1e6,
    )


def add_int8(
    folder: Path,
    calibration: ImageDataset,
    images: int,
    dataset: ImageDataset,
    fp32: Measured,
    max_drop: float,
) -> Measured:
    """Quantise an exported network, and add the int8 form to its folder if it is accurate enough.

    Args:
        folder: an export of the ONNX format. It is replaced as a whole, or left as it is.
        calibration: the images that set the ranges of the activations, without augmentation.
        images: how many of them, evenly spaced.
        dataset: the images to evaluate on.
        fp32: measured on the same images.
        max_drop: the top-1 in points that int8 may lose.

    Raises: UserError when it loses more.
    """
    description = read_description(folder)
    format = FORMATS[description.format]
    indices = np.linspace(0, len(calibration) - 1, min(images, len(calibration))).astype(int)
    batches = (images for _, images in _batches(calibration, indices.tolist()))
    with atomic_directory(folder, exported_files) as new:
        for name in format.files:
            shutil.copy(folder / name, new)
        format.quantise(new, batches)
        description.write(new)
        int8 = measure(new, "int8", dataset)
        check_drop(fp32, int8, max_drop)
    return int8


def check_drop(fp32: Measured, lower: Measured, max_drop: float) -> None:
    """Raises UserError when a precision loses more than `max_drop` points of top-1."""
    drop = 100 * (fp32.top1 - lower.top1)
    if drop > max_drop:
        raise UserError(
            f"{lower.precision} loses {drop:.2f} points of top-1 ({100 * fp32.top1:.2f} % to "
            f"{100 * lower.top1:.2f} % of {fp32.images} images), expected at most {max_drop:g}: it is not "
            "kept; raise --max-drop, or pass more images to --calibrate"
        )


def _batches(dataset: ImageDataset, indices: Sequence[int]) -> Iterator[tuple[Sequence[int], np.ndarray]]:
    """Indices, and their preprocessed images `[N, 3, size, size]`."""
    for first in range(0, len(indices), BATCH):
        part = indices[first : first + BATCH]
        yield part, np.stack([dataset.load(index) for index in part])
