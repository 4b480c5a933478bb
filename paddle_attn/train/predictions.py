"""The predictions for each eval image, and the table of them that evaluations and studies write."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.base import ImageDataset
from ..files import shown, write_text
from .tables import read_rows, to_csv

PREDICTIONS = "eval_predictions.csv"


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image: a line of the table."""

    image: str  # relative to the data's folder where there is one
    bytes: str  # the size of its file; '' in an archive
    true: str
    predicted: str
    probability: float
    probability_of_true: float

    @property
    def is_right(self) -> bool:
        return self.true == self.predicted


@dataclass(frozen=True)
class Predictions:
    """What a network says about every image of a data set, in the order of the data set."""

    dataset: ImageDataset
    labels: np.ndarray  # [N]
    logits: np.ndarray  # [N, classes], float32

    @property
    def probabilities(self) -> np.ndarray:
        """`[N, classes]`: the softmax of the logits."""
        powers = np.exp(self.logits - self.logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    @property
    def names(self) -> list[str]:
        """As `image_names`."""
        return image_names(self.dataset)

    def table(self) -> list[Prediction]:
        """A line for each image."""
        classes, best = self.dataset.classes, self.logits.argmax(1)
        return [
            Prediction(
                name,
                _size(self.dataset.name(index)),
                classes[self.labels[index]],
                classes[best[index]],
                float(f"{row[best[index]]:.6g}"),
                float(f"{row[self.labels[index]]:.6g}"),
            )
            for index, (name, row) in enumerate(zip(self.names, self.probabilities, strict=True))
        ]

    def write(self, path: Path) -> None:
        """Write the table as CSV, which `read_predictions` reads."""
        write_text(path, to_csv(self.table(), Prediction))


def read_predictions(path: Path) -> list[Prediction]:
    """The table that `Predictions.write` wrote. Raises: FileNotFoundError; UserError when it is damaged."""
    return list(read_rows(path, Prediction, _upgrade))


def _upgrade(line: Mapping[str, str]) -> Mapping[str, str]:
    """A line with today's columns; the first studies wrote others."""
    if "path" not in line:
        return line
    scores = {"probability": line["p_predicted"], "probability_of_true": line["p_true"]}
    return {**line, "image": line["path"], "bytes": "", **scores}


def image_names(dataset: ImageDataset) -> list[str]:
    """The images of a data set, relative to its folder where there is one."""
    names, root = [dataset.name(index) for index in range(len(dataset))], dataset.root
    return [_relative(name, root) if root else name for name in names]


def _relative(name: str, root: str) -> str:
    """A path relative to the data's folder; the name of an image in an archive, which is none, stays."""
    if not Path(name).is_relative_to(root):
        return name
    return shown(os.path.relpath(name, root)).replace(os.sep, "/")


def _size(path: str) -> str:
    """The bytes of a file, '' for the image of an archive."""
    try:
        return str(os.stat(path).st_size)
    except OSError:
        return ""
