"""Compare everything with the authors' code and write docs/fidelity.md: python tools/fidelity.py"""

import sys
from functools import partial
from pathlib import Path

from paddle_attn.cli import Parser, one_sentence_errors, prepare_paddle


def main() -> None:
    parser = Parser(description="Compare every module and network with its authors' code and write the page.")
    parser.add_argument(
        "--golden",
        default="reference/golden",
        metavar="DIR",
        help="the reference folder (default: %(default)s)",
    )
    parser.add_argument(
        "--out", default="docs/fidelity.md", metavar="FILE", help="the page (default: %(default)s)"
    )
    arguments = parser.parse_args()
    with one_sentence_errors():
        prepare_paddle()
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # reference/ is not installed
        from paddle_attn.files import write_text
        from reference.fidelity import page

        text = page(Path(arguments.golden), progress=partial(print, file=sys.stderr, flush=True))
        write_text(Path(arguments.out), text)
        print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
