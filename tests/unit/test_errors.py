"""Errors: one printable line each, and the exit code of a command."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import HANG
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from paddle_attn.cli import Parser, column, one_sentence_errors
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


TOOL = """
import sys
from paddle_attn.cli import one_sentence_errors
from paddle_attn.errors import UserError

with one_sentence_errors():
    for number in range(3000):
        print("一 été", "\\udcff", number)
    with open(sys.argv[1], "w") as file:
        file.write("a result")
    raise UserError("found 一")
"""


@pytest.mark.parametrize(
    ("redirection", "code", "stderr"),
    [
        (">/dev/null", 2, "error: found 一\n"),
        (">&-", 2, "error: found 一\n"),
        ("<&- >&-", 2, "error: found 一\n"),
        ("<&- >&- 2>&-", 2, ""),
        ("| true", 1, ""),
        ("2>&1 | true", 1, ""),
        (">/dev/full", 2, "error: input/output: No space left on device\n"),
    ],
)
def test_a_tool_survives_streams_that_nobody_reads(tmp_path: Path, redirection: str, code: int, stderr: str):
    (tmp_path / "tool.py").write_text(TOOL, encoding="utf-8")
    command = f"'{sys.executable}' tool.py result.txt {redirection}; exit ${{PIPESTATUS[0]}}"
    environ = os.environ | {"PYTHONIOENCODING": "utf-8"}
    run = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        capture_output=True,
        timeout=HANG,
        env=environ,
        encoding="utf-8",
    )
    assert (run.returncode, run.stderr) == (code, stderr)
    written = tmp_path / "result.txt"
    assert written.exists() == (code == 2 and "full" not in redirection)
    assert not written.exists() or written.read_text() == "a result"  # not what was printed to stdout


@pytest.mark.parametrize("environ", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"LC_ALL": "POSIX"}])
def test_a_tool_prints_every_text_to_a_terminal_of_few_characters(tmp_path: Path, environ: dict[str, str]):
    (tmp_path / "tool.py").write_text(TOOL, encoding="utf-8")
    command = [sys.executable, "tool.py", "result.txt"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=HANG, env=os.environ | environ)
    assert run.returncode == 2 and b"Traceback" not in run.stderr and b"error: found" in run.stderr
    assert len(run.stdout.splitlines()) == 3000 and rb"\udcff" in run.stdout


def example_parser() -> Parser:
    parser = Parser()
    parser.add_argument("-w", "--weights", required=True)
    parser.add_argument("--count", type=int)
    parser.add_argument("--override", nargs="+")
    parser.add_argument("files", nargs="*")
    return parser


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--wieghts x", "error: unknown argument '--wieghts'; did you mean '--weights'?"),
        ("--wieghts=x", "error: unknown argument '--wieghts'; did you mean '--weights'?"),
        ("--zzz", "error: unknown argument '--zzz'; -h lists the arguments"),
        ("-z 1", "error: unknown argument '-z'; -h lists the arguments"),
        ("", "error: the following arguments are required: -w/--weights"),
        ("--weights a --count x", "error: argument --count: invalid int value: 'x'"),
    ],
)
def test_a_wrong_argument_is_one_sentence(arguments: str, message: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as stop:
        example_parser().parse_args(arguments.split())
    assert stop.value.code == 2 and capsys.readouterr() == ("", message + "\n")


def test_right_arguments_are_accepted():
    """Also short forms, values that begin with a minus or contain one, and what follows `--`."""
    arguments = ["-wx", "--cou", "-3", "--override", "--x y", "k=-v", "--", "--wieghts"]
    found = example_parser().parse_args(arguments)
    assert (found.weights, found.count, found.override) == ("x", -3, ["--x y", "k=-v"])
    assert found.files == ["--wieghts"]


def test_a_column_of_the_terminal_has_its_width_for_any_script():
    assert [cell_len(column(name, 12)) for name in ("cat", "猫和狗", "\x1b[31m")] == [12, 12, 12]
    assert column("a longer name", 3) == "a longer name"
