"""Train a network and write the run to train.output."""

from __future__ import annotations

import argparse

from ..cli import Parser, add_config, add_overrides, prepare_paddle


def add_arguments(parser: Parser) -> None:
    add_config(parser)
    add_overrides(parser)
    parser.add_argument(
        "--resume", action="store_true", help="resume the run in train.output (train.resume=auto)"
    )


def main(arguments: argparse.Namespace) -> None:
    from ..config import load_config

    overrides = [*arguments.override, "train.resume=auto"] if arguments.resume else arguments.override
    config = load_config(arguments.config, overrides)
    prepare_paddle()
    from ..train import fit

    fit(config)
