"""List every model with its size, and what each attention adds: python tools/models.py"""

import sys

from paddle_attn.cli import Parser, one_sentence_errors, prepare_paddle


def main() -> None:
    Parser(description=__doc__.partition(":")[0] + ".").parse_args()
    with one_sentence_errors():
        prepare_paddle()
        from paddle_attn.models.complexity import tables

        print(tables(progress=lambda name: print(f"counting {name}", file=sys.stderr, flush=True)))


if __name__ == "__main__":
    main()
