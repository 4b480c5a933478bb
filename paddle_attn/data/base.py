"""The base of all data sets: it caches, augments and normalises the images that a data set reads."""

from __future__ import annotations

import random

import numpy as np
from paddle.io import Dataset
from PIL import Image

from ..errors import UserError
from .transforms import Augment, Preprocess


class DataNotFoundError(UserError):
    """The data set is not on this machine and cannot be downloaded."""


class ImageDataset(Dataset):
    """Samples `(image, label)`: float32 `[3, size, size]` and the int64 index of the class.

    A data set calls this constructor and provides:

        classes       the names of the classes, in the order of their labels
        __len__()     the number of images
        image(index)  the decoded RGB image
        label(index)  the index of its class
        name(index)   what error messages call it, such as its path

    One line in `DATASETS` makes it a value of `data.dataset`; `create_dataset` lists its arguments.

    The augmentation of a sample depends on `seed`, `epoch` and its index only.

    Args:
        preprocess: resizes and normalises every image.
        augment: random changes, for training; None for none.
        seed: of the augmentation.
        cache: megabytes of memory for decoded and resized images.
    """

    classes: list[str]
    root: str | None = None  # the folder of its files

    def __init__(self, preprocess: Preprocess, augment: Augment | None = None, seed: int = 0, cache: int = 0):
        self.preprocess, self.augment, self.seed = preprocess, augment, seed
        self.epoch = 0  # set by Loader.set_epoch
        self._cache: dict[int, np.ndarray] = {}
        self._free_bytes = cache << 20

    def image(self, index: int) -> Image.Image:
        """Decode image `index` into RGB. Raises UserError with its name when that fails."""
        raise NotImplementedError

    def label(self, index: int) -> int:
        """The index of the image's class."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """The image's name in error messages."""
        raise NotImplementedError

    def load(self, index: int) -> np.ndarray:
        """Image `index` as float32 `[3, size, size]`. Raises UserError with its name when that fails."""
        if self.augment is None:
            return self.preprocess.normalise(self._resized(index))
        rng = random.Random(f"{self.seed} {self.epoch} {index}")
        if self.augment.crops:
            pixels = self.preprocess.stretch(self.augment.crop(self.image(index), rng))
        else:
            pixels = self._resized(index)
        return self.preprocess.normalise(np.asarray(self.augment(Image.fromarray(pixels), rng)))

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The sample, or a black image with the label `-1 - index` when it cannot be loaded.

        Paddle's DataLoader hangs when a data set raises; `Loader` turns such a label into the error.
        """
        try:
            return self.load(index), np.int64(self.label(index))
        except Exception:
            return np.zeros([3, self.preprocess.size, self.preprocess.size], "float32"), np.int64(-1 - index)

    def _resized(self, index: int) -> np.ndarray:
        """Image `index` as uint8 `[size, size, 3]`, from the cache when it is there."""
        pixels = self._cache.get(index)
        if pixels is None:
            pixels = self.preprocess.resize(self.image(index))
            if pixels.nbytes <= self._free_bytes:
                self._cache[index] = pixels
                self._free_bytes -= pixels.nbytes
        return pixels
