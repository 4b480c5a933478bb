"""Export a trained network and compare the two on eval images."""

from __future__ import annotations

import argparse

from ..cli import Parser, add_trained, prepare_paddle, trained_config


def add_arguments(parser: Parser) -> None:
    add_trained(parser)
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="the folder to write, such as inference/towernet_simam"
    )
    parser.add_argument(
        "--dynamic", action="store_true", help="accept images of any height and width, not only of data.size"
    )


def main(arguments: argparse.Namespace) -> None:
    config = trained_config(arguments)
    prepare_paddle()
    from ..deploy import export_config
    from ..files import shown

    source, difference = export_config(config, arguments.weights, arguments.out, arguments.dynamic)
    print(f"exported to {shown(arguments.out)}")
    print(f"checked on {source}: its probabilities are the network's, to within {difference:.1e}")
