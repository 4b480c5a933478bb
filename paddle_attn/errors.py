"""The exceptions that the tools report as one sentence, and how an error quotes what it found."""

from __future__ import annotations

import difflib
import importlib
import reprlib
import unicodedata
from collections.abc import Iterable
from types import ModuleType

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80  # characters; the middle of a longer value is left out
_CONTROL = {"Cc", "Cs", "Zl", "Zp"}  # categories: control, surrogate, separators of lines and paragraphs


class UserError(ValueError):
    """An error that the user can correct. The tools print it in one line and exit with code 2."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


class Stopped(Exception):
    """A signal stopped the run after its state was saved. The message says how to resume.

    `exit_code` is the one that shells expect: 128 plus the signal's number.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def one_line(text: str) -> str:
    """The text on one line: line breaks become spaces, other unprintable characters are escaped."""
    joined = " ".join(filter(None, (line.strip() for line in text.splitlines())))
    return "".join(character if character.isprintable() else _escape(character) for character in joined)


def escaped(text: str) -> str:
    """The text with control characters escaped, so that a terminal does not obey them; others are kept.

    `one_line` escapes more: also the unusual spaces that file names may contain.
    """
    return "".join(_escape(c) if unicodedata.category(c) in _CONTROL else c for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def quote(value: object) -> str:
    """A value from a file or a command line as a message shows it: its `repr`, shortened."""
    return _REPR.repr(value)


def unknown_name(kind: str, name: object, valid: Iterable[str]) -> UserError:
    """The error for a name that is not in a list: it shows the valid names and the nearest match."""
    valid = sorted(valid)
    hint = did_you_mean(nearest(name, valid))
    return UserError(f"unknown {kind} {quote(name)}: expected one of {', '.join(valid)}{hint}")


def nearest(name: object, valid: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The most similar of the valid names, if one reaches `cutoff`, as `difflib` measures it.

    Upper and lower case count as the same.
    """
    by_lower = {text.lower(): text for text in valid}
    near = difflib.get_close_matches(str(name)[:80].lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None


def did_you_mean(*names: str | None) -> str:
    """The end of a message that proposes names; '' for None and for no name."""
    *others, last = [f"'{name}'" for name in names if name] or [""]
    proposed = f"{', '.join(others)} or {last}" if others else last
    return f"; did you mean {proposed}?" if proposed else ""


_ONNX = 'pip install "paddle_attn[onnx]"'
_INSTALL = {  # package: the command that installs it
    "paddle": "pip install -e .[cpu]   (or Paddle's GPU wheel, see README)",
    "visualdl": "pip install visualdl",
    "matplotlib": "pip install matplotlib",
    "onnx": _ONNX,
    "onnxruntime": _ONNX,
    "ml_dtypes": _ONNX,
    "paddle2onnx": _ONNX,
    "openvino": 'pip install "paddle_attn[openvino]"',
    "gradio": 'pip install "paddle_attn[web]"',
}


def import_package(name: str) -> ModuleType:
    """Import an optional package. Raises ModuleNotFoundError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise missing_package(error) from None


def missing_package(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The same error with the command that installs the package, if the package is one of ours."""
    package = (error.name or "").partition(".")[0]
    if package not in _INSTALL:
        return error
    return ModuleNotFoundError(
        f"paddle_attn needs the package '{package}', which is not installed: {_INSTALL[package]}",
        name=error.name,
    )
