"""Split photographs into train/ and eval/. Without --source: datasets/Images.zip, else datasets/Images/, else
the download of Caltech-101.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from ..cli import Parser, column


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--source",
        metavar="PATH",
        help="a folder of class folders, a .zip or .tar.gz of one, or 'demo' for synthetic images",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="the folder to make; default: datasets/NAME with the name of the source, "
        "datasets/caltech101-16 for the sixteen classes that the configs use",
    )
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="use only these classes")
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="shuffle each class with this seed; default: every fifth file of the sorted class goes to eval",
    )
    fold = "0 to 4: begin with this file of each class, counted from 0; the five eval parts hold all images"
    parser.add_argument("--fold", type=int, default=0, metavar="K", help=fold)
    parser.add_argument("--force", action="store_true", help="replace an earlier split")
    no_report = "do not look for near-duplicates and do not write report.html, the page of the data set"
    parser.add_argument("--no-report", action="store_true", help=no_report)
    url = "another address of caltech-101.zip; the file must have the same checksum"
    parser.add_argument("--url", metavar="URL", help=url)


def main(arguments: argparse.Namespace) -> None:
    from ..config import DataConfig
    from ..data.prepare.split import default_folder, make_split
    from ..files import shown

    source, fold = arguments.source, arguments.fold
    out = Path(arguments.out or default_folder(source, fold=fold, classes=arguments.classes))
    options = {"fold": fold, "report": not arguments.no_report}
    options |= {"url": arguments.url} if arguments.url else {}
    split = make_split(source, out, arguments.classes, arguments.seed, arguments.force, **options)
    for name, count in split.counts.items():
        print(f"{column(name, 24)} {count['train']:6d} train {count['eval']:6d} eval")
    for file, reason in split.skipped.items():
        print(f"skipped: {file}: {reason}")
    train, evaluation, classes = split.total("train"), split.total("eval"), len(split.classes)
    page = shown(Path(out, "report.html"))
    if split.near_duplicates:
        found = f"{split.near_duplicates} of {evaluation} eval images have a near-duplicate in train"
        print(f"{found}: the score on them is not a fair one, see {page}")
    elif split.near_duplicates == 0:
        print(f"the data set with pictures: {page}")
    print(f"{train} + {evaluation} images of {classes} classes in {shown(out)} ({split.rule})")
    if out != Path(DataConfig.root):  # where the configs expect the data
        print(f"train on it with: -o {shlex.quote(f'data.root={shown(out)}')}")
