"""Show what trained networks look at, as a figure of images and maps. The exit code is 0, 1 when some inputs
could not be read, 2 when none could.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..cli import Parser, add_trained, prepare_paddle, trained_config
from ..errors import UserError
from ..files import shown

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
    parser.add_argument("--layer", metavar="NAME", help="a layer with a spatial map; default: the last one")
    parser.add_argument("--list-layers", action="store_true", help="print the layers that --layer takes")
    parser.add_argument(
        "--class", dest="class_name", metavar="NAME", help="the class to explain; default: the predicted one"
    )
    parser.add_argument(
        "--compare", nargs="+", default=[], metavar="FILE", help="weights of other networks, side by side"
    )
    parser.add_argument(
        "--faithfulness", action="store_true", help="also judge the maps, in a second figure beside the first"
    )
    parser.add_argument(
        "--limit", type=int, default=16, metavar="N", help="images in the figure (default: %(default)s)"
    )
    parser.add_argument("--out", metavar="FILE", help="a PNG; default: explain.png beside the weights")


def check(arguments: argparse.Namespace) -> None:
    if not arguments.inputs and not arguments.list_layers:
        raise UserError("there is nothing to explain: expected images or folders of images, or --list-layers")
    if arguments.limit < 1:
        raise UserError(f"--limit must be at least 1, found {arguments.limit}")
    if arguments.method == "gate" and (arguments.faithfulness or arguments.class_name):
        raise UserError("a gate belongs to no class: --faithfulness and --class expect another --method")


def main(arguments: argparse.Namespace) -> int:
    errors: list[UserError] = []

    def report(error: UserError) -> None:
        print(f"error: {error}", file=sys.stderr)
        errors.append(error)

    check(arguments)
    paths = [arguments.weights, *arguments.compare]
    configs = [trained_config(arguments)]
    for path in arguments.compare:
        configs.append(trained_config(argparse.Namespace(weights=path, config=None, override=[])))
    prepare_paddle()
    from ..explain import command

    out = Path(arguments.out) if arguments.out else Path(configs[0].train.output, "explain.png")
    judged = out.with_name(f"{out.stem}_faithfulness{out.suffix}")
    for path in [out, judged][: 1 + arguments.faithfulness]:
        command.check_target(path)
    models = command.load_models(configs, paths)
    if arguments.list_layers:
        print(*command.layer_lines(models[0]), sep="\n")
        return 0
    names, images, left_out = command.read_images(arguments.inputs, arguments.limit, report)
    if not images:
        return 2
    if left_out:
        text = f"shows {len(images)} images and leaves out {left_out}: --limit sets how many"
        print(text, file=sys.stderr)
    if arguments.method == "gate":
        print(f"gates of {', '.join(command.explain_gates(models, names, images, arguments.layer, out))}")
    else:
        results = command.explain_class(
            models, names, images, arguments.method, arguments.layer, arguments.class_name, out
        )
        print(*command.class_lines(models, results, names), sep="\n")
        if arguments.faithfulness:
            print(*command.trial_lines(command.judge(models, images, results, judged)), sep="\n")
    written = f"{shown(out)} and {shown(judged)}" if arguments.faithfulness else shown(out)
    print(f"wrote {written}")
    return 1 if errors else 0
