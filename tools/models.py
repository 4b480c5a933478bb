"""List every model with its size, and what each attention adds: python tools/models.py"""

import argparse

from paddle_attn.cli import one_sentence_errors, prepare_paddle


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition(":")[0] + ".").parse_args()
    with one_sentence_errors():
        prepare_paddle()
        from paddle_attn.models.complexity import tables

        print(tables())


if __name__ == "__main__":
    main()
