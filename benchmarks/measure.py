"""Measure lines: both sides take turns, each in its own process. Needs no Paddle."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from paddle_attn.files import write_text

from .lines import PACKAGES, SIZES, Line, Result, lines
from .page import machine_of, ratio_and_aim, read, write

ROOT = Path(__file__).resolve().parent.parent
TURN = 0.5  # seconds: a turn takes as many steps as fit, at least one
REST = 0.3  # seconds between turns: OpenMP's threads of the side before keep spinning for 0.2
PROFILED = "mobilenet_v2"  # the exported model that is profiled by operator


class Worker:
    """A process of `benchmarks/baselines/worker.py` with one side or several; it takes steps on request."""

    def __init__(self, orders: Sequence[dict[str, Any]]):
        command = [sys.executable, "-m", "benchmarks.baselines.worker", json.dumps(orders)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
        if self._answer() != "ready":
            raise RuntimeError(f"the benchmark's process did not start: {orders}")
        self.steps = [1] * len(orders)  # of a turn
        self.steps = [max(1, round(TURN / max(self.turn(side)[0], 1e-6))) for side in range(len(orders))]

    def turn(self, side: int = 0) -> tuple[float, float]:
        """Seconds per step of a turn of a side, and how many of them it waited for data."""
        self.process.stdin.write(f"{side} {self.steps[side]}\n")
        self.process.stdin.flush()
        seconds, waited = map(float, self._answer().split())
        return seconds / self.steps[side], waited / self.steps[side]

    def _answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            errors = self.process.communicate()[1].strip()
            raise RuntimeError(f"the benchmark's process ended: {errors[-2000:]}")
        return line.strip()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()


def measure(line: Line, rounds: int) -> Result:
    """Measure `rounds` pairs of turns, or three times as many for two sides in one process."""
    with contextlib.ExitStack() as stack:
        if line.baseline["side"] == "itself":
            turns = [stack.enter_context(Worker([line.ours])).turn]
        elif line.same_process:
            both = stack.enter_context(Worker([line.ours, line.baseline]))
            turns = [lambda: both.turn(0), lambda: both.turn(1)]
        else:
            turns = [stack.enter_context(Worker([order])).turn for order in (line.ours, line.baseline)]
        pairs = [
            pair(turns, first=number % 2) for number in range(3 * rounds if line.same_process else rounds)
        ]
    ours, baseline = (1000 * statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    ratio = statistics.median(theirs / mine for mine, theirs in pairs)
    return Result(line.section, line.what, ours, line.label, baseline, ratio, line.aim)


def pair(turns: Sequence[Callable[[], tuple[float, float]]], first: int) -> tuple[float, float]:
    """Seconds per step of both sides, `first` in the first turn. One side alone is its own baseline."""
    took = {}
    for side in sorted(range(len(turns)), key=lambda side: side != first):
        time.sleep(REST)
        took[side] = turns[side]()
    seconds, waited = took[0]
    return seconds, took[1][0] if len(turns) > 1 else seconds - waited


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

    Reports and skips lines whose baseline is not installed. The results of other sections stay.

    Args:
        sections: of `SECTIONS`.
        rounds: pairs of turns for each line; 0 measures nothing and only writes the page again.
        data: a folder of class folders with images.
        scratch: a folder for exported models.
        out: the folder of the page.
        report: called with a sentence about each line.
        keep: measure only the lines that have no result yet.

    Returns: all results, also those of other sections.
    """
    results = read(out / "performance.csv")
    if not rounds:
        write(results, out, machine_of(out / "performance.md"))
        return results
    if not keep:
        results = [result for result in results if result.section not in sections]
    measured = {(result.section, result.what, result.baseline) for result in results}
    for section in sections:
        for line in lines(section, data, scratch):
            if (line.section, line.what, line.label) in measured:
                continue
            package = PACKAGES.get(line.baseline["side"])
            if package and importlib.util.find_spec(package) is None:
                report(f"{line.what}: skipped, {package} is not installed: pip install -e .[bench]")
                continue
            results.append(measure(line, rounds))
            report(describe(results[-1]))
            write(results, out)
        if section == "infer" and (scratch / PROFILED).exists():
            write_text(out / "performance_ops.csv", operator_times(scratch / PROFILED, SIZES[PROFILED]))
            write(results, out)
    return results


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
