"""Evaluation: top-1, top-5, mean loss, a table by class, and the confusion matrix."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from .. import ops
from ..builders import load_trained, make_loader, set_device
from ..config import Config
from ..data.dataset import Loader
from ..errors import UserError
from ..files import atomic_write, write_text
from .plots import plot_confusion


@dataclass(frozen=True)
class Evaluation:
    """The figures of a network on a set of images; top-1 and top-5 are fractions of 1."""

    top1: float
    top5: float
    loss: float  # mean cross entropy
    classes: list[str]
    confusion: np.ndarray  # [true, predicted] counts

    def by_class(self) -> list[dict[str, str | int | float]]:
        """For each class: its images, the fraction found (recall), and how many of those called so are so (precision)."""
        table = []
        for index, name in enumerate(self.classes):
            images, called = self.confusion[index].sum(), self.confusion[:, index].sum()
            hits = self.confusion[index, index]
            table.append(
                {
                    "class": name,
                    "images": int(images),
                    "recall": float(hits / max(images, 1)),
                    "precision": float(hits / max(called, 1)),
                }
            )
        return table

    def write(self, folder: Path) -> None:
        """Write `metrics.json` and `confusion.png`."""
        figures = {
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss,
            "images": int(self.confusion.sum()),
            "classes": self.by_class(),
        }
        write_text(folder / "metrics.json", json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
        atomic_write(
            folder / "confusion.png", lambda aside: plot_confusion(self.confusion, self.classes, aside)
        )


@paddle.no_grad()
def evaluate(net: nn.Layer, loader: Loader, classes: list[str]) -> Evaluation:
    """Run a network over a loader in eval mode; no augmentation, no smoothing."""
    net.eval()
    confusion = np.zeros([len(classes), len(classes)], "int64")
    loss, in_top5 = 0.0, 0
    for images, labels in loader:
        logits = net(images)
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        ranked = logits.topk(min(5, len(classes)), axis=1)[1].numpy()
        true = labels.numpy()
        in_top5 += int((ranked == true[:, None]).any(1).sum())
        np.add.at(confusion, (true, ranked[:, 0]), 1)
    count = confusion.sum()
    return Evaluation(
        float(np.trace(confusion) / count), float(in_top5 / count), float(loss / count), classes, confusion
    )


def evaluate_config(config: Config, weights: str | Path) -> Evaluation:
    """Evaluate trained weights on the config's eval images; writes `metrics.json` and `confusion.png` to `train.output`.

    Raises: UserError when the weights do not fit, or the data has other classes than the network learned.
    """
    set_device(config.train.device)
    loader = make_loader(config, "eval")
    net, classes = load_trained(config, weights)
    found = loader.dataset.classes
    if found != classes:
        raise UserError(
            f"{weights} learned {len(classes)} classes ({classes[0]}, …), expected the {len(found)} of {config.data.root}/eval ({found[0]}, …)"
        )
    with ops.using(config.train.ops):
        result = evaluate(net, loader, classes)
    result.write(Path(config.train.output))
    return result
