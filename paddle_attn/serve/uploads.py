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
from .texts import Refused

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
        self.folder = Path(os.path.realpath(folder))
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

    def take(self, path: str, max_bytes: int) -> bytes:
        """The content of an upload, whose file is removed.

        Raises: Refused for a path that is no upload, or is gone, and for a larger file.
        """
        try:
            file = self._find(path)
            if file.stat().st_size > max_bytes:
                raise Refused(413, "large", mb=f"{max_bytes / 1e6:g}")
            return file.read_bytes()
        except OSError:
            raise Refused(400, "gone") from None
        finally:
            self.remove(path)

    def remove(self, path: str) -> None:
        """Remove an upload, if the path is one."""
        with contextlib.suppress(OSError):
            file = self._find(path)
            file.unlink()
            if file.parent != self.folder:  # Gradio makes a folder for each upload
                shutil.rmtree(file.parent, ignore_errors=True)

    def _find(self, path: str) -> Path:
        """The file of an upload. Raises FileNotFoundError."""
        file = Path(os.path.realpath(path))
        if not is_inside(file, self.folder) or str(file.relative_to(self.folder)) in self._own:
            raise FileNotFoundError(path)
        return file

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
