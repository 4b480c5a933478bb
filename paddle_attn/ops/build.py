"""Compiles fused operators into the user's cache, one library per source, and loads them into Paddle."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paddle
from paddle.utils.cpp_extension import load_op_meta_info_and_register_op

from .. import runtime

SOURCES = Path(__file__).parent
PADDLE = Path(paddle.__file__).parent
FLAGS = [
    "-O3",
    "-march=native",
    "-std=c++17",
    "-fPIC",
    "-shared",
    "-fopenmp",
    # these two suffice to vectorise nearbyint and sqrt; -ffast-math changes the rounding of the whole process
    "-fno-math-errno",
    "-fno-trapping-math",
    "-w",
    "-DPADDLE_WITH_CUSTOM_KERNEL",
    "-DPADDLE_NO_PYTHON",
]
# Paddle's own MKL and OpenMP: the threads of a second OpenMP would compete with Paddle's for the cores.
# -z now: a symbol that this Paddle lacks is an error when the library is loaded, not a crash later.
LIBRARIES = [
    "-Wl,--no-as-needed",
    "-l:libpaddle.so",
    "-Wl,-z,now",
    "-l:libiomp5.so",
    "-l:libmklml_intel.so",
]
TIMEOUT = 300  # seconds for one source
_LOCK = threading.Lock()  # two threads must not load the same library


class BuildError(Exception):
    """Why a source has no library, in one sentence."""


def load(source: str, sources: tuple[str, ...]) -> str:
    """Register the operators of a source with Paddle, once per process.

    Args:
        source: a file, relative to this folder.
        sources: all files for the device. The first call compiles those that the cache lacks, all at the same
            time, so that the user waits once.

    Returns: "" or why the operators are not available.
    """
    with _LOCK:
        return _load(source, sources)


@functools.cache
def _load(source: str, sources: tuple[str, ...]) -> str:
    library = _libraries(sources)[source]
    if isinstance(library, BuildError):
        return str(library)
    try:
        load_op_meta_info_and_register_op(str(library))
    except Exception as error:  # any error of the dynamic linker or of Paddle
        with contextlib.suppress(OSError):
            library.unlink()  # the next process compiles it again
        return f"{library} cannot be loaded: {_error_line(str(error))}"
    return ""


def cache_folder() -> Path:
    """`PADDLE_ATTN_CACHE`, else the system's folder for caches."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PADDLE_ATTN_CACHE") or Path(base) / "paddle_attn")


@functools.cache
def _libraries(sources: tuple[str, ...]) -> dict[str, Path | BuildError]:
    """The library of each source, or why it has none. Compiles those that the cache lacks."""
    try:
        compiler = _compiler()
        environment = _environment(compiler)
    except BuildError as error:
        return dict.fromkeys(sources, error)
    libraries = {source: _library(source, environment) for source in sources}
    missing = {
        source: library
        for source, library in libraries.items()
        if isinstance(library, Path) and not os.path.exists(library)
    }
    if not missing:
        return libraries
    print(
        "paddle_attn: compiling fused operators for this machine, once (PADDLE_ATTN_OPS=off skips them) ...",
        file=sys.stderr,
        flush=True,
    )
    with ThreadPoolExecutor(runtime.this_machine().cores) as pool:
        compiled = pool.map(functools.partial(_compile, compiler), missing, missing.values())
    return libraries | dict(zip(missing, compiled, strict=True))


def _compiler() -> str:
    if sys.platform != "linux":
        raise BuildError(f"fused operators need Linux, found {sys.platform}")
    name = os.environ.get("CXX") or "c++"
    compiler = shutil.which(name)
    if compiler is None:
        raise BuildError(f"no C++ compiler, expected {name} on the PATH")
    return compiler


def _environment(compiler: str) -> str:
    """What a library depends on besides its source: Paddle, compiler, flags, processor and headers."""
    machine = runtime.this_machine()
    version = _run([compiler, "--version"])
    headers = [path.read_text(encoding="utf-8") for path in sorted(SOURCES.rglob("*.h"))]
    parts = [paddle.__version__, paddle.version.commit, version, *FLAGS, *LIBRARIES]
    return "\0".join([*parts, machine.vendor, *sorted(machine.flags), *headers])


def _library(source: str, environment: str) -> Path | BuildError:
    """The path of a source's library in the cache, whether it exists or not."""
    try:
        text = (SOURCES / source).read_text(encoding="utf-8")
    except OSError as error:
        return BuildError(f"{error.filename}: {error.strerror}")
    key = hashlib.sha256(f"{environment}\0{text}".encode()).hexdigest()[:16]
    return cache_folder() / f"{Path(source).stem}-{key}.so"


def _compile(compiler: str, source: str, library: Path) -> Path | BuildError:
    """Compile in a temporary folder, then rename, so that other processes find a whole library or none."""
    include, libs = PADDLE / "include", PADDLE / "libs"
    folders = [
        f"-I{include}",
        f"-I{include / 'third_party'}",
        f"-I{SOURCES}",
        f"-L{PADDLE / 'base'}",
        f"-L{libs}",
    ]
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
            built = Path(scratch) / library.name
            files = [str(SOURCES / source), "-o", str(built)]
            _run([compiler, *FLAGS, *folders, *files, *LIBRARIES, f"-Wl,-rpath,{libs}"])
            os.replace(built, library)
    except BuildError as error:
        return error
    except OSError as error:
        return BuildError(f"{error.filename or library}: {error.strerror or error}")
    return library


def _run(command: list[str]) -> str:
    """The standard output of a command that succeeds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} failed: {_error_line(str(error))}") from None
    if done.returncode:
        raise BuildError(f"{command[0]} failed: {_error_line(done.stderr)}")
    return done.stdout


def _error_line(text: str) -> str:
    """The first line with 'error', else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    return next((line for line in lines if "error" in line.lower()), lines[-1])
