"""A lock on a run's folder, so that two runs cannot write to it at once."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: runs there are not protected from each other
    fcntl = None


class FolderLock:
    """Locks folders until the block ends.

    A lock belongs to the open folder: it ends with a killed process and moves with a renamed folder.
    """

    def __init__(self):
        self._folders: list[int] = []

    def acquire(self, folder: Path) -> str:
        """Lock an existing folder. Returns '' or, when another run has locked it, the error message."""
        if fcntl is None:
            return ""
        descriptor = os.open(folder, os.O_RDONLY)
        self._folders.append(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return f"another run is writing to {folder}: wait for its end, or choose another train.output"
        except OSError:  # a file system without locks
            return ""
        return ""

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *error: object) -> None:
        for descriptor in self._folders:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._folders = []
