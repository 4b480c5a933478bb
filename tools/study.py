"""Train a grid of variants over folds and seeds: python tools/study.py -c configs/studies/demo.yaml"""

import shlex
import sys

from paddle_attn.cli import Parser, one_sentence_errors, prepare_paddle


def main() -> None:
    parser = Parser(
        description="Do the runs of a study that are not finished, write their results to results/NAME, "
        "then the report."
    )
    parser.add_argument(
        "-c", "--config", required=True, metavar="YAML", help="such as configs/studies/demo.yaml"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs at a time; they share the cores"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the runs and estimate the hours")
    parser.add_argument("--report", action="store_true", help="only write the report of the finished runs")
    arguments = parser.parse_args()
    with one_sentence_errors():
        from paddle_attn.files import shown

        prepare_paddle()
        from paddle_attn.study import load_study, run_study, write_report
        from paddle_attn.study.estimate import describe

        study = load_study(arguments.config)
        if arguments.dry_run:
            print("\n".join(describe(study, arguments.jobs)))
            return
        if not arguments.report:
            outcome = run_study(study, arguments.jobs, command=shlex.join(["python", *sys.argv]))
            if outcome.failed:
                print(f"failed: {', '.join(outcome.failed)}; the next start tries again", file=sys.stderr)
            if not outcome.done:
                sys.exit(1)
        print(f"the report is {shown(write_report(study))}")
        if not arguments.report and outcome.failed:
            sys.exit(1)


if __name__ == "__main__":
    main()
