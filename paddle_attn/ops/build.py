"""Compiles fused operators into the user's cache, one library per source, and loads them into Paddle."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paddle
from paddle.utils.cpp_extension import load_op_meta_info_and_register_op

from .. import runtime
from ..files import checksum

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
    "-Wall",
    "-Wextra",
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
UNUSED = 30 * 24 * 3600  # seconds after which a library of an older source is removed
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
        return f"{library} cannot be loaded: {_error_line(str(error))}"
    return ""


def cache_folder() -> Path:
    """`PADDLE_ATTN_CACHE`, else `paddle_attn` in the user's folder for caches.

    Raises: BuildError when the user has no home folder.
    """
    if folder := os.environ.get("PADDLE_ATTN_CACHE"):
        return Path(folder).absolute()
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # neither HOME nor a name
        raise BuildError("the user has no home folder; set PADDLE_ATTN_CACHE to a folder") from None
    return caches.absolute() / "paddle_attn"


@functools.cache
def _libraries(sources: tuple[str, ...]) -> dict[str, Path | BuildError]:
    """The library of each source, or why it has none. Compiles those that the cache lacks."""
    try:
        compiler = _compiler()
        folder = cache_folder()
        _make_private(folder)
        environment = _environment(compiler)
    except (BuildError, OSError) as error:
        return dict.fromkeys(sources, _build_error(error))
    libraries: dict[str, Path | BuildError] = {}
    missing: dict[str, str] = {}  # source: the name of its library
    for source in sources:
        try:
            name = _name(source, environment)
            if library := _cached(folder, name):
                libraries[source] = library
            else:
                missing[source] = name
        except OSError as error:
            libraries[source] = _build_error(error)
    if not missing:
        return libraries
    if not os.access(folder, os.W_OK):
        return libraries | dict.fromkeys(missing, BuildError(f"{folder} cannot be written"))
    print(
        "paddle_attn: compiling fused operators for this machine, once (PADDLE_ATTN_OPS=off skips them) ...",
        file=sys.stderr,
        flush=True,
    )
    with ThreadPoolExecutor(runtime.this_machine().cores) as pool:
        compiled = pool.map(functools.partial(_compile, compiler, folder), missing, missing.values())
    return libraries | dict(zip(missing, compiled, strict=True))


def _compiler() -> str:
    if sys.platform != "linux":
        raise BuildError(f"fused operators need Linux, found {sys.platform}")
    name = os.environ.get("CXX") or "c++"
    compiler = shutil.which(name)
    if compiler is None:
        raise BuildError(f"no C++ compiler, expected {name} on the PATH")
    return compiler


def _make_private(folder: Path) -> None:
    """Make the cache, if missing. Raises: BuildError when another user can write into it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_private(folder.stat()):
        raise BuildError(f"other users can write into {folder}: expected a folder of your own with mode 700")


def _is_private(state: os.stat_result) -> bool:
    """Whether a file or folder belongs to this user and nobody else can write it."""
    return state.st_uid == os.geteuid() and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _environment(compiler: str) -> str:
    """What a library depends on besides its source: Paddle, compiler, flags, processor and headers."""
    machine = runtime.this_machine()
    version = _run([compiler, "--version"])
    headers = [path.read_text(encoding="utf-8") for path in sorted(SOURCES.rglob("*.h"))]
    parts = [paddle.__version__, paddle.version.commit, str(PADDLE), version, *FLAGS, *LIBRARIES]
    return "\0".join([*parts, machine.vendor, *sorted(machine.flags), *headers])


def _name(source: str, environment: str) -> str:
    """The name of a source's library, without its checksum."""
    text = environment + "\0" + (SOURCES / source).read_text(encoding="utf-8")
    return f"{Path(source).stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _cached(folder: Path, name: str) -> Path | None:
    """A source's library, or None. Removes one that is damaged or that another user could have written."""
    for library in folder.glob(f"{name}-*.so"):
        with contextlib.suppress(OSError):
            state = library.lstat()
            private = stat.S_ISREG(state.st_mode) and _is_private(state)
            if private and library.name == _with_checksum(name, library):
                with contextlib.suppress(OSError):  # a cache that cannot be written
                    os.utime(library)  # marks it as used, see _remove_unused
                return library
            library.unlink()
    return None


def _with_checksum(name: str, library: Path) -> str:
    """The name of a library in the cache, which states its content: `<name>-<checksum>.so`."""
    return f"{name}-{checksum(library)[:16]}.so"


def _compile(compiler: str, folder: Path, source: str, name: str) -> Path | BuildError:
    """Compile in a temporary folder, flush, then rename: other processes find a whole library or none."""
    include, libs = PADDLE / "include", PADDLE / "libs"
    folders = [
        f"-ffile-prefix-map={SOURCES}=.",  # two clones compile the same bytes
        f"-isystem{include}",  # no warnings about Paddle's headers
        f"-isystem{include / 'third_party'}",
        f"-I{SOURCES}",
        f"-L{PADDLE / 'base'}",
        f"-L{libs}",
    ]
    try:
        with tempfile.TemporaryDirectory(prefix=f"{name}-", suffix=".tmp", dir=folder) as scratch:
            built = Path(scratch) / f"{name}.so"
            files = [str(SOURCES / source), "-o", str(built)]
            _run([compiler, *FLAGS, *folders, *files, *LIBRARIES, f"-Wl,-rpath,{libs}"])
            built.chmod(0o700)
            with open(built, "rb") as file:
                os.fsync(file.fileno())
            library = folder / _with_checksum(name, built)
            os.replace(built, library)
        _remove_unused(folder, Path(source).stem)
    except (BuildError, OSError) as error:
        return _build_error(error)
    return library


def _remove_unused(folder: Path, stem: str) -> None:
    """Remove a source's libraries, in all its versions, that nobody has used for a long time.

    Also what a killed compilation left.
    """
    for path in [*folder.glob(f"{stem}-*.so"), *folder.glob(f"{stem}-*.tmp")]:
        with contextlib.suppress(OSError):  # removed by another process
            if time.time() - path.lstat().st_mtime > UNUSED:
                shutil.rmtree(path) if path.suffix == ".tmp" else path.unlink()


def _build_error(error: BuildError | OSError) -> BuildError:
    if isinstance(error, BuildError):
        return error
    return BuildError(f"{error.filename}: {error.strerror}" if error.filename else str(error))


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
