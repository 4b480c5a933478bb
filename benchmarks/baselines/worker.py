"""One or more sides of a comparison in a process: python -m benchmarks.baselines.worker ORDERS

ORDERS is a JSON list such as [{"side": "pytorch", "step": "train", …}]: a module of this package, its
function `train_step`, and the arguments. The worker prints `ready` after two steps of each side. For
each line `SIDE COUNT` on stdin it takes COUNT steps of that side and prints their seconds, and how many
of these it waited for data, which an epoch step returns.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time


def main() -> None:
    orders = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries may print
    if any(order["side"] == "ours" for order in orders):
        from paddle_attn.cli import prepare_paddle

        prepare_paddle()
    steps = []
    for order in orders:
        side, kind = order.pop("side"), order.pop("step")
        step = getattr(importlib.import_module(f"benchmarks.baselines.{side}"), f"{kind}_step")(**order)
        step(), step()
        steps.append((step, kind == "epoch"))
    print("ready", file=answers)
    for line in sys.stdin:
        side, count = map(int, line.split())
        step, returns_waiting = steps[side]
        began, waited = time.perf_counter(), 0.0
        for _ in range(count):
            returned = step()
            waited += returned if returns_waiting else 0.0
        print(time.perf_counter() - began, waited, file=answers)


if __name__ == "__main__":
    main()
