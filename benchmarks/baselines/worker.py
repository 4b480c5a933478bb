"""One or more sides of a comparison in a process: python -m benchmarks.baselines.worker ORDERS

ORDERS is a JSON list such as [{"side": "pytorch", "step": "train", …}]: a module of this package, its
function `train_step`, and the arguments. The worker prints `ready` after two steps of each side. For
each line `SIDE COUNT` on stdin it takes COUNT steps of that side and prints their seconds, and how many
of these it waited for data, which an epoch step returns. For the line `memory` it prints the peak of its
memory since `ready`, in MB, less its memory after the imports.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    orders = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries may print
    if any(order["side"] == "ours" for order in orders):
        from paddle_attn.cli import prepare_paddle

        prepare_paddle()
    modules = [importlib.import_module(f"benchmarks.baselines.{order.pop('side')}") for order in orders]
    imported, steps = memory("VmRSS"), []
    for module, order in zip(modules, orders, strict=True):
        kind = order.pop("step")
        step = getattr(module, f"{kind}_step")(**order)
        step(), step()
        steps.append((step, kind == "epoch"))
    forget_peak()
    print("ready", file=answers)
    for line in sys.stdin:
        if line.strip() == "memory":
            print(max(0.0, memory("VmHWM") - imported), file=answers)
            continue
        side, count = map(int, line.split())
        step, returns_waiting = steps[side]
        began, waited = time.perf_counter(), 0.0
        for _ in range(count):
            returned = step()
            waited += returned if returns_waiting else 0.0
        print(time.perf_counter() - began, waited, file=answers)


def memory(field: str) -> float:
    """A field of this process's status in MB, such as VmHWM, the peak; 0 where there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1024
    return 0.0


def forget_peak() -> None:
    """Start the peak again, so that building and compiling a network does not count."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
