"""The figures of a run: every class name, every number of classes and of epochs can be plotted."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from paddle_attn.plotting.text import _say_what_to_install, find_fonts
from paddle_attn.train.plots import (
    MAX_NAMED,
    most_confused,
    plot_confusion,
    plot_curves,
    plot_samples,
)

WHITE = 255


def ink(path: Path) -> float:
    """The fraction of pixels that are not white."""
    return float((np.asarray(Image.open(path).convert("L")) < WHITE).mean())


@pytest.mark.parametrize(
    "classes",
    [["猫", "狗"], ["$x_1$", "$"], ["a" * 255, "b"], ["one"], [f"c{i}" for i in range(60)]],
    ids=["中文", "dollar", "long", "single", "many"],
)
def test_any_class_name_can_be_plotted(tmp_path: Path, classes: list[str]):
    diagonal = np.eye(len(classes), dtype=int) * 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_confusion(diagonal, classes, tmp_path / "diagonal.png")
        plot_confusion(np.zeros_like(diagonal), classes, tmp_path / "empty.png")
        plot_samples(np.zeros([1, 8, 8, 3], "uint8"), classes[:1], classes[-1:])
    assert ink(tmp_path / "diagonal.png") > ink(tmp_path / "empty.png") > 0


@pytest.mark.parametrize("count", [MAX_NAMED + 1, 1000])
def test_the_confusion_matrix_shades_the_fraction_of_each_true_class(tmp_path: Path, count: int):
    """The same picture for ten times as many images, but for the title and the list of confused pairs."""
    names = [f"c{i}" for i in range(count)]
    confusion = np.eye(count, dtype=int)
    confusion[3, 1] = 1
    plot_confusion(confusion, names, tmp_path / "one.png")
    plot_confusion(10 * confusion, names, tmp_path / "ten.png")
    one, ten = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")) for name in ("one", "ten"))
    height, width = one.shape
    matrix = (slice(height // 10, None), slice(0, width // 2))
    assert one.shape == ten.shape and np.array_equal(one[matrix], ten[matrix])


def test_many_classes_need_no_larger_picture(tmp_path: Path):
    for count in (MAX_NAMED + 1, 1000):
        names = [f"a long name of class {i}" for i in range(count)]
        plot_confusion(np.eye(count, dtype=int), names, tmp_path / f"{count}.png")
    few, many = (Image.open(tmp_path / f"{count}.png").size for count in (MAX_NAMED + 1, 1000))
    assert few == many and max(many) < 2000


def test_one_error_among_a_thousand_classes_is_visible(tmp_path: Path):
    names, confusion = [str(i) for i in range(1000)], np.eye(1000, dtype=int)
    plot_confusion(confusion, names, tmp_path / "right.png")
    confusion[900, 100] = 1
    plot_confusion(confusion, names, tmp_path / "wrong.png")
    right, wrong = (
        np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")) for name in ("right", "wrong")
    )
    matrix = (slice(right.shape[0] // 10, None), slice(0, right.shape[1] // 2))
    assert (wrong[matrix] < right[matrix]).any()


def test_the_most_confused_pairs_come_in_order():
    confusion = np.asarray([[9, 2, 0], [0, 9, 5], [2, 0, 9]])
    assert most_confused(confusion) == [(1, 2, 5), (0, 1, 2), (2, 0, 2)]
    assert most_confused(confusion, 1) == [(1, 2, 5)]
    assert most_confused(np.eye(3, dtype=int)) == []
    assert most_confused(np.ones([1, 1], int)) == []


def test_the_title_is_in_the_picture(tmp_path: Path):
    confusion, names = np.eye(3, dtype=int), ["a", "b", "c"]
    plot_confusion(confusion, names, tmp_path / "plain.png")
    plot_confusion(confusion, names, tmp_path / "titled.png", "towernet, simam, 128 px")
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "titled.png").read_bytes()


def test_a_grid_shows_each_image_above_its_names():
    colours = np.asarray([[220, 40, 40], [30, 200, 60], [40, 60, 220]], "uint8")
    images = np.broadcast_to(colours[:, None, None], [3, 32, 32, 3])
    grid = plot_samples(images, ["red", "green", "blue"])
    assert all((grid == colour).all(-1).sum() == 128 * 128 for colour in colours)
    right = plot_samples(images, ["red", "green", "blue"], ["red", "green", "blue"])
    wrong = plot_samples(images, ["red", "green", "blue"], ["red", "green", "red"])
    assert right.shape == wrong.shape and right.shape[0] > grid.shape[0]
    changed = np.argwhere((right != wrong).any(-1))
    assert len(changed) and changed.min(0)[0] > 128 + 32  # below the third image, in the second row


# ---- fonts


def test_latin_names_need_no_other_font():
    assert find_fonts(frozenset("butterfly_Äß✓✗")) == ()


@pytest.fixture
def unknown() -> str:
    """A character that no installed font has: it is private."""
    find_fonts.cache_clear()
    _say_what_to_install.cache_clear()
    yield "\U000f0000"
    find_fonts.cache_clear()


def test_characters_that_no_font_has_are_reported_once(unknown: str, capsys: pytest.CaptureFixture):
    for name in (unknown, f"a{unknown}", unknown):
        plot_samples(np.zeros([1, 8, 8, 3], "uint8"), [name])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and "fonts-noto-cjk" in line


def test_an_installed_font_that_has_the_characters_is_taken(
    unknown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """Also one that was installed after matplotlib listed the fonts."""
    box = plot_samples(np.zeros([1, 8, 8, 3], "uint8"), [unknown])
    capsys.readouterr()
    find_fonts.cache_clear()
    write_font(tmp_path / "test.ttf", "Test Font", unknown)
    monkeypatch.setattr(font_manager, "X11FontDirectories", [str(tmp_path)])
    drawn = plot_samples(np.zeros([1, 8, 8, 3], "uint8"), [unknown])
    assert find_fonts(frozenset(unknown)) == ("Test Font",)
    assert (drawn != box).any() and not capsys.readouterr().err


def write_font(path: Path, family: str, character: str) -> None:
    """A font with one character, a filled square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 800), (800, 800), (800, 0)):
        pen.lineTo(corner)
    pen.closePath()
    font = FontBuilder(1000)
    font.setupGlyphOrder([".notdef", "square"])
    font.setupCharacterMap({ord(character): "square"})
    font.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    font.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)


@pytest.mark.parametrize("epochs", [1, 30])
def test_the_curves_show_every_epoch(tmp_path: Path, epochs: int):
    names = ("train_loss", "eval_loss", "train_top1", "eval_top1", "lr")
    history = [{"epoch": epoch + 1} | dict.fromkeys(names, 1 / (epoch + 1)) for epoch in range(epochs)]
    plot_curves(history, tmp_path / "curves.png")
    plot_curves([*history, history[-1] | {"epoch": epochs + 1}], tmp_path / "longer.png")
    assert ink(tmp_path / "curves.png") > 0
    assert (tmp_path / "curves.png").read_bytes() != (tmp_path / "longer.png").read_bytes()
