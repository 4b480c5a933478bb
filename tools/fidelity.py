"""Write the fidelity page: python tools/fidelity.py"""

import argparse

from paddle_attn.cli import one_sentence_errors, prepare_paddle


def main() -> None:
    parser = argparse.ArgumentParser(description="Hold every module and network against its authors' code and write the page.")
    parser.add_argument("--golden", default="tests/golden", metavar="DIR", help="the reference (default: %(default)s)")
    parser.add_argument("--out", default="docs/fidelity.md", metavar="FILE", help="the page (default: %(default)s)")
    arguments = parser.parse_args()
    with one_sentence_errors():
        prepare_paddle()
        from pathlib import Path

        from paddle_attn.fidelity import page
        from paddle_attn.files import write_text

        write_text(Path(arguments.out), page(Path(arguments.golden)))
        print(f"{arguments.out} was written")


if __name__ == "__main__":
    main()
