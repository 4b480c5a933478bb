"""What a run leaves to go on from: weights for people, and one file with all that a resume needs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from paddle.optimizer import Optimizer

from .. import safe_pickle
from ..config import Config
from ..errors import UserError
from ..weights import read_checkpoint, save_checkpoint, save_weights
from .average import WeightAverage
from .history import Row

STATE = "last.pdstate"


def save_epoch(folder: Path, net: nn.Layer, average: WeightAverage | None, optimizer: Optimizer, rows: list[Row], config: Config) -> bool:
    """Write `last.pdparams` and, when this epoch's eval top-1 beats all before, `best.pdparams`. Returns whether it did.

    With an average the network holds it at this moment (`WeightAverage.swap`), and it is what both files get.

    `last.pdstate` holds network, optimiser and history in one file, so that no moment leaves two that do not belong together.
    """
    is_best = all(row.eval_top1 < rows[-1].eval_top1 for row in rows[:-1])
    if is_best:
        save_weights(net, folder / "best.pdparams")
    save_weights(net, folder / "last.pdparams")
    trained = average.values if average else net.state_dict()
    state = {"network": trained, "optimizer": optimizer.state_dict(), "rows": [asdict(row) for row in rows], "config": _decisive(config)}
    if average:
        state |= {"average": net.state_dict(), "updates": average.updates}
    save_checkpoint(state, folder / STATE)
    return is_best


def load_epoch(folder: Path, net: nn.Layer, average: WeightAverage | None, optimizer: Optimizer, config: Config) -> list[Row]:
    """Put network, its average and optimiser back to the last whole epoch of a run; returns its history.

    Raises: UserError when the checkpoint is damaged, or the run had another config: only the number of epochs and what does not
    change the result may differ.
    """
    path = folder / STATE
    state = read_checkpoint(path)
    try:
        network, optimizer_state, rows = state["network"], state["optimizer"], [Row(**row) for row in state["rows"]]
        own = net.state_dict()
        fits = {key: list(value.shape) for key, value in own.items()} == {key: list(value.shape) for key, value in network.items()}
        before = _decisive(Config()) | dict(state["config"])  # what a run of an older version did not know had its default
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError(f"{path} is no checkpoint of a run: expected one that tools/train.py wrote; remove it to start anew") from None
    for key, value in _decisive(config).items():
        if before.get(key) != value:
            raise UserError(f"the run in {folder} had {key} {before.get(key)!r}, expected the same to go on, found {value!r}; or set train.output")
    if not fits:
        raise UserError(f"{path} belongs to another network: expected the model of this config; choose another train.output")
    for key, value in own.items():
        value.set_value(network[key])
    if average:
        average.load(state["average"], state["updates"])
    optimizer.set_state_dict({key: paddle.to_tensor(value) if isinstance(value, np.ndarray) else value for key, value in optimizer_state.items()})
    schedule = optimizer._learning_rate
    schedule.last_lr = schedule.get_lr()  # of the number of epochs that is asked for now, not of the one before
    return rows


def _decisive(config: Config) -> dict[str, object]:
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
        "data.root",
        "data.workers",
        "data.cache",
    }
    flat = {f"{section}.{key}": value for section, values in asdict(config).items() for key, value in values.items()}
    return safe_pickle.plain({key: value for key, value in flat.items() if key not in aside})  # tuples are lists in the file
