"""Write docs/results.md, README's table and the reports of the studies: python tools/results.py"""

import sys
from pathlib import Path

from paddle_attn.cli import Parser, one_sentence_errors, prepare_paddle


def main() -> None:
    Parser(
        description="Write the pages of the studies that were run, from the rows in results/."
    ).parse_args()
    with one_sentence_errors():
        prepare_paddle()
        root = Path(__file__).resolve().parent.parent
        sys.path.insert(0, str(root))  # reference/ is not installed
        from paddle_attn.files import write_text
        from reference.results_page import pages, write_reports

        write_reports(root)
        for file, text in pages(root).items():
            write_text(root / file, text)
            print(f"wrote {root / file}")


if __name__ == "__main__":
    main()
