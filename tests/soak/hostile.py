"""Feed the readers what is damaged, odd or hostile, and count how it ends.

    python tests/soak/hostile.py                     5,000 images; 500 each of weights, archives and configs; docs/reliability.md
    python tests/soak/hostile.py images --tenth      a tenth, no page

Each case is read in a process of its own kind, which is watched: a crash, a hang, an exception that is no UserError, anything executed, a
file lost or written elsewhere, or memory above the bound is a failure; they are named, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from report import Row, write  # noqa: E402

from paddle_attn.cli import prepare_paddle  # noqa: E402
from paddle_attn.errors import UserError  # noqa: E402

COUNTS = {"images": 5000, "weights": 500, "archives": 500, "configs": 500}
LIMIT = 20.0  # seconds for a case
MEMORY = 1024  # MB for a reading process, above what it holds at its start


# ---- the reading process


def read_image(path: Path) -> None:
    from paddle_attn.data.images import load_image
    from paddle_attn.data.transforms import Preprocess

    image = load_image(path)
    image.histogram()
    Preprocess(32, "stretch", (0.5,) * 3, (0.5,) * 3)(image)


def read_weights(path: Path) -> None:
    from paddle_attn import Predictor, weights

    if path.is_dir():
        Predictor(path)
    elif path.suffix == ".pdstate":
        weights.read_checkpoint(path)
    else:
        weights.read_weights(path)


def read_archive(path: Path) -> None:
    from paddle_attn.data.prepare.split import make_split

    make_split(str(path), path.parent / "split", force=True)


def read_config(path: Path) -> None:
    from paddle_attn import create_model
    from paddle_attn.config import dump_config, load_config
    from paddle_attn.train import make_preprocess

    config = load_config(path)
    again = path.with_name("again.yaml")
    again.write_text(dump_config(config), encoding="utf-8")
    if load_config(again) != config:
        raise AssertionError("the dumped config is another one")
    make_preprocess(config)
    model = config.model
    create_model(
        model.name, model.attn, model.attn_kwargs, model.attn_pos, min(model.num_classes or 16, 1000)
    )


READERS: dict[str, Callable[[Path], None]] = {
    "images": read_image,
    "weights": read_weights,
    "archives": read_archive,
    "configs": read_config,
}


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def worker(kind: str) -> None:
    """Read the case of each line of stdin, and answer with a line: how it ended, in how many seconds, the memory above the start's."""
    prepare_paddle()

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a reader prints
    start = peak_mb()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        try:
            READERS[kind](Path(json.loads(line)))
            ended = "taken"
        except UserError as error:
            ended = (
                "refused"
                if "\n" not in str(error) and len(str(error)) < 2000
                else f"no sentence: {str(error)[:200]!r}"
            )
        except Exception as error:
            ended = f"{type(error).__name__}: {str(error)[:300]}"
        print(json.dumps([ended, time.perf_counter() - began, peak_mb() - start]), file=answers, flush=True)


class Reader:
    """The watched process; it is started anew when it crashed or hung."""

    def __init__(self, kind: str, scratch: Path):
        self.kind, self.log, self.process = kind, open(scratch / "reader.log", "w"), None  # noqa: SIM115
        self.home = scratch / "home"  # where it runs: what a case gets executed leaves a file there
        self.home.mkdir()

    def read(self, path: Path) -> tuple[str, float, int]:
        if self.process is None:
            command = [sys.executable, str(HERE / "hostile.py"), "--worker", self.kind]
            self.process = subprocess.Popen(
                command,
                cwd=self.home,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.log,
                text=True,
            )
            if self._line(120) != "ready\n":
                raise RuntimeError(f"the reading process does not start, see {self.log.name}")
        self.process.stdin.write(json.dumps(str(path)) + "\n")
        self.process.stdin.flush()
        line = self._line(LIMIT)
        if line:
            return tuple(json.loads(line))
        hung = line is None
        self.process.kill()
        code = self.process.wait()
        self.process = None
        return ("hung" if hung else f"crashed with {code}"), LIMIT, 0

    def _line(self, seconds: float) -> str | None:
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return self.process.stdout.readline() if ready else None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
        self.log.close()


# ---- the run


def everything_in(folder: Path, but: str) -> dict[str, bytes | str]:
    """Every file and link below a folder by its path, without what is below `but`."""
    found: dict[str, bytes | str] = {}
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if Path(at, name).relative_to(folder) != Path(but)]
        for name in (*files, *(name for name in folders if Path(at, name).is_symlink())):
            path = Path(at, name)
            found[str(path.relative_to(folder))] = (
                os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else "special"
            )
    return found


def split_of_all(folder: Path, count: int, said: Counter) -> list[str]:
    """Make a split of a folder of images of every sort, and load an epoch of it. Returns what failed."""
    from paddle_attn.data.folder import ImageFolder
    from paddle_attn.data.loader import Loader
    from paddle_attn.data.prepare.split import make_split
    from paddle_attn.data.transforms import Preprocess

    split = make_split(str(folder), folder.with_name("split"))
    usable = split.total("train") + split.total("eval")
    failed = (
        []
        if usable + len(split.skipped) == count
        else [f"the split used {usable} and skipped {len(split.skipped)} of {count} images"]
    )
    if usable != said["taken"]:
        failed.append(f"the split used {usable} images where {said['taken']} decode alone")
    loaded = 0
    for part in ("train", "eval"):
        images = ImageFolder(
            folder.with_name("split") / part, Preprocess(32, "stretch", (0.5,) * 3, (0.5,) * 3)
        )
        loaded += sum(len(labels) for _, labels in Loader(images, 64))
    return failed if loaded == usable else [*failed, f"{loaded} of {usable} images were loaded"]


Counter = collections.Counter


def run(kind: str, count: int, seed: int, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """All cases of a kind. Returns how they ended, and what failed."""
    import cases

    failed: list[str] = []
    endings: dict[str, Counter] = collections.defaultdict(Counter)
    slowest: dict[str, float] = collections.defaultdict(float)
    memory = 0
    with tempfile.TemporaryDirectory() as scratch, Reader(kind, Path(scratch)) as reader:
        inside = Path(scratch) / "inside" / "inside"  # one above it is watched too, for what climbs
        inside.mkdir(parents=True)
        made: Iterator[tuple[str, Path]] = getattr(cases, kind)(inside, count, random.Random(seed))
        for number, (what, path) in enumerate(made):
            before = everything_in(inside.parent, "inside/split") if kind in ("archives", "weights") else None
            older = everything_in(inside / "split", "") if kind == "archives" else None
            ended, seconds, held = reader.read(path)
            memory, slowest[what] = max(memory, held), max(slowest[what], seconds)
            if ended not in ("taken", "refused"):
                failed.append(f"{what}: {ended}")
                say(f"FAILED {what} (case {number} of {kind}, seed {seed}): {ended}")
                ended = "failed"
            endings[what][ended] += 1
            if before is not None and everything_in(inside.parent, "inside/split") != before:
                failed.append(f"{what}: files were lost or written elsewhere")
            if older is not None:
                now = everything_in(inside / "split", "")
                if "split.json" not in now or (ended == "refused" and now != older):
                    failed.append(f"{what}: the older split was lost")
            if number % 500 == 499:
                say(f"{number + 1} {kind}")
        if kind == "images":
            failed += split_of_all(inside / "images", count, sum(endings.values(), Counter()))
        if left := sorted(path.name for path in reader.home.iterdir()):
            failed.append(f"something was executed, it left {', '.join(left)}")
    if memory > MEMORY:
        failed.append(f"the reading process took {memory} MB, expected at most {MEMORY}")
    rows = [
        Row(kind, what, sum(each.values()), each["taken"], each["refused"], round(slowest[what], 2), memory)
        for what, each in endings.items()
    ]
    return rows, failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "kinds", nargs="*", metavar="KIND", help="images, weights, archives or configs (default: all)"
    )
    parser.add_argument("--tenth", action="store_true", help="a tenth of the cases, and no page")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where reliability.csv and .md go")
    parser.add_argument("--worker", choices=READERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker)
        return
    prepare_paddle()
    warnings.filterwarnings("ignore", message="Image size")  # Pillow's, of what is left out
    rows, failed = [], []
    for kind in arguments.kinds or COUNTS:
        count = COUNTS[kind] // (10 if arguments.tenth else 1)
        mine, wrong = run(kind, count, arguments.seed, lambda text: print(text, flush=True))
        rows, failed = [*rows, *mine], [*failed, *(f"{kind}: {what}" for what in wrong)]
        taken, refused = (sum(getattr(row, name) for row in mine) for name in ("taken", "refused"))
        print(f"{count} {kind}: {taken} taken, {refused} refused, {len(wrong)} failed", flush=True)
    if not arguments.tenth:
        write(rows, arguments.out)
    print("\n".join(failed))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
