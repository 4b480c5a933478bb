"""Accuracy over seeds, with and without the fused operators."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from paddle_attn.data.images import list_images
from paddle_attn.files import write_text

from .page import read, write

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (0, 1, 2)
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
    """Train TowerNet-SimAM with each seed in both forms; writes `out/performance_seeds.csv` and the page.

    Args:
        data: a folder with train/ and eval/.
        epochs: of each run.
        scratch: a folder for the runs.
        out: the folder of the page.
        report: called with a sentence about each seed.
    """
    text, images = "seed,epochs,images,with_operators,without\n", len(list_images(data / "eval"))
    for seed in SEEDS:
        fused, reference = (train(data, epochs, seed, form, scratch) for form in ("on", "off"))
        text += f"{seed},{epochs},{images},{fused:.4f},{reference:.4f}\n"
        report(f"seed {seed}: top-1 {100 * fused:.2f} % fused, {100 * reference:.2f} % reference")
        write_text(out / "performance_seeds.csv", text)
    write(read(out / "performance.csv"), out)


def train(data: Path, epochs: int, seed: int, form: str, scratch: Path) -> float:
    """Run tools/train.py; returns the eval top-1 of the last epoch."""
    output = scratch / f"seed-{seed}-{form}"
    settings = [
        f"data.root={data.resolve()}",
        f"train.epochs={epochs}",
        f"train.seed={seed}",
        f"train.ops={form}",
        f"train.output={output}",
    ]
    command = [
        sys.executable,
        "tools/train.py",
        "-c",
        "configs/towernet_simam.yaml",
        "-o",
        *RECIPE,
        *settings,
    ]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    with open(output / "history.csv", encoding="utf-8", newline="") as file:
        return float(list(csv.DictReader(file))[-1]["eval_top1"])
