"""List every model with its size and what each attention adds to it: python tools/models.py"""

import argparse

from paddle_attn.cli import one_sentence_errors, prepare_paddle


def main() -> None:
    argparse.ArgumentParser(
        description="Print the table of models: parameters and GMACs, and what each attention adds (parameters / GMACs)."
    ).parse_args()
    with one_sentence_errors():
        prepare_paddle()
        from paddle_attn.complexity import table

        print(table())


if __name__ == "__main__":
    main()
