"""What happens around the epochs and steps of `paddle.Model.fit`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import paddle
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..data.dataset import Loader
from .average import WeightAverage
from .history import Row
from .optim import ClassificationLoss


class EpochRecorder(paddle.callbacks.Callback):
    """Starts each epoch from its own seed and gathers its figures into a Row.

    Paddle logs the last batch's loss; this takes the mean over the images. It counts from `first_epoch`, because `fit` always
    counts from 0.

    Args:
        loader: of the training part; told which epoch comes.
        loss: set to eval mode while the network is evaluated.
        seed: with the epoch it decides all that is random, so a resumed run continues as it would have.
        first_epoch: 0, or the number of epochs that were trained before.
        after_epoch: called with the row when an epoch was trained and evaluated; what it returns says whether training goes on.
        accumulate: the batches whose gradients make one update; each counts by its images, so that they are averaged.
        average: of the weights, which stand in the network while it is evaluated and saved.
        not_a_number: called with epoch, step and learning rate when the loss is none, if it is given; expected to raise.
    """

    def __init__(
        self,
        loader: Loader,
        loss: ClassificationLoss,
        seed: int,
        first_epoch: int,
        after_epoch: Callable[[Row], bool],
        accumulate: int = 1,
        average: WeightAverage | None = None,
        not_a_number: Callable[[int, int, float], None] | None = None,
    ):
        super().__init__()
        self.loader, self.loss, self.seed, self.first_epoch, self.after_epoch = loader, loss, seed, first_epoch, after_epoch
        self.accumulate, self.average, self.not_a_number = accumulate, average, not_a_number

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.epoch = self.first_epoch + epoch
        self.started = time.perf_counter()
        self.lr = self.model._optimizer.get_lr()
        self.loader.set_epoch(self.epoch)
        paddle.seed((self.seed * 1_000_003 + self.epoch) % 2**32)  # of dropout
        self._begin()

    def on_train_batch_begin(self, step: int, logs: dict | None = None) -> None:
        if self.accumulate > 1:
            group = range(step // self.accumulate * self.accumulate, min(len(self.loader), (step // self.accumulate + 1) * self.accumulate))
            self.loss.share = self.loader.batch_length(step) / sum(map(self.loader.batch_length, group))

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        logs["loss"] = [logs["loss"][0] / self.loss.share]  # as the callbacks behind this one show it too
        if self.not_a_number and not math.isfinite(logs["loss"][0]):
            self.not_a_number(self.epoch + 1, step + 1, self.model._optimizer.get_lr())
        if self.average and ((step + 1) % self.accumulate == 0 or step + 1 == len(self.loader)):
            self.average.update()
        self._take(logs)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.train = self._means(logs)

    def on_eval_begin(self, logs: dict | None = None) -> None:
        self.loss.eval()
        if self.average:
            self.average.swap()
        self._begin()

    def on_eval_batch_end(self, step: int, logs: dict | None = None) -> None:
        self._take(logs)

    def on_eval_end(self, logs: dict | None = None) -> None:
        self.loss.train()
        seconds = time.perf_counter() - self.started
        self.model.stop_training = not self.after_epoch(Row(self.epoch + 1, self.lr, *self.train, *self._means(logs), seconds))
        if self.average:
            self.average.swap()

    def _begin(self) -> None:
        self.images, self.loss_sum = 0, 0.0

    def _take(self, logs: dict) -> None:
        self.images += logs["batch_size"]
        self.loss_sum += logs["loss"][0] * logs["batch_size"]

    def _means(self, logs: dict) -> tuple[float, float, float]:
        return self.loss_sum / self.images, float(logs["acc_top1"]), float(logs["acc_top5"])


class ProgressBar(paddle.callbacks.Callback):
    """A bar over the whole run on a terminal: loss and accuracy so far in this epoch, learning rate, time left."""

    def __init__(self, console: Console, epochs: int, first_epoch: int):
        super().__init__()
        self.epochs, self.first_epoch = epochs, first_epoch
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"))
        self.progress = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.progress.start()
        self.task = self.progress.add_task("", total=(self.epochs - self.first_epoch) * self.params["steps"], figures="")

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.progress.update(self.task, description=f"epoch {self.first_epoch + epoch + 1}/{self.epochs}")

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        lr = self.model._optimizer.get_lr()
        self.progress.update(self.task, advance=1, figures=f"loss {logs['loss'][0]:.3f}  top1 {100 * logs['acc_top1']:.1f} %  lr {lr:.2g}")

    def on_train_end(self, logs: dict | None = None) -> None:
        self.progress.stop()
