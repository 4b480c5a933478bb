"""One side of a comparison in a process of its own: python -m tests.baselines.worker '{"side": "torch", "step": "train", …}'

It prints `ready` once it is warm. For each line `go N` it takes N steps and prints the seconds that they took, and how many of them they
waited for data, which a step may return; the other side's turn comes in between, and this process waits.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time


def main() -> None:
    order = json.loads(sys.argv[1])
    side, kind = order.pop("side"), order.pop("step")
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    if side == "ours":
        from paddle_attn.cli import prepare_paddle

        prepare_paddle()
    step = getattr(importlib.import_module(f"tests.baselines.{side}_side"), f"{kind}_step")(**order)
    step(), step()
    print("ready", file=answers)
    for line in sys.stdin:
        count = int(line.removeprefix("go"))
        started, waited = time.perf_counter(), 0.0
        for _ in range(count):
            said = step()
            waited += said if kind == "epoch" else 0.0
        print(time.perf_counter() - started, waited, file=answers)


if __name__ == "__main__":
    main()
