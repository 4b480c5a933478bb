"""Open a page that classifies pictures, and an HTTP API beside it. Needs the extra `web`. Ctrl-C ends it."""

from __future__ import annotations

import argparse

from ..cli import Parser, add_engine_arguments, prepare_paddle, trained_config
from ..errors import UserError

MAX_EXAMPLES = 16


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="exported folders; several answer side by side"
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="FILE",
        help="the weights that each model was exported from, in the same order: the page then shows what the "
        "networks look at",
    )
    parser.add_argument(
        "-c",
        "--config",
        nargs="+",
        default=[],
        metavar="CONFIG",
        help="the configs of the weights, in the same order; default: the config.yaml beside each",
    )
    parser.add_argument(
        "--examples", nargs="+", default=[], metavar="IMAGE_OR_FOLDER", help="pictures to choose from"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen at; 0.0.0.0 lets other machines in (default: %(default)s)",
    )
    parser.add_argument("--port", type=int, default=7860, help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--max-mb", type=float, default=10.0, metavar="MB", help="of a picture's file (default: %(default)g)"
    )
    parser.add_argument(
        "--queue",
        type=int,
        default=64,
        metavar="N",
        help="requests that may wait; one more is refused (default: %(default)s)",
    )
    add_engine_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    check_options(arguments)
    configs = arguments.config or [None] * len(arguments.weights)
    pairs = [
        (trained_config(argparse.Namespace(weights=path, config=config, override=[])), path)
        for path, config in zip(arguments.weights, configs, strict=True)
    ]
    prepare_paddle()
    from ..serve import Settings, find_examples, gradio_in_a_private_folder, listen, load_served, serve

    settings = Settings(arguments.host, arguments.port, round(1e6 * arguments.max_mb), arguments.queue)
    with listen(settings.host, settings.port) as listener, gradio_in_a_private_folder() as uploads:
        examples = find_examples(arguments.examples, MAX_EXAMPLES)
        models = load_served(arguments.models, pairs, arguments.engine, arguments.precision)
        serve(models, examples, settings, listener, uploads)


def check_options(arguments: argparse.Namespace) -> None:
    """Raises UserError for options out of their bounds."""
    for option, given, of in (
        ("--weights", arguments.weights, arguments.models),
        ("-c", arguments.config, arguments.weights),
    ):
        if given and len(given) != len(of):
            raise UserError(f"{option}: expected {len(of)}, in the order of the models, found {len(given)}")
    if not 0 <= arguments.port <= 65535:
        raise UserError(f"--port must be from 0 to 65535, found {arguments.port}")
    if not 0.001 <= arguments.max_mb <= 100:
        raise UserError(f"--max-mb must be from 0.001 to 100, found {arguments.max_mb:g}")
    if not 1 <= arguments.queue <= 1000:
        raise UserError(f"--queue must be from 1 to 1000, found {arguments.queue}")
