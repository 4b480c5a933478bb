"""Files and folders that are written completely or not at all; paths as text; checksums.

A target that is a link is followed. What is not a regular file, such as a pipe or `/dev/null`, is written to
and never replaced. A folder is replaced only when this package wrote every file in it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import UserError, escaped

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_DESCRIPTOR = re.compile(r"/dev/(?:std(?P<name>out|err)|fd/(?P<dev>\d+))|/proc/self/fd/(?P<proc>\d+)")
_NOT_TEXT = {"Cc", "Zl", "Zp", "Cs"}  # categories: controls, line and paragraph separators, surrogates
_SYSTEM_FILES = {".DS_Store", "Thumbs.db", "desktop.ini"}  # file managers write them into folders they show


def fits_on_a_line(name: str) -> bool:
    """Whether a name can stand in a list with one name on each line."""
    return not any(unicodedata.category(character) in _NOT_TEXT for character in name)


def atomic_write(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path, flush that file to disk and rename it to `path`.

    `path` always has the old content or the new, also after a crash. Its folder is made if it is missing. A
    link is followed. A device or a pipe receives the finished content instead.

    Raises: UserError when `path` is a folder; OSError when it cannot be written, or nothing reads the pipe.
    """
    descriptor = _open_stream(path)
    if descriptor is not None:
        try:
            with _named(path), os.fdopen(descriptor, "wb") as stream, tempfile.TemporaryDirectory() as folder:
                temporary = Path(folder, path.name)
                write(temporary)
                with open(temporary, "rb") as file:
                    shutil.copyfileobj(file, stream)
        except BrokenPipeError as error:
            raise UserError(f"{path} was not read to its end: {error.strerror}") from None
        return
    with _named(path):
        _replace(_followed(path), write)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """An OSError of the block gets the path if it names none: that of a full disk does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    if path.is_dir():
        raise UserError(f"{path} is a folder, expected the path of a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")  # some writers choose the format by suffix
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`atomic_write` of a text as UTF-8; bytes of file names that are not UTF-8 are escaped."""
    content = text.encode("utf-8", "backslashreplace")
    atomic_write(path, lambda temporary: temporary.write_bytes(content))


def _followed(path: Path) -> Path:
    """The absolute path without links."""
    return Path(os.path.realpath(path))


def _open_stream(path: Path) -> int | None:
    """A descriptor for writing to what is not a regular file; None for a regular, missing or linked file."""
    match = _DESCRIPTOR.fullmatch(os.path.abspath(path))
    if match:  # opened by name it would start at the beginning of the file that a shell redirected it to
        number = match["dev"] or match["proc"] or {"out": 1, "err": 2}[match["name"]]
        return os.dup(int(number))
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return None
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # otherwise a pipe without a reader blocks
    except OSError as error:
        if error.errno == errno.ENXIO:
            error.strerror = "nothing reads this pipe or socket, start its reader first"
        raise
    os.set_blocking(descriptor, True)
    return descriptor


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Open a regular file for reading bytes.

    Raises: OSError as `open` does, and for a folder, a pipe or a device, which can block for ever: its
    `strerror` is the reason.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "pipe or a device"
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"it is a {kind}, expected a regular file", os.fspath(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: str | os.PathLike) -> bytes:
    """The content of a regular file, see `open_regular`."""
    with open_regular(path) as file:
        return file.read()


@contextmanager
def atomic_directory(target: Path, written: Callable[[Path], Iterable[str]]) -> Iterator[Path]:
    """An empty folder beside `target`. It replaces `target` when the block succeeds; a failure removes it.

    Until then the old folder is kept. If a kill comes between the two renames, the next call restores
    the old folder first. A link is followed.

    Args:
        target: the folder.
        written: called with an old folder that holds files; returns those that this package wrote, from its
            record there, relative to the folder, with `/`.

    Raises: UserError when `target` is a file, holds a file that `written` does not return, or holds the
    working directory, which a shell would lose: nothing is changed.
    """
    target = _followed(target)
    if target.exists() and is_inside(os.curdir, target):
        raise UserError(
            f"{target} is or holds the folder in which this command runs, and cannot be replaced: "
            "run it elsewhere, or choose another folder"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    new, old = (target.with_name(f".{target.name}.{suffix}") for suffix in ("part", "old"))
    _restore(old, target)
    own = set(written(target)) if target.is_dir() and files_below(target) else set()
    check_replaceable_folder(target, own)
    new.mkdir(exist_ok=True)
    lock = lock_folder(new)
    if lock is None:
        raise UserError(f"another process is writing to {target}: wait for its end, or choose another folder")
    try:
        for entry in new.iterdir():  # left by a killed process
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        yield new
        check_replaceable_folder(target, own)  # again, as the block can take minutes
        if target.exists():
            os.replace(target, old)
        os.replace(new, target)
    finally:
        _restore(old, target)
        shutil.rmtree(new, ignore_errors=True)
        unlock_folder(lock)


def lock_folder(folder: Path) -> int | None:
    """Lock a folder against other processes and other calls. Returns the lock for `unlock_folder`, None when
    it is taken.

    The lock belongs to the open folder: it ends with a killed process and moves with a renamed folder. Where
    the system has no such locks, every call succeeds.
    """
    if fcntl is None:
        return -1
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:  # a file system without locks
        pass
    return descriptor


def unlock_folder(lock: int) -> None:
    """Release a lock of `lock_folder`."""
    if lock >= 0:
        os.close(lock)


def check_replaceable_folder(target: Path, own: set[str]) -> None:
    """Raises UserError when `target` is a file, or a folder with a file that is not in `own`."""
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file, expected a folder or a new name")
    foreign = sorted(set(files_below(target)) - own)
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UserError(
            f"{target} holds {foreign[0]}{more}, which this command did not write, and is not replaced: "
            "move it away or choose another folder"
        )


def same_file(first: str | os.PathLike, second: str | os.PathLike) -> bool:
    """Whether two paths lead to the same file, which may be missing. Links are followed."""
    if os.path.realpath(first) == os.path.realpath(second):
        return True
    try:
        return os.path.samefile(first, second)  # hard links; file systems that ignore case
    except OSError:
        return False


def is_inside(path: str | os.PathLike, folder: str | os.PathLike) -> bool:
    """Whether a path is a folder, or leads to something in it. Links are followed."""
    path, folder = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    return folder == path or folder in path.parents


def files_below(folder: Path) -> list[str]:
    """Files and links below a folder, relative to it with `/`, sorted. Omits what file managers add."""
    found = []
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        found += [os.path.join(parent, name) for name in (*files, *links) if name not in _SYSTEM_FILES]
    return sorted(os.path.relpath(path, folder).replace(os.sep, "/") for path in found)


def _restore(old: Path, target: Path) -> None:
    if old.exists() and not target.exists():
        os.replace(old, target)
    shutil.rmtree(old, ignore_errors=True)


def shown(path: str | os.PathLike) -> str:
    """A path as text that is safe to print, whatever the encoding of the file system.

    Bytes that are not UTF-8 are written as \\xNN, control characters such as terminal escapes as \\x1b.
    """
    return escaped(as_text(path))


def as_text(path: str | os.PathLike) -> str:
    """A path as text that UTF-8 can encode. Bytes that are not UTF-8 are written as \\xNN."""
    name = os.fspath(path)
    if isinstance(name, str):
        try:
            name = name.encode("utf-8", "surrogateescape")  # the bytes that Python could not decode
        except UnicodeEncodeError:  # surrogates that do not stand for bytes
            name = name.encode("utf-8", "backslashreplace")
    return name.decode("utf-8", "backslashreplace")


def checksum(path: Path, algorithm: str = "sha256") -> str:
    """The hexadecimal digest of a file, by any algorithm of `hashlib`."""
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
