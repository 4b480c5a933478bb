"""Measure lines: the sides take turns, each in its own process. Needs no Paddle."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paddle_attn import runtime
from paddle_attn.files import write_text

from .lines import HAS_BFLOAT16, PACKAGES, SECTIONS, SIZES, Line, Result, lines
from .page import machine, ratio_and_aim, read, write

ROOT = Path(__file__).resolve().parent.parent
TURN = 0.5  # seconds of a turn
LONG = 3.0  # seconds
REST = 0.3  # seconds between turns: OpenMP's threads of the side before keep spinning for 0.2
PROFILED = "mobilenet_v2"  # the exported model that is profiled by operator
ALLOCATOR = {  # of PyTorch's tuning guide: large tensors keep their memory. Ours sets the same
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
SETTINGS = ("tuned", "huge_pages")  # keys of a side that change its process
OURS = "this project"  # its label among the sides of a line

Turn = tuple[float, float]  # seconds per step, and how many of them it waited for data


class Worker:
    """A process of `benchmarks/baselines/worker.py` with one side or several; it takes steps on request.

    A side with the key `tuned` gets `ALLOCATOR` and as many threads as ours, with `huge_pages` also
    `HUGE_PAGES`. A turn takes as many steps as fit into `turn_seconds`, at least one. The process starts
    with the object; `with` waits until it is ready, and ends it.

    Raises: RuntimeError with the errors of the process when it ends by itself.
    """

    def __init__(self, orders: Sequence[dict[str, Any]], turn_seconds: float = TURN):
        environment = dict(os.environ)
        if any(order.get("tuned") for order in orders):
            threads = runtime.default_threads(runtime.this_machine(), os.environ)
            environment |= ALLOCATOR | {"OMP_NUM_THREADS": str(threads)}
        if any(order.get("huge_pages") for order in orders):
            environment |= HUGE_PAGES
        sides = [{key: order[key] for key in order if key not in SETTINGS} for order in orders]
        command = [sys.executable, "-m", "benchmarks.baselines.worker", json.dumps(sides)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)
        self.turn_seconds = turn_seconds
        self.steps: dict[int, int] = {}  # of a turn, by side
        self.is_long: dict[int, bool] = {}  # whether a step takes longer than LONG

    def turn(self, side: int = 0) -> Turn:
        """A turn of a side. The first one sets its number of steps.

        Unless a step takes long, the first one of a turn is not counted: after a pause, in which the other
        sides used the caches, it takes up to twice as long as in a row.
        """
        if side not in self.steps:
            seconds = self._take(side, 1)[0]
            self.steps[side] = max(1, round(self.turn_seconds / max(seconds, 1e-6)))
            self.is_long[side] = seconds > LONG
        if not self.is_long[side]:
            self._take(side, 1)
        return self._take(side, self.steps[side])

    def _take(self, side: int, steps: int) -> Turn:
        seconds, waited = map(float, self._ask(f"{side} {steps}").split())
        return seconds / steps, waited / steps

    def memory(self) -> float:
        """The peak of the process's memory in its turns, in MB, less that after its imports; 0 if unknown."""
        return float(self._ask("memory"))

    def _ask(self, request: str) -> str:
        self.process.stdin.write(f"{request}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            errors = self.process.communicate()[1].strip()
            raise RuntimeError(f"the benchmark's process ended: {errors[-2000:]}")
        return line.strip()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> Worker:
        self._answer()  # 'ready'
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def measure(line: Line, rounds: int, report: Callable[[str], None] = print) -> Result:
    """Measure a line in rounds of one turn for each side, three times as many for sides in one process.

    Of several baselines the result names the fastest, that of the lowest ratio. `report` gets a sentence
    about each one that does not start.
    """
    with contextlib.ExitStack() as stack:
        sides, workers = start(line, stack, report)
        turns = [
            take_turns(sides, first=number % len(sides))
            for number in range(3 * rounds if line.same_process else rounds)
        ]
        memory = {label: worker.memory() for label, worker in workers.items()}
    ours = [turn[OURS][0] for turn in turns]
    if line.sides == {"itself"}:
        times = {
            label: [seconds - waited for seconds, waited in (turn[OURS] for turn in turns)]
            for label in line.baselines
        }
    else:
        times = {label: [turn[label][0] for turn in turns] for label in sides if label != OURS}
    ratios = {
        label: statistics.median(their / our for our, their in zip(ours, theirs, strict=True))
        for label, theirs in times.items()
    }
    best = min(ratios, key=ratios.get)
    return Result(
        section=line.section,
        what=line.what,
        ours_ms=1000 * statistics.median(ours),
        baseline=best,
        baseline_ms=1000 * statistics.median(times[best]),
        ratio=ratios[best],
        aim=line.aim,
        ours_mb=memory.get(OURS, 0.0),
        baseline_mb=memory.get(best, 0.0),
        machine=machine(),
    )


def start(
    line: Line, stack: contextlib.ExitStack, report: Callable[[str], None]
) -> tuple[dict[str, Callable[[], Turn]], dict[str, Worker]]:
    """Start a line's processes, side by side: PyTorch compiles for minutes on one core.

    Reports and skips a baseline that does not start, if there are others.

    Returns: what takes a turn of each side, by its label, ours first; and the processes of training lines
        with one side.
    """
    if line.same_process:
        both = stack.enter_context(Worker([line.ours, *line.baselines.values()]))
        labels = [OURS, *line.baselines]
        return {label: functools.partial(both.turn, side) for side, label in enumerate(labels)}, {}
    orders = {OURS: line.ours} | {
        label: order for label, order in line.baselines.items() if order["side"] != "itself"
    }
    started = {label: Worker([order]) for label, order in orders.items()}
    for worker in started.values():
        stack.callback(worker.close)
    workers = {}
    for label, worker in started.items():
        try:
            workers[label] = stack.enter_context(worker)
        except RuntimeError as error:
            if label == OURS or len(line.baselines) == 1:
                raise
            report(f"{line.what}: {label} skipped: {str(error).splitlines()[-1]}")
    if len(workers) == 1 and line.sides != {"itself"}:
        raise RuntimeError(f"{line.what}: no baseline starts")
    turns = {label: worker.turn for label, worker in workers.items()}
    return turns, workers if line.section == "train" else {}


def take_turns(sides: Mapping[str, Callable[[], Turn]], first: int) -> dict[str, Turn]:
    """A turn of each side, in a circle that begins with the side at place `first`."""
    labels, turns = list(sides), {}
    for label in labels[first:] + labels[:first]:
        time.sleep(REST)
        turns[label] = sides[label]()
    return turns


def run(
    sections: Sequence[str],
    rounds: int,
    data: Path,
    scratch: Path,
    out: Path,
    report: Callable[[str], None],
    keep: bool = False,
) -> list[Result]:
    """Measure sections, and write `out/performance.csv`, its page and its chart after each line.

    Reports and skips lines that need a package or a processor that is not here. Only a new result replaces an
    old one; the results of lines that no longer exist go.

    Args:
        sections: of `SECTIONS`.
        rounds: of turns for each line; 0 measures nothing and only writes the page again.
        data: a folder of class folders with images.
        scratch: a folder for exported models.
        out: the folder of the page.
        report: called with a sentence about each line.
        keep: measure only the lines that have no result yet.

    Returns: all results, also those of other sections.
    """
    order = [line for section in SECTIONS for line in lines(section, data, scratch)]
    place = {
        (line.section, line.what, label): number
        for number, line in enumerate(order)
        for label in line.baselines
    }
    results = [result for result in read(out / "performance.csv") if result.key in place]
    results.sort(key=lambda result: place[result.key])
    if not rounds:
        write(results, out)
        return results
    for section in sections:
        for line in lines(section, data, scratch):
            keys = {(line.section, line.what, label) for label in line.baselines}
            others = [result for result in results if result.key not in keys]
            if keep and len(others) < len(results):
                continue
            if reason := why_not_here(line):
                report(f"{line.what}: skipped, {reason}")
                continue
            result = measure(line, rounds, report)
            report(describe(result))
            results = sorted([*others, result], key=lambda result: place[result.key])
            write(results, out)
        if section == "infer" and (scratch / PROFILED).exists():
            write_text(out / "performance_ops.csv", operator_times(scratch / PROFILED, SIZES[PROFILED]))
            write(results, out)
    return results


def why_not_here(line: Line) -> str:
    """Why this machine cannot measure a line, or ""."""
    if line.in_bfloat16 and not HAS_BFLOAT16:
        return "this processor has no AVX512-BF16"
    packages = [PACKAGES[side] for side in sorted(line.sides) if side in PACKAGES]
    if line.section == "engines":
        packages.append("openvino")
    for package in packages:
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed: pip install -e .[bench]"
    return ""


def describe(result: Result) -> str:
    ratio, aim = ratio_and_aim(result)
    missed = "" if result.ratio >= result.aim else ": MISSED"
    return (
        f"{result.what}: {result.ours_ms:.2f} ms, {result.baseline} {result.baseline_ms:.2f} ms, "
        f"{ratio} (aim {aim}{missed})"
    )


def operator_times(folder: Path, size: int, runs: int = 50) -> str:
    """CSV of an exported model's ten slowest operators: operator, calls and milliseconds per image."""
    command = [sys.executable, "-m", "benchmarks.baselines.operators", str(folder), str(size), str(runs)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    # the profiler leaves a file in its working directory: let that be the export's own
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    table = re.compile(r"^thread\d+::(\S+)\s+(\d+)\s+([\d.]+) ", re.MULTILINE)
    rows = [
        (operator, int(calls) / runs, float(milliseconds) / runs)
        for operator, calls, milliseconds in table.findall(process.stdout + process.stderr)
        if int(calls) >= runs
    ]
    rows.sort(key=lambda row: -row[2])
    return "".join(f"{operator},{calls:.0f},{ms:.2f}\n" for operator, calls, ms in rows[:10])
