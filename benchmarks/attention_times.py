"""The times of the attention modules alone, for docs/attention.md: ours and those of the same in PyTorch.

All modules of a side are in one process, and the two processes take turns. Needs no Paddle.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_attn.files import write_text

from .lines import IN_PYTORCH
from .measure import REST, Worker
from .page import machine

TIMES = "attention_times.csv"  # beside the page
SIZES = ((128, 28), (256, 14), (512, 7))  # channels and side of the last three stages of a ResNet-18
COMPARED = SIZES[1]  # also measured in PyTorch, which compiles for minutes
BATCH = 16
TURN = 0.1  # seconds: a turn of one module
PYTORCH: dict[str, dict[str, Any]] = {"eager_ms": {}, "compiled_ms": {"compiled": True}}
COLUMNS = ("forward_ms", "train_ms", *PYTORCH)  # train: forward and backward, as both of PyTorch

Cell = tuple[str, int, int]  # attention, channels, side


@dataclass(frozen=True)
class Times:
    """The file of times: milliseconds by cell and column, and the machine that took them."""

    machine: str
    cells: dict[Cell, dict[str, float]]


def measure(
    file: Path,
    names: Iterable[str],
    rounds: int = 5,
    pytorch: Mapping[str, Mapping[str, Any]] = PYTORCH,
    report: Callable[[str], object] = lambda line: None,
) -> None:
    """Write the times of modules with their default arguments at every size, and of the same in PyTorch at
    `COMPARED`: medians over the rounds.

    Args:
        names: of the modules.
        rounds: of turns; in a turn a module takes as many steps as fit into `TURN`.
        pytorch: the configurations of PyTorch by their columns; they are left out when it is not installed.
        report: gets a line before the processes start, and one for each round.
    """
    cells: list[Cell] = [(name, *size) for name in names for size in SIZES]
    if importlib.util.find_spec("torch") is None:
        pytorch = {}
    ours = {"forward_ms": {"mode": "forward"}, "train_ms": {"mode": "train"}}
    theirs = {column: {"mode": "train", **more} for column, more in pytorch.items()}
    sides = {
        "ours": [(cell, column, more) for cell in cells for column, more in ours.items()],
        "pytorch": [
            (cell, column, more)
            for cell in cells
            if cell[0] in IN_PYTORCH and cell[1:] == COMPARED
            for column, more in theirs.items()
        ],
    }
    report("starting, and compiling with PyTorch")
    with contextlib.ExitStack() as stack:
        started = {
            side: Worker([_order(side, *part) for part in parts], TURN)
            for side, parts in sides.items()
            if parts
        }
        for worker in started.values():
            stack.callback(worker.close)
        workers = {side: stack.enter_context(worker) for side, worker in started.items()}
        seconds: dict[tuple[Cell, str], list[float]] = {}
        for number in range(rounds):
            report(f"round {number + 1} of {rounds}")
            for side, worker in workers.items():
                time.sleep(REST)
                for index, (cell, column, _) in enumerate(sides[side]):
                    seconds.setdefault((cell, column), []).append(worker.turn(index)[0])
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    _write(file, cells, medians)


def _order(side: str, cell: Cell, column: str, more: Mapping[str, Any]) -> dict[str, Any]:
    name, channels, size = cell
    shape = [BATCH, channels, size, size]
    return {"side": side, "step": "module", "name": name, "shape": shape, "tuned": side == "pytorch", **more}


def _write(file: Path, cells: Sequence[Cell], seconds: Mapping[tuple[Cell, str], float]) -> None:
    lines = [f"# {machine()}", ",".join(("attention", "channels", "side", *COLUMNS))]
    for cell in cells:
        found = [seconds.get((cell, column)) for column in COLUMNS]
        lines.append(",".join([*map(str, cell), *("" if s is None else f"{1e3 * s:.3g}" for s in found)]))
    write_text(file, "\n".join([*lines, ""]))


def read(file: Path) -> Times:
    """What `measure` wrote. No cells if the file does not exist."""
    if not file.exists():
        return Times("", {})
    first, *rows = file.read_text(encoding="utf-8").splitlines()
    return Times(
        first.removeprefix("# "),
        {
            (row["attention"], int(row["channels"]), int(row["side"])): {
                column: float(row[column]) for column in COLUMNS if row[column]
            }
            for row in csv.DictReader(rows)
        },
    )
