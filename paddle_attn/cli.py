"""What the commands share: the config arguments, and errors as one sentence with exit code 2.

This module imports nothing heavy, so that `-h` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from . import runtime
from .errors import Stopped, UserError, did_you_mean, escaped, missing_package, nearest, one_line, quote
from .files import shown

if TYPE_CHECKING:
    from .config import Config

_FLAG = re.compile(r"--?[A-Za-z][\w-]*")  # not a negative number, not a text with spaces


class Parser(argparse.ArgumentParser):
    """An argument parser that reports a mistake in one sentence and proposes the nearest flag."""

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else list(args)
        for argument in args[: args.index("--")] if "--" in args else args:
            flag = argument.partition("=")[0]
            if _FLAG.fullmatch(flag) and not self._knows(flag):
                hint = did_you_mean(nearest(flag, self._option_string_actions) if len(flag) > 2 else None)
                self.error(f"unknown argument {quote(flag)}{hint or '; -h lists the arguments'}")
        return super().parse_known_args(args, namespace)

    def _knows(self, flag: str) -> bool:
        """Whether a flag, or a unique beginning of one such as `--weig`, is this parser's."""
        known = self._option_string_actions
        if flag.startswith("--"):
            return flag in known or any(name.startswith(flag) for name in known)
        return flag[:2] in known

    def error(self, message: str) -> NoReturn:
        _exit(f"error: {message}", 2)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        _flush_stdout()
        super().exit(status, message)


def add_config(parser: Parser, required: bool = True, example: str = "towernet_simam") -> None:
    """Add `-c CONFIG`, which names a config that exists or one that the package contains."""
    default = "" if required else "; default: the config.yaml beside the weights"
    parser.add_argument(
        "-c",
        "--config",
        required=required,
        metavar="CONFIG",
        help=f"a YAML file, or a name that `paddle-attn configs` lists, such as {example}{default}",
    )


def add_overrides(parser: Parser) -> None:
    """Add `-o key=value …`."""
    parser.add_argument(
        "-o",
        "--override",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="e.g. -o optim.lr=0.02 train.epochs=10",
    )


def add_trained(parser: Parser) -> None:
    """Add `--weights FILE`, `-c CONFIG`, which may be omitted, and `-o key=value …`; see `trained_config`."""
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="such as output/towernet_simam/best.pdparams"
    )
    add_config(parser, required=False)
    add_overrides(parser)


def trained_config(arguments: argparse.Namespace) -> Config:
    """The config of the trained weights: `-c`, or the `config.yaml` beside them; with the overrides.

    `train.output` is the folder of the weights, unless an override sets it.

    Raises: UserError as `load_config` does, and without `-c` when there is no weights file or no config.
    """
    from .config import find_config, load_config

    weights = Path(arguments.weights)
    path = find_config(arguments.config) if arguments.config else weights.with_name("config.yaml")
    if not weights.is_file():
        raise UserError(
            f"there is no weights file {weights}: expected one that paddle-attn train wrote, "
            "such as best.pdparams"
        )
    if arguments.config is None and not path.is_file():
        raise UserError(f"there is no config.yaml beside {weights}: pass the config of the training with -c")
    config = load_config(path, arguments.override)
    if not weights.with_name("config.yaml").is_file():  # nothing to compare the config with
        print(f"no config.yaml beside {shown(weights)}: model and image size are those of {shown(path)}")
    if any(override.startswith("train.output=") for override in arguments.override):
        return config
    return replace(config, train=replace(config.train, output=str(weights.parent)))


def this_command() -> str:
    """The command that started this process, as a user types it."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        words = ["python", "-m", program.parent.name]
    elif program.suffix == ".py":
        words = ["python", str(program)]
    else:
        words = [program.name]
    return shlex.join([*words, *sys.argv[1:]])


class InputErrors:
    """Prints one line for each input that cannot be read, while a command continues with the others."""

    def __init__(self):
        self.all: list[UserError] = []

    def __call__(self, error: UserError) -> None:
        print(f"error: {error}", file=sys.stderr)
        self.all.append(error)

    def exit_code(self, has_results: bool) -> int:
        """0 when all inputs were read, 1 when some were, 2 when none was."""
        return 2 if not has_results else 1 if self.all else 0


@contextlib.contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Report warnings, and errors that the user can correct, in one line on stderr; other errors keep their
    traceback.

    The exit code is 2 for a user's error, 130 after Ctrl-C, 128 plus the signal's number after a signal, and
    1, without a message, when what reads stdout has gone (`| head -1`).
    """
    _prepare_streams()
    # Pillow warns about huge images; this package skips them or raises UserError
    warnings.filterwarnings("ignore", message=r"Image size .* exceeds limit")
    warnings.showwarning = _show_warning
    try:
        yield
        sys.stdout.flush()
    except UserError as error:
        _exit(f"error: {error}", 2)
    except ModuleNotFoundError as error:
        known = missing_package(error)
        if known is error:
            raise
        _exit(f"error: {known}", 2)
    except BrokenPipeError:
        _discard_stdout()
        sys.exit(1)
    except UnicodeEncodeError as error:  # a name that the file system's encoding lacks
        if error.encoding.startswith("utf"):
            raise
        name = quote(error.object)
        _exit(f"error: {name} cannot be written in this system's {error.encoding}: set PYTHONUTF8=1", 2)
    except OSError as error:  # a full disk, a folder without write permission
        _exit(f"error: {error.filename or 'input/output'}: {error.strerror or error}", 2)
    except Stopped as stopped:
        _exit(f"stopped: {stopped}", stopped.exit_code)
    except KeyboardInterrupt:
        _exit("error: interrupted; results written before are kept", 130)


def _show_warning(message: Warning | str, *_: object) -> None:
    """One line, without the place in the code."""
    with contextlib.suppress(OSError):
        print(one_line(f"warning: {message}"), file=sys.stderr)


def _exit(message: str, code: int) -> NoReturn:
    _flush_stdout()
    with contextlib.suppress(OSError):  # stderr can be a closed pipe too
        print(one_line(message), file=sys.stderr)
    sys.exit(code)


def _prepare_streams() -> None:
    """Make every stream usable: a closed one discards, and one of few characters shows the others escaped."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:  # closed: the next opened file would get its number, and C++'s output
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
        stream = getattr(sys, name)
        if mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flush_stdout() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        _discard_stdout()


def _discard_stdout() -> None:
    """Discard what is left to print: Python would report that it cannot be written when it exits."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def prepare_paddle() -> None:
    """Tune the runtime, then import Paddle. Hides the warnings about which a user can do nothing."""
    os.environ.setdefault("GLOG_minloglevel", "2")  # the C++ side's warnings
    runtime.tune()
    runtime.import_paddle()
    for message in (  # Paddle's warnings about its own code in paddle.Model and paddle.jit
        "When training, we now always track global mean and variance",
        "Tensor do not have 'place' interface for pir graph mode",
        "To copy construct from a tensor",
    ):
        warnings.filterwarnings("ignore", message=message)
    # damaged EXIF data in photographs that decode
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def column(text: str, width: int) -> str:
    """The text, escaped, padded to a width on the terminal: a Chinese character takes two columns."""
    from rich.cells import cell_len

    text = escaped(text)
    return text + " " * (width - cell_len(text))


def add_engine_arguments(parser: Parser) -> None:
    """The options of commands that run an exported network."""
    parser.add_argument(
        "--engine",
        choices=("auto", "paddle", "onnxruntime", "openvino"),
        default="auto",
        help="auto: the fastest one that is installed and runs the export (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "int8"),
        default="fp32",
        help="bf16 and int8 are faster and less exact; for --format onnx (default: %(default)s)",
    )
