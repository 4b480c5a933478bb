"""Where the time of a training step goes: runs benchmarks/breakdown.py for each network. Needs no Paddle."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from paddle_attn.files import write_text

from .lines import TRAINED
from .page import TABLES, machine, read, time_table, write

ROOT = Path(__file__).resolve().parent.parent


def run_time(
    networks: Mapping[str, tuple[int, int]],
    steps: int,
    out: Path,
    report: Callable[[str], None],
    keep: bool = False,
) -> None:
    """Measure networks, and write `out/performance_time.json` and the page after each.

    Args:
        networks: size and number of the images for each, by its name in `TRAINED`.
        steps: profiled for each network.
        out: the folder of the page.
        report: called with the lines of each table.
        keep: measure only the networks that have no table yet.
    """
    path = out / TABLES["time"]
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for model, (size, batch) in networks.items():
        if keep and model in found:
            continue
        command = [sys.executable, "-m", "benchmarks.breakdown", model, str(size), str(batch), str(steps)]
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if process.returncode:
            raise RuntimeError(f"{model} cannot be measured: {process.stderr.strip()[-2000:]}")
        found[model] = json.loads(process.stdout) | {"machine": machine()}
        report("\n".join([f"{model}-simam, {size} px, batch {batch}", *time_table(found[model])]))
        in_order = {name: found[name] for name in TRAINED if name in found}
        write_text(path, json.dumps(in_order, indent=1, ensure_ascii=False) + "\n")
        write(read(out / "performance.csv"), out)
