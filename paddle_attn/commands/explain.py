"""Show what trained networks look at, as a picture of images and maps. The exit code is 0, 1 when some inputs
could not be read, 2 when none could.
"""

from __future__ import annotations

import argparse

from ..cli import InputErrors, Parser, add_trained, prepare_paddle, trained_config

METHODS = ("grad-cam", "grad-cam++", "layer-cam", "gate")


def add_arguments(parser: Parser) -> None:
    add_trained(parser)
    parser.add_argument("inputs", nargs="*", metavar="IMAGE_OR_FOLDER")
    parser.add_argument(
        "--method",
        choices=METHODS,
        default=METHODS[0],
        help="a class activation map, or the attention's own gate (default: %(default)s)",
    )
    parser.add_argument(
        "--layer", metavar="NAME", help="a layer with a spatial map; --list-layers marks the default"
    )
    parser.add_argument("--list-layers", action="store_true", help="print the layers that --layer takes")
    parser.add_argument(
        "--class", dest="class_name", metavar="NAME", help="the class to explain; default: the predicted one"
    )
    parser.add_argument(
        "--compare", nargs="+", default=[], metavar="FILE", help="weights of other networks, side by side"
    )
    parser.add_argument(
        "--faithfulness",
        action="store_true",
        help="also judge the maps, in a second picture beside the first",
    )
    parser.add_argument(
        "--limit", type=int, default=16, metavar="N", help="images in the picture (default: %(default)s)"
    )
    parser.add_argument("--out", metavar="FILE", help="a PNG; default: explain.png beside the weights")


def main(arguments: argparse.Namespace) -> int:
    others = [argparse.Namespace(weights=path, config=None, override=[]) for path in arguments.compare]
    configs = [trained_config(each) for each in (arguments, *others)]
    prepare_paddle()
    from ..explain.command import Options, explain, layer_lines, load_models

    options, errors = Options.of(arguments, configs[0].train.output), InputErrors()
    models = load_models(configs, [arguments.weights, *arguments.compare])
    if arguments.list_layers:
        lines = layer_lines(models[0])
    else:
        lines = explain(models, arguments.inputs, options, errors)
    print(*lines, sep="\n", end="\n" if lines else "")
    return errors.exit_code(bool(lines))
