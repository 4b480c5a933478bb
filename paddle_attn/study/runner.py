"""Does the runs of a study that are not finished, each in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rich.console import Console

from .. import __version__
from ..config import dump_config
from ..data.prepare.split import make_split
from ..errors import Stopped, UserError
from ..files import open_regular, read_regular, write_text
from ..plotting.bar import plain_console
from ..runtime import default_threads, this_machine
from ..train.progress import duration
from ..train.signals import StopSignal
from .estimate import check_jobs, seconds_by_variant, seconds_left
from .plan import (
    PREDICTIONS,
    SUMMARY,
    PlannedRun,
    Study,
    data_hash,
    fold_folder,
    plan_runs,
    results_folder,
    study_folder,
)
from .progress import GridBar
from .results import Results, Row, read_history

POLL = 0.25  # seconds between two looks at the runs


@dataclass
class Started:
    """A run whose process was started."""

    run: PlannedRun
    process: subprocess.Popen
    log: IO[bytes]


@dataclass
class Outcome:
    """What a call of `run_study` did."""

    finished: list[str] = field(default_factory=list)  # runs that ended in it
    done: int = 0  # finished runs of the study, the earlier ones included
    failed: dict[str, str] = field(default_factory=dict)  # the reason by run


def run_study(study: Study, jobs: int = 1, console: Console | None = None, command: str = "") -> Outcome:
    """Do the runs of a study that are not finished. A run that was cut off is resumed.

    Args:
        study: its options.
        jobs: so many runs at a time, which share the cores.
        console: where progress is printed; None is the terminal.
        command: what continues the study, for the message after Ctrl-C.

    Returns: the finished and the failed runs. A failed run does not stop the others.

    Raises: UserError for a mistake in the study, or when its results folder holds another study's runs;
        Stopped after Ctrl-C or SIGTERM, when all runs in progress have saved and stopped.
    """
    check_jobs(jobs)
    console = console or plain_console()
    plan, results = plan_runs(study), Results(results_folder(study))
    results.check(study, plan)
    with results.lock() as lock:
        results.check(study, plan)
        hashes = prepare_data(study, plan, results)
        results.write_study(study)
        for line in results.copy_reusable(study, plan, hashes):
            console.print(line, soft_wrap=True)
        grid = Grid(plan, results, hashes, jobs, lock, console)
        if not grid.waiting:
            console.print(f"nothing to do: all {len(plan)} runs are in {results.folder}", soft_wrap=True)
        with StopSignal() as stop, GridBar(console, plan) as bar:
            grid.run_all(stop, bar)
    if stop.received and grid.waiting:
        more = f"; continue with: {command}" if command else ""
        raise Stopped(
            f"{stop.received.name}, {len(grid.rows)} of {len(plan)} runs are finished, all is saved{more}",
            stop.received,
        )
    grid.outcome.done = len(grid.rows)
    return grid.outcome


def prepare_data(study: Study, plan: Sequence[PlannedRun], results: Results) -> dict[int, str]:
    """Make the splits that are missing. Returns the checksum of each fold's data."""
    record = study_folder(study) / "data" / "source.json"
    source = json.dumps({"source": study.source, "classes": list(study.classes)}, ensure_ascii=False)
    if study.folds and record.exists() and read_regular(record).decode() != source:
        raise UserError(
            f"{record.parent} holds the folds of another source or other classes: expected {source}; "
            "give this study another name, or move that folder away"
        )
    hashes = {}
    for run in plan:
        if run.fold in hashes:
            continue
        if study.folds and not fold_folder(study, run.fold).exists():
            write_text(record, source)
            make_split(study.source, fold_folder(study, run.fold), list(study.classes) or None, fold=run.fold)
        hashes[run.fold] = data_hash(run.config.data.root)
        results.check_data(run.fold, hashes[run.fold])
    return hashes


class Grid:
    """The runs of a study while they are done."""

    def __init__(
        self,
        plan: Sequence[PlannedRun],
        results: Results,
        hashes: dict[int, str],
        jobs: int,
        lock: int,
        console: Console,
    ):
        self.plan, self.results, self.hashes, self.jobs = plan, results, hashes, jobs
        self.lock, self.console = lock, console
        self.rows = results.rows()
        self.waiting = [run for run in plan if run.name not in self.rows]
        self.started: list[Started] = []
        self.outcome = Outcome()
        self.threads = max(1, default_threads(this_machine(), os.environ) // jobs)
        self.commit, self.machine = find_commit(), name_machine()

    def run_all(self, stop: StopSignal, bar: GridBar) -> None:
        """Do the waiting runs in their order, `jobs` at a time. After a signal those in progress stop, and
        are waiting again.
        """
        try:
            while self.started or (self.waiting and not stop.received):
                while self.waiting and len(self.started) < self.jobs and not stop.received:
                    self.started.append(start(self.waiting.pop(0), self.threads, self.lock))
                time.sleep(POLL)
                if stop.received:
                    ask_to_stop(self.started)
                for each in [each for each in self.started if each.process.poll() is not None]:
                    self.started.remove(each)
                    self.end(each, stop)
                epochs = self.epochs_done()
                bar.update(epochs, [each.run.name for each in self.started], self.seconds_left(epochs))
        finally:
            ask_to_stop(self.started)
            for each in self.started:
                each.process.wait()

    def end(self, each: Started, stop: StopSignal) -> None:
        """Collect a run whose process has ended, or report why it failed."""
        each.log.close()
        each.process.stdin.close()
        run = each.run
        if each.process.returncode == 0:
            self.rows[run.name] = row = self.collect(run)
            self.outcome.finished.append(run.name)
            left = self.seconds_left(self.epochs_done())
            until = f", {duration(left)} left" if left else ""
            line = (
                f"{run.name}  top-1 {100 * row.top1:.2f} %  {len(self.rows)} of {len(self.plan)} runs{until}"
            )
            self.console.print(line, soft_wrap=True)
        elif stop.received:
            self.waiting.append(run)
        else:
            self.outcome.failed[run.name] = why = reason(each)
            self.console.print(f"{run.name} failed: {why}", soft_wrap=True)

    def collect(self, run: PlannedRun) -> Row:
        """Copy the results of a run that has ended from its folder to the results."""
        folder = Path(run.config.train.output)
        row = Row(
            run=run.name,
            variant=run.variant,
            fold=run.fold,
            seed=run.seed,
            config_hash=run.config_hash,
            data_hash=self.hashes[run.fold],
            version=__version__,
            commit=self.commit,
            machine=self.machine,
            threads=self.threads,
            **json.loads(read_regular(folder / SUMMARY)),
        )
        self.results.add(row, folder / "history.csv", folder / PREDICTIONS, self.plan)
        return row

    def epochs_done(self) -> dict[str, int]:
        """The epochs that are done of each run that is finished or in progress."""
        epochs = {run.name: run.config.train.epochs for run in self.plan}
        finished = {name: epochs[name] for name in self.rows}
        return finished | {each.run.name: len(history(each.run)) for each in self.started}

    def seconds_left(self, epochs_done: dict[str, int]) -> float | None:
        """The time until the study ends, from its finished runs, or else from those in progress."""
        by_variant = seconds_by_variant(self.rows.values())
        for each in self.started:
            if each.run.variant not in by_variant and (epochs := history(each.run)):
                by_variant[each.run.variant] = epochs[-1]["seconds"]
        left = [run for run in self.plan if run.name not in self.outcome.failed]
        return seconds_left(left, epochs_done, by_variant, self.jobs)


def history(run: PlannedRun) -> list[dict[str, float]]:
    """The epochs that a run in progress has written."""
    path = Path(run.config.train.output, "history.csv")
    return read_history(path) if path.exists() else []


def start(run: PlannedRun, threads: int, lock: int) -> Started:
    """Start the process of a run. It has a session of its own, so that Ctrl-C reaches it only through us.

    The process keeps the lock of the results: if this one is killed, no study starts before its runs saved.
    """
    folder = Path(run.config.train.output).parent.parent
    config = folder / "configs" / f"{run.name}.yaml"
    write_text(config, dump_config(run.config))
    log = folder / "logs" / f"{run.name}.log"
    log.parent.mkdir(exist_ok=True)
    package = str(Path(__file__).parents[2])
    environment = os.environ | {
        name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    }
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    environment["PYTHONIOENCODING"] = "utf-8"
    stream = open(log, "wb")  # noqa: SIM115
    process = subprocess.Popen(
        [sys.executable, "-m", "paddle_attn.study.one_run", str(config)],
        stdin=subprocess.PIPE,  # closed when this process ends, see one_run
        stdout=stream,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
        pass_fds=[lock] if lock >= 0 else (),
    )
    return Started(run, process, stream)


def ask_to_stop(started: list[Started]) -> None:
    """Ask each run to save and stop, once: a second request would end it at once."""
    for each in started:
        each.process.stdin.close()  # the process takes its end as a SIGTERM


def reason(started: Started) -> str:
    """Why a run failed: its last line, and where the others are."""
    name = started.log.name
    with open_regular(name) as file:
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    code = started.process.returncode
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}; see {name}"
    return f"{lines[-1].removeprefix('error: ') if lines else f'exit code {code}'}; see {name}"


# ---- what a row says about code and machine


def find_commit() -> str:
    """The commit of the repository that holds this package, with '+' when its code was changed; else ''."""

    def git(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments], capture_output=True, text=True
        )

    try:
        if git("ls-files", "--error-unmatch", Path(__file__).name).returncode:
            return ""  # the package is installed, perhaps inside another repository
        commit = git("rev-parse", "--short=12", "HEAD").stdout.strip()
        changed = git("diff", "--quiet", "HEAD", "--", "..").returncode
        return f"{commit}{'+' if changed else ''}"
    except OSError:  # no git
        return ""


def name_machine() -> str:
    """The processor and its number of cores."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(
                (line.partition(":")[2].strip() for line in file if line.startswith("model name")), name
            )
    except OSError:
        pass
    return f"{name}, {this_machine().cores} cores, {platform.system()}"
