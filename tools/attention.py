"""Write the page of the attention modules in both languages: python tools/attention.py"""

import sys
from functools import partial
from pathlib import Path

from paddle_attn.cli import Parser, one_sentence_errors, prepare_paddle


def main() -> None:
    parser = Parser(description="Write the page of the attention modules, in both languages.")
    parser.add_argument(
        "--golden",
        default="reference/golden",
        metavar="DIR",
        help="the reference folder (default: %(default)s)",
    )
    parser.add_argument(
        "--out", default="docs", metavar="DIR", help="the folder of the pages (default: %(default)s)"
    )
    parser.add_argument(
        "--measure", action="store_true", help="first measure the times, on an otherwise idle machine"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="of turns when measuring (default: %(default)s)"
    )
    arguments = parser.parse_args()
    with one_sentence_errors():
        prepare_paddle()
        sys.path.insert(
            0, str(Path(__file__).resolve().parent.parent)
        )  # neither reference/ nor benchmarks/ is installed
        from benchmarks.attention_times import TIMES, measure
        from paddle_attn import list_attention
        from paddle_attn.files import write_text
        from reference.attention_page import pages

        progress = partial(print, file=sys.stderr, flush=True)
        out = Path(arguments.out)
        if arguments.measure:
            measure(out / TIMES, list_attention(), max(1, arguments.rounds), report=progress)
        for file, text in pages(Path(arguments.golden), out, progress).items():
            write_text(out / file, text)
            print(f"wrote {out / file}")


if __name__ == "__main__":
    main()
