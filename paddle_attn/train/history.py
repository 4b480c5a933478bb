"""The metrics of a run where people look at them: history.csv, steps.csv, curves.png and VisualDL."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from visualdl import LogWriter

from ..config import AugmentConfig, Config
from ..files import atomic_write, write_text
from .plots import plot_curves
from .state import EpochMetrics
from .tables import to_csv

MAX_PICTURES = 10  # that VisualDL shows of a run; it drops others at random


def write_history(folder: Path, history: Sequence[EpochMetrics]) -> None:
    """Write `history.csv` and `curves.png`."""
    write_text(folder / "history.csv", to_csv(history, EpochMetrics))
    rows = [asdict(metrics) for metrics in history]
    atomic_write(folder / "curves.png", lambda part: plot_curves(rows, part))


class RunLog:
    """The log of a run: VisualDL's below `<folder>/vdl`, one for train and one for eval, and `steps.csv`.

    VisualDL appends to an older log and would show its points twice, so the log is written again, from the
    history and from `steps.csv`. Its pictures begin again.

    Args:
        folder: the run's folder.
        history: the epochs that are done.
        step: the steps that are done.
    """

    def __init__(self, folder: Path, history: Sequence[EpochMetrics], step: int):
        self._writers = {split: _open_log(folder, split) for split in ("train", "eval")}
        for metrics in history:
            self.add_epoch(metrics)
        losses = list(read_steps(folder / "steps.csv", step))
        lines = [f"{number},{loss!r}\n" for number, loss in losses]
        write_text(folder / "steps.csv", "".join(["step,loss\n", *lines]))
        self._steps = open(folder / "steps.csv", "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        for number, loss in losses:
            self._writers["train"].add_scalar("loss_per_step", loss, number)

    def add_step(self, step: int, loss: float) -> None:
        """Add a step's loss; steps are counted from 1 over the whole run."""
        self._writers["train"].add_scalar("loss_per_step", loss, step)
        self._steps.write(f"{step},{loss!r}\n")

    def add_epoch(self, metrics: EpochMetrics) -> None:
        """Add a point to each curve."""
        for split, writer in self._writers.items():
            for name in ("loss", "top1", "top5"):
                writer.add_scalar(name, getattr(metrics, f"{split}_{name}"), metrics.epoch)
            writer.add_scalar("lr", metrics.lr, metrics.epoch)

    def add_samples(self, grid: np.ndarray) -> None:
        """Show training images with their classes, uint8 `[H, W, 3]`."""
        self._writers["train"].add_image("samples", grid, step=0)

    def add_predictions(self, grid: np.ndarray, epoch: int) -> None:
        """Show eval images with their predictions after an epoch, uint8 `[H, W, 3]`."""
        self._writers["eval"].add_image("predictions", grid, step=epoch)

    def add_hyperparameters(self, config: Config, size: int) -> None:
        """Show the options that matter most beside the eval metrics; `size` is that of the images.

        VisualDL's table stays blank for names with dots, and its parallel view freezes with many.
        """
        augment, off = asdict(config.data.augment), asdict(AugmentConfig())
        changes = [f"{name} {value}" for name, value in augment.items() if value != off[name]]
        shown = {
            "model": config.model.name,
            "attention": config.model.attn or "none",
            "size": size,
            "batch_size": config.train.batch_size,
            "lr": float(config.optim.lr),
            "epochs": config.train.epochs,
            "augmentation": ", ".join(changes) or "none",
            "seed": config.train.seed,
        }
        self._writers["eval"].add_hparams(shown, ["top1", "top5", "loss"])

    def close(self) -> None:
        """Flush the logs; without it VisualDL may lose the last points."""
        self._steps.close()
        for writer in self._writers.values():
            writer.close()


def _open_log(folder: Path, split: str) -> LogWriter:
    """VisualDL's log of a split; an older one of this package is removed, files of others are not."""
    suffix = "paddle_attn.log"
    for older in (folder / "vdl" / split).glob(f"vdlrecords.*.{suffix}"):
        older.unlink()
    # without a display name, which VisualDL would show once for all folders of the same name;
    # VisualDL reads the newest file of a folder
    return LogWriter(str(folder / "vdl" / split), file_name=f"vdlrecords.{time.time():.0f}.{suffix}")


def read_steps(path: Path, last: int) -> Iterator[tuple[int, float]]:
    """The losses in `steps.csv` up to a step; none if there is no file. Damaged lines are skipped."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[1:]:
        with contextlib.suppress(ValueError):
            step, loss = line.split(",")
            if 1 <= int(step) <= last:
                yield int(step), float(loss)


def picture_epochs(epochs: int) -> set[int]:
    """The epochs whose predictions are shown: spread evenly, with the first and the last."""
    return {int(epoch) for epoch in np.linspace(1, epochs, min(epochs, MAX_PICTURES)).round()}
