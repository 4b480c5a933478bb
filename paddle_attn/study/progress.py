"""The bar over the grid of a study."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn

from ..plotting.bar import Bar
from ..train.progress import duration
from .plan import PlannedRun

MAX_NAMED = 2  # runs in progress that the bar names


class GridBar:
    """A bar over all epochs of a study's runs, in a terminal or a notebook; shows nothing elsewhere."""

    def __init__(self, console: Console, plan: Sequence[PlannedRun]):
        self._epochs = {run.name: run.config.train.epochs for run in plan}
        self._progress = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),  # what the other columns leave
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            expand=True,
        )
        self._task = self._progress.add_task("study", total=sum(self._epochs.values()), left="")

    def __enter__(self) -> GridBar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def update(self, epochs_done: dict[str, int], running: Sequence[str], left: float | None) -> None:
        """Show the epochs that are done of each run, which ones are in progress, and the seconds left."""
        finished = sum(
            done >= self._epochs[name] for name, done in epochs_done.items() if name not in running
        )
        now = ", ".join(f"{name} {epochs_done[name]}/{self._epochs[name]}" for name in running[:MAX_NAMED])
        if len(running) > MAX_NAMED:
            now += ", …"
        self._progress.update(
            self._task,
            completed=sum(epochs_done.values()),
            description=f"{finished}/{len(self._epochs)} runs  {now}",
            left="" if left is None else f"{duration(left)} left",
        )
