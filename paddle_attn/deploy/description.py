"""`inference.yml`: preprocessing and classes as PaddleX reads them, and checksums of the exported files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.transforms import Preprocess
from ..errors import UserError, quote, unknown_name
from ..files import checksum, read_regular
from ..strict_yaml import dump, parse
from .formats import FORMATS

DESCRIPTION = "inference.yml"
MAX_SIZE = 8192  # of an image's side, as of data.size in a config
OWN = ("version", "format", "files")  # keys of the section that are not notes


@dataclass(frozen=True)
class Description:
    """What an exported folder says about its network."""

    preprocess: Preprocess
    classes: Sequence[str]  # in the network's order
    format: str = "paddle"  # a key of FORMATS
    about: Mapping[str, str] = field(default_factory=dict)  # notes for readers, such as the model's name
    has_int8: bool = False  # whether the folder holds the int8 form, too

    @property
    def metadata(self) -> dict[str, str]:
        """The same as texts, for formats whose file holds metadata."""
        return {
            **self.about,
            "classes": json.dumps(list(self.classes), ensure_ascii=False),
            "preprocess": json.dumps(self.preprocess.to_ops()),
        }

    def write(self, folder: Path) -> None:
        """Write `inference.yml` into a folder that has the format's files, with their sizes and checksums."""
        paths = [folder / name for name in FORMATS[self.format].all_files if (folder / name).exists()]
        files = {path.name: {"size": path.stat().st_size, "sha256": checksum(path)} for path in paths}
        content = {
            "PreProcess": {"transform_ops": self.preprocess.to_ops()},
            "PostProcess": {"Topk": {"topk": min(5, len(self.classes)), "label_list": list(self.classes)}},
            "paddle_attn": {
                "version": __version__,
                **self.about,
                "format": self.format,
                "files": files,
            },
        }
        (folder / DESCRIPTION).write_text(dump(content), encoding="utf-8")


def read_description(folder: Path) -> Description:
    """Read `inference.yml` and check that the files beside it are the exported ones.

    Raises: UserError when a file is missing, damaged, or differs from the exported one in size or SHA-256.
    """
    path = folder / DESCRIPTION
    content = _read(path)
    try:
        ops = content["PreProcess"]["transform_ops"]
        classes = content["PostProcess"]["Topk"]["label_list"]
        own = content["paddle_attn"]
        format = own.get("format", "paddle")  # the first exports did not name it
        about = {key: value for key, value in own.items() if key not in OWN and isinstance(value, str)}
        files = {name: (file["size"], file["sha256"]) for name, file in _files(content).items()}
    except (KeyError, TypeError, AttributeError):
        raise _damaged(path, "a section is missing or has another type") from None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise _damaged(path, "the label list is not a list of names")
    if not isinstance(format, str):
        raise _damaged(path, f"the format is {quote(format)}")
    if format not in FORMATS:
        raise unknown_name(f"export format in {path}", format, FORMATS)
    preprocess = _read_preprocess(ops, path)
    for name in FORMATS[format].all_files:
        if name in files or name in FORMATS[format].files:
            _check_file(folder / name, *files.get(name, (None, None)))
    return Description(preprocess, classes, format, about, has_int8=FORMATS[format].int8_file in files)


def exported_files(folder: Path) -> list[str]:
    """The files that an earlier export wrote into a folder, by its `inference.yml`: only ones of a format."""
    names = {name for format in FORMATS.values() for name in format.all_files}
    try:
        return [DESCRIPTION, *(name for name in _files(_read(folder / DESCRIPTION)) if name in names)]
    except (UserError, KeyError, TypeError):
        return [DESCRIPTION]


def _read(path: Path) -> Any:
    try:
        text = read_regular(path).decode("utf-8")
    except OSError as error:
        raise UserError(
            f"{path.parent} is not an exported model: cannot read {path} ({error.strerror}); "
            "make one with paddle-attn export"
        ) from None
    except UnicodeDecodeError:
        raise _damaged(path, "it is not UTF-8") from None
    try:
        return parse(text, "its text")
    except UserError as error:
        raise _damaged(path, str(error)) from None


def _files(content: Any) -> Mapping[str, Any]:
    files = content["paddle_attn"]["files"]
    if not isinstance(files, dict):
        raise TypeError
    return files


def _read_preprocess(ops: Any, path: Path) -> Preprocess:
    try:
        preprocess = Preprocess.from_ops(ops)
    except OverflowError:  # an infinite size
        raise _damaged(path, "the size of the images is not a number") from None
    if not 1 <= preprocess.size <= MAX_SIZE:
        raise _damaged(path, f"images have 1 to {MAX_SIZE} pixels a side, found {preprocess.size}")
    for name, values in (("mean", preprocess.mean), ("std", preprocess.std)):
        numbers = len(values) == 3 and all(type(value) in (int, float) for value in values)
        if not numbers or not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
            positive = " above 0" if name == "std" else ""
            raise _damaged(path, f"{name} is three finite numbers{positive}, found {quote(list(values))}")
    return preprocess


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is damaged: {reason}; export again")


def _check_file(path: Path, size: Any, sha256: Any) -> None:
    if not path.is_file():  # a pipe would block its reader
        problem = "is not a regular file" if path.exists() else "is missing"
        raise UserError(f"{path.parent} is incomplete: {path.name} {problem}; export again")
    found = path.stat().st_size
    if found != size or checksum(path) != sha256:
        raise UserError(
            f"{path} is not the exported file: expected {quote(size)} bytes with SHA-256 {quote(sha256)}, "
            f"found {found} bytes with another; export again"
        )
