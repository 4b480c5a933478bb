"""Compiles the operators once into the user's cache and loads them into Paddle."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import paddle
from paddle.utils.cpp_extension import load_op_meta_info_and_register_op

from .. import runtime

SOURCES = Path(__file__).parent
# no -ffast-math: it would change how the whole process rounds; these two only let loops over nearbyint and sqrt be vectorised
FLAGS = [
    "-O3",
    "-march=native",
    "-std=c++17",
    "-fPIC",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-w",
]
DEFINES = [
    "-DPADDLE_WITH_CUSTOM_KERNEL",
    "-DPADDLE_NO_PYTHON",
]  # as Paddle's own builder has it; the operators need no Python
TIMEOUT = 300  # seconds for one file


class BuildError(Exception):
    """Why there are no compiled operators, in one sentence."""


def load() -> None:
    """Register the operators with Paddle; they are compiled first where the cache has them not.

    Raises: BuildError without a compiler, or when compiling or loading fails.
    """
    library = _cached()
    try:
        load_op_meta_info_and_register_op(str(library))
    except Exception as error:  # whatever the dynamic linker or Paddle has against it
        library.unlink(missing_ok=True)  # the next process compiles anew
        raise BuildError(f"{library} cannot be loaded: {_last_line(str(error))}") from None


def cache_folder() -> Path:
    """`PADDLE_ATTN_CACHE`, else the place that the system has for caches."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PADDLE_ATTN_CACHE") or Path(base) / "paddle_attn")


def _cached() -> Path:
    """The library for these sources, this Paddle, compiler and processor; compiled when it is not there."""
    compiler = shutil.which(os.environ.get("CXX") or "c++")
    if sys.platform != "linux":
        raise BuildError(f"the operators are built on Linux alone, found {sys.platform}")
    if compiler is None:
        raise BuildError(f"no C++ compiler, expected {os.environ.get('CXX') or 'c++'} on the PATH")
    library = cache_folder() / f"ops-{_key(compiler)}.so"
    if not library.exists():
        print(
            "paddle_attn: compiling the operators for this machine, once (PADDLE_ATTN_OPS=off does without) ...",
            file=sys.stderr,
            flush=True,
        )
        try:
            _compile(compiler, library)
        except OSError as error:
            raise BuildError(f"{error.filename or library}: {error.strerror or error}") from None
    return library


def _key(compiler: str) -> str:
    """What a compiled library depends on."""
    machine = runtime.this_machine()
    version = _run([compiler, "--version"]).stdout
    parts = [paddle.__version__, paddle.version.commit, version, machine.vendor, *sorted(machine.flags)]
    parts += [path.read_text(encoding="utf-8") for path in sorted(SOURCES.glob("*.*"))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _compile(compiler: str, library: Path) -> None:
    """Compile beside the place and rename, so that other processes find a whole library or none."""
    home = Path(paddle.__file__).parent
    include, libs = home / "include", home / "libs"
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        sources = sorted(SOURCES.glob("*.cc"))
        objects = [str(Path(scratch) / f"{source.stem}.o") for source in sources]
        commands = [
            [
                compiler,
                *FLAGS,
                *DEFINES,
                f"-I{include}",
                f"-I{include / 'third_party'}",
                "-c",
                str(source),
                "-o",
                target,
            ]
            for source, target in zip(sources, objects, strict=True)
        ]
        # MKL, and the OpenMP that it and Paddle use: with a second one, two sets of threads would wait for each other's cores
        theirs = [f"-L{libs}", "-l:libiomp5.so", "-l:libmklml_intel.so", f"-Wl,-rpath,{libs}"]
        # -z now: a symbol that this Paddle has not is an error when the library is loaded, not the end of the process later
        core = [f"-L{home / 'base'}", "-Wl,--no-as-needed", "-l:libpaddle.so", "-Wl,-z,now"]
        built = str(Path(scratch) / "ops.so")
        for command in [*commands, [compiler, "-shared", *objects, *core, *theirs, "-o", built]]:
            done = _run(command)
            if done.returncode:
                raise BuildError(f"{compiler} failed: {_last_line(done.stderr)}")
        os.replace(built, library)


def _run(command: list[str]) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} failed: {_last_line(str(error))}") from None


def _last_line(text: str) -> str:
    """The line that says most: the first with 'error', else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it said nothing"]
    return next((line for line in lines if "error" in line.lower()), lines[-1])
