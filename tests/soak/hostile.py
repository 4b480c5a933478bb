"""Feed damaged, unusual and malicious files to the readers, and count what they accept and reject.

    python tests/soak/hostile.py                  5,000 images and 50 to 500 of each other kind; the page
    python tests/soak/hostile.py images --tenth   a tenth of the images, no page

A watched process reads each case. These are failures: a crash, a hang, an exception that is not a UserError,
executed code, a lost file, a file written elsewhere, too much memory. They are listed, and the exit code
is 1.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import cases
import numpy as np
from report import Row, write

from paddle_attn.cli import prepare_paddle
from paddle_attn.errors import UserError

ROOT = Path(__file__).resolve().parent.parent.parent
COUNTS = {"images": 5000, "weights": 500, "libraries": 50, "archives": 500, "configs": 500}
CPU_LIMIT = 20  # seconds of CPU time for one case: a busy machine does not reach it
WALL_LIMIT = 600.0  # seconds without an answer: a reader that waits for something uses no CPU time
MEMORY_LIMIT = 1024  # MB of the reading process above what it holds at its start


# ---- the reading process


def read_image(path: Path) -> None:
    from paddle_attn.data.images import load_image
    from paddle_attn.data.transforms import Preprocess

    image = load_image(path)
    image.histogram()
    for resize_mode in ("stretch", "crop"):
        Preprocess(32, resize_mode, (0.5,) * 3, (0.5,) * 3)(image)


def read_weights(path: Path) -> None:
    from PIL import Image

    from paddle_attn import Predictor
    from paddle_attn.train.checkpoint import read_checkpoint
    from paddle_attn.weights import read_weights

    if path.is_dir():
        pixels = Predictor(path).preprocess(Image.new("RGB", (8, 8)))
        if not np.isfinite(pixels).all():
            raise AssertionError("the preprocessing of an accepted model gives NaN or Inf")
    elif path.suffix == ".pdstate":
        read_checkpoint(path)
    else:
        read_weights(path)


def read_libraries(path: Path) -> None:
    """Run an operator with `path` as the cache, in a new process. The compiler only tells its version."""
    compiler = path.with_name("compiler")
    name = os.environ.get("CXX") or "c++"
    compiler.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec {name} --version\nexit 1\n')
    compiler.chmod(0o700)
    program = """
from paddle_attn.cli import prepare_paddle; prepare_paddle()
import paddle
from paddle_attn import ops
x = paddle.ones([1, 4, 8, 8])
fused = ops.find("simam", x)
print("fused" if fused is not None and fused(x, 1e-4).shape == x.shape else "reference")
"""
    environment = {"PADDLE_ATTN_CACHE": str(path), "PADDLE_ATTN_OPS": "auto", "CXX": str(compiler)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    if done.returncode:
        raise AssertionError(f"the process ended with {done.returncode}: {done.stderr[-200:]}")
    if done.stdout.split()[-1:] != ["fused"]:
        raise UserError("the reference form was used")


def read_archive(path: Path) -> None:
    from paddle_attn.data.prepare.split import make_split

    make_split(str(path), path.parent / "split", force=True)


def read_config(path: Path) -> None:
    from paddle_attn import create_model
    from paddle_attn.builders import make_preprocess
    from paddle_attn.config import dump_config, load_config

    config = load_config(path)
    again = path.with_name("again.yaml")
    again.write_text(dump_config(config), encoding="utf-8")
    if load_config(again) != config:
        raise AssertionError("reading the dumped config gives a different config")
    make_preprocess(config)
    model, classes = config.model, min(config.model.num_classes or 16, 1000)
    create_model(model.name, model.attn, model.attn_kwargs, model.attn_pos, classes)


READERS: dict[str, Callable[[Path], None]] = {
    "images": read_image,
    "weights": read_weights,
    "libraries": read_libraries,
    "archives": read_archive,
    "configs": read_config,
}


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def outcome(read: Callable[[Path], None], path: Path) -> str:
    """'accepted', 'rejected', or what went wrong."""
    try:
        read(path)
    except UserError as error:
        one_sentence = "\n" not in str(error) and len(str(error)) < 2000
        return "rejected" if one_sentence else f"not one sentence: {str(error)[:200]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    return "accepted"


def worker(kind: str) -> None:
    """Read the file that each line of stdin names; answer with [outcome, seconds, MB above the start]."""
    prepare_paddle()

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # readers may print
    start = peak_mb()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        used_up = math.ceil(time.process_time() + CPU_LIMIT)  # then the kernel sends SIGXCPU
        resource.setrlimit(resource.RLIMIT_CPU, (used_up, resource.RLIM_INFINITY))
        ended = outcome(READERS[kind], Path(json.loads(line)))
        print(json.dumps([ended, time.perf_counter() - began, peak_mb() - start]), file=answers, flush=True)


class Reader:
    """The watched process. It starts again after a crash or a hang."""

    def __init__(self, kind: str, scratch: Path):
        self.kind, self.log, self.process = kind, open(scratch / "reader.log", "w"), None  # noqa: SIM115
        self.home = scratch / "home"  # its working directory: executed code leaves a file here
        self.home.mkdir()

    def start(self) -> None:
        command = [sys.executable, __file__, "--worker", self.kind]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log}
        self.process = subprocess.Popen(command, cwd=self.home, text=True, **pipes)
        if self.answer() != "ready\n":
            raise RuntimeError(f"the reading process does not start, see {self.log.name}")

    def read(self, path: Path) -> tuple[str, float, int]:
        """The outcome of one case, its seconds, and the peak memory in MB."""
        if self.process is None:
            self.start()
        self.process.stdin.write(json.dumps(str(path)) + "\n")
        self.process.stdin.flush()
        line = self.answer()
        if line:
            return tuple(json.loads(line))
        self.process.kill()
        code, self.process = self.process.wait(), None
        hangs = line is None or code == -signal.SIGXCPU
        return ("hangs" if hangs else f"crashed with {code}"), WALL_LIMIT if line is None else CPU_LIMIT, 0

    def answer(self) -> str | None:
        """A line of the process; '' after its end, None after the time limit."""
        ready, _, _ = select.select([self.process.stdout], [], [], WALL_LIMIT)
        return self.process.stdout.readline() if ready else None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
        self.log.close()


# ---- the run


def content_of(folder: Path, without: str) -> dict[str, bytes | str]:
    """Every file and link below a folder by its relative path, except below the subfolder `without`."""
    found: dict[str, bytes | str] = {}
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if Path(at, name).relative_to(folder) != Path(without)]
        for name in (*files, *(name for name in folders if Path(at, name).is_symlink())):
            path = Path(at, name)
            found[str(path.relative_to(folder))] = (
                os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else "special"
            )
    return found


def failures_of_one_split(folder: Path, count: int, accepted: int) -> list[str]:
    """Make one split of all the images, and load an epoch of it. Returns what failed."""
    from paddle_attn.data.folder import ImageFolder
    from paddle_attn.data.loader import Loader
    from paddle_attn.data.prepare.split import make_split
    from paddle_attn.data.transforms import Preprocess

    split = make_split(str(folder), folder.with_name("split"))
    used, skipped = split.total("train") + split.total("eval"), len(split.skipped)
    preprocess = Preprocess(32, "stretch", (0.5,) * 3, (0.5,) * 3)
    parts = [ImageFolder(folder.with_name("split") / part, preprocess) for part in ("train", "eval")]
    loaded = sum(len(labels) for part in parts for _, labels in Loader(part, 64))
    checks = {
        f"the split used {used} and skipped {skipped} of {count} images": used + skipped == count,
        f"the split used {used} images, but {accepted} were accepted one by one": used == accepted,
        f"{loaded} of {used} images were loaded": loaded == used,
    }
    return [failure for failure, passed in checks.items() if not passed]


def run(kind: str, count: int, seed: int, report: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Read all cases of a kind. Returns the rows of the page, and the failures."""
    failures: list[str] = []
    endings: dict[str, Counter] = defaultdict(Counter)
    slowest: dict[str, float] = defaultdict(float)
    memory = 0
    with tempfile.TemporaryDirectory() as scratch, Reader(kind, Path(scratch)) as reader:
        inside = Path(scratch) / "inside" / "inside"  # its parent is watched too, for path traversal
        inside.mkdir(parents=True)
        made: Iterator[tuple[str, Path]] = getattr(cases, kind)(inside, count, random.Random(seed))
        for number, (what, path) in enumerate(made):
            before = content_of(inside.parent, "inside/split") if kind in ("archives", "weights") else None
            older = content_of(inside / "split", "") if kind == "archives" else None
            ended, seconds, held = reader.read(path)
            memory, slowest[what] = max(memory, held), max(slowest[what], seconds)
            if ended not in ("accepted", "rejected"):
                failures.append(f"{what}: {ended}")
                report(f"FAILED {what} (case {number} of {kind}, seed {seed}): {ended}")
                ended = "failed"
            endings[what][ended] += 1
            if before is not None and content_of(inside.parent, "inside/split") != before:
                failures.append(f"{what}: files were lost or written elsewhere")
            if older is not None:
                now = content_of(inside / "split", "")
                if "split.json" not in now or (ended == "rejected" and now != older):
                    failures.append(f"{what}: the older split was lost")
            if number % 500 == 499:
                report(f"{number + 1} {kind}")
        if kind == "images":
            accepted = sum(each["accepted"] for each in endings.values())
            failures += failures_of_one_split(inside / "images", count, accepted)
        if rejected := endings.get("intact", Counter())["rejected"]:
            failures.append(f"{rejected} intact files were rejected")
        if left := sorted(path.name for path in reader.home.iterdir()):
            failures.append(f"code was executed and left {', '.join(left)}")
    if memory > MEMORY_LIMIT:
        failures.append(f"the reading process took {memory} MB, expected at most {MEMORY_LIMIT}")
    rows = [
        Row(kind, what, each.total(), each["accepted"], each["rejected"], round(slowest[what], 2), memory)
        for what, each in endings.items()
    ]
    return rows, failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(COUNTS)} (default: all)")
    parser.add_argument("--tenth", action="store_true", help="a tenth of the cases, and no page")
    parser.add_argument("--seed", type=int, default=0, help="determines the cases (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of reliability.csv and .md")
    parser.add_argument("--worker", choices=READERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker)
        return
    prepare_paddle()
    warnings.filterwarnings("ignore", message="Image size")  # Pillow's, about images that are then skipped
    rows, failures = [], []
    for kind in arguments.kinds or COUNTS:
        count = COUNTS[kind] // (10 if arguments.tenth else 1)
        mine, failed = run(kind, count, arguments.seed, lambda text: print(text, flush=True))
        rows, failures = [*rows, *mine], [*failures, *(f"{kind}: {what}" for what in failed)]
        accepted, rejected = (sum(getattr(row, name) for row in mine) for name in ("accepted", "rejected"))
        print(f"{count} {kind}: {accepted} accepted, {rejected} rejected, {len(failed)} failed", flush=True)
    if not arguments.tenth:
        write(rows, arguments.out)
    print("\n".join(failures))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
