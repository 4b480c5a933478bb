"""Evaluate weights on the eval images; write metrics.json, confusion.png and eval_predictions.csv, a line for
each image, beside the weights.
"""

from __future__ import annotations

import argparse

from ..cli import Parser, add_trained, column, prepare_paddle, trained_config
from ..files import shown


def add_arguments(parser: Parser) -> None:
    add_trained(parser)
    parser.add_argument("--report", action="store_true", help="write report.html too: where the network errs")
    corruptions = (
        "evaluate with blur, noise, JPEG and darkness too, in the report; takes twelve times as long"
    )
    parser.add_argument("--corruptions", action="store_true", help=corruptions)


def main(arguments: argparse.Namespace) -> None:
    config = trained_config(arguments)
    prepare_paddle()
    from ..train import evaluate_config

    result = evaluate_config(config, arguments.weights)
    for row in result.by_class():
        recall = "no images" if row["recall"] is None else f"{100 * row['recall']:6.2f} %"
        scores = f"recall {recall} {_interval(row['recall_interval'])}"
        scores += f"  precision {100 * row['precision']:6.2f} %"
        print(f"{column(row['class'], 16)} {row['images']:6d} images  {scores}")
    scores = f"top-1 {100 * result.top1:.2f} % {_interval(result.top1_interval)}"
    if result.has_top5:
        scores += f"  top-5 {100 * result.top5:.2f} % {_interval(result.top5_interval)}"
    print(f"{scores}  loss {result.loss:.4f}")
    print(f"on {result.images} images, with 95 % intervals in brackets")
    if arguments.report or arguments.corruptions:
        from ..diagnose import diagnose

        page = diagnose(config, arguments.weights, result, arguments.corruptions)
        print(f"where the network errs: {shown(page)}")
    folder = shown(config.train.output)
    print(f"metrics.json, confusion.png and eval_predictions.csv are in {folder}")


def _interval(interval: tuple[float, float]) -> str:
    return f"({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
