"""Classify images and folders of images. The exit code is 0, 1 when some inputs could not be read, 2 when
none could.
"""

from __future__ import annotations

import argparse

from ..cli import InputErrors, Parser, prepare_paddle


def add_arguments(parser: Parser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="IMAGE_OR_FOLDER")
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="an exported folder, such as inference/towernet_simam"
    )
    parser.add_argument(
        "--topk",
        type=int,
        default=5,
        metavar="K",
        help="classes per image, best first (default: %(default)s)",
    )
    parser.add_argument("--csv", metavar="FILE", help="write a table with one line per image and class")
    parser.add_argument("--json", metavar="FILE", help="write the results as a list")


def main(arguments: argparse.Namespace) -> int:
    prepare_paddle()
    from ..deploy import Predictor
    from ..deploy.results import check_outputs, print_results, write_results

    predictor = Predictor(arguments.model)
    check_outputs([arguments.csv, arguments.json], arguments.inputs, arguments.model)
    errors = InputErrors()
    results = predictor.predict(arguments.inputs, arguments.topk, on_error=errors)
    write_results(results, arguments.csv, arguments.json)
    print_results(results)
    return errors.exit_code(bool(results))
