"""The pictures: training curves, the confusion matrix, grids of sample images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure  # not pyplot: no global state, no display
from matplotlib.transforms import Bbox
from PIL import Image

from ..plotting.text import missing_glyphs_are_boxes, plain_text, save, shorten

TRAIN, EVAL = "#7f9bbf", "#c2410c"
RIGHT, WRONG = "#15803d", "#c2410c"
MAX_NAMED = 50  # classes with names and counts in the confusion matrix; more become a heat map
MAX_CELLS = 300  # of a heat map, in a row
TILE, GAP, LINE = 128, 8, 15  # pixels of a grid of samples: an image's side, the space around, a line of text


def plot_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Loss and top-1 of train and eval, and the learning rate, over the epochs of a history."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    loss, top1, rate = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in rows]
    for part, colour in (("train", TRAIN), ("eval", EVAL)):
        loss.plot(epochs, [row[f"{part}_loss"] for row in rows], color=colour, label=part, marker=".")
        top1.plot(epochs, [100 * row[f"{part}_top1"] for row in rows], color=colour, label=part, marker=".")
    best = max(rows, key=lambda row: row["eval_top1"])
    top1.axvline(best["epoch"], color="#999999", linewidth=0.8, linestyle=":")
    rate.plot(epochs, [row["lr"] for row in rows], color="#555555", marker=".")
    loss.set_title("loss (mean over the epoch)")
    top1.set_title(f"top-1 %, best eval {100 * best['eval_top1']:.2f} at epoch {best['epoch']:.0f}")
    rate.set_title("learning rate")
    for axes in (loss, top1, rate):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        finite = [value for line in axes.lines for value in line.get_ydata() if np.isfinite(value)]
        axes.set_ylim(0, 1.06 * max(finite, default=0) or 1)
        for line in axes.lines:
            line.set_clip_on(False)  # points on an edge are whole
        if len(rows) == 1:
            axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
        axes.xaxis.get_major_locator().set_params(integer=True)
    loss.legend(frameon=False)
    save(figure, path)


def most_confused(confusion: np.ndarray, count: int = 20) -> list[tuple[int, int, int]]:
    """The pairs of classes with the most errors, at most `count`: (true, predicted, images)."""
    errors = confusion.copy()
    np.fill_diagonal(errors, 0)
    count = min(count, errors.size)
    largest = np.argpartition(errors, -count, axis=None)[-count:]
    pairs = [divmod(int(place), len(errors)) for place in largest]
    found = [(true, predicted, int(errors[true, predicted])) for true, predicted in pairs]
    return sorted((pair for pair in found if pair[2]), key=lambda pair: (-pair[2], pair))


def plot_confusion(confusion: np.ndarray, classes: Sequence[str], path: Path, title: str = "") -> None:
    """Rows are the true classes, columns the predicted ones; shaded by the fraction of the row.

    Up to 50 classes have their names and counts. More become a heat map of a fixed size beside a list of
    the most confused pairs.

    Args:
        title: of the picture, such as the model and the image size.
    """
    names = [shorten(name) for name in classes]
    with plain_text(names):
        draw = _matrix if len(names) <= MAX_NAMED else _heat_map
        fractions = (confusion / np.maximum(confusion.sum(1, keepdims=True), 1)).astype("float32")
        figure = draw(fractions, confusion, names)
        accuracy = np.trace(confusion) / max(confusion.sum(), 1)
        top1 = f"top-1 {100 * accuracy:.2f} % of {confusion.sum()} images"
        figure.suptitle(f"{title}\n{top1}" if title else top1)
        save(figure, path)


def _matrix(fractions: np.ndarray, confusion: np.ndarray, names: Sequence[str]) -> Figure:
    count = len(names)
    side = max(5.0, 0.42 * count + 2)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    _shade(axes, fractions, count, "fraction of the true class (row-normalised)")
    axes.set_xticks(range(count), names, rotation=90)
    axes.set_yticks(range(count), names)
    for row, column in zip(*np.nonzero(confusion), strict=True):
        colour = "white" if fractions[row, column] > 0.6 else "black"
        number = int(confusion[row, column])
        axes.text(column, row, number, ha="center", va="center", fontsize=8, color=colour)
    return figure


def _heat_map(fractions: np.ndarray, confusion: np.ndarray, names: Sequence[str]) -> Figure:
    figure = Figure(figsize=(13, 7), layout="constrained")
    axes, beside = figure.subplots(1, 2, width_ratios=(3, 2))
    label, block = "fraction of the true class (row-normalised)", -(-len(names) // MAX_CELLS)
    if block > 1:  # single cells would be thinner than a pixel
        starts = np.arange(0, len(names), block)
        for axis in (0, 1):
            fractions = np.maximum.reduceat(fractions, starts, axis=axis)
        label = f"{label}, the largest of {block}×{block} classes"
    _shade(axes, fractions, len(names), label)
    beside.set_axis_off()
    beside.set_title("most confused: images, true, predicted", loc="left", fontsize=10)
    lines = [f"{n:5d}  {names[true]}, {names[predicted]}" for true, predicted, n in most_confused(confusion)]
    beside.text(0, 1, "\n".join(lines or ["none"]), va="top", fontsize=9, linespacing=1.6)
    return figure


def _shade(axes: Axes, fractions: np.ndarray, count: int, label: str) -> None:
    """Draw the fractions over the numbers of the classes, with a colour bar."""
    edges = (-0.5, count - 0.5, count - 0.5, -0.5)
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, extent=edges, interpolation="nearest")
    axes.figure.colorbar(image, ax=axes, label=label)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")


def plot_samples(
    images: np.ndarray, names: Sequence[str], predicted: Sequence[str] | None = None
) -> np.ndarray:
    """A grid of images with their classes: uint8 `[N, H, W, 3]` to uint8 `[height, width, 3]`.

    Args:
        images: square.
        names: the true class of each image.
        predicted: the class that a network predicts for each; None shows only the true ones.
    """
    columns = int(np.ceil(np.sqrt(len(images))))
    lines = 1 if predicted is None else 2
    tile_width, tile_height = TILE + GAP, TILE + GAP + lines * LINE
    width, height = columns * tile_width + GAP, -(-len(images) // columns) * tile_height + GAP
    corners = [
        (GAP + index % columns * tile_width, GAP + index // columns * tile_height)
        for index in range(len(images))
    ]
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)

    def write(caption: str, left: int, top: int, colour: str) -> None:
        text = figure.text(left / width, 1 - top / height, caption, va="top", fontsize=7.5, color=colour)
        text.set_clip_box(Bbox.from_extents(left, 0, left + TILE, height))
        text.set_clip_on(True)

    with plain_text([*names, *(predicted or ()), "✓✗"]):
        for index, (left, top) in enumerate(corners):
            write(names[index], left, top + TILE + 1, "black")
            if predicted is not None:
                mark, colour = ("✓", RIGHT) if predicted[index] == names[index] else ("✗", WRONG)
                write(f"{mark} {predicted[index]}", left, top + TILE + LINE + 1, colour)
        canvas = FigureCanvasAgg(figure)
        with missing_glyphs_are_boxes():
            canvas.draw()
    grid = np.array(canvas.buffer_rgba())[:, :, :3]
    for image, (left, top) in zip(images, corners, strict=True):
        thumbnail = Image.fromarray(image).resize((TILE, TILE), Image.Resampling.BILINEAR)
        grid[top : top + TILE, left : left + TILE] = thumbnail
    return grid
