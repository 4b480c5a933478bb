"""The figures of a run: every class name and every number of epochs can be plotted."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddle_attn.train.plots import plot_confusion, plot_curves

WHITE = 255


def ink(path: Path) -> float:
    """The fraction of pixels that are not white."""
    return float((np.asarray(Image.open(path).convert("L")) < WHITE).mean())


@pytest.mark.parametrize(
    "classes",
    [["猫", "狗"], ["$x_1$", "$"], ["a" * 60, "b"], [f"c{i}" for i in range(60)]],
    ids=["中文", "dollar", "long", "many"],
)
def test_any_class_name_can_be_plotted(tmp_path: Path, classes: list[str]):
    diagonal = np.eye(len(classes), dtype=int) * 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_confusion(diagonal, classes, tmp_path / "diagonal.png")
        plot_confusion(np.zeros_like(diagonal), classes, tmp_path / "empty.png")
    assert ink(tmp_path / "diagonal.png") > ink(tmp_path / "empty.png") > 0


def test_the_confusion_matrix_shades_the_fraction_of_each_true_class(tmp_path: Path):
    """The same picture for ten times as many images, but for the counts and the title."""
    names = [f"c{i}" for i in range(50)]  # too many for counts in the cells
    confusion = np.eye(50, dtype=int)
    plot_confusion(confusion, names, tmp_path / "one.png")
    plot_confusion(10 * confusion, names, tmp_path / "ten.png")
    one, ten = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")) for name in ("one", "ten"))
    below_the_title = slice(one.shape[0] // 10, None)
    assert np.array_equal(one[below_the_title], ten[below_the_title])


@pytest.mark.parametrize("epochs", [1, 30])
def test_the_curves_show_every_epoch(tmp_path: Path, epochs: int):
    names = ("train_loss", "eval_loss", "train_top1", "eval_top1", "lr")
    history = [{"epoch": epoch + 1} | dict.fromkeys(names, 1 / (epoch + 1)) for epoch in range(epochs)]
    plot_curves(history, tmp_path / "curves.png")
    plot_curves([*history, history[-1] | {"epoch": epochs + 1}], tmp_path / "longer.png")
    assert ink(tmp_path / "curves.png") > 0
    assert (tmp_path / "curves.png").read_bytes() != (tmp_path / "longer.png").read_bytes()
