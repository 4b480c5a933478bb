"""Kill a training run at random moments, resume it each time, and compare its end with an undisturbed run's, bit for bit.

    python tests/soak/kills.py --kills 20

It draws its images, or takes a folder with train/ and eval/ by --data. The exit code is 0 when both runs ended the same. With --out docs the
count goes into docs/reliability.md.
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

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from paddle_attn.cli import prepare_paddle  # noqa: E402

prepare_paddle()

from report import Row, write  # noqa: E402

from paddle_attn.weights import read_weights  # noqa: E402


def command(data: Path, output: Path, overrides: list[str]) -> list[str]:
    settings = [
        f"data.root={data}",
        f"train.output={output}",
        "train.device=cpu",
        "train.checkpoint_steps=5",
        *overrides,
    ]
    return [
        sys.executable,
        str(ROOT / "tools" / "train.py"),
        "-c",
        str(ROOT / "configs" / "demo.yaml"),
        "--resume",
        "-o",
        *settings,
    ]


def finish(data: Path, output: Path, overrides: list[str]) -> None:
    subprocess.run(command(data, output, overrides), check=True, capture_output=True)


def killed_until_done(
    data: Path, output: Path, overrides: list[str], kills: int, longest: float, rng: random.Random
) -> int:
    """SIGKILL the run `kills` times, each after a random while that grows until it gets anywhere; returns how often it was really killed."""
    done = 0
    for _ in range(kills):
        process = subprocess.Popen(
            command(data, output, overrides), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(rng.uniform(0.5, longest))
        except subprocess.TimeoutExpired:
            process.kill()
            done += 1
        process.wait()
    finish(data, output, overrides)
    return done


def differences(one: Path, two: Path) -> list[str]:
    """What differs between the ends of two runs, in words; nothing when they are the same."""
    found = []
    for name in ("best.pdparams", "last.pdparams"):
        first, second = read_weights(one / name), read_weights(two / name)
        found += [
            f"{name}: {key}"
            for key in first
            if key not in second or not np.array_equal(first[key], second[key])
        ]
    histories = []
    for folder in (one, two):
        with open(folder / "history.csv", newline="", encoding="utf-8") as file:
            histories.append(
                [
                    {key: value for key, value in row.items() if key != "seconds"}
                    for row in csv.DictReader(file)
                ]
            )
    if histories[0] != histories[1]:
        found.append("history.csv")
    if [int(row["epoch"]) for row in histories[1]] != list(range(1, len(histories[1]) + 1)):
        found.append("history.csv has not every epoch once")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--data", type=Path, help="a folder with train/ and eval/ (default: drawn images)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="a folder for reliability.csv and .md")
    parser.add_argument(
        "-o", "--override", nargs="+", default=[], help="of configs/demo.yaml, such as train.epochs=2"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = arguments.data or Path(scratch) / "drawn"
        if not arguments.data:
            subprocess.run(
                [sys.executable, str(ROOT / "tools" / "split.py"), "--source", "demo", "--out", str(data)],
                check=True,
                capture_output=True,
            )
        started = time.monotonic()
        finish(data, Path(scratch) / "whole", arguments.override)
        seconds = time.monotonic() - started
        print(f"the undisturbed run took {seconds:.0f} s", flush=True)
        rng = random.Random(arguments.seed)
        kills = killed_until_done(
            data,
            Path(scratch) / "killed",
            arguments.override,
            arguments.kills,
            max(8.0, 2.5 * seconds / arguments.kills),
            rng,
        )
        found = differences(Path(scratch) / "whole", Path(scratch) / "killed")
        print(f"{kills} kills, {len(found)} differences{''.join(f'; {what}' for what in found[:5])}")
        if arguments.out and not found:
            write(
                [Row("kills", "a training run, resumed after each", kills, kills, 0, 0.0, 0)], arguments.out
            )
        sys.exit(1 if found or not kills else 0)


if __name__ == "__main__":
    main()
