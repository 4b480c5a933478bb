"""Where photographs come from: a folder, an archive, the official download, or drawn. All of it ends as a folder of class folders."""

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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ...errors import UserError
from ...files import checksum, shown
from ..images import is_clutter, is_image_name
from .synthetic import write_synthetic

ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar")
# Caltech 101 (1.0), Li, Andreeto, Ranzato, Perona (2022), CaltechDATA, doi.org/10.22002/D1.20086, CC BY 4.0
CALTECH_URL = "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip"
CALTECH_SHA1 = "d1cc0e3686b03d5e1a7e9b734c6d04f60857d674"
CALTECH_INNER = "101_ObjectCategories.tar.gz"  # the archive in the archive that holds the photographs
# the sixteen largest categories of at most 256 images, ties by name, without BACKGROUND_Google and the faces
CALTECH_16 = [
    "Leopards",
    "bonsai",
    "brain",
    "buddha",
    "butterfly",
    "car_side",
    "chandelier",
    "grand_piano",
    "hawksbill",
    "helicopter",
    "kangaroo",
    "ketch",
    "menorah",
    "starfish",
    "trilobite",
    "watch",
]
MAX_RATIO, MIN_ROOM = 50, 64 << 20  # an archive may unpack to so many times its size, or to 64 MB
MIN_MEMBER = 50  # bytes of an archive for each file in it, on average
ATTEMPTS = 5  # connections that bring nothing, before the download gives up


@dataclass(frozen=True)
class Source:
    """Class folders, ready to be split."""

    root: Path  # the folder of class folders
    name: str  # for people: where it came from
    classes: list[str] | None  # the classes that are meant, None for all
    temporary: bool  # the files may be moved, not copied


def find_source(
    source: str | None,
    datasets: Path,
    work: Path,
    classes: list[str] | None = None,
    url: str = CALTECH_URL,
    sha1: str = CALTECH_SHA1,
) -> Source:
    """The class folders to split, in this order: `source`, else `datasets/Images.zip`, `datasets/Images/`, else the download.

    Args:
        source: a folder of class folders, a .zip or .tar.gz of one, 'demo' for drawn images, or None to look.
        datasets: where data is looked for and the download is kept.
        work: an empty folder for what is unpacked or drawn.
        classes: the ones that are asked for; None is all, of the download the sixteen.
        url, sha1: of the official archive.

    Raises: UserError when nothing is found and nothing can be fetched, or an archive is damaged or leaves its folder.
    """
    if source == "demo":
        write_synthetic(work / "drawn")
        return Source(work / "drawn", "drawn images", classes, True)
    if source is not None:
        path = Path(source).expanduser()
        if not path.exists():
            raise UserError(
                f"there is no {path}: expected --source to be a folder of class folders, a .zip or .tar.gz of one, or 'demo'"
            )
        return _open(path, work, classes)
    for path in (datasets / "Images.zip", datasets / "Images"):
        if path.exists():
            return _open(path, work, classes)
    archive = datasets / "caltech-101.zip"
    if not archive.exists():
        try:
            download(url, archive, sha1)
        except ConnectionError as error:
            raise UserError(
                f"no photographs and no download ({error}): put your own at {datasets / 'Images'}/<class>/*.jpg or as {datasets / 'Images.zip'}, "
                f"or pass --source FOLDER_OR_ARCHIVE, or draw some with --source demo"
            ) from None
    unpack(archive, work / "unpacked")
    return Source(class_root(work / "unpacked", archive), f"Caltech-101 ({url})", classes or CALTECH_16, True)


def _open(path: Path, work: Path, classes: list[str] | None) -> Source:
    if path.is_dir():
        return Source(class_root(path, path), shown(path), classes, False)
    unpack(path, work / "unpacked")
    return Source(class_root(work / "unpacked", path), shown(path), classes, True)


def class_root(folder: Path, named: Path) -> Path:
    """The folder that holds the class folders: the one given, or the only one inside it, and so on down."""
    while True:
        inside = [entry for entry in sorted(folder.iterdir()) if not is_clutter(entry.name)]
        folders = [entry for entry in inside if entry.is_dir()]
        if any(is_image_name(entry) for entry in inside if entry.is_file()):
            raise UserError(f"{named} holds images without class folders: expected <class>/<image> in it")
        if len(folders) == 1 and not any(
            is_image_name(entry) for entry in folders[0].iterdir() if entry.is_file()
        ):
            folder = folders[0]
        elif folders:
            return folder
        else:
            raise UserError(f"{named} holds no class folders: expected <class>/<image> in it")


def unpack(archive: Path, target: Path, room: int | None = None) -> None:
    """Unpack a .zip or .tar(.gz), files alone; Caltech's archive in the archive is unpacked too.

    Args:
        archive, target: the file, and the folder to make.
        room: the bytes that it may unpack to; None goes by the archive's size.

    Raises: UserError for another kind of file, a damaged one, a member that is a link or would land outside `target`, and for a bomb:
    far more bytes or files than photographs of that size would have.
    """
    if not archive.name.lower().endswith(ARCHIVES):
        raise UserError(
            f"cannot unpack {archive}: expected a folder or a file that ends in {', '.join(ARCHIVES)}"
        )
    size = archive.stat().st_size
    room, files = max(MIN_ROOM, MAX_RATIO * size) if room is None else room, size // MIN_MEMBER
    try:
        for member, file in _members(archive, room):
            files -= 1
            if files < 0:
                raise UserError(
                    f"{archive} is refused: it has more than a file for each {MIN_MEMBER} of its bytes"
                )
            path = PurePosixPath(member.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
                raise UserError(
                    f"{archive} is refused: its member '{member}' would leave the folder it is unpacked to"
                )
            if any(is_clutter(part) for part in path.parts):
                continue
            to = target / path
            to.parent.mkdir(parents=True, exist_ok=True)
            with open(to, "xb") as out:  # a second file of that name is damage
                while block := file.read(1 << 20):
                    room -= len(block)
                    if room < 0:
                        raise _too_much(archive)
                    out.write(block)
            if path.name == CALTECH_INNER:
                inner = to.replace(target.with_name("inner.tar.gz"))
                shutil.rmtree(target)  # annotations and the like
                unpack(inner, target, room)
                inner.unlink()
                return
    except UserError:
        raise
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{archive} is damaged: expected a whole archive, found: {str(error)[:200] or type(error).__name__}"
        ) from None
    except OSError as error:
        if (
            isinstance(error, FileExistsError | IsADirectoryError | NotADirectoryError) or error.errno is None
        ):  # gzip's BadGzipFile has none
            raise UserError(f"{archive} is damaged: expected a whole archive, found: {error}") from None
        if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
            raise UserError(
                f"{archive} has a name in it that this file system does not take: {Path(str(error.filename)).name[:80]}"
            ) from None
        raise
    if not target.is_dir():
        raise UserError(f"{archive} holds no files: expected <class>/<image> in it")


def _members(archive: Path, room: int) -> Iterator[tuple[str, IO[bytes]]]:
    """The regular files of an archive, name and content, in its order. Links and devices are refused."""
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise UserError(
                        f"{archive} is refused: its member '{info.filename}' is a link, expected plain files"
                    )
                if info.compress_type not in (
                    zipfile.ZIP_STORED,
                    zipfile.ZIP_DEFLATED,
                ):  # the others unpack without a bound
                    raise UserError(
                        f"{archive} is refused: '{info.filename}' is neither stored nor deflated; pack it again as an ordinary zip"
                    )
                if not info.is_dir():
                    with opened.open(info) as file:
                        yield info.filename, file
        return
    with open(archive, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with (
        gzip.open(archive) if packed else open(archive, "rb") as file,
        tarfile.open(fileobj=_Bounded(file, archive, room), mode="r:") as opened,
    ):
        for info in opened:
            if not (info.isfile() or info.isdir()):
                raise UserError(
                    f"{archive} is refused: its member '{info.name}' is a link or device, expected plain files"
                )
            if info.isfile():
                yield info.name, opened.extractfile(info)
        while opened.fileobj.read(1 << 20):  # to the end, where gzip's checksum is
            pass


def _too_much(archive: Path) -> UserError:
    return UserError(
        f"{archive} is refused: it would unpack to more than {MAX_RATIO} times its {archive.stat().st_size} bytes"
    )


class _Bounded:
    """A file of which tarfile gets no more than an archive may unpack to, and little at once: it takes a header's word for its size."""

    def __init__(self, file: IO[bytes], archive: Path, room: int):
        self._file, self._archive, self._room = file, archive, 2 * room  # headers and padding come on top
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        if size > 1 << 24 or self._file.tell() > self._room:
            raise _too_much(self._archive)
        return self._file.read(size)

    def seek(self, to: int) -> None:
        if to > self._room:
            raise _too_much(self._archive)
        self._file.seek(to)


def download(url: str, target: Path, sha1: str) -> None:
    """Fetch a file with a progress bar; a broken connection is tried again from where it broke.

    The file appears at `target` only when its checksum is right. What a broken download brought stays beside it for the next try.

    Raises: ConnectionError when the network does not give it, UserError when its checksum is wrong (nothing is left then).
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
    with Progress(*columns) as progress:
        task = progress.add_task(target.name, total=None)
        failures = 0
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                if _fetch(url, part, lambda done, total: progress.update(task, completed=done, total=total)):
                    break
                reason = "the connection broke"
            except urllib.error.HTTPError as error:
                if error.code == 416:  # nothing is left to send
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
        raise UserError(
            f"the download {url} is not what was expected: SHA-1 {sha1} expected, {found} found; nothing of it was kept"
        )
    part.replace(target)


def _fetch(url: str, part: Path, tell) -> bool:
    """Go on with a download; True when the whole file is there, False when the connection broke on the way."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=30) as answer:
        if answer.status != 206:
            have = 0  # a server that cannot continue sends all of it again
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        with open(part, "ab" if have else "wb") as out:
            while block := answer.read(1 << 18):
                out.write(block)
                have += len(block)
                tell(have, total)
    return total is None or have == total
