"""The data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import unknown_name
from .base import ImageDataset
from .cifar import Cifar10, Cifar100
from .folder import ImageFolder
from .transforms import Augment, Preprocess

DATASETS: dict[str, Callable[..., ImageDataset]] = {  # called as create_dataset does
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "folder": ImageFolder.from_split,
}


def create_dataset(
    name: str,
    root: str | Path,
    split: str,
    preprocess: Preprocess,
    augment: Augment | None = None,
    seed: int = 0,
    cache: int = 0,
) -> ImageDataset:
    """The data set of a name.

    Args:
        name: a key of `DATASETS`, the value of `data.dataset` in a config.
        root: where its files are.
        split: 'train' or 'eval'.
        preprocess, augment, seed, cache: see ImageDataset.

    Raises: UserError for an unknown name, DataNotFoundError when its files are missing.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    return DATASETS[name](root, split, preprocess, augment, seed, cache)
