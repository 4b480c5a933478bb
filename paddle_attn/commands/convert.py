"""Convert an author's PyTorch checkpoint without PyTorch; nothing in the file is run."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from ..cli import Parser, prepare_paddle


def add_arguments(parser: Parser) -> None:
    parser.add_argument("source", metavar="SRC", help="a .pth, .pth.tar, .pt, .safetensors or .pdparams")
    parser.add_argument("--arch", required=True, metavar="NAME", help="such as resnet50 or cifar_preresnet20")
    parser.add_argument("--attn", metavar="NAME", help="the attention of the checkpoint")
    parser.add_argument(
        "--attn-kwargs",
        default="{}",
        metavar="YAML",
        help="the attention's arguments, such as '{reduction: 4}'",
    )
    parser.add_argument(
        "--attn-pos", default="paper", metavar="PLACE", help="the attention's place (default: %(default)s)"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="a .pdparams or .safetensors (default: SRC with the ending .pdparams)"
    )
    parser.add_argument("--half", action="store_true", help="store float16, in half the space")


def main(arguments: argparse.Namespace) -> None:
    from ..errors import UserError
    from ..files import same_file, shown
    from ..strict_yaml import parse_mapping

    attn_kwargs = parse_mapping(arguments.attn_kwargs, "--attn-kwargs")
    prepare_paddle()
    from ..models import create_model
    from ..weights.convert import convert

    out = arguments.out or str(Path(arguments.source.removesuffix(".tar")).with_suffix(".pdparams"))
    if same_file(out, arguments.source):
        raise UserError(f"{out} is the checkpoint itself: choose another file with --out")
    build = partial(create_model, arguments.arch, arguments.attn, attn_kwargs, arguments.attn_pos)
    report = convert(arguments.source, out, build, arguments.half)
    print(f"{shown(out)}: {len(report.loaded)} tensors of {shown(arguments.source)}")
