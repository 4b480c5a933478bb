"""List every model with its size, and what each attention adds."""

from __future__ import annotations

import argparse
import sys

from ..cli import Parser, prepare_paddle


def add_arguments(parser: Parser) -> None:
    """It has no options."""


def main(arguments: argparse.Namespace) -> None:
    prepare_paddle()
    from ..models.complexity import tables

    print(tables(progress=lambda name: print(f"counting {name}", file=sys.stderr, flush=True)))
