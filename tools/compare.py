"""Compare the evaluations of two runs: python tools/compare.py output/A output/B"""

from pathlib import Path

from paddle_attn.cli import Parser, one_sentence_errors, prepare_paddle


def main() -> None:
    parser = Parser(
        description="Compare two runs on the same eval images: which of them only one gets right, and "
        "whether that is more than chance. tools/eval.py must have evaluated both."
    )
    parser.add_argument("run_a", metavar="RUN_A", help="the folder of a run, such as output/towernet_none")
    parser.add_argument("run_b", metavar="RUN_B", help="the folder of the run to compare with it")
    parser.add_argument(
        "--out", metavar="DIR", help="where to write (default: output/compare/A-B with the names of the runs)"
    )
    arguments = parser.parse_args()
    with one_sentence_errors():
        prepare_paddle()
        from paddle_attn.diagnose import compare_runs
        from paddle_attn.errors import UserError
        from paddle_attn.files import shown

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


if __name__ == "__main__":
    main()
