"""A lock on a run's folder, so that two runs cannot write to it at once."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UserError
from ..files import lock_folder, unlock_folder


class FolderLock:
    """Holds the locks of a run until the block ends: of its folder, and of an earlier run's."""

    def __init__(self):
        self._locks: list[int] = []

    def acquire(self, folder: Path) -> str:
        """Lock an existing folder. Returns '' or, when another run has locked it, the error message."""
        lock = lock_folder(folder)
        if lock is None:
            return f"another run is writing to {folder}: wait for its end, or choose another train.output"
        self._locks.append(lock)
        return ""

    def check(self, folder: Path) -> None:
        """Raise UserError when the folder that was locked last is no longer at its place."""
        lock = self._locks[-1] if self._locks else -1
        try:
            is_there = lock < 0 or os.path.samestat(os.fstat(lock), os.stat(folder))
        except FileNotFoundError:
            is_there = False
        if not is_there:
            raise UserError(
                f"{folder} was moved or deleted while this run wrote to it: expected it to stay; "
                "resume the run from where the folder is now"
            )

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *error: object) -> None:
        for lock in self._locks:
            unlock_folder(lock)
        self._locks = []
