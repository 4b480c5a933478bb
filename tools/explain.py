"""Show what a trained network looks at:
python tools/explain.py --weights output/X/best.pdparams photo.jpg folder

The exit code is 0, 1 when some inputs could not be read, 2 when none could.
"""

import argparse
import sys
from pathlib import Path

from paddle_attn.cli import Parser, one_sentence_errors, prepare_paddle, trained_config, trained_parser
from paddle_attn.errors import UserError, escaped
from paddle_attn.files import shown

METHODS = ("grad-cam", "grad-cam++", "layer-cam", "gate")


def make_parser() -> Parser:
    parser = trained_parser("Show what trained networks look at, as a figure of images and maps.")
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
    return parser


def check(arguments: argparse.Namespace) -> None:
    if not arguments.inputs and not arguments.list_layers:
        raise UserError("there is nothing to explain: expected images or folders of images, or --list-layers")
    if arguments.limit < 1:
        raise UserError(f"--limit must be at least 1, found {arguments.limit}")
    if arguments.method == "gate" and (arguments.faithfulness or arguments.class_name):
        raise UserError("a gate belongs to no class: --faithfulness and --class expect another --method")


def main() -> None:
    arguments = make_parser().parse_args()
    errors: list[UserError] = []

    def report(error: UserError) -> None:
        print(f"error: {error}", file=sys.stderr)
        errors.append(error)

    with one_sentence_errors():
        check(arguments)
        paths = [arguments.weights, *arguments.compare]
        configs = [trained_config(arguments)]
        for path in arguments.compare:
            configs.append(trained_config(argparse.Namespace(weights=path, config=None, override=[])))
        prepare_paddle()
        from paddle_attn.explain import command

        out = Path(arguments.out) if arguments.out else Path(configs[0].train.output, "explain.png")
        judged = out.with_name(f"{out.stem}_faithfulness{out.suffix}")
        for path in [out, judged][: 1 + arguments.faithfulness]:
            command.check_target(path)
        models = command.load_models(configs, paths)
        if arguments.list_layers:
            print_layers(*command.layers_of(models[0]))
            return
        names, images, left_out = command.read_images(arguments.inputs, arguments.limit, report)
        if not images:
            sys.exit(2)
        if left_out:
            print(
                f"shows {len(images)} images and leaves out {left_out}: --limit sets how many",
                file=sys.stderr,
            )
        if arguments.method == "gate":
            print(f"gates of {', '.join(command.explain_gates(models, names, images, arguments.layer, out))}")
        else:
            results = command.explain_class(
                models, names, images, arguments.method, arguments.layer, arguments.class_name, out
            )
            for model, result in zip(models, results, strict=True):
                print(f"{model.title}: {result.method} at {result.layer}")
                for name, number, score in zip(names, result.class_ids, result.scores, strict=True):
                    print(f"  {100 * score:6.2f} %  {escaped(model.classes[number])}  {shown(name)}")
            if arguments.faithfulness:
                print_trials(command.judge(models, images, results, judged))
        written = f"{shown(out)} and {shown(judged)}" if arguments.faithfulness else shown(out)
        print(f"wrote {written}")
    sys.exit(1 if errors else 0)


def print_layers(calls: list, default: str, attentions: list[str]) -> None:
    for call in calls:
        size = "x".join(map(str, call.shape[1:]))
        note = "  (default)" if call.name == default else "  (a gate)" if call.name in attentions else ""
        print(f"{call.name:32s} {call.kind:24s} {size}{note}")


def print_trials(trials: list) -> None:
    for trial in trials:
        curves, control = trial.curves, trial.control
        print(
            f"{trial.title}: deletion {curves.deletion_area.mean():.3f} (random map "
            f"{control.deletion_area.mean():.3f}, lower is better), insertion "
            f"{curves.insertion_area.mean():.3f} ({control.insertion_area.mean():.3f}, higher is better)"
        )
        print(f"{trial.title}: {trial.randomisation.verdict}")


if __name__ == "__main__":
    main()
