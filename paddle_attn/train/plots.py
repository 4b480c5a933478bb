"""The pictures: training curves and the confusion matrix."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure  # not pyplot: no global state, no display

logging.getLogger("matplotlib.font_manager").setLevel(
    logging.ERROR
)  # a family that is not installed is passed over
TRAIN, EVAL = "#7f9bbf", "#c2410c"
# class names are plain text in any script: fonts that know Chinese where one is installed, and '$' is no
# formula
PLAIN_TEXT = {
    "font.family": [
        "DejaVu Sans",
        "Noto Sans CJK SC",
        "Source Han Sans SC",
        "WenQuanYi Micro Hei",
        "Microsoft YaHei",
        "PingFang SC",
        "SimHei",
    ],
    "text.parse_math": False,
}


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
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
    loss.legend(frameon=False)
    _save(figure, path)


def plot_confusion(confusion: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Rows are the true classes, columns the predicted ones; shaded by the fraction of the row, labelled with
    counts.
    """
    with matplotlib.rc_context(PLAIN_TEXT):
        _save(_confusion_figure(confusion, classes), path)


def _confusion_figure(confusion: np.ndarray, classes: Sequence[str]) -> Figure:
    count = len(classes)
    side = max(5.0, 0.42 * count + 2)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(count), classes, rotation=90)
    axes.set_yticks(range(count), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(
        f"top-1 {100 * np.trace(confusion) / max(confusion.sum(), 1):.2f} % of {confusion.sum()} images"
    )
    if count <= 40:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if shares[row, column] > 0.6 else "black"
            axes.text(
                column, row, int(confusion[row, column]), ha="center", va="center", fontsize=8, color=colour
            )
    return figure


def _save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph that no installed font has becomes a box
        figure.savefig(path, dpi=110)
