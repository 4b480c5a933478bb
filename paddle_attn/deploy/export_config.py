"""Export from a config: the trained network, its preprocessing and its classes, compared on eval images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..builders import load_trained, make_preprocess, set_device
from ..config import Config
from ..data.base import DataNotFoundError
from ..data.datasets import create_dataset
from ..data.transforms import Preprocess
from ..errors import UserError
from ..files import is_inside
from .export import export_model

SAMPLES = 8  # images to compare on


def export_config(
    config: Config, weights: str | Path, out: str | Path, dynamic: bool = False
) -> tuple[str, float]:
    """Export trained weights, compared on eval images, or on noise when the data set is not available.

    Returns: what it was compared on, and the largest difference of a probability.

    Raises: as `load_trained` and `export_model`; UserError when `out` is or holds the folder of the weights
    or of the data.
    """
    for name, folder in (("weights", Path(weights).parent), ("data", Path(config.data.root))):
        if is_inside(folder, out):
            raise UserError(f"{out} is or holds the folder of the {name}, {folder}: choose another folder")
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
    )
    return source, difference


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
