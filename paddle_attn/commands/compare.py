"""Compare two runs on the same eval images: which of them only one gets right, and whether that is more than
chance. `paddle-attn eval` must have evaluated both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..cli import Parser, prepare_paddle


def add_arguments(parser: Parser) -> None:
    parser.add_argument("run_a", metavar="RUN_A", help="the folder of a run, such as output/towernet_none")
    parser.add_argument("run_b", metavar="RUN_B", help="the folder of the run to compare with it")
    parser.add_argument(
        "--out", metavar="DIR", help="where to write (default: output/compare/A-B with the names of the runs)"
    )


def main(arguments: argparse.Namespace) -> None:
    prepare_paddle()
    from ..diagnose import compare_runs
    from ..errors import UserError
    from ..files import shown

    names = [Path(run).resolve().name for run in (arguments.run_a, arguments.run_b)]
    if Path(arguments.run_a).resolve() == Path(arguments.run_b).resolve():
        raise UserError(f"{shown(arguments.run_a)} is compared with itself: expected two runs")
    out = Path(arguments.out or Path("output", "compare", "-".join(names)))
    found = compare_runs(arguments.run_a, arguments.run_b, out)
    for letter, run, alone in (("a", found.a, found.only_a), ("b", found.b, found.only_b)):
        top1 = f"top-1 {100 * run.metrics['top1']:.2f} %"
        print(f"run {letter}  {shown(run.path)}: {top1}, {len(alone)} images that only it gets right")
    low, high = found.difference_interval
    of = f"on {len(found.a.rows)} images (95 % interval {100 * low:+.2f} to {100 * high:+.2f})"
    print(f"b - a: {100 * found.difference:+.2f} percentage points {of}")
    print(found.verdict)
    print(f"the images: {shown(out / 'comparison.html')}")
