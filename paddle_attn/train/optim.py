"""Optimisers, schedules and the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.optimizer import Optimizer
from paddle.optimizer.lr import LambdaDecay, LRScheduler

from ..config import OptimConfig


def make_schedule(optim: OptimConfig, epochs: int, steps_per_epoch: int, processes: int = 1) -> LRScheduler:
    """The learning rate over the run, in the unit that `optim.schedule_unit` says; times `processes` where `optim.scale_lr` asks for it."""
    per_epoch = 1 if optim.schedule_unit == "epoch" else steps_per_epoch
    total, warmup = epochs * per_epoch, optim.warmup_epochs * per_epoch
    if optim.schedule == "multistep":
        drops = [epoch * per_epoch for epoch in optim.milestones]
    else:
        drops = [epoch * per_epoch for epoch in range(optim.step_epochs, epochs, optim.step_epochs)]
    return LambdaDecay(
        optim.lr * processes if optim.scale_lr else optim.lr,
        rate_factor(optim.schedule, total, warmup, drops, optim.step_gamma),
    )


def rate_factor(
    schedule: str, total: int, warmup: int = 0, drops: Sequence[int] = (), gamma: float = 0.1
) -> Callable[[int], float]:
    """The factor of the base rate after `t` units (epochs or steps).

    Args:
        schedule: 'cosine' falls to 0 at `total`, 'step' and 'multistep' are multiplied by `gamma` at each of `drops`, 'constant' stays.
        warmup: the factor climbs in a straight line and reaches 1 at this unit.
    """

    def factor(t: int) -> float:
        if t < warmup:
            return (t + 1) / (warmup + 1)
        if schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min((t - warmup) / max(total - warmup, 1), 1)))
        return 1.0 if schedule == "constant" else gamma ** sum(drop <= t for drop in drops)

    return factor


def make_optimizer(optim: OptimConfig, rate: LRScheduler | float, parameters: list[Tensor]) -> Optimizer:
    """The optimiser of a config over these parameters."""
    clip = paddle.nn.ClipGradByGlobalNorm(optim.clip_norm) if optim.clip_norm else None
    common = {
        "learning_rate": rate,
        "parameters": parameters,
        "weight_decay": optim.weight_decay,
        "grad_clip": clip,
    }
    if optim.name == "momentum":
        return paddle.optimizer.Momentum(momentum=optim.momentum, **common)
    if optim.name == "sgd":
        return paddle.optimizer.SGD(**common)
    if optim.name == "adam":
        return paddle.optimizer.Adam(**common)
    # AdamW decays apart from the gradient and does not ask a parameter for its own regulariser, which SRM's have
    exempt = {parameter.name for parameter in parameters if parameter.regularizer is not None}
    return paddle.optimizer.AdamW(apply_decay_param_fun=lambda name: name not in exempt, **common)


class Accuracy(paddle.metric.Accuracy):
    """Paddle's top-1 and top-5, without the images that have no label (`data.dataset.NO_LABEL`)."""

    def __init__(self):
        super().__init__(topk=(1, 5))

    def compute(self, logits: Tensor, labels: Tensor, *mixed: Tensor) -> Tensor:
        return super().compute(*labelled(logits, labels))


def labelled(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Without the images that only fill up a process's share."""
    kept = (labels >= 0).nonzero().flatten()
    return (
        (logits, labels)
        if len(kept) == len(labels)
        else (logits.index_select(kept), labels.index_select(kept))
    )


class ClassificationLoss(nn.Layer):
    """Mean cross entropy of logits `[N, C]` and labels `[N]`; smoothed in training mode alone, so that eval losses compare.

    `share` multiplies the training loss: of the batches whose gradients are added up before an update, this one's part of the images.
    A batch that was mixed comes with the labels of the other images, and the part of each first label, `[N]` both.
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing
        self.share = 1.0

    def forward(
        self, logits: Tensor, labels: Tensor, others: Tensor | None = None, part: Tensor | None = None
    ) -> Tensor:
        if not self.training:
            logits, labels = labelled(logits, labels)
            return F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)
        if others is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing) * self.share
        first, second = (
            F.cross_entropy(logits, each, reduction="none", label_smoothing=self.label_smoothing).flatten()
            for each in (labels, others)
        )
        return (first * part + second * (1 - part)).mean() * self.share
