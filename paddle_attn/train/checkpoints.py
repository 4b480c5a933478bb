"""What a run leaves to go on from: weights for people, and one file with all that a resume needs."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from paddle.optimizer import Optimizer

from ..config import Config
from ..errors import UserError
from ..weights import read_checkpoint, safe_pickle, save_checkpoint, save_weights
from .ema import WeightAverage
from .history import Row

STATE, BEFORE = "last.pdstate", "before.pdstate"  # the newest, and the one before it


@dataclass(frozen=True)
class Within:
    """How far a run is inside an epoch, at a moment when an update was just made."""

    step: int  # batches that are done
    images: int  # of these batches
    loss_sum: float  # over the images
    accuracy: list[list[float]]  # the metric's sums: hits for each k, counts
    seconds: float
    lr: float  # at the epoch's start


@dataclass(frozen=True)
class Parts:
    """What training changes, and a checkpoint must have."""

    net: nn.Layer
    optimizer: Optimizer
    average: WeightAverage | None


def save_epoch(folder: Path, parts: Parts, rows: list[Row], config: Config, processes: int) -> bool:
    """Write `last.pdparams` and, when this epoch's eval top-1 beats all before, `best.pdparams`. Returns whether it did.

    With an average the network holds it at this moment (`WeightAverage.swap`), and it is what both files get. The checkpoint has all
    in one file, so that no moment leaves two that do not belong together.
    """
    is_best = all(row.eval_top1 < rows[-1].eval_top1 for row in rows[:-1])
    if is_best:
        save_weights(parts.net, folder / "best.pdparams")
    save_weights(parts.net, folder / "last.pdparams")
    average = parts.average
    _save(
        folder,
        parts,
        average.values if average else parts.net.state_dict(),
        parts.net.state_dict(),
        rows,
        _decisive(config, processes),
        None,
    )
    return is_best


def save_step(
    folder: Path, parts: Parts, rows: list[Row], config: Config, processes: int, within: Within
) -> None:
    """Write the checkpoint alone, inside an epoch."""
    _save(
        folder,
        parts,
        parts.net.state_dict(),
        parts.average.values if parts.average else {},
        rows,
        _decisive(config, processes),
        within,
    )


def _save(
    folder: Path,
    parts: Parts,
    trained: dict,
    averaged: dict,
    rows: list[Row],
    decisive: dict[str, object],
    within: Within | None,
) -> None:
    state = {
        "network": trained,
        "optimizer": parts.optimizer.state_dict(),
        "rows": [asdict(row) for row in rows],
        "config": decisive,
    }
    state["within"] = asdict(within) if within else None
    if parts.average:
        state |= {"average": averaged, "updates": parts.average.updates}
    new = folder / f"new.{STATE}"
    save_checkpoint(state, new)
    if (folder / STATE).exists():
        os.replace(folder / STATE, folder / BEFORE)
    os.replace(new, folder / STATE)


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a run to go on with."""
    return (folder / STATE).exists() or (folder / BEFORE).exists()


def load_run(
    folder: Path, parts: Parts, config: Config, processes: int
) -> tuple[list[Row], Within | None, str]:
    """Put network, its average and optimiser back to the newest whole checkpoint of a run.

    Returns: its history, how far it is inside the next epoch, and, when the newest was damaged and the one before it was taken, a
    sentence that says so.

    Raises: UserError when no checkpoint is whole, or the run had another config: only the number of epochs and what does not change
    the result may differ.
    """
    decisive = _decisive(config, processes)
    try:
        return *_load(folder / STATE, parts, decisive), ""
    except UserError as error:
        if not (folder / BEFORE).exists() or isinstance(error, OtherRun):
            raise
        return *_load(folder / BEFORE, parts, decisive), f"{error}; going on with {folder / BEFORE}"


class OtherRun(UserError):
    """The checkpoint is whole, and belongs to something else."""


def _load(path: Path, parts: Parts, decisive: dict[str, object]) -> tuple[list[Row], Within | None]:
    state = read_checkpoint(path)
    try:
        network, optimizer_state, rows = (
            state["network"],
            state["optimizer"],
            [Row(**row) for row in state["rows"]],
        )
        within = Within(**state["within"]) if state.get("within") else None
        own = parts.net.state_dict()
        fits = {key: list(value.shape) for key, value in own.items()} == {
            key: list(value.shape) for key, value in network.items()
        }
        before = _decisive(Config(), 1) | dict(
            state["config"]
        )  # what a run of an older version did not know had its default
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError(
            f"{path} is no checkpoint of a run: expected one that tools/train.py wrote; remove it to start anew"
        ) from None
    for key, value in decisive.items():
        if before.get(key) != value:
            was = f"the run in {path.parent} had {key} {before.get(key)!r}"
            raise OtherRun(f"{was}, expected the same to go on, found {value!r}; or set train.output")
    if not fits:
        raise OtherRun(
            f"{path} belongs to another network: expected the model of this config; choose another train.output"
        )
    for key, value in own.items():
        value.set_value(network[key])
    if parts.average:
        parts.average.load(state["average"], state["updates"])
    optimizer = parts.optimizer
    optimizer.set_state_dict(
        {
            key: paddle.to_tensor(value) if isinstance(value, np.ndarray) else value
            for key, value in optimizer_state.items()
        }
    )
    schedule = optimizer._learning_rate
    schedule.last_lr = (
        schedule.get_lr()
    )  # of the number of epochs that is asked for now, not of the one before
    return rows, within


def _decisive(config: Config, processes: int) -> dict[str, object]:
    """What of a config decides a run's result, flat: all but the number of epochs, the places and the pace."""
    aside = {
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
    flat = {
        f"{section}.{key}": value
        for section, values in asdict(config).items()
        for key, value in values.items()
    }
    flat["processes"] = processes  # how many: a step has that many batches
    return safe_pickle.plain(
        {key: value for key, value in flat.items() if key not in aside}
    )  # tuples are lists in the file
