"""Evaluation: top-1, top-5, mean loss, a table by class and the confusion matrix."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from .. import ops
from ..builders import load_trained, make_loader, set_device
from ..config import Config
from ..data.loader import Loader
from ..errors import UserError
from ..files import atomic_write, write_text
from .distributed import ProcessGroup
from .plots import most_confused, plot_confusion


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a network on a set of images; top-1 and top-5 are fractions of 1."""

    top1: float
    top5: float
    loss: float  # mean cross entropy, without label smoothing
    classes: list[str]
    confusion: np.ndarray  # [true, predicted] counts

    def by_class(self) -> list[dict[str, str | int | float]]:
        """For each class the number of its images, its recall and its precision."""
        hits, images, predicted = self.confusion.diagonal(), self.confusion.sum(1), self.confusion.sum(0)
        return [
            {
                "class": name,
                "images": int(images[index]),
                "recall": float(hits[index] / max(images[index], 1)),
                "precision": float(hits[index] / max(predicted[index], 1)),
            }
            for index, name in enumerate(self.classes)
        ]

    def most_confused(self) -> list[dict[str, str | int]]:
        """The pairs of classes with the most errors."""
        return [
            {"true": self.classes[true], "predicted": self.classes[predicted], "images": images}
            for true, predicted, images in most_confused(self.confusion)
        ]

    def write(self, folder: Path, title: str = "") -> None:
        """Write `metrics.json` and `confusion.png`, with a title such as the model and the image size."""
        metrics = {
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss if math.isfinite(self.loss) else None,  # JSON lacks NaN
            "images": int(self.confusion.sum()),
            "classes": self.by_class(),
            "most_confused": self.most_confused(),
        }
        write_text(folder / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
        atomic_write(
            folder / "confusion.png", lambda part: plot_confusion(self.confusion, self.classes, part, title)
        )


@paddle.no_grad()
def evaluate(
    network: nn.Layer, loader: Loader, classes: list[str], processes: ProcessGroup | None = None
) -> Evaluation:
    """Evaluate a network in eval mode over a loader; with several processes, over the shards of all.

    Args:
        network: `[N, 3, H, W] -> [N, num_classes]`; it is left in eval mode.
        loader: not shuffled; in each process its shard.
        classes: their names, in the network's order.
        processes: of the run; None for this process alone.
    """
    network.eval()
    confusion = np.zeros([len(classes), len(classes)])
    loss_sum = top5_hits = 0.0
    for step, (images, labels) in enumerate(loader):
        count = loader.shard_length(step)  # the rest pads the shard
        if not count:
            continue
        logits, labels = network(images)[:count], labels[:count]
        loss_sum += float(F.cross_entropy(logits, labels, reduction="sum"))
        ranked = logits.topk(min(5, len(classes)), axis=1)[1].numpy()
        true = labels.numpy()
        top5_hits += int((ranked == true[:, None]).any(1).sum())
        np.add.at(confusion, (true, ranked[:, 0]), 1)
    if processes:
        loss_sum, top5_hits, *counts = processes.all_reduce_sum([loss_sum, top5_hits, *confusion.ravel()])
        confusion = np.reshape(counts, confusion.shape)
    images = confusion.sum()
    return Evaluation(
        top1=float(confusion.trace() / images),
        top5=float(top5_hits / images),
        loss=float(loss_sum / images),
        classes=classes,
        confusion=confusion.astype("int64"),
    )


def evaluate_config(config: Config, weights: str | Path) -> Evaluation:
    """Evaluate trained weights on the config's eval images; writes `metrics.json` and `confusion.png` to
    `train.output`.

    Raises: UserError when the weights do not fit, or the data has other classes than the network learned.
    """
    set_device(config.train.device)
    loader = make_loader(config, "eval")
    network, classes = load_trained(config, weights)
    found = loader.dataset.classes
    if found != classes:
        raise UserError(
            f"{weights} learned {len(classes)} classes ({classes[0]}, …), "
            f"expected the {len(found)} of {config.data.root}/eval ({found[0]}, …)"
        )
    with ops.using(config.train.ops):
        evaluation = evaluate(network, loader, classes)
    model, size = config.model, loader.dataset.preprocess.size
    title = f"{model.name}, {model.attn or 'no attention'}, {size} px"
    evaluation.write(Path(config.train.output), title)
    return evaluation
