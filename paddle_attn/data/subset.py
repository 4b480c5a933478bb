"""A part of a data set."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .base import ImageDataset


class Subset(ImageDataset):
    """At most so many images of each class of a data set, evenly spread over its images of that class.

    Args:
        dataset: the whole; its preprocessing, augmentation and seed are used.
        per_class: how many images of each class.
        cache: megabytes of memory for decoded and resized images.
    """

    def __init__(self, dataset: ImageDataset, per_class: int, cache: int = 0):
        super().__init__(dataset.preprocess, dataset.augment, dataset.seed, cache)
        self.dataset, self.classes, self.root = dataset, dataset.classes, dataset.root
        labels = np.array([dataset.label(index) for index in range(len(dataset))])
        chosen = []
        for label in range(len(self.classes)):
            (images,) = np.nonzero(labels == label)
            spread = np.linspace(0, len(images) - 1, min(per_class, len(images)))
            chosen += images[spread.round().astype(int)].tolist()
        self.indices: list[int] = sorted(chosen)

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Image.Image:
        return self.dataset.image(self.indices[index])

    def label(self, index: int) -> int:
        return self.dataset.label(self.indices[index])

    def name(self, index: int) -> str:
        return self.dataset.name(self.indices[index])
