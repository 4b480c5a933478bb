"""The figures of a run, epoch by epoch: as rows, as history.csv, as curves.png, in VisualDL."""

from __future__ import annotations

import csv
import io
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from visualdl import LogWriter

from ..files import atomic_write, write_text
from .plots import plot_curves


@dataclass(frozen=True)
class Row:
    """One epoch. Losses are means over its images, top-1 and top-5 fractions of 1."""

    epoch: int  # from 1
    lr: float  # at its start
    train_loss: float
    train_top1: float
    train_top5: float
    eval_loss: float
    eval_top1: float
    eval_top5: float
    seconds: float  # training and evaluation


class History:
    """Keeps the rows and writes them, whole each time, into the run's folder and VisualDL's log below it.

    Args:
        folder: the run's.
        rows: of the epochs before, after a resume; VisualDL's log is written anew from them, so no point comes twice.
    """

    def __init__(self, folder: Path, rows: list[Row]):
        self.folder = folder
        self._rows: list[Row] = []
        shutil.rmtree(folder / "vdl", ignore_errors=True)
        self._writers = {
            part: LogWriter(str(folder / "vdl" / part), display_name=f"{folder.name}/{part}")
            for part in ("train", "eval")
        }
        for row in rows:
            self._add(row)

    def add(self, row: Row) -> None:
        """Take an epoch's figures and write them everywhere."""
        self._add(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in self._rows)
        write_text(self.folder / "history.csv", text.getvalue())
        atomic_write(
            self.folder / "curves.png", lambda aside: plot_curves([asdict(row) for row in self._rows], aside)
        )

    def add_samples(self, images: np.ndarray) -> None:
        """Show a grid of images, uint8 `[N, H, W, 3]`, as training sees them."""
        columns = min(8, len(images))
        images = images[: len(images) // columns * columns]
        grid = np.concatenate(
            [np.concatenate(list(row), 1) for row in images.reshape(-1, columns, *images.shape[1:])], 0
        )
        self._writers["train"].add_image("samples", grid, step=0)

    def add_settings(self, settings: dict[str, str | float]) -> None:
        """Show the run's hyper-parameters beside its eval figures."""
        self._writers["eval"].add_hparams(settings, ["top1", "top5", "loss"])

    def close(self) -> None:
        """Must be called: VisualDL may lose what was not flushed."""
        for writer in self._writers.values():
            writer.close()

    def _add(self, row: Row) -> None:
        self._rows.append(row)
        for part, writer in self._writers.items():
            for figure in ("loss", "top1", "top5"):
                writer.add_scalar(figure, getattr(row, f"{part}_{figure}"), row.epoch)
            writer.add_scalar("lr", row.lr, row.epoch)
