"""Measure speed against the baselines, and write the page: python tools/benchmark.py [modules train infer data seeds]"""

import argparse
import functools
import sys
import tempfile
from pathlib import Path

from paddle_attn.cli import one_sentence_errors

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    sys.path.insert(0, str(ROOT))  # benchmarks/ is not installed
    parser = argparse.ArgumentParser(
        description="Measure this project and its baselines in turn; writes performance.csv, .md and a chart."
    )
    parser.add_argument(
        "sections",
        nargs="*",
        metavar="SECTION",
        help="modules, train, infer, data or seeds (default: all but seeds)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=5,
        help="pairs of turns for each line; 0 writes the page again (default: %(default)s)",
    )
    parser.add_argument(
        "--go-on", action="store_true", help="measure only the lines that the table has not, after a break"
    )
    parser.add_argument(
        "--data", metavar="DIR", help="images for data and seeds, with train/ and eval/ (default: drawn ones)"
    )
    parser.add_argument(
        "--epochs", type=int, default=8, help="of each of the runs of seeds (default: %(default)s)"
    )
    parser.add_argument(
        "--out", default="docs", metavar="DIR", help="where the page goes (default: %(default)s)"
    )
    arguments = parser.parse_args()
    with one_sentence_errors(), tempfile.TemporaryDirectory() as scratch:
        from benchmarks import benchmark
        from paddle_attn.data.prepare.split import make_split
        from paddle_attn.errors import unknown_name

        for section in arguments.sections:
            if section not in (*benchmark.SECTIONS, "seeds"):
                raise unknown_name("section", section, (*benchmark.SECTIONS, "seeds"))
        say = functools.partial(print, flush=True)  # a line is seen when it is measured, also in a pipe
        sections = arguments.sections or benchmark.SECTIONS
        data, out, root = Path(arguments.data or Path(scratch) / "drawn"), Path(arguments.out), ROOT
        if not arguments.data and {"data", "seeds"} & set(sections):
            make_split("demo", data)
        if "seeds" in sections:
            benchmark.run_seeds(data, arguments.epochs, Path(scratch), root, out, say)
        timed = [section for section in sections if section != "seeds"]
        results = benchmark.run(
            timed, max(0, arguments.rounds), data / "train", Path(scratch), root, out, say, arguments.go_on
        )
        missed = sum(result.ratio < result.at_least for result in results)
        print(f"{arguments.out}/performance.md was written: {len(results)} lines, {missed} below their aim")


if __name__ == "__main__":
    main()
