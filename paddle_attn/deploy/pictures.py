"""Classified pictures, sorted into a folder for each class, with a page that shows them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from ..data.images import load_image
from ..errors import UserError, escaped
from ..files import (
    as_text,
    atomic_directory,
    check_replaceable_folder,
    is_inside,
    read_regular,
    shown,
    write_text,
)
from ..plotting.page import Markup, bar, join, paragraph, picture, section, table, tile, tiles, write_page
from ..plotting.text import BASE_FONT, find_fonts, shorten

RECORD, SHEET = "predictions.json", "contact_sheet.html"
MAX_TILES = 400  # pictures on the page
MAX_SIDE, MIN_WIDTH = 1600, 320  # pixels of an annotated picture
MAX_NAME = 200  # bytes of a folder's name, and of a file's without its ending
_NOT_IN_NAMES = re.compile(r'[/\\:*?"<>|]')  # on any system


def check_folder(out_dir: str | Path, sources: Sequence[str]) -> None:
    """Check the folder of `write_pictures` before the pictures are classified.

    Args:
        sources: the inputs and the folder of the model.

    Raises: UserError when the folder holds a file that `write_pictures` did not write, or is in or around a
        source: the next call would classify the sorted pictures too.
    """
    for source in sources:
        if is_inside(out_dir, source) or is_inside(source, out_dir):
            raise UserError(
                f"{shown(out_dir)} is inside {shown(source)} or around it: choose another --out-dir"
            )
    check_replaceable_folder(Path(out_dir), set(_recorded(Path(out_dir))))


def write_pictures(
    results: Sequence[dict[str, Any]],
    errors: Sequence[UserError],
    out_dir: str | Path,
    annotate: bool = False,
) -> None:
    """Copy each picture to `CLASS/NAME` by its best class; beside them `contact_sheet.html` shows them, and
    `predictions.json` holds the results and the names of the copies.

    Args:
        results: of `Predictor.predict`, each of a file.
        errors: of the inputs that could not be read, which the page lists.
        out_dir: the folder to write. It replaces a folder whose files were all written by this function.
        annotate: draw the classes and their scores below each picture instead of copying it.

    Raises: see `check_folder`.
    """
    names = _target_names(results, ".jpg" if annotate else None)
    with atomic_directory(Path(out_dir), _recorded) as folder:
        for result, name in zip(results, names, strict=True):
            target = folder / name
            target.parent.mkdir(exist_ok=True)
            if annotate:
                image = annotated(load_image(result["path"]), result["labels"], result["scores"])
                image.save(target, quality=90)
            else:
                shutil.copyfile(result["path"], target)
        _write_sheet(folder, results, names, errors)
        entries = [
            {"file": name, **result, "path": as_text(result["path"])}
            for name, result in zip(names, results, strict=True)
        ]
        write_text(folder / RECORD, json.dumps(entries, indent=2, ensure_ascii=False) + "\n")


def _recorded(folder: Path) -> list[str]:
    """The files of an earlier `write_pictures`."""
    try:
        return [RECORD, SHEET, *(entry["file"] for entry in json.loads(read_regular(folder / RECORD)))]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _target_names(results: Sequence[dict[str, Any]], ending: str | None) -> list[str]:
    """`CLASS/NAME` for each result: valid on any system, and no two alike, also where case is ignored."""
    folders: dict[str, str] = {}  # by class
    taken: set[str] = set()
    names = []
    for result in results:
        label, path = result["labels"][0], Path(as_text(result["path"]))
        if label not in folders:
            folders[label] = _free_name("", label, "", taken)
        names.append(_free_name(f"{folders[label]}/", path.stem, ending or path.suffix, taken))
    return names


def _free_name(folder: str, name: str, ending: str, taken: set[str]) -> str:
    name = _NOT_IN_NAMES.sub("_", escaped(name)).strip(" .") or "_"
    name = name.encode()[:MAX_NAME].decode("utf-8", "ignore")
    found, number = f"{folder}{name}{ending}", 1
    while found.casefold() in taken:
        number += 1
        found = f"{folder}{name}_{number}{ending}"
    taken.add(found.casefold())
    return found


# ---- one picture


def annotated(image: Image.Image, labels: Sequence[str], scores: Sequence[float]) -> Image.Image:
    """The image above its classes, best first, each on a bar as long as its score.

    Args:
        image: RGB; its longer side becomes at most `MAX_SIDE` pixels.
        scores: in 0..1.
    """
    image = image.copy()
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    width = max(image.width, MIN_WIDTH)
    size = max(14, width // 45)
    line = round(1.5 * size)
    canvas = Image.new("RGB", (width, image.height + line * len(labels)), "white")
    canvas.paste(image, ((width - image.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    for place, (label, score) in enumerate(zip(labels, scores, strict=True)):
        top, text = image.height + line * place, f"{score:.3f}  {shorten(escaped(label))}"
        draw.rectangle((0, top, round(score * width), top + line - 2), fill="#bcdcf2")
        draw.text((size // 2, top + line // 2), text, "black", _font(text, size), anchor="lm")
    return canvas


def _font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that has the characters of a text, where one is installed."""
    family = [BASE_FONT, *find_fonts(frozenset(text))][-1]
    return ImageFont.truetype(font_manager.findfont(family), size)


# ---- the page


def _write_sheet(
    folder: Path, results: Sequence[dict[str, Any]], names: Sequence[str], errors: Sequence[UserError]
) -> None:
    by_class: dict[str, list[tuple[dict[str, Any], str]]] = {}
    for result, name in zip(results, names, strict=True):
        by_class.setdefault(result["labels"][0], []).append((result, name))
    by_class = dict(sorted(by_class.items(), key=lambda item: -len(item[1])))
    rows = [(label, len(members), bar(len(members) / len(results))) for label, members in by_class.items()]
    each = max(1, MAX_TILES // len(by_class))
    failed = [section("Not read", *(paragraph(str(error)) for error in errors))] if errors else []
    write_page(
        folder / SHEET,
        f"{len(results):,} images in {len(by_class):,} classes",
        paragraph(
            "Each image is in the class with the highest score. In a class, the least sure come first."
        ),
        table(("class", "images", ""), rows),
        *(_class(label, members, each) for label, members in list(by_class.items())[:MAX_TILES]),
        *failed,
    )


def _class(label: str, members: Sequence[tuple[dict[str, Any], str]], each: int) -> Markup:
    members = sorted(members, key=lambda member: member[0]["scores"][0])
    more = len(members) - each
    rest = paragraph(f"{more:,} more are not shown.", kind="note") if more > 0 else ""
    return section(label, tiles(_tile(*member) for member in members[:each]), rest)


def _tile(result: dict[str, Any], name: str) -> Markup:
    path = as_text(result["path"])
    shot = Markup(f'<a href="{quote(name)}">{picture(load_image(result["path"]), path)}</a>')
    next_best = zip(result["labels"][1:3], result["scores"][1:3], strict=True)
    then = [f"{label} {score:.3f}" for label, score in next_best]
    lines = [Path(path).name, *([join(("then ", join(then, ", ")))] if then else [])]
    return tile([shot], Markup(f"<b>{result['scores'][0]:.3f}</b>"), *lines)
