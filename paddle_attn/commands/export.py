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
    parser.add_argument(
        "--format",
        choices=("paddle", "onnx"),
        default="paddle",
        help="paddle: for Paddle Inference and PaddleX; onnx: for ONNX Runtime and OpenVINO, faster "
        "on a CPU (default: %(default)s)",
    )
    parser.add_argument("--bf16", action="store_true", help="evaluate it in bf16, too; with --format onnx")
    parser.add_argument(
        "--int8", action="store_true", help="add an int8 form, and evaluate it; with --format onnx"
    )
    parser.add_argument(
        "--calibrate",
        type=int,
        default=200,
        metavar="N",
        help="training images that set the ranges of int8 (default: %(default)s)",
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="top-1 that bf16 and int8 may lose, in percentage points (default: %(default)s)",
    )


def main(arguments: argparse.Namespace) -> None:
    config = trained_config(arguments)
    prepare_paddle()
    from ..deploy import export_config
    from ..files import shown

    exported = export_config(
        config,
        arguments.weights,
        arguments.out,
        arguments.dynamic,
        arguments.format,
        arguments.bf16,
        arguments.calibrate if arguments.int8 else None,
        arguments.max_drop,
    )
    print(f"exported to {shown(arguments.out)}")
    print(
        f"checked on {exported.source}: its probabilities are the network's, "
        f"to within {exported.difference:.1e}"
    )
    for line in exported.measured:
        print(
            f"{line.precision}: top-1 {100 * line.top1:.2f} % of {line.images} images, "
            f"{line.milliseconds:.1f} ms an image ({line.engine}), {line.megabytes:.1f} MB"
        )
