"""What training changes and a checkpoint holds, and the metrics that it leaves."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.optimizer import Optimizer

from .ema import ExponentialMovingAverage


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch: a row of `history.csv`. Losses are means over the images; top-1 and top-5 are fractions of
    1.
    """

    epoch: int  # from 1
    lr: float  # at its start
    train_loss: float
    train_top1: float
    train_top5: float
    eval_loss: float
    eval_top1: float
    eval_top5: float
    seconds: float  # training and evaluation


@dataclass(frozen=True)
class EpochProgress:
    """How far an epoch is: its steps that are done and the sums over their images.

    The sums are those of this process; a checkpoint holds the sums of all (`loop.sum_progress`).
    """

    lr: float  # at the epoch's start
    step: int = 0
    images: int = 0
    loss_sum: float = 0.0
    top1_hits: int = 0
    top5_hits: int = 0
    seconds: float = 0.0

    @property
    def loss(self) -> float:
        return self.loss_sum / self.images

    @property
    def top1(self) -> float:
        return self.top1_hits / self.images

    @property
    def top5(self) -> float:
        return self.top5_hits / self.images

    def after_step(self, images: int, loss: float, top1: float, top5: float, seconds: float) -> EpochProgress:
        """With one more batch: its number of images, mean loss and accuracies; `seconds` since the epoch
        began.
        """
        return EpochProgress(
            lr=self.lr,
            step=self.step + 1,
            images=self.images + images,
            loss_sum=self.loss_sum + images * loss,
            top1_hits=self.top1_hits + round(images * top1),
            top5_hits=self.top5_hits + round(images * top5),
            seconds=seconds,
        )


@dataclass
class TrainState:
    """All that a step changes. A run that restores it continues bit for bit (CPU, same number of threads).

    Args:
        network: with the weights that the optimiser updates, not their average.
        optimizer: over the network's parameters; its learning rate is a scheduler.
        ema: the moving average of the weights, when the run keeps one.
        scaler: the loss scaler of mixed precision, when the run uses it.
        history: the epochs that are done.
        progress: inside the epoch that comes next; None at its start.
    """

    network: nn.Layer
    optimizer: Optimizer
    ema: ExponentialMovingAverage | None = None
    scaler: paddle.amp.GradScaler | None = None
    history: list[EpochMetrics] = field(default_factory=list)
    progress: EpochProgress | None = None

    @property
    def epoch(self) -> int:
        """The epoch that is running or comes next, counted from 0."""
        return len(self.history)

    @property
    def step(self) -> int:
        """The steps of this epoch that are done."""
        return self.progress.step if self.progress else 0

    @property
    def scheduler(self) -> paddle.optimizer.lr.LRScheduler:
        return self.optimizer._learning_rate  # Paddle has no public accessor

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        return self.optimizer.get_lr()

    @property
    def best(self) -> EpochMetrics | None:
        """The first of the epochs with the highest eval top-1."""
        return max(self.history, key=lambda metrics: metrics.eval_top1, default=None)

    def averaged(self) -> AbstractContextManager[None]:
        """Inside the block the network holds the average of its weights, when the run keeps one."""
        return self.ema.applied() if self.ema else nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """A tree of tensors, numbers and strings."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "history": [asdict(metrics) for metrics in self.history],
            "progress": asdict(self.progress) if self.progress else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises KeyError, TypeError or ValueError when it does not fit."""
        history = [EpochMetrics(**metrics) for metrics in state["history"]]
        progress = EpochProgress(**state["progress"]) if state["progress"] else None
        own = self.network.state_dict()
        if {key: list(value.shape) for key, value in own.items()} != {
            key: list(value.shape) for key, value in state["network"].items()
        }:
            raise ValueError("it holds the weights of another network")
        for key, value in own.items():
            value.set_value(state["network"][key])
        self.optimizer.set_state_dict(_as_tensors(state["optimizer"]))
        # the rate follows the number of epochs of this config, which may be another than the checkpoint's
        self.scheduler.last_lr = self.scheduler.get_lr()
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        if self.scaler:
            self.scaler.load_state_dict(state["scaler"])
        self.history, self.progress = history, progress


def _as_tensors(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _as_tensors(value) for key, value in tree.items()}
    return paddle.to_tensor(tree) if isinstance(tree, np.ndarray) else tree
