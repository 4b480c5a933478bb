"""Export from a config: the trained network, its preprocessing and its classes, compared on eval images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..builders import load_trained, make_preprocess, set_device
from ..config import Config
from ..data.base import DataNotFoundError, ImageDataset
from ..data.datasets import create_dataset
from ..data.transforms import Preprocess
from ..errors import UserError
from ..files import is_inside
from .export import export_model
from .formats import check_precision
from .precision import Measured, add_int8, check_drop, measure

SAMPLES = 8  # images to compare on


@dataclass(frozen=True)
class Exported:
    """What an export was compared on, and how well it agreed."""

    source: str  # such as '8 eval images'
    difference: float  # the largest of a probability
    measured: tuple[Measured, ...] = ()  # fp32 and the lower precisions that were asked for


def export_config(
    config: Config,
    weights: str | Path,
    out: str | Path,
    dynamic: bool = False,
    format: str = "paddle",
    bf16: bool = False,
    calibrate: int | None = None,
    max_drop: float = 1.0,
) -> Exported:
    """Export trained weights, compared on eval images, or on noise when the data set is not available.

    Args:
        config, weights, out: of the training, and the folder to write.
        dynamic, format: see `export_model`.
        bf16: evaluate the export in bf16, too.
        calibrate: quantise to int8 with this number of training images, and evaluate that; None does not.
        max_drop: the top-1 in points that bf16 and int8 may lose against fp32.

    Raises: as `load_trained` and `export_model`; UserError when `out` is or holds the folder of the weights
    or of the data, or when a lower precision is not supported here or loses too much. The export in fp32 is
    kept then.
    """
    for name, folder in (("weights", Path(weights).parent), ("data", Path(config.data.root))):
        if is_inside(folder, out):
            raise UserError(f"{out} is or holds the folder of the {name}, {folder}: choose another folder")
    for precision in ["bf16"] * bf16 + ["int8"] * (calibrate is not None):
        check_precision(format, precision)  # before the work
    set_device("cpu")  # the exported network runs there
    preprocess = make_preprocess(config)
    net, classes = load_trained(config, weights)
    samples, source = _samples(config, preprocess, classes)
    difference = export_model(
        net,
        out,
        preprocess,
        classes,
        samples,
        about={"model": config.model.name, "attention": config.model.attn or "none"},
        dynamic=dynamic,
        format=format,
    )
    measured = []
    if bf16 or calibrate is not None:
        dataset = _dataset(config, "eval", preprocess, classes)
        measured = [measure(Path(out), "fp32", dataset)]
        if bf16:
            measured.append(measure(Path(out), "bf16", dataset))
            check_drop(*measured, max_drop)
        if calibrate is not None:
            calibration = _dataset(config, "train", preprocess, classes)
            measured.append(add_int8(Path(out), calibration, calibrate, dataset, measured[0], max_drop))
    return Exported(source, difference, tuple(measured))


def _samples(config: Config, preprocess: Preprocess, classes: list[str]) -> tuple[np.ndarray, str]:
    """Preprocessed images `[N, 3, size, size]`, evenly spaced in the eval set, and what they are.

    Raises: UserError when the data set has the same classes in another order, which training follows.
    """
    try:
        dataset = create_dataset(config.data.dataset, config.data.root, "eval", preprocess)
    except DataNotFoundError as error:
        shape = [SAMPLES, 3, preprocess.size, preprocess.size]
        return np.random.default_rng(0).standard_normal(shape, "float32"), f"noise, because {error}"
    found = list(dataset.classes)
    if found != classes and sorted(found) == sorted(classes):
        raise UserError(
            f"classes.txt beside the weights ({', '.join(classes[:3])}, …) has another order than the "
            f"classes of {config.data.root} ({', '.join(found[:3])}, …): restore it"
        )
    indices = np.linspace(0, len(dataset) - 1, min(SAMPLES, len(dataset))).astype(int)
    return np.stack([dataset.load(int(index)) for index in indices]), f"{len(indices)} eval images"


def _dataset(config: Config, split: str, preprocess: Preprocess, classes: list[str]) -> ImageDataset:
    """The images of a split without augmentation. Raises UserError when they have other classes."""
    dataset = create_dataset(config.data.dataset, config.data.root, split, preprocess)
    if list(dataset.classes) != classes:
        raise UserError(
            f"the network knows {len(classes)} classes ({classes[0]}, …), expected the "
            f"{len(dataset.classes)} of {config.data.root} ({dataset.classes[0]}, …): "
            "bf16 and int8 are evaluated there"
        )
    return dataset
