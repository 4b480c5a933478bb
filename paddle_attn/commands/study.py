"""Do the runs of a study that are not finished, write their results to results/NAME, then the report."""

from __future__ import annotations

import argparse
import sys

from ..cli import Parser, add_config, prepare_paddle, this_command


def add_arguments(parser: Parser) -> None:
    add_config(parser, example="studies/demo")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs at a time; they share the cores"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the runs and estimate the hours")
    parser.add_argument(
        "--faithfulness",
        action="store_true",
        help="judge the maps of the finished runs, then write the report",
    )
    parser.add_argument("--report", action="store_true", help="only write the report of the finished runs")


def main(arguments: argparse.Namespace) -> int | None:
    from ..files import shown

    prepare_paddle()
    from ..study import load_study, run_study, write_report
    from ..study.estimate import describe
    from ..study.map_scores import measure_maps

    study = load_study(arguments.config)
    if arguments.dry_run:
        for line in describe(study, arguments.jobs):
            print(line, flush=True)
        return None
    if arguments.faithfulness:
        for line in measure_maps(study):
            print(line, flush=True)
    only_report = arguments.report or arguments.faithfulness
    if not only_report:
        outcome = run_study(study, arguments.jobs, command=this_command())
        if outcome.failed:
            print(f"failed: {', '.join(outcome.failed)}; the next start tries again", file=sys.stderr)
        if not outcome.done:
            return 1
    print(f"the report is {shown(write_report(study))}")
    return 1 if not only_report and outcome.failed else None
