"""The private folder in which Gradio writes the uploads of the page, until they are read."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import import_package
from ..files import files_below, is_inside

SWEEP, KEPT = 10.0, 120.0  # seconds between two sweeps, and after which an upload is removed
SILENT = {  # nothing is reported to anybody
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
}


class Uploads:
    """The files below a folder, apart from those of the page itself."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._own: set[str] = set()

    def adopt(self) -> None:
        """What is in the folder now belongs to the page, such as the pictures of its examples."""
        self._own = set(files_below(self.folder))

    @property
    def names(self) -> list[str]:
        """The uploads, relative to the folder."""
        return [name for name in files_below(self.folder) if name not in self._own]

    @property
    def size(self) -> int:
        """The bytes of all uploads."""
        total = 0
        for name in self.names:
            with contextlib.suppress(OSError):  # removed meanwhile
                total += (self.folder / name).stat().st_size
        return total

    def take(self, path: str) -> bytes | None:
        """The content of an upload, whose file is removed; None for a path that is none, or is gone."""
        file = Path(os.path.realpath(path))
        if not is_inside(file, self.folder):
            return None
        try:
            if os.path.relpath(file, os.path.realpath(self.folder)) in self._own:
                return None
            content = file.read_bytes()
            file.unlink()
        except OSError:
            return None
        if file.parent != Path(os.path.realpath(self.folder)):  # Gradio makes a folder for each upload
            shutil.rmtree(file.parent, ignore_errors=True)
        return content

    async def sweep(self) -> None:
        """Remove uploads that nobody asked about, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP)
            self.remove_older_than(KEPT)

    def remove_older_than(self, seconds: float) -> None:
        for name in self.names:
            with contextlib.suppress(OSError):
                if (self.folder / name).stat().st_mtime <= time.time() - seconds:
                    (self.folder / name).unlink()


@contextlib.contextmanager
def gradio_in_a_private_folder() -> Iterator[Uploads]:
    """Import Gradio, silent, with a temporary folder of its own for uploads, removed after the block.

    Raises: ModuleNotFoundError with the command that installs it.
    """
    with tempfile.TemporaryDirectory(prefix="paddle_attn_", ignore_cleanup_errors=True) as folder:
        os.environ.update(SILENT, GRADIO_TEMP_DIR=folder)  # it reads them when it is imported
        import_package("gradio")
        yield Uploads(Path(folder))
