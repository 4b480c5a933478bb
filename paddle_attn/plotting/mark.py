"""The mark of this package in its pages, pictures and records: a tool replaces only files that have it."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from ..errors import UserError
from ..files import open_regular, read_regular

NAME = "paddle_attn"
PAGE = f'<meta name="generator" content="{NAME}">'  # in the head of an HTML page
PICTURE = {"Software": NAME}  # a text chunk of a PNG
DRAWING = f"<!-- {NAME} -->"  # in an SVG
RECORD = {"generator": NAME}  # a key of a JSON object


def check_replaceable(*paths: Path) -> None:
    """Raises UserError when one of the paths is a file without the mark. A missing file is none."""
    for path in paths:
        if path.is_file() and not _is_marked(path):
            raise UserError(
                f"{path} was not written by this command and is not replaced: "
                "move it away, or write elsewhere"
            )


def _is_marked(path: Path) -> bool:
    """By the kind of file that the name's ending says."""
    try:
        if path.suffix in (".html", ".svg"):
            mark = PAGE if path.suffix == ".html" else DRAWING
            with open_regular(path) as file:
                return mark.encode() in file.read(1000)
        if path.suffix == ".json":
            return json.loads(read_regular(path)).get("generator") == NAME
        with Image.open(path, formats=["PNG"]) as image:
            return str(image.info.get("Software", "")).startswith(NAME)
    except Exception:  # damaged, or of another kind
        return False
