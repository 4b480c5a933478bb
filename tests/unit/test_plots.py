"""The pictures are made, whatever the classes are called."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddle_attn.train.plots import plot_confusion, plot_curves


@pytest.mark.parametrize(
    "classes",
    [["猫", "狗"], ["$x_1$", "$"], ["a" * 60, "b"], [f"c{i}" for i in range(60)]],
    ids=["中文", "dollar", "long", "many"],
)
def test_any_class_name_can_be_drawn(tmp_path: Path, classes: list[str]):
    confusion = np.eye(len(classes), dtype=int) * 5
    confusion[0, 1] = 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_confusion(confusion, classes, tmp_path / "x.png")
    pixels = np.asarray(Image.open(tmp_path / "x.png").convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10


def test_curves_of_one_epoch_and_of_many(tmp_path: Path):
    names = ("train_loss", "eval_loss", "train_top1", "eval_top1", "lr")
    for count in (1, 30):
        plot_curves(
            [{"epoch": epoch + 1} | dict.fromkeys(names, 1 / (epoch + 1)) for epoch in range(count)],
            tmp_path / f"{count}.png",
        )
        assert Image.open(tmp_path / f"{count}.png").size[0] > 800
