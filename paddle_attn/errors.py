"""The exception that means "the user can mend this", the one that means "stopped, and saved", and how unknown names are reported."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can mend: one sentence, no traceback, exit code 2 in the tools."""


class Stopped(Exception):
    """A signal ended the work early, and all is saved: one sentence that says how to go on, and the exit code that shells expect."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def unknown_name(kind: str, name: object, valid: Iterable[str]) -> UserError:
    """The error for a name that is not in a list: it shows the list and the nearest match."""
    valid = sorted(valid)
    near = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return UserError(f"unknown {kind} '{name}': expected one of {', '.join(valid)}{hint}")


_INSTALL = {
    "paddle": "pip install -e .[cpu]   (or Paddle's GPU wheel, see README)",
    "visualdl": "pip install visualdl",
    "matplotlib": "pip install matplotlib",
}


def missing_package(error: ModuleNotFoundError) -> Exception:
    """The same error with the command that installs what is missing, where we know one."""
    package = (error.name or "").partition(".")[0]
    if package not in _INSTALL:
        return error
    return ModuleNotFoundError(
        f"paddle_attn needs the package '{package}', which is not installed: {_INSTALL[package]}",
        name=error.name,
    )
