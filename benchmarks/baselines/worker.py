"""The sides of a comparison, one or more, in a process of their own: python -m benchmarks.baselines.worker '[{"side": "torch", "step": "train", …}]'

It prints `ready` once it is warm. For each line `go I N` it takes N steps of side I and prints the seconds that they took, and how many of
them they waited for data, which a step may return; the other side's turn comes in between, and this process waits.
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
    os.dup2(2, 1)  # what libraries print is no answer
    if any(order["side"] == "ours" for order in orders):
        from paddle_attn.cli import prepare_paddle

        prepare_paddle()
    steps = []
    for order in orders:
        side, kind = order.pop("side"), order.pop("step")
        step = getattr(importlib.import_module(f"benchmarks.baselines.{side}_side"), f"{kind}_step")(**order)
        step(), step()
        steps.append((step, kind == "epoch"))
    print("ready", file=answers)
    for line in sys.stdin:
        which, count = map(int, line.removeprefix("go").split())
        step, says_waiting = steps[which]
        started, waited = time.perf_counter(), 0.0
        for _ in range(count):
            said = step()
            waited += said if says_waiting else 0.0
        print(time.perf_counter() - started, waited, file=answers)


if __name__ == "__main__":
    main()
