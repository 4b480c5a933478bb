"""The metrics of a run where people look at them: history.csv, curves.png and VisualDL."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from visualdl import LogWriter

from ..files import atomic_write, write_text
from .plots import plot_curves
from .state import EpochMetrics


def write_history(folder: Path, history: Sequence[EpochMetrics]) -> None:
    """Write `history.csv` and `curves.png`."""
    rows = [asdict(metrics) for metrics in history]
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(EpochMetrics)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "history.csv", text.getvalue())
    atomic_write(folder / "curves.png", lambda part: plot_curves(rows, part))


class VisualDLLog:
    """The run's log below `<folder>/vdl`, one for train and one for eval.

    VisualDL appends to an older log and would show its points twice, so the log is written again from the
    history.

    Args:
        folder: the run's folder.
        history: the epochs that are done.
    """

    def __init__(self, folder: Path, history: Sequence[EpochMetrics]):
        shutil.rmtree(folder / "vdl", ignore_errors=True)
        self._writers = {
            split: LogWriter(str(folder / "vdl" / split), display_name=f"{folder.name}/{split}")
            for split in ("train", "eval")
        }
        for metrics in history:
            self.add_epoch(metrics)

    def add_epoch(self, metrics: EpochMetrics) -> None:
        """Add a point to each curve."""
        for split, writer in self._writers.items():
            for name in ("loss", "top1", "top5"):
                writer.add_scalar(name, getattr(metrics, f"{split}_{name}"), metrics.epoch)
            writer.add_scalar("lr", metrics.lr, metrics.epoch)

    def add_samples(self, images: np.ndarray) -> None:
        """Show a grid of images, uint8 `[N, H, W, 3]`."""
        columns = min(8, len(images))
        rows = images[: len(images) // columns * columns].reshape(-1, columns, *images.shape[1:])
        grid = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
        self._writers["train"].add_image("samples", grid, step=0)

    def add_hyperparameters(self, values: dict[str, Any]) -> None:
        """Show the config beside the eval metrics."""
        is_number = {
            name: isinstance(value, (int, float)) and not isinstance(value, bool)
            for name, value in values.items()
        }
        shown = {name: value if is_number[name] else str(value) for name, value in values.items()}
        self._writers["eval"].add_hparams(shown, ["top1", "top5", "loss"])

    def close(self) -> None:
        """Flush the logs; without it VisualDL may lose the last points."""
        for writer in self._writers.values():
            writer.close()
