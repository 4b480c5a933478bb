"""The progress bar of a training run."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressBar:
    """A bar over all steps of a run on a terminal; shows nothing elsewhere.

    Args:
        console: where it is drawn.
        epochs: of the run.
        steps_per_epoch: the steps of each epoch.
        done: the steps that a resumed run has behind it.
    """

    def __init__(self, console: Console, epochs: int, steps_per_epoch: int, done: int = 0):
        self._epochs = epochs
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=epochs * steps_per_epoch, completed=done, metrics="")

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def advance(self, epoch: int, loss: float, top1: float, lr: float) -> None:
        """One step is done; `epoch` counts from 1, loss and top-1 are those of the epoch so far."""
        metrics = f"loss {loss:.3f}  top1 {100 * top1:.1f} %  lr {lr:.2g}"
        self._progress.update(
            self._task, advance=1, description=f"epoch {epoch}/{self._epochs}", metrics=metrics
        )
