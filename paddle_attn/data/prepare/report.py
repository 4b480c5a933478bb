"""The page of a split, `report.html`: classes, sizes, skipped files and near-duplicates, with pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...files import read_regular
from ...plotting.page import Markup, bar, join, paragraph, picture, section, table, tile, tiles, write_page
from ..images import ImageError, load_image
from .duplicates import Pair, find_near_duplicates

REPORT = "report.html"
MAX_SAMPLES = 96  # pictures of all classes together
MAX_PAIRS = 48  # near-duplicates with their pictures
MAX_SKIPPED = 200  # files in the list
IMBALANCED = 3  # the largest class by the smallest, from which the page has a warning
SMALL = 64  # pixels; images with a shorter side are counted
SAMPLE = 96  # pixels, the longer side of a sample


@dataclass(frozen=True)
class SplitImage:
    """An image of a split."""

    name: str  # its path below the split, with '/'
    part: str  # 'train' or 'eval'
    class_name: str
    size: tuple[int, int]  # width and height in pixels
    thumbnail: np.ndarray  # see `duplicates`


def near_duplicates(images: Sequence[SplitImage]) -> list[tuple[SplitImage, SplitImage, bool]]:
    """The eval images with a near-duplicate in train, each with the nearest and whether that is mirrored."""
    train, evaluation = ([image for image in images if image.part == part] for part in ("train", "eval"))
    stacks = [np.stack([image.thumbnail for image in part]) for part in (evaluation, train)]
    pairs: list[Pair] = find_near_duplicates(*stacks)
    return [(evaluation[pair.first], train[pair.second], pair.mirrored) for pair in pairs]


def write_report(
    root: Path,
    title: str,
    description: str,
    images: Sequence[SplitImage],
    duplicates: Sequence[tuple[SplitImage, SplitImage, bool]],
    skipped: Mapping[str, str],
) -> None:
    """Write `report.html` into a split.

    Args:
        root: the folder of the split.
        title: of the page.
        description: one sentence on source and rule.
        images: of the split, in the order of the classes.
        duplicates: see `near_duplicates`.
        skipped: the reason for each file that was not used.
    """
    write_page(
        root / REPORT,
        title,
        paragraph(description),
        _near_duplicates(root, images, duplicates),
        _classes(images),
        _sizes(images),
        _skipped(skipped),
        _samples(root, images),
    )


def _near_duplicates(
    root: Path, images: Sequence[SplitImage], duplicates: Sequence[tuple[SplitImage, SplitImage, bool]]
) -> Markup:
    evaluated = sum(image.part == "eval" for image in images)
    note = paragraph(
        "Compared are 16×16 pixels of each image: a copy that is resized, compressed again or mirrored is "
        "found, one that is cropped, rotated or brightened is not. Each eval image is shown with its "
        "nearest.",
        kind="note",
    )
    if not duplicates:
        text = f"No near-duplicate of the {evaluated:,} eval images was found in train."
        return section("Near-duplicates across train and eval", paragraph(text), note)
    fraction = 100 * len(duplicates) / evaluated
    warning = (
        f"{len(duplicates):,} of {evaluated:,} eval images ({fraction:.1f} %) have a near-duplicate in "
        "train. The network was trained on almost the same image, so the score on them is not a fair one: "
        "remove one image of each pair."
    )
    pairs = [_pair(root, *duplicate) for duplicate in duplicates[:MAX_PAIRS]]
    more = len(duplicates) - len(pairs)
    rest = paragraph(f"{more:,} more are not shown.", kind="note") if more else ""
    title = "Near-duplicates across train and eval"
    return section(title, paragraph(warning, kind="warning"), tiles(pairs), rest, note)


def _pair(root: Path, first: SplitImage, second: SplitImage, mirrored: bool) -> Markup:
    kind = "nearly equal"
    if mirrored:
        kind = "mirrored"
    elif read_regular(root / first.name) == read_regular(root / second.name):
        kind = "the same file"
    if first.class_name != second.class_name:
        kind += ", but in different classes"
    shots = [_picture(root, image.name) for image in (first, second)]
    return tile(shots, join(("left: ", first.name)), join(("right: ", second.name)), Markup(f"<b>{kind}</b>"))


def _picture(root: Path, name: str, side: int | None = None) -> Markup:
    try:
        image: Image.Image | None = load_image(root / name)
    except ImageError:
        image = None
    return picture(image, name, side) if side else picture(image, name)


def _classes(images: Sequence[SplitImage]) -> Markup:
    train, evaluation = (
        Counter(image.class_name for image in images if image.part == part) for part in ("train", "eval")
    )
    totals = {name: train[name] + evaluation[name] for name in train | evaluation}
    largest, smallest = max(totals, key=totals.get), min(totals, key=totals.get)
    ratio = totals[largest] / totals[smallest]
    sizes = (
        f"Each has {totals[largest]:,} images."
        if ratio == 1
        else f"The largest, {largest}, has {totals[largest]:,} images, the smallest, {smallest}, has "
        f"{totals[smallest]:,}: {ratio:.1f} times fewer."
    )
    constant = max(evaluation, key=evaluation.get)
    text = (
        f"{len(totals):,} classes. {sizes} Always naming {constant} would score "
        f"{100 * evaluation[constant] / evaluation.total():.1f} % on eval."
    )
    advice = ""
    if ratio >= IMBALANCED:
        advice = paragraph(
            "The classes are imbalanced: top-1 says little about the small ones. Look at the recall of each "
            "class, which paddle-attn eval prints.",
            kind="warning",
        )
    rows = [
        (name, train[name], evaluation[name], bar(train[name] / most, evaluation[name] / most))
        for most in [totals[largest]]
        for name in totals
    ]
    shades = paragraph("Bars: train in blue, then eval in orange.", kind="note")
    return section("Classes", paragraph(text), advice, table(("class", "train", "eval", ""), rows), shades)


def _sizes(images: Sequence[SplitImage]) -> Markup:
    width, height = np.array([image.size for image in images]).T
    aspect = np.maximum(width, height) / np.minimum(width, height)
    values = {"width in pixels": width, "height in pixels": height, "long side by short side": aspect}
    rows = [
        (name, *(f"{number:,.2f}" if number < 20 and number % 1 else f"{number:,.0f}" for number in numbers))
        for name, numbers in ((name, np.quantile(v, [0, 0.05, 0.5, 0.95, 1])) for name, v in values.items())
    ]
    small = int((np.minimum(width, height) < SMALL).sum())
    text = f"{small:,} of {len(images):,} images have a side shorter than {SMALL} pixels."
    headers = ("", "smallest", "5th percentile", "median", "95th percentile", "largest")
    return section("Image sizes", table(headers, rows), paragraph(text))


def _skipped(skipped: Mapping[str, str]) -> Markup:
    if not skipped:
        return section("Skipped files", paragraph("None: every file with an image's name was read."))
    rows = list(skipped.items())[:MAX_SKIPPED]
    more = len(skipped) - len(rows)
    text = paragraph(
        f"{len(skipped):,} files are in neither part.", f" {more:,} are not listed." if more else ""
    )
    return section("Skipped files", text, table(("file", "reason"), rows))


def _samples(root: Path, images: Sequence[SplitImage]) -> Markup:
    by_class: dict[str, list[SplitImage]] = {}
    for image in images:
        by_class.setdefault(image.class_name, []).append(image)
    each = max(1, min(4, MAX_SAMPLES // len(by_class)))
    chosen = [
        (name, members[len(members) * place // each])
        for name, members in list(by_class.items())[:MAX_SAMPLES]
        for place in range(each)
    ]
    more = len(by_class) - MAX_SAMPLES
    note = paragraph(f"The first {MAX_SAMPLES} classes; {more:,} more are not shown.") if more > 0 else ""
    return section(
        "Images of each class",
        note,
        tiles(tile([_picture(root, image.name, SAMPLE)], name) for name, image in chosen),
    )
