"""The pictures of a diagnosis, in Okabe and Ito's colours, which people with any colour vision tell apart.

Right and wrong differ in a mark (✓, ✗) too, lines in their markers.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot: no global state, no display
from PIL import Image

from ..plotting.text import plain_text, save, shorten
from .calibration import Calibration
from .corruptions import CORRUPTIONS, CorruptedTop1

BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
COLUMNS = 6  # tiles beside each other
SIDE = 1.8  # inches of a tile
WIDTH = 26  # characters of a line below a tile; a Chinese one counts as two
MAX_CLASSES = 40  # in the figure of the classes
SMALL = 8  # points


@dataclass(frozen=True)
class Tile:
    """An image with what is said about it."""

    image: Image.Image | None  # RGB; None when it cannot be read
    name: str
    lines: tuple[str, ...]
    right: bool


def plot_tiles(groups: Mapping[str, Sequence[Tile]], title: str, path: Path) -> None:
    """Images with their lines of text, six in a row, those of each group below its heading.

    Args:
        groups: the images by heading; a group may be empty.
        title: of the picture.
        path: the PNG to write.
    """
    heights = [_height(heading, tiles) for heading, tiles in groups.items()]
    texts = [line for tiles in groups.values() for tile in tiles for line in tile.lines]
    with plain_text([title, "✓✗", *groups, *texts]):
        lines = 1 + title.count("\n")
        figure = Figure(figsize=(COLUMNS * SIDE, sum(heights) + 0.25 * lines + 0.2), layout="constrained")
        parts = figure.subfigures(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
        for part, (heading, tiles) in zip(parts, groups.items(), strict=True):
            if heading:
                part.suptitle(heading, fontsize=10, x=0.01, ha="left")
            if not tiles:
                continue
            grid = part.subplots(-(-len(tiles) // COLUMNS), COLUMNS, squeeze=False)
            for axes in grid.flat:
                axes.set_axis_off()
            for axes, tile in zip(grid.flat, tiles, strict=False):
                _draw_tile(axes, tile)
        figure.suptitle(title, fontsize=11)
        save(figure, path)


def _height(heading: str, tiles: Sequence[Tile]) -> float:
    """The inches of a group; without tiles only those of its heading."""
    lines = max([1, *(len(tile.lines) for tile in tiles)])
    rows = -(-len(tiles) // COLUMNS)
    return rows * (SIDE + 0.17 * lines + 0.1) + (0.35 if heading else 0.1)


def _draw_tile(axes: Axes, tile: Tile) -> None:
    pixels = np.full([8, 8, 3], 225, "uint8") if tile.image is None else np.asarray(tile.image)
    axes.imshow(pixels)
    axes.set_anchor("S")  # the captions of a row are level
    caption = "\n".join(_cut(line) for line in tile.lines)
    colour = BLUE if tile.right else ORANGE
    axes.set_title(caption, fontsize=SMALL - 1, color=colour, y=-0.02, va="top", pad=0)


def _cut(line: str) -> str:
    """The line, shortened to the width of a tile."""
    width = 0
    for place, character in enumerate(line):
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if width > WIDTH:
            return f"{line[: place - 1]}…"
    return line


def plot_classes(rows: Sequence[dict], title: str, path: Path) -> None:
    """Precision, recall with its interval, and F1 of each class as bars, the lowest F1 first.

    Args:
        rows: see `Evaluation.by_class`, sorted; of more than 40 classes the first are drawn.
        title: of the picture.
        path: the PNG to write.
    """
    drawn = rows[:MAX_CLASSES]
    names = [shorten(row["class"]) for row in drawn]
    with plain_text([title, *names]):
        figure = Figure(figsize=(9, 1.6 + 0.42 * len(drawn)), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(drawn))
        series = (("precision", ORANGE), ("recall", BLUE), ("f1", GREEN))
        for number, (key, colour) in enumerate(series):
            values = [100 * row[key] for row in drawn]
            label = "F1" if key == "f1" else key
            axes.barh(places + 0.27 * (number - 1), values, height=0.25, color=colour, label=label)
        ends = np.array(
            [
                [row["recall"] - row["recall_interval"][0], row["recall_interval"][1] - row["recall"]]
                for row in drawn
            ]
        )
        recalls = [100 * row["recall"] for row in drawn]
        axes.errorbar(
            recalls,
            places,
            xerr=100 * np.maximum(ends.T, 0),
            fmt="none",
            color="black",
            linewidth=1,
            capsize=2,
        )
        axes.set_yticks(places, [f"{name} ({row['images']})" for name, row in zip(names, drawn, strict=True)])
        axes.set_ylim(len(drawn) - 0.4, -0.6)
        axes.set_xlim(0, 101)
        axes.set_xlabel("%; the line is the 95 % interval of the recall; eval images in brackets")
        axes.grid(alpha=0.25, axis="x")
        more = (
            f"\nthe {len(drawn)} of {len(rows)} classes with the lowest F1" if len(rows) > len(drawn) else ""
        )
        axes.set_title(f"{title}: each class{more}", fontsize=11)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        save(figure, path)


def plot_reliability(parts: Sequence[tuple[str, Calibration]], path: Path) -> None:
    """For each calibration the accuracy over the confidence, beside each other, with the images below.

    Args:
        parts: a title and the calibration.
        path: the PNG to write.
    """
    figure = Figure(figsize=(4.1 * len(parts), 4.8), layout="constrained")
    grid = figure.subplots(2, len(parts), squeeze=False, height_ratios=(4, 1), sharex=True)
    for (title, result), axes, below in zip(parts, grid[0], grid[1], strict=True):
        confidence = [100 * bin.confidence for bin in result.bins]
        accuracy = np.array([100 * bin.accuracy for bin in result.bins])
        low, high = (np.array([100 * bin.interval[end] for bin in result.bins]) for end in (0, 1))
        ends = np.maximum([accuracy - low, high - accuracy], 0)
        axes.plot([0, 100], [0, 100], color="#555555", linestyle="--", linewidth=1, label="perfect")
        axes.errorbar(
            confidence, accuracy, yerr=ends, fmt="o-", color=BLUE, capsize=3, label="images (95 % interval)"
        )
        axes.set_title(f"{title}\nexpected calibration error {100 * result.error:.1f} %", fontsize=10)
        axes.set_ylabel("accuracy (%)")
        axes.set_ylim(-3, 103)
        axes.grid(alpha=0.25)
        below.bar(confidence, [bin.images for bin in result.bins], width=4, color=BLUE)
        below.set_xlim(-3, 103)
        below.set_ylabel("images")
        below.set_xlabel("confidence: highest probability (%)")
    figure.legend(
        *grid[0][0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=SMALL,
    )
    save(figure, path)


def plot_corruptions(clean: float, results: Sequence[CorruptedTop1], title: str, path: Path) -> None:
    """Top-1 over the strength of each corruption, beginning with the unchanged images."""
    with plain_text([title]):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        axes = figure.subplots()
        styles = zip(
            CORRUPTIONS, (BLUE, ORANGE, GREEN, PURPLE), "osD^", (-0.06, -0.02, 0.02, 0.06), strict=True
        )
        for name, colour, marker, shift in styles:
            found = [result for result in results if result.corruption == name]
            values = 100 * np.array([clean, *(result.top1 for result in found)])
            bounds = 100 * np.array([(clean, clean), *(result.interval for result in found)])
            ends = np.maximum([values - bounds[:, 0], bounds[:, 1] - values], 0)
            places = np.arange(len(values)) + shift
            axes.errorbar(places, values, yerr=ends, color=colour, marker=marker, capsize=3, label=name)
        axes.set_xticks(range(4), ["none", "weak", "medium", "strong"])
        axes.set_ylim(0, 101)
        axes.set_xlabel("corruption")
        axes.set_ylabel("top-1 (%), 95 % interval")
        axes.set_title(f"{title}: top-1 on corrupted images", fontsize=11)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        save(figure, path)
