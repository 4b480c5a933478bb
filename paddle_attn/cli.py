"""What the command-line tools share: the config arguments, and errors as one sentence with exit code 2.

This module imports nothing heavy, so that `-h` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from typing import NoReturn

from . import runtime
from .errors import Stopped, UserError, missing_package, one_line


def config_parser(description: str) -> argparse.ArgumentParser:
    """A parser with `-c CONFIG` and `-o key=value …`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "-c",
        "--config",
        required=True,
        metavar="YAML",
        help="the config, such as configs/towernet_simam.yaml",
    )
    parser.add_argument(
        "-o",
        "--override",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="e.g. -o optim.lr=0.02 train.epochs=10",
    )
    return parser


@contextlib.contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Report errors that the user can correct in one line on stderr; others keep their traceback.

    The exit code is 2 for a user's error, 130 after Ctrl-C, and 128 plus the signal's number after a signal.
    """
    # Pillow warns about huge images; this package skips them or raises UserError
    warnings.filterwarnings("ignore", message=r"Image size .* exceeds limit")
    try:
        yield
    except UserError as error:
        _exit(f"error: {error}", 2)
    except ModuleNotFoundError as error:
        known = missing_package(error)
        if known is error:
            raise
        _exit(f"error: {known}", 2)
    except OSError as error:  # a full disk, a folder without write permission
        _exit(f"error: {error.filename or 'input/output'}: {error.strerror or error}", 2)
    except Stopped as stopped:
        _exit(f"stopped: {stopped}", stopped.exit_code)
    except KeyboardInterrupt:
        _exit("error: interrupted; results written before are kept", 130)


def _exit(message: str, code: int) -> NoReturn:
    print(one_line(message), file=sys.stderr)
    sys.exit(code)


def prepare_paddle() -> None:
    """Tune the runtime, then import Paddle. Hides the warnings about which a user can do nothing."""
    runtime.tune()
    os.environ.setdefault("GLOG_minloglevel", "2")  # the C++ side's warnings
    with contextlib.redirect_stderr(io.StringIO()):  # Paddle comments on OMP_NUM_THREADS, which `tune` set
        import paddle  # noqa: F401
    for message in (  # Paddle's warnings about its own code in paddle.Model and paddle.jit
        "When training, we now always track global mean and variance",
        "Tensor do not have 'place' interface for pir graph mode",
        "To copy construct from a tensor",
    ):
        warnings.filterwarnings("ignore", message=message)
    # damaged EXIF data in photographs that decode
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
