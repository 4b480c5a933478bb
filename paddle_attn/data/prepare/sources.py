"""Where class folders come from: a folder, an archive, the official download, or synthetic images."""

from __future__ import annotations

import errno
import gzip
import http.client
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from rich.progress import (
    BarColumn,
    DownloadColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ...errors import UserError
from ...files import checksum, shown
from ...plotting.bar import Bar
from ..images import is_clutter, is_image_name
from .synthetic import write_synthetic

ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar")
# Caltech 101 (1.0), Li, Andreeto, Ranzato, Perona (2022), CaltechDATA, doi.org/10.22002/D1.20086, CC BY 4.0
CALTECH_URL = "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip"
CALTECH_SHA1 = "d1cc0e3686b03d5e1a7e9b734c6d04f60857d674"
CALTECH_ARCHIVE = "caltech-101.zip"  # in the folder of the data sets
CALTECH_INNER = "101_ObjectCategories.tar.gz"  # the archive inside the archive, with the photographs
# the sixteen largest categories of at most 256 images, ties by name, without BACKGROUND_Google and the faces
# fmt: off
CALTECH_16 = [
    "Leopards", "bonsai", "brain", "buddha", "butterfly", "car_side", "chandelier", "grand_piano",
    "hawksbill", "helicopter", "kangaroo", "ketch", "menorah", "starfish", "trilobite", "watch",
]
# fmt: on
MAX_RATIO = 50  # an archive may unpack to this many times its size,
MIN_LIMIT = 64 << 20  # or to this many bytes when that is more
MIN_MEMBER = 50  # bytes of the archive per file in it, on average
MAX_HEADER = 1 << 24  # bytes that tarfile may read at once
ATTEMPTS = 5  # connections in a row that bring nothing before the download fails


@dataclass(frozen=True)
class Source:
    """Class folders that can be split."""

    root: Path  # the folder of class folders
    name: str  # where they came from, for the record
    classes: list[str] | None  # the classes to use, None for all
    temporary: bool  # whether the files may be moved instead of copied


def locate(source: str | None, datasets: Path) -> Path | None:
    """The folder or archive with the images: `source`, else the first that exists of `datasets/Images.zip`,
    `datasets/Images/` and the archive of the download, which may still be missing. None for 'demo'.

    Raises: UserError when `source` does not exist.
    """
    if source == "demo":
        return None
    if source is not None:
        path = Path(source).expanduser()
        if not path.exists():
            raise UserError(
                f"there is no {path}: expected --source to be a folder of class folders, "
                "a .zip or .tar.gz of one, or 'demo'"
            )
        return path
    found = (path for path in photographs(datasets) if path.exists())
    return next(found, datasets / CALTECH_ARCHIVE)


def photographs(datasets: Path) -> tuple[Path, Path]:
    """Where the photographs are looked for without a source."""
    return datasets / "Images.zip", datasets / "Images"


def class_names(path: Path) -> set[str]:
    """The class folders of a folder or a .zip, which is not unpacked; none when they cannot be read."""
    try:
        if path.is_dir():
            return {entry.name for entry in class_root(path, path).iterdir() if entry.is_dir()}
        with zipfile.ZipFile(path) as archive:
            files = filter(is_image_name, map(PurePosixPath, archive.namelist()))
            return {file.parent.name for file in files if not any(map(is_clutter, file.parts))}
    except (UserError, OSError, ValueError, zipfile.BadZipFile):
        return set()


def find_source(
    source: str | None,
    datasets: Path,
    work: Path,
    classes: list[str] | None = None,
    url: str = CALTECH_URL,
    sha1: str = CALTECH_SHA1,
) -> Source:
    """Open what `locate` finds; downloads, unpacks or draws it first.

    Args:
        source: a folder of class folders, a .zip or .tar.gz of one, 'demo' for synthetic images, None to
            look.
        datasets: the folder to search; the download is kept there.
        work: an empty folder for unpacked and synthetic images.
        classes: the classes to use; None for all, or for the sixteen of the download.
        url, sha1: of the official archive.

    Raises: UserError when nothing is found and the download fails, or an archive is damaged or unsafe.
    """
    path = locate(source, datasets)
    if path is None:
        write_synthetic(work / "synthetic")
        return Source(work / "synthetic", "synthetic images", classes, temporary=True)
    archive = datasets / CALTECH_ARCHIVE
    if source is not None or path != archive:
        return _open(path, work, classes)
    if not archive.exists():
        try:
            download(url, archive, sha1)
        except ConnectionError as error:
            raise UserError(
                f"there are no photographs, and the download failed ({error}): put your own at "
                f"{datasets / 'Images'}/<class>/*.jpg or {datasets / 'Images.zip'}, "
                "pass --source FOLDER_OR_ARCHIVE, or use synthetic images with --source demo"
            ) from None
    unpack(archive, work / "unpacked")
    root = class_root(work / "unpacked", archive)
    return Source(root, f"Caltech-101 ({url})", classes or CALTECH_16, temporary=True)


def _open(path: Path, work: Path, classes: list[str] | None) -> Source:
    if path.is_dir():
        return Source(class_root(path, path), shown(path), classes, temporary=False)
    unpack(path, work / "unpacked")
    return Source(class_root(work / "unpacked", path), shown(path), classes, temporary=True)


def class_root(folder: Path, source: Path) -> Path:
    """The folder that holds the class folders: `folder`, or the only folder in it, and so on downwards.

    Raises: UserError that names `source` when there are no class folders.
    """
    while True:
        entries = [entry for entry in sorted(folder.iterdir()) if not is_clutter(entry.name)]
        folders = [entry for entry in entries if entry.is_dir()]
        if _holds_images(folder):
            raise UserError(f"{source} holds images without class folders: expected <class>/<image> in it")
        if not folders:
            raise UserError(f"{source} holds no class folders: expected <class>/<image> in it")
        if len(folders) > 1 or _holds_images(folders[0]):
            return folder
        folder = folders[0]


def _holds_images(folder: Path) -> bool:
    return any(is_image_name(entry) for entry in folder.iterdir() if entry.is_file())


def unpack(archive: Path, target: Path, max_bytes: int | None = None) -> None:
    """Unpack the files of a .zip or .tar(.gz) into a new folder; of Caltech's archive, the archive inside it.

    Args:
        archive, target: the file, and the folder to make.
        max_bytes: the size that it may unpack to; None derives it from the size of the archive.

    Raises: UserError when the file is not an archive or is damaged, when a member is a link or would be
    written outside `target`, and when it holds far more bytes or files than photographs of its size would.
    """
    if not archive.name.lower().endswith(ARCHIVES):
        raise UserError(
            f"cannot unpack {archive}: expected a folder or a file that ends in {', '.join(ARCHIVES)}"
        )
    size = archive.stat().st_size
    max_bytes = max(MIN_LIMIT, MAX_RATIO * size) if max_bytes is None else max_bytes
    max_files = size // MIN_MEMBER
    try:
        for count, (member, file) in enumerate(_members(archive, max_bytes), start=1):
            if count > max_files:
                raise UserError(
                    f"{archive} is refused: it has more than one file per {MIN_MEMBER} of its bytes"
                )
            path = PurePosixPath(member.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
                raise UserError(
                    f"{archive} is refused: its member '{member}' would be written outside the target folder"
                )
            if any(is_clutter(part) for part in path.parts):
                continue
            unpacked = target / path
            unpacked.parent.mkdir(parents=True, exist_ok=True)
            with open(unpacked, "xb") as out:  # fails for a second file of the same name
                while block := file.read(1 << 20):
                    max_bytes -= len(block)
                    if max_bytes < 0:
                        raise _too_large(archive)
                    out.write(block)
            if path.name == CALTECH_INNER:
                inner = unpacked.replace(target.with_name("inner.tar.gz"))
                shutil.rmtree(target)  # annotations and other files
                unpack(inner, target, max_bytes)
                inner.unlink()
                return
    except UserError:
        raise
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise _damaged(archive, str(error)[:200] or type(error).__name__) from None
    except OSError as error:
        # gzip's BadGzipFile has no errno
        if error.errno is None or isinstance(error, FileExistsError | IsADirectoryError | NotADirectoryError):
            raise _damaged(archive, str(error)) from None
        if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
            name = Path(str(error.filename)).name[:80]
            raise UserError(f"{archive} has a name that this file system does not support: {name}") from None
        raise
    if not target.is_dir():
        raise UserError(f"{archive} holds no files: expected <class>/<image> in it")


def _members(archive: Path, max_bytes: int) -> Iterator[tuple[str, IO[bytes]]]:
    """The name and content of each regular file, in the archive's order. Links and devices are an error."""
    if archive.name.lower().endswith(".zip"):
        return _zip_members(archive)
    return _tar_members(archive, max_bytes)


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UserError(
                    f"{archive} is refused: its member '{info.filename}' is a link, expected regular files"
                )
            # Python decompresses the other methods without a bound on memory
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError(
                    f"{archive} is refused: '{info.filename}' is neither stored nor deflated; "
                    "pack it again as an ordinary zip"
                )
            if not info.is_dir():
                with opened.open(info) as file:
                    yield info.filename, file


def _tar_members(archive: Path, max_bytes: int) -> Iterator[tuple[str, IO[bytes]]]:
    with open(archive, "rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    with (
        gzip.open(archive) if gzipped else open(archive, "rb") as file,
        tarfile.open(fileobj=_LimitedReader(file, archive, max_bytes), mode="r:") as opened,
    ):
        for info in opened:
            if not (info.isfile() or info.isdir()):
                raise UserError(
                    f"{archive} is refused: its member '{info.name}' is a link or device, "
                    "expected regular files"
                )
            if info.isfile():
                yield info.name, opened.extractfile(info)
        while opened.fileobj.read(1 << 20):  # gzip checks its checksum at the end
            pass


def _too_large(archive: Path) -> UserError:
    size = archive.stat().st_size
    return UserError(f"{archive} is refused: it would unpack to more than {MAX_RATIO} times its {size} bytes")


def _damaged(archive: Path, reason: str) -> UserError:
    return UserError(f"{archive} is damaged: expected a complete archive, found: {reason}")


class _LimitedReader:
    """A file with limits on the bytes read in total and at once: tarfile trusts the sizes in the headers."""

    def __init__(self, file: IO[bytes], archive: Path, max_bytes: int):
        self._file, self._archive = file, archive
        self._max_bytes = 2 * max_bytes  # the headers and the padding count too
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        if size > MAX_HEADER or self._file.tell() > self._max_bytes:
            raise _too_large(self._archive)
        return self._file.read(size)

    def seek(self, position: int) -> None:
        if position > self._max_bytes:
            raise _too_large(self._archive)
        self._file.seek(position)


def download(url: str, target: Path, sha1: str) -> None:
    """Download a file with a progress bar; a broken connection is resumed where it broke.

    The file appears at `target` when its checksum is right. An unfinished download stays beside it and is
    continued by the next call; after a wrong checksum nothing is kept.

    Raises: ConnectionError when the network fails, UserError when the checksum is wrong.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, transient=False) as progress:
        task = progress.add_task(target.name, total=None)
        failures = 0
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                if _fetch(url, part, lambda done, total: progress.update(task, completed=done, total=total)):
                    break
                reason = "the connection broke"
            except urllib.error.HTTPError as error:
                if error.code == 416:  # the file was complete already
                    break
                reason = f"{url} answers {error.code} {error.reason}"
            except (OSError, http.client.HTTPException) as error:
                reason = f"{url}: {getattr(error, 'reason', error) or type(error).__name__}"
            grown = part.exists() and part.stat().st_size > before
            failures = 0 if grown else failures + 1
            if failures >= ATTEMPTS:
                raise ConnectionError(reason)
            time.sleep(min(0.2 * 2**failures, 3))
    found = checksum(part, "sha1")
    if found != sha1:
        part.unlink()
        raise UserError(f"the download {url} was not kept: expected the SHA-1 {sha1}, found {found}")
    part.replace(target)


def _fetch(url: str, part: Path, report: Callable[[int, int | None], None]) -> bool:
    """Continue a download; `report` gets the bytes so far and in total. Returns whether it is complete."""
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    with urllib.request.urlopen(request, timeout=30) as answer:
        if answer.status != 206:
            done = 0  # a server without ranges sends the whole file again
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else None
        with open(part, "ab" if done else "wb") as out:
            while block := answer.read(1 << 18):
                out.write(block)
                done += len(block)
                report(done, total)
    return total is None or done == total
