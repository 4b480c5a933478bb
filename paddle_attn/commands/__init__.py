"""The commands of `paddle-attn`; the scripts in `tools/` run the same ones.

Each command is a module here. Its docstring is the text of `-h`, `add_arguments(parser)` adds its options,
and `main(arguments)` does the work and returns the exit code, None for 0. Heavy packages are imported inside
`main`, so that `-h` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import runpy
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from .. import __version__
from ..cli import Parser, one_sentence_errors
from ..errors import UserError, unknown_name

COMMANDS = {  # what the list of commands says about each
    "split": "split a folder of photographs into train/ and eval/",
    "train": "train a network",
    "eval": "evaluate trained weights",
    "compare": "compare the evaluations of two runs",
    "explain": "show what trained networks look at",
    "export": "export trained weights",
    "predict": "classify images with an exported network",
    "serve": "a page and an HTTP API that classify pictures",
    "study": "train a grid of variants over folds and seeds",
    "models": "list the models with their sizes",
    "configs": "list the configs, or copy them",
    "convert": "convert a PyTorch checkpoint",
    "benchmark": "measure speed against the baselines: docs/performance.md",
    "fidelity": "compare everything with the authors' code: docs/fidelity.md",
    "attention": "write docs/attention.md, the page of the attention modules",
    "results": "write docs/results.md and README's table from results/",
    "drawings": "draw the data flow of the attention modules",
}
# these write the project's own pages: the folder that each needs, which a wheel does not contain
IN_A_CLONE = {
    "benchmark": "benchmarks",
    "fidelity": "reference",
    "attention": "reference",
    "results": "reference",
    "drawings": "docs",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run `paddle-attn COMMAND …` and leave with the exit code of the command, 2 for an unknown one."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = Parser(
        prog="paddle-attn",
        usage="paddle-attn COMMAND …",
        description="commands:\n"
        + _listed(name for name in COMMANDS if name not in IN_A_CLONE)
        + "\n\nin a clone, these write the project's own pages:\n"
        + _listed(IN_A_CLONE),
        epilog="paddle-attn COMMAND -h lists the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"paddle_attn {__version__}")
    parser.add_argument("command", nargs="?", metavar="COMMAND", help=argparse.SUPPRESS)
    command = parser.parse_args(argv[:1]).command
    if command is None:
        parser.print_help()
    elif command not in COMMANDS:
        parser.error(str(unknown_name("command", command, COMMANDS)))
    elif command in IN_A_CLONE:
        run_in_clone(command, argv[1:])
    else:
        run(command, argv[1:], prog=f"paddle-attn {command}")


def _listed(names: Iterable[str]) -> str:
    return "\n".join(f"  {name:10s} {COMMANDS[name]}" for name in names)


def run(command: str, argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run one command and leave with its exit code.

    Args:
        command: the name of a module in this package.
        argv: its arguments; None takes those of the process.
        prog: the program's name in the help; None takes the name of the script.
    """
    module = importlib.import_module(f"{__name__}.{command}")
    parser = Parser(prog=prog, description=module.__doc__)
    module.add_arguments(parser)
    arguments = parser.parse_args(argv)
    with one_sentence_errors():
        code = module.main(arguments)
    sys.exit(code)


def run_in_clone(command: str, argv: Sequence[str]) -> None:
    """Run a script of `tools/` that needs a folder beside the package."""
    clone, folder = Path(__file__).resolve().parents[2], IN_A_CLONE[command]
    script = clone / "tools" / f"{command}.py"
    with one_sentence_errors():
        if not (script.is_file() and (clone / folder).is_dir()):
            raise UserError(
                f"paddle-attn {command} needs a clone of the repository: its programs are in {folder}/, "
                "which an installed package does not contain"
            )
    sys.argv = [f"paddle-attn {command}", *argv]  # the first is the program's name in the help
    runpy.run_path(str(script), run_name=command)["main"]()
