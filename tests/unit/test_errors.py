"""Errors: one printable line each, and the exit code of a command."""

from __future__ import annotations

import pickle
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddle_attn.cli import one_sentence_errors
from paddle_attn.errors import Stopped, UserError, one_line, unknown_name


@given(st.text())
def test_one_line_is_printable_and_stable(text: str):
    line = one_line(text)
    assert line.isprintable() and one_line(line) == line


def test_one_line_keeps_printable_text():
    text = "images/été  一.jpg: expected [0, 1], found '×'"
    assert one_line(text) == text
    assert one_line("first\n  second\r\nthird") == "first second third"
    assert one_line("\x1b[2J\t\udcff") == r"\x1b[2J\t\udcff"


def test_an_error_survives_pickling():
    """A loader's worker process sends its errors to the parent."""
    assert str(pickle.loads(pickle.dumps(UserError("a\nb")))) == "a b"


def test_an_unknown_name_shows_the_valid_names_and_the_nearest():
    message = "unknown fruit 'aple': expected one of apple, pear; did you mean 'apple'?"
    assert str(unknown_name("fruit", "aple", ["pear", "apple"])) == message
    assert str(unknown_name("fruit", "x\n", ["pear"])) == r"unknown fruit 'x\n': expected one of pear"
    assert len(str(unknown_name("fruit", "x" * 10_000, ["pear"]))) < 200


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("expected a,\nfound b"), 2, "error: expected a, found b"),
        (FileNotFoundError(2, "No such file", "a  b.txt"), 2, "error: a  b.txt: No such file"),
        (OSError("disk quota"), 2, "error: input/output: disk quota"),
        (ModuleNotFoundError("x", name="visualdl.server"), 2, "pip install visualdl"),
        (Stopped("SIGTERM after epoch 1", signal.SIGTERM), 143, "stopped: SIGTERM after epoch 1"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_a_command_reports_an_error_in_one_line(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture
):
    with pytest.raises(SystemExit) as stop, one_sentence_errors():
        raise error
    (printed,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == code and line in printed


@pytest.mark.parametrize("error", [KeyError("defect"), ModuleNotFoundError("x", name="unknown_package")])
def test_a_defect_keeps_its_traceback(error: Exception):
    with pytest.raises(type(error)), one_sentence_errors():
        raise error
