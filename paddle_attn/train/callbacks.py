"""What happens around the epochs and steps of `paddle.Model.fit`."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable

import paddle
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..data.dataset import Loader
from .checkpoints import Within
from .ema import WeightAverage
from .history import Row
from .optim import ClassificationLoss
from .processes import Processes


class EpochRecorder(paddle.callbacks.Callback):
    """Starts each epoch and step from its own seed and gathers an epoch's figures into a Row.

    Paddle logs the last batch's loss; this takes the mean over the images. It counts from `first_epoch`, because `fit` always
    counts from 0.

    Args:
        loader: of the training part; told which epoch comes.
        eval_loader: of the eval part, where there is one.
        loss: set to eval mode while the network is evaluated.
        seed: with the epoch and the step it decides all that is random, so a resumed run continues as it would have.
        first_epoch: 0, or the number of epochs that were trained before.
        after_epoch: called with the row when an epoch was trained and evaluated; what it returns says whether training goes on.
        after_step: called after each update, with epoch and step, both from 1, and a function that says how far the epoch is (to be
            called in all processes or in none); not after an epoch's last.
        within: where to begin inside the first epoch, after a resume.
        accumulate: the batches whose gradients make one update; each counts by its images, so that they are averaged.
        average: of the weights, which stand in the network while it is evaluated and saved.
        processes: of the job; each takes its share of the steps, and the figures are those of all.
        not_a_number: called with epoch, step and learning rate when the loss is none, if it is given; expected to raise.
    """

    def __init__(
        self,
        loader: Loader,
        eval_loader: Loader | None,
        loss: ClassificationLoss,
        seed: int,
        first_epoch: int,
        after_epoch: Callable[[Row], bool],
        after_step: Callable[[int, int, Callable[[], Within]], None] = lambda epoch, step, within: None,
        within: Within | None = None,
        accumulate: int = 1,
        average: WeightAverage | None = None,
        processes: Processes | None = None,
        not_a_number: Callable[[int, int, float], None] | None = None,
    ):
        super().__init__()
        self.loader, self.eval_loader, self.loss, self.seed, self.first_epoch = (
            loader,
            eval_loader,
            loss,
            seed,
            first_epoch,
        )
        self.processes = processes or Processes("cpu")
        self.after_epoch, self.after_step, self.within, self.not_a_number = (
            after_epoch,
            after_step,
            within,
            not_a_number,
        )
        self.accumulate, self.average = accumulate, average

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.epoch = self.first_epoch + epoch
        within, self.within = self.within, None
        self.lr = within.lr if within else self.model._optimizer.get_lr()
        self.first_step = within.step if within else 0
        self.loader.set_epoch(self.epoch, self.first_step)
        self.steps = self.first_step + len(self.loader)
        self.started = time.perf_counter() - (within.seconds if within else 0.0)
        self.images, self.loss_sum = (
            (within.images, within.loss_sum) if within and self.processes.is_first else (0, 0.0)
        )
        if within and self.processes.is_first:  # its sums are those of all processes
            (accuracy,) = self.model._metrics
            accuracy.total, accuracy.count = (list(sums) for sums in within.accuracy)

    def on_train_batch_begin(self, step: int, logs: dict | None = None) -> None:
        step += self.first_step
        rank, count = self.processes.rank, self.processes.count
        paddle.seed(
            zlib.crc32(f"{self.seed} {self.epoch} {step}{f' {rank}' if rank else ''}".encode())
        )  # of dropout
        if self.accumulate > 1 or count > 1:
            first = step // self.accumulate * self.accumulate
            group = range(first, min(self.steps, first + self.accumulate))
            self.loss.share = (
                count * self.loader.own_length(step) / sum(map(self.loader.length, group))
            )  # Paddle divides by count

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        done = self.first_step + step + 1
        logs["loss"] = [logs["loss"][0] / self.loss.share]  # as the callbacks behind this one show it too
        if self.not_a_number and self.processes.largest(not math.isfinite(logs["loss"][0])):
            self.not_a_number(self.epoch + 1, done, self.model._optimizer.get_lr())
        self._take(logs, self.loader.own_length(done - 1))
        if done % self.accumulate and done < self.steps:
            return
        if self.average:
            self.average.update()
        if done < self.steps:
            self.after_step(self.epoch + 1, done, lambda: self._within(done))
        else:  # Paddle forgets its sums before `on_epoch_end`
            end = self._within(done)
            self.trained = (
                end.loss_sum / end.images,
                *(hits / count for hits, count in zip(*end.accuracy, strict=True)),
            )

    def _within(self, step: int) -> Within:
        """How far the epoch is; the sums are those of all processes."""
        (accuracy,) = self.model._metrics
        images, loss_sum, *sums = self.processes.sum(
            [self.images, self.loss_sum, *map(float, accuracy.total), *map(float, accuracy.count)]
        )
        return Within(
            step, int(images), loss_sum, [sums[:2], sums[2:]], time.perf_counter() - self.started, self.lr
        )

    def on_eval_begin(self, logs: dict | None = None) -> None:
        self.loss.eval()
        if self.average:
            self.average.swap()
        self.processes.share_statistics(
            self.model.network
        )  # all evaluate the network that the first one saves
        self.images, self.loss_sum = 0, 0.0

    def on_eval_batch_end(self, step: int, logs: dict | None = None) -> None:
        self._take(logs, self.eval_loader.own_length(step))

    def on_eval_end(self, logs: dict | None = None) -> None:
        self.loss.train()
        seconds = time.perf_counter() - self.started
        images, loss_sum = self.processes.sum([self.images, self.loss_sum])  # Paddle gathers the hits itself
        tested = loss_sum / images, float(logs["acc_top1"]), float(logs["acc_top5"])
        self.model.stop_training = not self.after_epoch(
            Row(self.epoch + 1, self.lr, *self.trained, *tested, seconds)
        )
        if self.average:
            self.average.swap()

    def _take(self, logs: dict, images: int) -> None:
        self.images += images
        self.loss_sum += logs["loss"][0] * images


class ProgressBar(paddle.callbacks.Callback):
    """A bar over the whole run on a terminal: loss and accuracy so far in this epoch, learning rate, time left."""

    def __init__(self, console: Console, epochs: int, first_epoch: int):
        super().__init__()
        self.epochs, self.first_epoch = epochs, first_epoch
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self.progress = Progress(
            *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
        )

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.progress.start()
        self.task = self.progress.add_task(
            "", total=(self.epochs - self.first_epoch) * self.params["steps"], figures=""
        )

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.progress.update(self.task, description=f"epoch {self.first_epoch + epoch + 1}/{self.epochs}")

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        lr = self.model._optimizer.get_lr()
        self.progress.update(
            self.task,
            advance=1,
            figures=f"loss {logs['loss'][0]:.3f}  top1 {100 * logs['acc_top1']:.1f} %  lr {lr:.2g}",
        )

    def on_train_end(self, logs: dict | None = None) -> None:
        self.progress.stop()
