"""What a training run shows while it runs: the progress bar and the line of each epoch."""

from __future__ import annotations

import statistics

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn

from ..plotting.bar import Bar
from .state import TrainState


class ProgressBar:
    """A bar over all steps of a run, in a terminal or a notebook; shows nothing elsewhere.

    The bar and its percentage count the whole run, top-1 and images per second the current epoch. The bar
    takes its place from the state, so a resumed run continues where it stopped.

    Args:
        console: where it is drawn.
        epochs: of the run.
        steps_per_epoch: the steps of each epoch.
        images_per_step: in all processes together.
        done: the steps that a resumed run has behind it.
    """

    def __init__(
        self, console: Console, epochs: int, steps_per_epoch: int, images_per_step: int, done: int = 0
    ):
        self._epochs, self._steps, self._images_per_step = epochs, steps_per_epoch, images_per_step
        self._progress = Bar(
            TextColumn("run"),
            BarColumn(bar_width=None),  # what the other columns leave
            TaskProgressColumn(),
            TextColumn("{task.description}"),
            TextColumn("{task.fields[metrics]}"),
            console=console,
            expand=True,
        )
        self._task = self._progress.add_task(
            f"epoch {done // steps_per_epoch + 1}/{epochs}",
            total=epochs * steps_per_epoch,
            completed=done,
            metrics="",
        )

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def advance(self, state: TrainState, loss: float) -> None:
        """A step is done; `loss` is that of the step, top-1 is that of the epoch so far."""
        progress = state.progress
        speed = progress.step * self._images_per_step / max(progress.seconds, 1e-9)
        left = duration(seconds_left(state, self._epochs, self._steps))
        self._progress.update(
            self._task,
            completed=state.epoch * self._steps + progress.step,
            description=f"epoch {state.epoch + 1}/{self._epochs}",
            metrics=f"loss {loss:.3f}  top1 {100 * progress.top1:.1f}%  {speed:.0f} images/s  {left} left",
        )


def seconds_left(state: TrainState, epochs: int, steps_per_epoch: int = 1) -> float:
    """The time until the last epoch ends, at the speed of the newest epochs, or of this one in the first."""
    if state.history:
        epoch = statistics.mean(metrics.seconds for metrics in state.history[-3:])
    else:
        epoch = state.progress.seconds * steps_per_epoch / state.step
    return epoch * (epochs - state.epoch - state.step / steps_per_epoch)


def epoch_line(state: TrainState, epochs: int) -> str:
    """The epoch that has just ended, for 80 columns: loss and top-1, its time, the time left."""
    metrics = state.history[-1]
    best = " best" if metrics is state.best else ""
    left = f", {duration(seconds_left(state, epochs))} left" if metrics.epoch < epochs else ""
    return (
        f"epoch {metrics.epoch:3d}/{epochs}"
        f"  train {metrics.train_loss:.3f} {100 * metrics.train_top1:.1f}%"
        f"  eval {metrics.eval_loss:.3f} {100 * metrics.eval_top1:.1f}%{best}"
        f"  {duration(metrics.seconds)}{left}"
    )


def duration(seconds: float) -> str:
    """Such as '1.5 s', '12 s', '4 min' or '2.1 h'."""
    for unit, length in (("days", 86400), ("h", 3600)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    if seconds >= 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
