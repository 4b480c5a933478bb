"""Classified pictures: folders by class, drawn classes and scores, the page; nothing else is replaced."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import picture, tree
from PIL import Image

from paddle_attn.deploy.pictures import MAX_SIDE, MIN_WIDTH, annotated, check_folder, write_pictures
from paddle_attn.errors import UserError


def result(path: Path, *labels: str) -> dict:
    """A result of `Predictor.predict`, with the scores 0.5, 0.25, ..."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture((200, 40, 40)).save(path, "JPEG")
    scores = [0.5**place for place in range(1, len(labels) + 1)]
    return {
        "path": str(path),
        "labels": list(labels),
        "class_ids": list(range(len(labels))),
        "scores": scores,
    }


def copies(folder: Path) -> set[str]:
    return {name for name in tree(folder) if "/" in name}


def test_copies_have_the_pictures_bytes_and_names_and_no_two_the_same(tmp_path: Path):
    paths = [tmp_path / name for name in ("a/x.jpg", "b/x.jpg", "b/X.jpg", "b/y.jpg")]
    results = [result(path, label) for path, label in zip(paths, ["cat", "cat", "cat", "狗"], strict=True)]
    write_pictures(results, [], tmp_path / "out")
    assert copies(tmp_path / "out") == {"cat/x.jpg", "cat/x_2.jpg", "cat/X_3.jpg", "狗/y.jpg"}
    for entry in json.loads((tmp_path / "out" / "predictions.json").read_text()):
        assert (tmp_path / "out" / entry["file"]).read_bytes() == Path(entry["path"]).read_bytes()


@pytest.mark.parametrize(
    "label", ["../../up", "/root", "..", "", "a\nb", "C:\\x", "n" * 400, "狗" * 400, "\udcff"]
)
def test_every_class_becomes_one_folder_inside_the_output(label: str, tmp_path: Path):
    results = [result(tmp_path / "in" / "x.jpg", label), result(tmp_path / "in" / "y.jpg", "cat")]
    write_pictures(results, [], tmp_path / "out")
    (folder,) = {Path(name).parent.name for name in copies(tmp_path / "out")} - {"cat"}
    assert folder.isprintable() and {path.name for path in tmp_path.iterdir()} == {"in", "out"}


def test_classes_that_differ_in_case_or_forbidden_characters_only_keep_folders_of_their_own(tmp_path: Path):
    results = [result(tmp_path / "x.jpg", label) for label in ("a/b", "a:b", "A_b")]
    write_pictures(results, [], tmp_path / "out")
    assert copies(tmp_path / "out") == {"a_b/x.jpg", "a_b_2/x.jpg", "A_b_3/x.jpg"}


def test_only_a_folder_of_this_command_is_replaced(tmp_path: Path):
    out = tmp_path / "out"
    write_pictures([result(tmp_path / "x.jpg", "cat")], [], out)
    check_folder(out, [str(tmp_path / "x.jpg")])
    write_pictures([result(tmp_path / "y.jpg", "dog")], [], out)
    assert copies(out) == {"dog/y.jpg"}
    (out / "dog" / "mine.txt").write_text("notes")
    before = tree(out)
    with pytest.raises(UserError, match=r"out holds dog/mine\.txt, which this command did not write"):
        check_folder(out, [])
    with pytest.raises(UserError, match=r"out holds dog/mine\.txt, which this command did not write"):
        write_pictures([result(tmp_path / "x.jpg", "cat")], [], out)
    assert tree(out) == before


def test_the_output_is_neither_in_an_input_nor_around_it(tmp_path: Path):
    for out, source in (("photos/out", "photos"), ("all", "all/photos"), ("same", "same")):
        with pytest.raises(UserError, match="choose another --out-dir"):
            check_folder(tmp_path / out, [str(tmp_path / source)])


def test_the_page_shows_every_picture_its_scores_and_the_failures(tmp_path: Path):
    results = [result(tmp_path / f"{label}.jpg", label, "other") for label in ("<cat>", "狗")]
    write_pictures(results, [UserError("cannot decode the image broken.jpg")], tmp_path / "out")
    page = (tmp_path / "out" / "contact_sheet.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 2 and "<cat>" not in page and "&lt;cat&gt;" in page and "狗" in page
    assert "<b>0.500</b>" in page and "then other 0.250" in page and "broken.jpg" in page
    assert 'href="_cat_/_cat_.jpg"' in page and 'href="%E7%8B%97/%E7%8B%97.jpg"' in page


@pytest.mark.parametrize("size", [(8, 8), (400, 300), (5000, 100)])
def test_an_annotated_picture_has_a_bar_as_long_as_each_score(size: tuple[int, int]):
    image = Image.new("RGB", size, (10, 20, 30))
    drawn = annotated(image, ["cat", "狗 $\\frac$ \x1b[31m"], [0.75, 0.25])
    width = min(max(size[0], MIN_WIDTH), MAX_SIDE)
    assert drawn.width == width and drawn.height > size[1] * min(1, MAX_SIDE / size[0])
    blue = (np.asarray(drawn) == (0xBC, 0xDC, 0xF2)).all(-1)
    ends = width - blue[:, ::-1].argmax(1)[blue.any(1)]
    longest = [bar.max() for bar in np.array_split(ends, 2)]  # text covers parts of the others
    assert longest == [round(score * width) + 1 for score in (0.75, 0.25)]


def test_annotated_pictures_are_jpegs_below_their_class(tmp_path: Path):
    path = tmp_path / "x.png"
    write_pictures([result(path, "cat")], [], tmp_path / "out", annotate=True)
    with Image.open(tmp_path / "out" / "cat" / "x.jpg") as drawn, Image.open(path) as original:
        assert drawn.format == "JPEG" and drawn.height > original.height
