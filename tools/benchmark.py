"""Measure speed against the baselines: python tools/benchmark.py [modules attention train … time seeds]"""

import functools
import sys
import tempfile
from pathlib import Path

from paddle_attn.cli import Parser, one_sentence_errors


def main() -> None:
    parser = Parser(
        description="Measure this project and its baselines in turns; writes performance.csv and .md."
    )
    add = parser.add_argument
    add(
        "sections",
        nargs="*",
        metavar="SECTION",
        help="modules attention train infer engines data time seeds (default: all but time and seeds)",
    )
    add(
        "--rounds",
        type=int,
        default=5,
        help="how often each line is measured in turn; 0 only writes the page (default: %(default)s)",
    )
    add("--go-on", action="store_true", help="measure only lines that have no result yet")
    add("--data", metavar="DIR", help="images with train/ and eval/ (default: synthetic ones)")
    add("--model", nargs="+", metavar="NAME", help="networks of the section time (default: all)")
    add("--epochs", type=int, default=8, help="of each run of seeds (default: %(default)s)")
    add("--out", default="docs", metavar="DIR", help="folder of the page (default: %(default)s)")
    arguments = parser.parse_args()
    with one_sentence_errors(), tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks/ is not installed
        from benchmarks.lines import SECTIONS, TRAINED
        from benchmarks.measure import run
        from benchmarks.seeds import run_seeds
        from benchmarks.step_time import run_time
        from paddle_attn.data.prepare.split import make_split
        from paddle_attn.errors import unknown_name

        for section in arguments.sections:
            if section not in (*SECTIONS, "time", "seeds"):
                raise unknown_name("section", section, (*SECTIONS, "time", "seeds"))
        models = arguments.model or list(TRAINED)
        for model in models:
            if model not in TRAINED:
                raise unknown_name("network", model, TRAINED)
        sections = set(arguments.sections or SECTIONS)
        scratch, out, report = Path(folder), Path(arguments.out), functools.partial(print, flush=True)
        data = Path(arguments.data or scratch / "synthetic")
        if not arguments.data and arguments.rounds and {"data", "seeds"} & sections:
            make_split("demo", data)
        if "seeds" in sections:
            run_seeds(data, arguments.epochs, scratch, out, report)
        if "time" in sections and arguments.rounds > 0:
            networks = {model: TRAINED[model] for model in models}
            run_time(networks, arguments.rounds, out, report, arguments.go_on)
        timed = [section for section in SECTIONS if section in sections]
        results = run(timed, max(0, arguments.rounds), data / "train", scratch, out, report, arguments.go_on)
        missed = sum(result.ratio < result.aim for result in results)
        print(f"wrote {out / 'performance.md'}: {len(results)} lines, {missed} below their aim")


if __name__ == "__main__":
    main()
