"""Write the fidelity page: python tools/fidelity.py"""

import argparse
import sys
from pathlib import Path

from paddle_attn.cli import one_sentence_errors, prepare_paddle


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Hold every module and network against its authors' code and write the page."
    )
    parser.add_argument(
        "--golden", default="reference/golden", metavar="DIR", help="the reference (default: %(default)s)"
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

        write_text(Path(arguments.out), page(Path(arguments.golden)))
        print(f"{arguments.out} was written")


if __name__ == "__main__":
    main()
