"""The page of a split: near-duplicates across train and eval, imbalance, skipped files; safe for any name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import make_images, tool, tree
from PIL import Image, ImageFilter, ImageOps

from paddle_attn.data.prepare.duplicates import find_near_duplicates, thumbnail
from paddle_attn.data.prepare.split import make_split


def scene(seed: int, colour: tuple[int, int, int] = (120, 120, 120), side: int = 120) -> Image.Image:
    """Smooth random shapes around a mean colour: two seeds are two photographs of the same colour."""
    coarse = np.random.default_rng(seed).normal(0, 60, [6, 6, 3])
    pixels = (coarse - coarse.mean((0, 1)) + colour).clip(0, 255).astype("uint8")
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


def jpeg_copy(image: Image.Image, path: Path) -> Image.Image:
    image.save(path, "JPEG", quality=30)
    return Image.open(path).convert("RGB")


COPIES: dict[str, tuple[Callable[[Image.Image, Path], Image.Image], bool]] = {  # change: is it found?
    "unchanged": (lambda image, path: image, True),
    "JPEG at quality 30": (jpeg_copy, True),
    "half the size": (lambda image, path: image.resize((60, 60)), True),
    "another aspect ratio": (lambda image, path: image.resize((200, 80)), True),
    "slightly blurred": (lambda image, path: image.filter(ImageFilter.GaussianBlur(2)), True),
    "mirrored": (lambda image, path: ImageOps.mirror(image), True),
    "mirrored, smaller, JPEG": (
        lambda image, path: jpeg_copy(ImageOps.mirror(image.resize((70, 70))), path),
        True,
    ),
    "another image of the same colour": (lambda image, path: scene(99), False),
    "upside down": (lambda image, path: ImageOps.flip(image), False),
    "a quarter turned": (lambda image, path: image.rotate(90), False),
    "the middle of it": (lambda image, path: image.crop((30, 30, 90, 90)), False),
    "the negative": (lambda image, path: ImageOps.invert(image), False),
}


@pytest.mark.parametrize("change", COPIES)
def test_which_copies_count_as_near_duplicates(change: str, tmp_path: Path):
    copy, found = COPIES[change]
    others = [scene(seed) for seed in range(1, 6)]
    train = np.stack([thumbnail(image) for image in [*others, copy(scene(0), tmp_path / "copy.jpg")]])
    evaluation = np.stack([thumbnail(scene(seed)) for seed in (50, 0)])
    pairs = find_near_duplicates(evaluation, train)
    assert [tuple(pair) for pair in pairs] == ([(1, 5, "mirrored" in change)] if found else [])


def test_plain_images_of_two_colours_are_different_images():
    """A plain image has no brightness steps: only its colour tells it from another."""
    red, same, blue = (
        thumbnail(Image.new("RGB", (40, 40), c)) for c in ((200, 30, 30), (201, 30, 30), (0, 0, 255))
    )
    assert [tuple(pair) for pair in find_near_duplicates(np.stack([red]), np.stack([blue, same]))] == [
        (0, 1, False)
    ]
    assert find_near_duplicates(np.stack([red]), np.stack([blue])) == []


def test_the_nearest_of_many_is_reported_however_many_blocks_there_are(monkeypatch: pytest.MonkeyPatch):
    images = np.stack([thumbnail(scene(seed, side=32)) for seed in range(50)])
    pairs = find_near_duplicates(images, images[::-1])
    assert [tuple(pair) for pair in pairs] == [(index, 49 - index, False) for index in range(50)]
    monkeypatch.setattr("paddle_attn.data.prepare.duplicates.BLOCK", 7)
    assert find_near_duplicates(images, images[::-1]) == pairs


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders whose first image, which goes to eval, has a copy among the others."""
    folder = tmp_path_factory.mktemp("leaky") / "images"
    for number, name in enumerate(["<script>alert(1)<script>", "猫🐈", "a & b"]):
        (folder / name).mkdir(parents=True)
        for index in range(20 if number == 2 else 5):
            scene(100 * number + index).save(folder / name / f"{index:02d}.png")
    scene(0, side=60).save(folder / "猫🐈" / "04.png")  # of another class
    ImageOps.mirror(scene(100)).save(folder / "猫🐈" / "02.png")
    scene(200).save(folder / "a & b" / "07.png")
    (folder / "a & b" / "broken.jpg").write_bytes(b"<img src=x>")
    return folder


def test_the_command_writes_the_page_and_prints_a_line(leaky: Path, tmp_path: Path):
    result = tool("split", "--source", leaky, "--out", tmp_path / "split")
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert "3 of 6 eval images have a near-duplicate in train: the score on them" in result.stdout
    page, record = tmp_path / "split" / "report.html", (tmp_path / "split" / "split.json").read_text()
    assert str(page) in result.stdout
    assert json.loads(record)["near_duplicates"] == 3 and "report.html" in json.loads(record)["files"]
    text = page.read_text(encoding="utf-8")
    for words in ("mirrored", "the same file", "in different classes", "猫🐈", "broken.jpg", "imbalanced"):
        assert words in text, words


def test_the_page_loads_and_runs_nothing(leaky: Path, tmp_path: Path):
    make_split(str(leaky), tmp_path / "split")
    text = (tmp_path / "split" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;" in text and "a & b" not in text
    assert set(re.findall(r'src="(data:image/\w+)', text)) == {"data:image/jpeg"}
    assert not re.findall(r'(?:src|href)="(?!data:)', text) and "url(" not in text


def test_a_split_without_the_page(leaky: Path, tmp_path: Path):
    result = tool("split", "--source", leaky, "--out", tmp_path / "split", "--no-report")
    assert "near-duplicate" not in result.stdout and "report.html" not in tree(tmp_path / "split")
    assert json.loads((tmp_path / "split" / "split.json").read_text())["near_duplicates"] is None


def test_a_split_with_a_page_is_replaced_by_one_without(tmp_path: Path):
    images = make_images(tmp_path / "images")
    make_split(str(images), tmp_path / "split")
    make_split(str(images), tmp_path / "split", force=True, report=False)
    assert "report.html" not in tree(tmp_path / "split")


def test_many_classes_give_a_page_of_moderate_size(tmp_path: Path):
    for number in range(150):
        (tmp_path / "images" / f"class_{number:03d}").mkdir(parents=True)
        for index in range(2):
            scene(2 * number + index, side=16).save(
                tmp_path / "images" / f"class_{number:03d}" / f"{index}.png"
            )
    make_split(str(tmp_path / "images"), tmp_path / "split")
    page = tmp_path / "split" / "report.html"
    assert page.stat().st_size < 1 << 20 and page.read_text().count("class_149") == 1


def test_classes_of_equal_size_are_said_to_be_equal(tmp_path: Path):
    make_split(str(make_images(tmp_path / "images")), tmp_path / "split")
    text = (tmp_path / "split" / "report.html").read_text()
    assert "3 classes. Each has 10 images. Always naming" in text and "times fewer" not in text
    assert "95th percentile" in text
