"""`inference.yml`: preprocessing and classes as PaddleX reads them, and checksums of the exported files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from .. import __version__
from ..data.transforms import Preprocess
from ..errors import UserError, unknown_name
from ..files import checksum
from .formats import FORMATS

DESCRIPTION = "inference.yml"


@dataclass(frozen=True)
class Description:
    """What an exported folder says about its network."""

    preprocess: Preprocess
    classes: Sequence[str]  # in the network's order
    format: str = "paddle"  # a key of FORMATS
    about: Mapping[str, str] = field(default_factory=dict)  # notes for readers, such as the model's name

    def write(self, folder: Path) -> None:
        """Write `inference.yml` into a folder that has the format's files, with their sizes and checksums."""
        paths = [folder / name for name in FORMATS[self.format].files]
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
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (folder / DESCRIPTION).write_text(text, encoding="utf-8")


def read_description(folder: Path) -> Description:
    """Read `inference.yml` and check that the files beside it are the exported ones.

    Raises: UserError when a file is missing, damaged, or differs from the exported one in size or SHA-256.
    """
    path = folder / DESCRIPTION
    damaged = UserError(f"{path} is damaged: expected what tools/export.py writes; export again")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{folder} is not an exported model: cannot read {path} ({error.strerror}); "
            "make one with tools/export.py"
        ) from None
    except (yaml.YAMLError, ValueError):  # not YAML, not UTF-8
        raise damaged from None
    try:
        ops = content["PreProcess"]["transform_ops"]
        classes = content["PostProcess"]["Topk"]["label_list"]
        own = content["paddle_attn"]
        format = own.get("format", "paddle")  # the first exports did not name it
        files = {name: (file["size"], file["sha256"]) for name, file in own["files"].items()}
    except (KeyError, TypeError, AttributeError):
        raise damaged from None
    if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise damaged
    if not isinstance(format, str):
        raise damaged
    if format not in FORMATS:
        raise unknown_name(f"export format in {path}", format, FORMATS)
    for name in FORMATS[format].files:
        _check_file(folder / name, *files.get(name, (None, None)))
    return Description(Preprocess.from_ops(ops), classes, format)


def _check_file(path: Path, size: int | None, sha256: str | None) -> None:
    if not path.is_file():
        raise UserError(f"{path.parent} is incomplete: {path.name} is missing; export again")
    found = path.stat().st_size
    if found != size or checksum(path) != sha256:
        raise UserError(
            f"{path} is not the exported file: expected {size} bytes with SHA-256 {sha256}, "
            f"found {found} bytes with another; export again"
        )
