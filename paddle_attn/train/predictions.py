"""The predictions for each eval image, and the table of them that an evaluation writes."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.base import ImageDataset
from ..files import shown, write_text

PREDICTIONS = "eval_predictions.csv"
COLUMNS = ("image", "bytes", "true", "predicted", "probability", "probability_of_true")


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
        """The images, relative to the data's folder where there is one."""
        root = getattr(self.dataset, "root", None)
        names = [self.dataset.name(index) for index in range(len(self.labels))]
        return [shown(os.path.relpath(name, root)).replace(os.sep, "/") if root else name for name in names]

    def write(self, folder: Path) -> None:
        """Write `eval_predictions.csv`: a line for each image."""
        classes, probabilities = self.dataset.classes, self.probabilities
        buffer = io.StringIO()
        table = csv.writer(buffer, lineterminator="\n")
        table.writerow(COLUMNS)
        for index, (name, label, row) in enumerate(zip(self.names, self.labels, probabilities, strict=True)):
            best = int(self.logits[index].argmax())
            scores = (f"{row[best]:.6g}", f"{row[label]:.6g}")
            table.writerow((name, _size(self.dataset.name(index)), classes[label], classes[best], *scores))
        write_text(folder / PREDICTIONS, buffer.getvalue())


def _size(path: str) -> int | str:
    """The bytes of a file, '' for the image of an archive."""
    try:
        return os.stat(path).st_size
    except OSError:
        return ""
