"""Accuracy over seeds: with and without the fused operators, and in bfloat16."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from paddle_attn.data.images import list_images
from paddle_attn.files import write_text

from .lines import HAS_BFLOAT16
from .page import read, write

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (0, 1, 2)
FORMS = {  # how a run computes: its program and settings
    "fused": (["tools/train.py"], ("train.ops=on",)),
    "reference": (["tools/train.py"], ("train.ops=off",)),
    # `rounded` rounds the same numbers to bfloat16 and multiplies in float32, on any processor
    "bfloat16" if HAS_BFLOAT16 else "rounded": (
        ["tools/train.py"] if HAS_BFLOAT16 else ["-m", "benchmarks.rounded"],
        ("train.ops=on", "train.amp=O1"),
    ),
}
RECIPE = (  # learns within minutes
    "data.size=128",
    "optim.name=adam",
    "optim.lr=2e-3",
    "optim.weight_decay=0.0",
    "optim.schedule_unit=step",
    "optim.warmup_epochs=1",
    "train.device=cpu",
)


def run_seeds(data: Path, epochs: int, scratch: Path, out: Path, report: Callable[[str], None]) -> None:
    """Train TowerNet-SimAM with each seed in all `FORMS`; writes `out/performance_seeds.csv` and the page.

    Args:
        data: a folder with train/ and eval/.
        epochs: of each run.
        scratch: a folder for the runs.
        out: the folder of the page.
        report: called with a sentence about each seed.
    """
    text, images = f"seed,epochs,images,{','.join(FORMS)}\n", len(list_images(data / "eval"))
    for seed in SEEDS:
        found = {form: train(data, epochs, seed, form, scratch) for form in FORMS}
        text += f"{seed},{epochs},{images},{','.join(f'{top1:.4f}' for top1 in found.values())}\n"
        report(
            f"seed {seed}: top-1 " + ", ".join(f"{100 * top1:.2f} % {form}" for form, top1 in found.items())
        )
        write_text(out / "performance_seeds.csv", text)
    write(read(out / "performance.csv"), out)


def train(data: Path, epochs: int, seed: int, form: str, scratch: Path) -> float:
    """Train in one of `FORMS`; returns the eval top-1 of the last epoch."""
    output = scratch / f"seed-{seed}-{list(FORMS).index(form)}"
    settings = [
        f"data.root={data.resolve()}",
        f"train.epochs={epochs}",
        f"train.seed={seed}",
        f"train.output={output}",
    ]
    program, own_settings = FORMS[form]
    config = ["-c", "configs/towernet_simam.yaml", "-o", *RECIPE, *settings, *own_settings]
    command = [sys.executable, *program, *config]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    with open(output / "history.csv", encoding="utf-8", newline="") as file:
        return float(list(csv.DictReader(file))[-1]["eval_top1"])
