"""Files and folders that are written completely or not at all; paths as text; checksums."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def atomic_write(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path, flush that file to disk and rename it to `path`.

    `path` always has the old content or the new, also after a crash. Its folder is made if it is missing.
    """
    path = path.absolute()
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
    """`atomic_write` of a text as UTF-8."""
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`. It replaces `target` when the block succeeds; a failure removes it.

    Until then the old folder is kept. If a kill comes between the two renames, the next call restores
    the old folder first.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    new, old = (target.with_name(f".{target.name}.{suffix}") for suffix in ("part", "old"))
    _restore(old, target)
    shutil.rmtree(new, ignore_errors=True)  # left by a killed process
    new.mkdir()
    try:
        yield new
        if target.exists():
            os.replace(target, old)
        os.replace(new, target)
    finally:
        _restore(old, target)
        shutil.rmtree(new, ignore_errors=True)


def _restore(old: Path, target: Path) -> None:
    if old.exists() and not target.exists():
        os.replace(old, target)
    shutil.rmtree(old, ignore_errors=True)


def shown(path: str | os.PathLike) -> str:
    """A path as printable UTF-8 text; bytes that are not UTF-8 are written as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def checksum(path: Path, algorithm: str = "sha256") -> str:
    """The hexadecimal digest of a file, by any algorithm of `hashlib`."""
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
