"""Do the runs of a study that are not finished, write their results to results/NAME, then the report."""

from __future__ import annotations

import argparse
import sys

from ..cli import Parser, add_config, prepare_paddle, this_command
from ..errors import UserError


def add_arguments(parser: Parser) -> None:
    add_config(parser, example="studies/demo")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time; they share the cores (1)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="list the runs and estimate the hours")
    mode.add_argument(
        "--faithfulness",
        action="store_true",
        help="measure how faithful the maps of the finished runs are, then write the report",
    )
    mode.add_argument("--report", action="store_true", help="only write the report of the finished runs")


def main(arguments: argparse.Namespace) -> int | None:
    from ..files import shown

    prepare_paddle()
    from ..study import load_study, measure_maps, run_study, write_report
    from ..study.estimate import describe

    if arguments.jobs is not None and (arguments.report or arguments.faithfulness):
        raise UserError("--jobs is for training runs: expected it without --report and --faithfulness")
    jobs = 1 if arguments.jobs is None else arguments.jobs
    study = load_study(arguments.config)
    if arguments.dry_run:
        for line in describe(study, jobs):
            print(line, flush=True)
        return None
    failed: dict[str, str] = {}
    if arguments.faithfulness:
        failed = measure_maps(study).failed
        if failed:
            print(f"not measured: {', '.join(failed)}; the next start tries again", file=sys.stderr)
    elif not arguments.report:
        outcome = run_study(study, jobs, command=this_command())
        failed = outcome.failed
        if failed:
            print(f"failed: {', '.join(failed)}; the next start tries again", file=sys.stderr)
        if not outcome.done:
            return 1
    print(f"the report is {shown(write_report(study))}")
    return 1 if failed else None
