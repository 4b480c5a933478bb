"""List the configs that this package contains, which `-c NAME` of other commands finds. With --copy, copy
them to a folder, to change them there.
"""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Iterable
from pathlib import Path

from ..cli import Parser
from ..errors import UserError, did_you_mean, nearest, quote
from ..files import shown, write_text


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="such as towernet_simam or 'cifar/*' (default: all)"
    )
    parser.add_argument("--copy", metavar="DIR", help="copy them to DIR; replaces no file")


def main(arguments: argparse.Namespace) -> None:
    from ..config import list_configs

    packaged = list_configs()
    chosen = [name for pattern in arguments.names or ["*"] for name in matching(pattern, packaged)]
    if arguments.copy is None:
        print(*dict.fromkeys(chosen), sep="\n")
    else:
        copy({name: packaged[name] for name in chosen}, Path(arguments.copy))


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a pattern such as 'cifar/*' matches. Raises UserError when it matches none."""
    found = fnmatch.filter(names, pattern.removeprefix("configs/").removesuffix(".yaml"))
    if not found:
        near = nearest(pattern, names)
        raise UserError(
            f"no config matches {quote(pattern)}: `paddle-attn configs` lists all{did_you_mean(near)}"
        )
    return found


def copy(configs: dict[str, Path], folder: Path) -> None:
    """Copy configs to a folder, each to a file of its name. Raises UserError when one of them exists."""
    targets = {folder / f"{name}.yaml": path.read_text(encoding="utf-8") for name, path in configs.items()}
    for target in filter(Path.exists, targets):
        raise UserError(f"{shown(target)} exists: expected a folder without configs of these names")
    for target, text in targets.items():
        write_text(target, text)
        print(f"wrote {shown(target)}")
