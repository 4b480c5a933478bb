"""What the command-line tools share: the config arguments, and errors as one sentence with exit code 2.

It imports nothing heavy, so that `-h` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Iterator

from .errors import Stopped, UserError, missing_package


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
    """Turn what the user can mend into one sentence on stderr and exit code 2; let defects of our own show their traceback."""
    warnings.filterwarnings(
        "ignore", message=r"Image size .* exceeds limit"
    )  # Pillow's; such an image is left out or an error here
    try:
        yield
    except UserError as error:
        _stop(str(error), 2)
    except ModuleNotFoundError as error:
        told = missing_package(error)
        if told is error:
            raise
        _stop(str(told), 2)
    except OSError as error:  # a full disk, a directory that cannot be written
        _stop(f"{error.filename or 'input/output'}: {error.strerror or error}", 2)
    except Stopped as stopped:
        print(f"stopped: {' '.join(str(stopped).split())}", file=sys.stderr)
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt:
        _stop("interrupted; what was finished before is kept", 130)


def _stop(message: str, code: int) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def prepare_paddle() -> None:
    """Tune the runtime, then import Paddle without the remarks that no user can act on."""
    import io
    import os

    from . import runtime

    runtime.tune()
    os.environ.setdefault("GLOG_minloglevel", "2")  # the C++ side's warnings
    said = io.StringIO()
    with contextlib.redirect_stderr(
        said
    ):  # Paddle's word on OMP_NUM_THREADS, which `tune` has set on purpose
        import paddle  # noqa: F401
    for remark in (  # of Paddle on its own doings inside paddle.Model and paddle.jit
        "When training, we now always track global mean and variance",
        "Tensor do not have 'place' interface for pir graph mode",
        "To copy construct from a tensor",
    ):
        warnings.filterwarnings("ignore", message=remark)
    warnings.filterwarnings(
        "ignore", category=UserWarning, module=r"PIL\."
    )  # damaged EXIF in a photograph that decodes
