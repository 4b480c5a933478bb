"""Evaluation: top-1, top-5, mean loss, a table by class, the confusion matrix, a table of predictions."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from .. import ops
from ..builders import check_model, load_trained, make_loader, make_preprocess, set_device
from ..config import Config
from ..data.loader import Loader
from ..errors import UserError
from ..files import atomic_write, write_text
from .distributed import ProcessGroup
from .intervals import wilson
from .plots import most_confused, plot_confusion
from .predictions import PREDICTIONS, Predictions


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a network on a set of images; top-1 and top-5 are fractions of 1."""

    top1: float
    top5: float
    loss: float  # mean cross entropy, without label smoothing
    classes: list[str]
    confusion: np.ndarray  # [true, predicted] counts
    predictions: Predictions | None = None  # of each image, from `evaluate_config`

    @property
    def images(self) -> int:
        return int(self.confusion.sum())

    @property
    def top1_interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of top-1."""
        return wilson(self.top1 * self.images, self.images)

    @property
    def top5_interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of top-5."""
        return wilson(self.top5 * self.images, self.images)

    def by_class(self) -> list[dict[str, str | int | float | list[float] | None]]:
        """For each class the number of its images, its recall with the 95 % interval, precision and F1.

        Recall and F1 are None for a class without images.
        """
        hits, images, predicted = self.confusion.diagonal(), self.confusion.sum(1), self.confusion.sum(0)
        return [
            {
                "class": name,
                "images": int(images[index]),
                "recall": float(hits[index] / images[index]) if images[index] else None,
                "recall_interval": list(wilson(int(hits[index]), int(images[index]))),
                "precision": float(hits[index] / max(predicted[index], 1)),
                "f1": float(2 * hits[index] / (images[index] + predicted[index])) if images[index] else None,
            }
            for index, name in enumerate(self.classes)
        ]

    def most_confused(self) -> list[dict[str, str | int]]:
        """The pairs of classes with the most errors."""
        return [
            {"true": self.classes[true], "predicted": self.classes[predicted], "images": images}
            for true, predicted, images in most_confused(self.confusion)
        ]

    @property
    def has_top5(self) -> bool:
        """Whether top-5 says something: with five classes or fewer every image is in it."""
        return len(self.classes) > 5

    def values(self) -> dict[str, Any]:
        """For JSON: the metrics with their 95 % intervals, those of each class, the most confused pairs."""
        return {
            "top1": self.top1,
            "top1_interval": list(self.top1_interval),
            "top5": self.top5,
            "top5_interval": list(self.top5_interval),
            "loss": self.loss if math.isfinite(self.loss) else None,  # JSON lacks NaN
            "images": self.images,
            "classes": self.by_class(),
            "most_confused": self.most_confused(),
        }

    def write(self, folder: Path, title: str = "", dataset: str = "folder") -> None:
        """Write `metrics.json`, `confusion.png` and `eval_predictions.csv`.

        Args:
            title: of the confusion matrix, such as the model and the image size.
            dataset: the name of the data set (`data.dataset`), by which its images are found again.
        """
        metrics = self.values()
        if self.predictions:
            # where the images of eval_predictions.csv are
            metrics |= {"dataset": dataset, "folder": self.predictions.dataset.root}
        write_text(folder / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
        atomic_write(
            folder / "confusion.png", lambda part: plot_confusion(self.confusion, self.classes, part, title)
        )
        if self.predictions:
            self.predictions.write(folder / PREDICTIONS)


@paddle.no_grad()
def evaluate(
    network: nn.Layer,
    loader: Loader,
    classes: list[str],
    processes: ProcessGroup | None = None,
    logits_of_steps: list[np.ndarray] | None = None,
) -> Evaluation:
    """Evaluate a network in eval mode over a loader; with several processes, over the shards of all.

    Args:
        network: `[N, 3, H, W] -> [N, num_classes]`; it is left in eval mode.
        loader: not shuffled; in each process its shard.
        classes: their names, in the network's order.
        processes: of the run; None for this process alone.
        logits_of_steps: gets the logits of this process's images of every step, unless it is None.
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
        if logits_of_steps is not None:
            logits_of_steps.append(logits.numpy())
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
    """Evaluate trained weights on the config's eval images; writes `metrics.json`, `confusion.png` and
    `eval_predictions.csv` to `train.output`.

    Raises: UserError when the weights do not fit, or the data has other classes than the network learned.
    """
    network, loader = load_for_evaluation(config, weights)
    logits: list[np.ndarray] = []
    with ops.using(config.train.ops):
        evaluation = evaluate(network, loader, loader.dataset.classes, logits_of_steps=logits)
    dataset = loader.dataset
    labels = np.array([dataset.label(index) for index in range(len(dataset))])
    evaluation = replace(evaluation, predictions=Predictions(dataset, labels, np.concatenate(logits)))
    evaluation.write(Path(config.train.output), evaluation_title(config), config.data.dataset)
    return evaluation


def load_for_evaluation(config: Config, weights: str | Path) -> tuple[nn.Layer, Loader]:
    """A trained network and the eval images of a config.

    Raises: see `evaluate_config`.
    """
    check_model(config)
    set_device(config.train.device)
    loader = make_loader(config, "eval")
    network, classes = load_trained(config, weights)
    found = loader.dataset.classes
    if found != classes:
        raise UserError(
            f"{weights} learned {len(classes)} classes ({classes[0]}, …), "
            f"expected the {len(found)} of {config.data.root}/eval ({found[0]}, …)"
        )
    return network, loader


def evaluation_title(config: Config) -> str:
    """The model, its attention and the image size."""
    model, size = config.model, make_preprocess(config).size
    return f"{model.name}, {model.attn or 'no attention'}, {size} px"
