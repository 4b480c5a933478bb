"""The folder of a training run: what it writes there, and how it continues from there."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import Config, dump_config, flatten
from ..errors import UserError
from ..files import write_text
from ..weights import save_weights
from .checkpoint import read_checkpoint, write_checkpoint
from .folder_lock import FolderLock
from .history import write_history
from .state import EpochMetrics, TrainState
from .tables import read_rows

LAST, BEFORE = "last.pdstate", "before.pdstate"  # the newest checkpoint, and the one before it
# the weights of the best epoch; those before them, as long as `BEFORE` may be needed
BEST, BEST_BEFORE = "best.pdparams", "before_best.pdparams"

# a resumed run may change these options: they do not change the result, or only how long it trains
RESUMABLE = {
    "model.weights",
    "model.pretrained",
    "train.epochs",
    "train.device",
    "train.output",
    "train.resume",
    "train.ops",
    "train.patience",
    "train.stop_on_nan",
    "train.checkpoint_steps",
    "data.root",
    "data.workers",
    "data.cache",
}


class AnotherRun(UserError):
    """The checkpoint is intact but belongs to another run."""


class RunFolder:
    """The folder `train.output` of a run; only the main process writes to it.

    Args:
        config: of the run.
        classes: their names, in the network's order.
        images: the numbers of training and eval images.
        world_size: the number of processes, which decides what a step is.
        lock: holds the folder's lock as long as the run writes.
    """

    def __init__(
        self,
        config: Config,
        classes: Sequence[str],
        images: tuple[int, int],
        world_size: int = 1,
        lock: FolderLock | None = None,
    ):
        self.path = Path(config.train.output)
        self._lock = lock or FolderLock()
        self._config, self._classes, self._world_size = config, list(classes), world_size
        self._images = list(images)

    def has_checkpoint(self) -> bool:
        """Whether there is a run to resume."""
        return (self.path / LAST).exists() or (self.path / BEFORE).exists()

    def has_run(self) -> bool:
        """Whether the folder holds results of a run, with or without a checkpoint."""
        results = (LAST, BEFORE, BEST, "last.pdparams", "history.csv")
        return any((self.path / name).exists() for name in results)

    def lock(self) -> str:
        """Make the folder and lock it. Returns '' or, when another run has locked it, the error message."""
        # resolved: a link may lead to a folder that was just moved aside
        self.path.resolve().mkdir(parents=True, exist_ok=True)
        return self._lock.acquire(self.path)

    def move_aside(self) -> Path:
        """Rename an earlier run's folder to `<folder>.1`, or the next free number. Returns the new path."""
        folder, number = self.path.resolve(), 1  # a link stays, and leads to the new run
        while (target := folder.with_name(f"{folder.name}.{number}")).exists():
            number += 1
        folder.rename(target)
        return target

    def write_config(self) -> None:
        """Write `config.yaml` and `classes.txt`."""
        # without its place, so that a run that was moved resumes where it is; resuming is asked for each time
        train = dataclasses.replace(self._config.train, output=None, resume=False)
        write_text(self.path / "config.yaml", dump_config(dataclasses.replace(self._config, train=train)))
        write_text(self.path / "classes.txt", "".join(f"{name}\n" for name in self._classes))

    def save_results(self, state: TrainState) -> None:
        """Write what the last epoch changes: `last.pdparams`, `best.pdparams` if it is the best, the history.

        Between epochs the results can be written again from a checkpoint, which is therefore saved first.
        """
        self._lock.check(self.path)
        with state.averaged():
            if state.best is not state.history[-1]:
                (self.path / BEST_BEFORE).unlink(missing_ok=True)
            else:
                # otherwise this epoch is written again
                if 0 < len(self._written_history()) < state.epoch and (self.path / BEST).exists():
                    os.replace(self.path / BEST, self.path / BEST_BEFORE)
                save_weights(state.network, self.path / BEST)
            save_weights(state.network, self.path / "last.pdparams")
        write_history(self.path, state.history)

    def restore_best(self, state: TrainState) -> None:
        """Undo `save_results` of an epoch that is lost, because its checkpoint was damaged."""
        best = max(self._written_history(), key=lambda metrics: metrics.eval_top1, default=None)
        if best and best.epoch > state.epoch and (self.path / BEST_BEFORE).exists():
            os.replace(self.path / BEST_BEFORE, self.path / BEST)
            write_history(self.path, state.history)

    def _written_history(self) -> list[EpochMetrics]:
        """The epochs in `history.csv`; none when it is missing or damaged."""
        with contextlib.suppress(OSError, UserError):
            return list(read_rows(self.path / "history.csv", EpochMetrics))
        return []

    def save_checkpoint(self, state: TrainState) -> None:
        """Write `last.pdstate`; the checkpoint before it becomes `before.pdstate`."""
        self._lock.check(self.path)
        new = self.path / f"new.{LAST}"
        checkpoint = {
            "fingerprint": self._fingerprint(),
            "classes": self._classes,
            "images": self._images,
            "state": state.state_dict(),
        }
        write_checkpoint(checkpoint, new)
        if (self.path / LAST).exists():
            os.replace(self.path / LAST, self.path / BEFORE)
        os.replace(new, self.path / LAST)

    def restore(self, state: TrainState) -> list[str]:
        """Load the newest intact checkpoint into the state.

        Returns: a sentence for each thing to know: the newest checkpoint was damaged and the one before it
            was taken; the data has other numbers of images.

        Raises: UserError when no checkpoint is intact, or the run had another config.
        """
        try:
            return self._load(self.path / LAST, state)
        except AnotherRun:
            raise
        except UserError as error:
            if not (self.path / BEFORE).exists():
                raise
            notes = self._load(self.path / BEFORE, state)
            return [f"{error}; continuing from {self.path / BEFORE}", *notes]

    def _load(self, path: Path, state: TrainState) -> list[str]:
        checkpoint = read_checkpoint(path)
        try:
            self._check_same_run(path, checkpoint["fingerprint"], checkpoint["classes"])
            train, test = checkpoint.get("images", self._images)  # an older version lacks them
            state.load_state_dict(checkpoint["state"])
        except UserError:
            raise
        except Exception as error:  # Paddle asserts and raises all kinds on a state that does not fit
            raise UserError(
                f"{path} is not a checkpoint of this network ({error or type(error).__name__}): expected one "
                "that paddle-attn train wrote; train without --resume to move this run aside"
            ) from None
        if [train, test] == self._images:
            return []
        return [
            f"the data has {self._images[0]} training and {self._images[1]} eval images, the run had {train} "
            f"and {test} until now: the order of the images changes{' inside the epoch' * bool(state.step)}"
        ]

    def _check_same_run(self, path: Path, fingerprint: dict[str, Any], classes: list[str]) -> None:
        for key, value in self._fingerprint().items():
            found = fingerprint.get(key, DEFAULTS.get(key))  # an older version lacks new options: the default
            if found != value:
                raise AnotherRun(
                    f"the run in {path.parent} had {key} {found!r}, expected the same to resume, "
                    f"found {value!r}; or choose another train.output"
                )
        if classes != self._classes:
            lacking, new = sorted({*classes} - {*self._classes}), sorted({*self._classes} - {*classes})
            raise AnotherRun(
                f"the run in {path.parent} learned {len(classes)} classes, expected the same to resume: "
                f"the data lacks {', '.join(lacking[:3]) or 'none'}, adds {', '.join(new[:3]) or 'none'}; "
                "or choose another train.output"
            )

    def _fingerprint(self) -> dict[str, Any]:
        """What decides the run's result; a resumed run must have the same."""
        options = {key: value for key, value in flatten(self._config).items() if key not in RESUMABLE}
        return options | {"processes": self._world_size}


DEFAULTS = flatten(Config())
