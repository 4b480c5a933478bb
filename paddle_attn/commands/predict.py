"""Classify images and folders of images. The exit code is 0, 1 when some inputs could not be read, 2 when
none could.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ..cli import InputErrors, Parser, add_engine_arguments, prepare_paddle
from ..errors import UserError


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
    add_engine_arguments(parser)
    parser.add_argument("--csv", metavar="FILE", help="write a table with one line per image and class")
    parser.add_argument("--json", metavar="FILE", help="write the results as a list")
    parser.add_argument(
        "--out-dir",
        metavar="DIR",
        help="copy the images to DIR/CLASS by their best class; contact_sheet.html there shows them",
    )
    parser.add_argument(
        "--annotate", action="store_true", help="with --out-dir: draw classes and scores below each copy"
    )


def main(arguments: argparse.Namespace) -> int:
    if arguments.annotate and not arguments.out_dir:
        raise UserError("--annotate draws on the images in --out-dir: pass --out-dir too")
    prepare_paddle()
    from ..deploy import Predictor
    from ..deploy.results import check_outputs, print_results, summary, write_results
    from ..files import shown

    predictor = Predictor(arguments.model, engine=arguments.engine, precision=arguments.precision)
    check_outputs([arguments.csv, arguments.json], arguments.inputs, arguments.model)
    if arguments.out_dir:
        from ..deploy.pictures import SHEET, check_folder, write_pictures

        check_folder(arguments.out_dir, [*arguments.inputs, arguments.model])
    errors = InputErrors()
    start = time.perf_counter()
    results = predictor.predict(arguments.inputs, arguments.topk, on_error=errors)
    seconds = time.perf_counter() - start
    write_results(results, arguments.csv, arguments.json)
    if results and arguments.out_dir:
        write_pictures(results, errors.all, arguments.out_dir, arguments.annotate)
    print_results(results)
    if results:
        print(summary(len(results), len(errors.all), seconds))
    if results and arguments.out_dir:
        print(f"the images by class: {shown(Path(arguments.out_dir, SHEET))}")
    return errors.exit_code(bool(results))
