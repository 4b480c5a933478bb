"""Kill a training run at random moments, resume it each time, and compare its end with an undisturbed run.

    python tests/soak/kills.py --kills 20

It trains on synthetic images, or on a folder with train/ and eval/ given by --data. Parameters are
compared bit for bit. The exit code is 0 when both runs end the same. With --out docs it adds the count
to docs/reliability.md.
"""

from __future__ import annotations

import argparse
import csv
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from report import Row, write

from paddle_attn.cli import prepare_paddle

ROOT = Path(__file__).resolve().parent.parent.parent


def command(data: Path, output: Path, overrides: list[str]) -> list[str]:
    """The training run; the same command starts and resumes it."""
    settings = [f"data.root={data}", f"train.output={output}", "train.device=cpu", "train.checkpoint_steps=5"]
    config = ["-c", ROOT / "configs" / "demo.yaml", "--resume", "-o", *settings, *overrides]
    return list(map(str, [sys.executable, ROOT / "tools" / "train.py", *config]))


def finish(data: Path, output: Path, overrides: list[str]) -> None:
    """Run until the last epoch is done."""
    subprocess.run(command(data, output, overrides), check=True, stdout=subprocess.DEVNULL)


def kill_and_resume(train: list[str], kills: int, longest: float, rng: random.Random) -> int:
    """Start the run `kills` times, each for at most a random time; returns how many starts were killed."""
    killed = 0
    for _ in range(kills):
        process = subprocess.Popen(train, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0.5, longest))
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
        process.wait()
    return killed


def history(run: Path) -> list[dict[str, str]]:
    """The rows of history.csv, without the times."""
    with open(run / "history.csv", newline="", encoding="utf-8") as file:
        return [{key: row[key] for key in row if key != "seconds"} for row in csv.DictReader(file)]


def differences(one: Path, other: Path) -> list[str]:
    """What differs between the ends of two runs; empty when they are the same."""
    from paddle_attn.weights import read_weights

    found = []
    for name in ("best.pdparams", "last.pdparams"):
        first, second = read_weights(one / name), read_weights(other / name)
        same = {key for key in first if key in second and np.array_equal(first[key], second[key])}
        found += [f"{name}: {key}" for key in sorted({*first, *second} - same)]
    if history(one) != history(other):
        found.append("history.csv")
    epochs = [int(row["epoch"]) for row in history(other)]
    if epochs != list(range(1, len(epochs) + 1)):
        found.append("history.csv does not have every epoch once")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument(
        "--data", type=Path, help="a folder with train/ and eval/ (default: synthetic images)"
    )
    parser.add_argument("--seed", type=int, default=0, help="determines the moments (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder of reliability.csv and .md")
    parser.add_argument(
        "-o", "--override", nargs="+", default=[], help="of configs/demo.yaml: train.epochs=2 …"
    )
    arguments = parser.parse_args()
    prepare_paddle()
    from paddle_attn.data.prepare.split import make_split

    with tempfile.TemporaryDirectory() as scratch:
        whole, killed = Path(scratch) / "whole", Path(scratch) / "killed"
        data = arguments.data or Path(scratch) / "synthetic"
        if not arguments.data:
            make_split("demo", data)
        began = time.monotonic()
        finish(data, whole, arguments.override)
        seconds = time.monotonic() - began
        print(f"the undisturbed run took {seconds:.0f} s", flush=True)
        longest = min(seconds, max(8.0, 2.5 * seconds / arguments.kills))
        train = command(data, killed, arguments.override)
        kills = kill_and_resume(train, arguments.kills, longest, random.Random(arguments.seed))
        finish(data, killed, arguments.override)
        found = differences(whole, killed)
        print(f"{kills} kills, {len(found)} differences{''.join(f'; {what}' for what in found[:5])}")
        if arguments.out and not found:
            row = Row("kills", "a training run, resumed after each kill", kills, kills, 0, 0.0, 0)
            write([row], arguments.out)
        sys.exit(1 if found or not kills else 0)


if __name__ == "__main__":
    main()
