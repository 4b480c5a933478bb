"""The split: its rule, its sources, the download, what it refuses. A failure leaves no half-made split."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from helpers import COLOURS, HANG, ROOT, assert_one_sentence, make_images, picture, tool, tree, wait_until

from paddle_attn.data.folder import ImageFolder
from paddle_attn.data.images import load_image
from paddle_attn.data.prepare.sources import CALTECH_16, download
from paddle_attn.data.prepare.split import default_folder, make_split
from paddle_attn.data.transforms import Preprocess
from paddle_attn.errors import UserError


def assert_only_beside(out: Path, *names: str) -> None:
    """No temporary folder is left beside `out`."""
    assert {path.name for path in out.parent.iterdir()} <= {out.name, *names}


# ---- the rule


def test_every_fifth_file_of_each_sorted_class_goes_to_eval(tmp_path: Path):
    images, out = make_images(tmp_path / "images", per_class=11), tmp_path / "split"
    split = make_split(str(images), out)
    assert split.classes == sorted(COLOURS)
    for name in COLOURS:
        chosen = sorted(path.name for path in (out / "eval" / name).iterdir())
        assert chosen == ["image_00.jpg", "image_05.jpg", "image_10.jpg"]
        found = {part: len(list((out / part / name).iterdir())) for part in ("train", "eval")}
        assert found == split.counts[name] == {"train": 8, "eval": 3}
    assert len(tree(images)) == 33  # the source is untouched
    assert_only_beside(out, "images")


def test_the_record_states_source_rule_and_statistics(tmp_path: Path):
    images, out = make_images(tmp_path / "images"), tmp_path / "split"
    make_split(str(images), out)
    record = json.loads((out / "split.json").read_text(encoding="utf-8"))
    assert record["classes"] == sorted(COLOURS) and record["skipped"] == {}
    assert record["source"] == str(images) and "5th file" in record["rule"]
    pixels = np.stack([np.asarray(load_image(path)) for path in (out / "train").rglob("*.jpg")]) / 255
    np.testing.assert_allclose(record["mean"], pixels.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(record["std"], pixels.std((0, 1, 2)), atol=1e-4)


def test_a_seed_shuffles_reproducibly(tmp_path: Path):
    images = make_images(tmp_path / "images")
    for name, seed in [("a", 1), ("b", 1), ("c", 2), ("d", None)]:
        make_split(str(images), tmp_path / name, seed=seed)
    found = {name: set(tree(tmp_path / name / "eval")) for name in "abcd"}
    assert found["a"] == found["b"] != found["c"] != found["d"]
    assert len(found["a"]) == len(found["d"]) == 6


def test_five_folds_test_on_every_image_once(tmp_path: Path):
    images = make_images(tmp_path / "images", per_class=12)
    tested: list[bytes] = []
    for fold in range(5):
        out = tmp_path / f"fold{fold}"
        split = make_split(str(images), out, fold=fold)
        parts = [list(tree(out / part).values()) for part in ("train", "eval")]
        assert sorted(parts[0] + parts[1]) == sorted(tree(images).values())
        assert split.fold == json.loads((out / "split.json").read_text())["fold"] == fold
        tested += parts[1]
    assert sorted(tested) == sorted(tree(images).values())


def test_fold_0_is_the_split_without_folds(tmp_path: Path):
    images = make_images(tmp_path / "images")
    for name, options in (("without", {}), ("with", {"fold": 0})):
        make_split(str(images), tmp_path / name, **options)
    assert tree(tmp_path / "with") == tree(tmp_path / "without")
    record = json.loads((tmp_path / "with" / "split.json").read_text())
    assert record["rule"] == "every 5th file of each sorted class to eval"


def test_a_fold_needs_an_image_of_each_class_and_a_number_that_exists(tmp_path: Path):
    images = make_images(tmp_path / "images", per_class=4)
    with pytest.raises(UserError, match=r"'blue' has 4 usable images, expected at least 5.*eval of fold 4"):
        make_split(str(images), tmp_path / "out", fold=4)
    with pytest.raises(UserError, match="fold must be at least 0 and at most 4, found 5"):
        make_split(str(images), tmp_path / "out", fold=5)
    assert not (tmp_path / "out").exists()


def test_the_photographs_give_1447_and_370_images(photos: Path, tmp_path: Path):
    split = make_split(str(photos), tmp_path / "split")
    assert split.classes == sorted(CALTECH_16)
    assert (split.total("train"), split.total("eval")) == (1447, 370) and not split.skipped


def test_files_that_do_not_decode_are_skipped_and_listed(tmp_path: Path):
    images = make_images(tmp_path / "images", per_class=6)
    (images / "red" / "image_00.jpg").write_bytes(b"this is text")
    (images / "blue" / "image_03.jpg").write_bytes((images / "blue" / "image_03.jpg").read_bytes()[:300])
    (images / "green" / ".hidden.jpg").write_bytes(b"x")
    (images / "green" / "notes.txt").write_text("x")
    (images / ".git").mkdir()
    split = make_split(str(images), tmp_path / "split")
    assert set(split.skipped) == {str(Path("red") / "image_00.jpg"), str(Path("blue") / "image_03.jpg")}
    assert split.skipped[str(Path("red") / "image_00.jpg")] == "it is not an image"
    totals = {name: sum(count.values()) for name, count in split.counts.items()}
    assert totals == {"blue": 5, "green": 6, "red": 5}
    assert not list((tmp_path / "split").rglob(".*"))


def test_spaces_become_underscores_and_equal_names_get_a_number(tmp_path: Path):
    images = make_images(tmp_path / "images", per_class=4)
    (images / "red").rename(images / "dark red")
    for name in ("0.jpg", "a b.jpg", "a_b.jpg"):  # the other two get the same name in train
        picture((1, 2, 3)).save(images / "dark red" / name)
    (images / "dark red" / "deeper").mkdir()
    picture((1, 2, 3)).save(images / "dark red" / "deeper" / "c.jpg")
    split = make_split(str(images), tmp_path / "split")
    assert "dark_red" in split.classes
    names = {Path(name).name for name in tree(tmp_path / "split") if "dark_red" in name}
    assert {"a_b.jpg", "a_b-2.jpg", "deeper_c.jpg"} <= names and sum(split.counts["dark_red"].values()) == 8


def test_unusual_file_names_are_used_or_listed(tmp_path: Path):
    images = make_images(tmp_path / "images", per_class=2)
    red = images / "red"
    for name in ("   .jpg", "图片 ☺.jpg", "-rf.jpg", "a\nb.jpg", "IMAGE_00.jpg", "x" * 240 + ".jpg"):
        picture((1, 2, 3)).save(red / name)
    picture((1, 2, 3)).save(os.fsdecode(os.fsencode(red) + b"/latin \xe9.jpg"))
    Path(os.fsdecode(os.fsencode(red) + b"/broken \xe9.jpg")).write_bytes(b"x")
    deep = red / ("d" * 150) / ("e" * 150)
    deep.mkdir(parents=True)
    picture((1, 2, 3)).save(deep / "f.jpg")
    picture((1, 2, 3)).save(deep / ("z." + "g" * 195 + ".jpg"))  # its last 200 bytes begin with a dot
    (red / "gone.jpg").symlink_to("nowhere")
    (red / "round").symlink_to(images)
    os.mkfifo(red / "pipe.jpg")
    split = make_split(str(images), tmp_path / "split")
    reasons = {
        "red/gone.jpg": "No such file or directory",
        "red/pipe.jpg": "it is not a regular file",
        "red/round": "a link to a folder, which is not followed",
    }
    assert split.skipped == {**reasons, "red/broken \\xe9.jpg": "it is not an image"}
    assert sum(split.counts["red"].values()) == 2 + 9
    preprocess = Preprocess(8, "stretch", (0, 0, 0), (1, 1, 1))
    parts = [ImageFolder(tmp_path / "split" / part, preprocess) for part in ("train", "eval")]
    assert sum(map(len, parts)) == 2 + 2 + 2 + 9
    record = json.loads((tmp_path / "split" / "split.json").read_text(encoding="utf-8"))
    assert record["skipped"] == split.skipped


def test_two_folders_for_the_same_class_are_an_error(tmp_path: Path):
    images = make_images(tmp_path / "images")
    (images / "red").rename(images / "dark red")
    (images / "blue").rename(images / "dark_red")
    with pytest.raises(UserError, match="'dark red' and 'dark_red' would both become the class 'dark_red'"):
        make_split(str(images), tmp_path / "split")


def test_only_the_given_classes_are_used(tmp_path: Path):
    images = make_images(tmp_path / "images")
    assert make_split(str(images), tmp_path / "split", classes=["red", "blue"]).classes == ["blue", "red"]
    with pytest.raises(
        UserError, match="unknown class 'rad': expected one of blue, green, red; did you mean 'red'"
    ):
        make_split(str(images), tmp_path / "other", classes=["rad"])
    assert not (tmp_path / "other").exists()


# ---- `out` is complete or as before


def test_an_earlier_split_is_replaced_only_with_force_and_only_by_a_complete_one(tmp_path: Path):
    images, out = make_images(tmp_path / "images"), tmp_path / "split"
    make_split(str(images), out)
    before = tree(out)
    with pytest.raises(UserError, match="exists: pass --force"):
        make_split(str(images), out)
    make_images(tmp_path / "bad")
    shutil.rmtree(tmp_path / "bad" / "red")
    (tmp_path / "bad" / "red").mkdir()  # the last class fails, after the others were copied
    with pytest.raises(UserError, match="the class 'red' has 0 usable images"):
        make_split(str(tmp_path / "bad"), out, force=True)
    assert tree(out) == before
    assert_only_beside(out, "images", "bad")
    shutil.rmtree(images / "red")
    assert make_split(str(images), out, force=True).classes == ["blue", "green"]
    assert_only_beside(out, "images", "bad")


def test_a_folder_that_is_not_a_split_is_never_replaced(tmp_path: Path):
    images, out = make_images(tmp_path / "images"), tmp_path / "precious"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    for record in (None, "{", "[" * 100_000, "[]", '{"files": 3}', '{"classes": ["blue"]}'):
        if record:
            (out / "split.json").write_text(record)
        before = tree(out)
        with pytest.raises(UserError, match=r"not replaced, as it has no split\.json that lists the files"):
            make_split(str(images), out, force=True)
        assert tree(out) == before
    assert_only_beside(out, "images")


@pytest.mark.parametrize("name", ["thesis.tex", "train/red/mine.jpg", "more/.hidden", "train/blue/link"])
def test_a_split_with_a_file_of_the_user_is_not_replaced(tmp_path: Path, name: str):
    images, out = make_images(tmp_path / "images", per_class=3), tmp_path / "split"
    make_split(str(images), out)
    (out / name).parent.mkdir(exist_ok=True)
    if name.endswith("link"):
        (out / name).symlink_to(images, target_is_directory=True)
    else:
        (out / name).write_text("x")
    before = tree(tmp_path)
    with pytest.raises(
        UserError, match=f"holds {name}, which this command did not write, and is not replaced"
    ):
        make_split(str(images), out, force=True)
    assert tree(tmp_path) == before
    (out / name).unlink()
    assert make_split(str(images), out, seed=1, force=True).total("eval") == 3


def test_a_target_that_is_a_link_is_followed(tmp_path: Path):
    images, out = make_images(tmp_path / "images", per_class=3), tmp_path / "link"
    out.symlink_to("disk/split")
    for force in (False, True):
        make_split(str(images), out, force=force)
        assert out.is_symlink() and (tmp_path / "disk" / "split" / "split.json").exists()
    assert_only_beside(tmp_path / "disk" / "split")


# ---- source and target are apart


def inside(tmp_path: Path) -> tuple[Path, Path]:
    return make_images(tmp_path / "split" / "originals", per_class=3), tmp_path / "split"


def deep_inside(tmp_path: Path) -> tuple[Path, Path]:
    make_images(tmp_path / "split" / "a" / "originals", per_class=3)
    return tmp_path / "split" / "a", tmp_path / "other" / ".." / "split"


def archive_inside(tmp_path: Path) -> tuple[Path, Path]:
    images = make_images(tmp_path / "images", per_class=3)
    return pack(images, tmp_path / "split" / "x.zip"), tmp_path / "split"


def around(tmp_path: Path) -> tuple[Path, Path]:
    return make_images(tmp_path, per_class=3), tmp_path / "split"


def same(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "split", tmp_path / "split" / "."


def linked_source(tmp_path: Path) -> tuple[Path, Path]:
    images = make_images(tmp_path / "split" / "originals", per_class=3)
    (tmp_path / "link").symlink_to(images, target_is_directory=True)
    return tmp_path / "link", tmp_path / "split"


def linked_target(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "link").symlink_to("split", target_is_directory=True)
    return make_images(tmp_path / "split" / "originals", per_class=3), tmp_path / "link"


def linked_class(tmp_path: Path) -> tuple[Path, Path]:
    images = make_images(tmp_path / "images", per_class=3)
    shutil.rmtree(images / "red")
    (images / "red").symlink_to(tmp_path / "split" / "train" / "red", target_is_directory=True)
    return images, tmp_path / "split"


def linked_image(tmp_path: Path) -> tuple[Path, Path]:
    images = make_images(tmp_path / "images", per_class=3)
    (images / "red" / "image_01.jpg").unlink()
    (images / "red" / "image_01.jpg").symlink_to(tmp_path / "split" / "train" / "red" / "image_01.jpg")
    return images, tmp_path / "split"


@pytest.mark.parametrize(
    "places",
    [
        inside,
        deep_inside,
        archive_inside,
        around,
        same,
        linked_source,
        linked_target,
        linked_class,
        linked_image,
    ],
)
def test_a_source_and_a_target_that_contain_one_another_are_refused(
    tmp_path: Path, places: Callable[[Path], tuple[Path, Path]]
):
    make_split(str(make_images(tmp_path / "first")), tmp_path / "split")
    shutil.rmtree(tmp_path / "first")
    source, out = places(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"the source .* and the folder of the split, .* contain one another"):
        make_split(str(source), out, force=True)
    assert tree(tmp_path) == before


def test_the_download_is_not_replaced_by_the_split(tmp_path: Path):
    with pytest.raises(UserError, match="contain one another"):
        make_split(out=tmp_path / "datasets", datasets=tmp_path / "datasets", url="http://127.0.0.1:9")
    assert not list(tmp_path.iterdir())


def test_a_circle_of_links_is_listed(tmp_path: Path):
    images = make_images(tmp_path / "images", per_class=2)
    (images / "red" / "circle.jpg").symlink_to("circle.jpg")
    assert "red/circle.jpg" in make_split(str(images), tmp_path / "split").skipped


# ---- the name of the target


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("demo", "demo"),
        ("photos/flowers", "flowers"),
        ("photos/flowers/..", "photos"),
        ("my flowers.tar.gz", "my_flowers"),
        ("Flowers.ZIP", "Flowers"),
        ("photos/Images.zip", "Images-split"),
        ("datasets/flowers", "flowers-split"),
        ("datasets/flowers/deeper", "deeper"),
        ("datasets/Images.zip", "Images-split"),
        ("link.zip", "Images-split"),
        (None, "Images-split"),
    ],
)
def test_the_folder_is_named_after_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None, name: str
):
    monkeypatch.chdir(tmp_path)
    for folder in ("photos/flowers", "datasets/flowers/deeper"):
        Path(folder).mkdir(parents=True)
    for archive in ("my flowers.tar.gz", "Flowers.ZIP", "photos/Images.zip", "datasets/Images.zip"):
        Path(archive).touch()
    Path("link.zip").symlink_to("datasets/Images.zip")
    assert default_folder(source) == Path("datasets", name)


@pytest.mark.parametrize("packed", [True, False])
def test_only_the_notebooks_classes_are_named_after_them(tmp_path: Path, packed: bool):
    datasets = tmp_path / "datasets"
    for name in CALTECH_16:
        (datasets / "Images" / name).mkdir(parents=True)
        (datasets / "Images" / name / "image_0001.jpg").touch()
    (datasets / "Images" / "car_side").rename(datasets / "Images" / "car side")
    if packed:
        pack(datasets / "Images", datasets / "Images.zip")
    name = "Images.zip" if packed else "Images"
    assert default_folder(None, datasets) == datasets / "caltech101-16"
    assert default_folder(str(datasets / name), datasets, fold=2) == datasets / "caltech101-16-fold2"
    assert default_folder(None, datasets, classes=CALTECH_16) == datasets / "caltech101-16"
    assert default_folder(None, datasets, classes=["watch", "ketch"]) == datasets / "Images-split"
    (datasets / "Images" / "mine").mkdir()
    (datasets / "Images" / "mine" / "photo.jpg").touch()
    if packed:
        pack(datasets / "Images", datasets / "Images.zip")
    assert default_folder(None, datasets) == datasets / "Images-split"


def test_a_download_of_other_classes_is_named_after_its_archive(tmp_path: Path):
    assert default_folder(None, tmp_path) == tmp_path / "caltech101-16"
    assert default_folder(None, tmp_path, classes=["Faces", "watch"]) == tmp_path / "caltech-101"


def test_a_name_that_is_not_text_becomes_text(tmp_path: Path):
    os.mkdir(os.fsencode(tmp_path) + b"/\x1b[31m \xe9")
    source = os.fsdecode(os.fsencode(tmp_path) + b"/\x1b[31m \xe9")
    assert default_folder(source) == Path("datasets", r"\x1b[31m_\xe9")


# ---- sources


def pack(images: Path, archive: Path, prefix: str = "Images/") -> Path:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in tree(images).items():
                packed.writestr(prefix + name, content)
            packed.writestr("__MACOSX/Images/._x.jpg", b"x")
    else:
        with tarfile.open(archive, "w:gz") as packed:
            packed.add(images, prefix.rstrip("/") or ".")
    return archive


@pytest.mark.parametrize("name", ["Images.zip", "x.tar.gz", "x.tgz"])
def test_an_archive_gives_the_split_of_its_folder(tmp_path: Path, name: str):
    images = make_images(tmp_path / "images")
    expected = make_split(str(images), tmp_path / "a").counts
    assert make_split(str(pack(images, tmp_path / name)), tmp_path / "b").counts == expected
    assert tree(tmp_path / "a" / "train") == tree(tmp_path / "b" / "train")


def test_images_zip_is_preferred_to_the_images_folder(tmp_path: Path):
    datasets = tmp_path / "datasets"
    make_images(datasets / "Images")
    assert make_split(out=tmp_path / "a", datasets=datasets).source == str(datasets / "Images")
    pack(datasets / "Images", datasets / "Images.zip")
    assert make_split(out=tmp_path / "b", datasets=datasets).source == str(datasets / "Images.zip")


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_an_archive_that_unpacks_to_far_more_bytes_is_refused(tmp_path: Path, name: str):
    images = make_images(tmp_path / "images")
    (images / "red" / "big.txt").write_bytes(bytes(100 << 20))
    archive = pack(images, tmp_path / name)
    with pytest.raises(UserError, match=r"is refused: it would unpack to more than 50 times its \d+ bytes"):
        make_split(str(archive), tmp_path / "split")
    assert_only_beside(tmp_path / "split", "images", name)


def test_an_archive_with_far_too_many_files_is_refused(tmp_path: Path):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as packed:  # in a .zip a file takes more than 50 bytes
        for index in range(20_000):
            packed.addfile(tarfile.TarInfo(f"Images/red/{index}.txt"))
    with pytest.raises(UserError, match="is refused: it has more than one file per 50 of its bytes"):
        make_split(str(tmp_path / "x.tar.gz"), tmp_path / "split")
    assert_only_beside(tmp_path / "split", "x.tar.gz")


def hostile_zip(path: Path, name: str, link: bool = False) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        info = zipfile.ZipInfo(name)
        if link:
            info.external_attr = 0o120777 << 16
        packed.writestr(info, "/etc/passwd")
    return path


def hostile_tar(path: Path, name: str, link: bool = False) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        info = tarfile.TarInfo(name)
        info.size = 0 if link else 1
        if link:
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(info, io.BytesIO(b"x"))
    return path


@pytest.mark.parametrize("make", [hostile_zip, hostile_tar])
@pytest.mark.parametrize(
    ("name", "link"),
    [("../evil.jpg", False), ("/tmp/evil.jpg", False), ("a/../../evil.jpg", False), ("a/link.jpg", True)],
)
def test_members_outside_the_target_and_links_are_refused(
    tmp_path: Path, make: Callable[..., Path], name: str, link: bool
):
    archive = make(tmp_path / ("x.zip" if make is hostile_zip else "x.tar.gz"), name, link)
    reason = "is a link" if link else "would be written outside the target folder"
    with pytest.raises(UserError, match=f"is refused: its member '{name}' {reason}"):
        make_split(str(archive), tmp_path / "split")
    assert_only_beside(tmp_path / "split", archive.name)


def test_a_zip_with_another_compression_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_BZIP2) as packed:
        packed.writestr("photos/a/0.png", bytes(1000))
    with pytest.raises(UserError, match=r"is refused: 'photos/a/0\.png' is neither stored nor deflated"):
        make_split(str(tmp_path / "x.zip"), tmp_path / "split")


@pytest.mark.parametrize(
    "headers", [{"path": "photos/a/x\0y.png"}, {"GNU.sparse.map": "x,y", "GNU.sparse.size": "1"}]
)
def test_invalid_headers_count_as_damage(tmp_path: Path, headers: dict[str, str]):
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as packed:
        info = tarfile.TarInfo("photos/a/0.png")
        info.size, info.pax_headers = 1, headers
        packed.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(UserError, match="is damaged: expected a complete archive"):
        make_split(str(tmp_path / "x.tar"), tmp_path / "split")


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_archive_is_an_error(tmp_path: Path, name: str, damage: str):
    archive = pack(make_images(tmp_path / "images"), tmp_path / name)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    archive.write_bytes(content if damage == "flipped" else content[:1500])
    with pytest.raises(UserError, match="is damaged: expected a complete archive"):
        make_split(str(archive), tmp_path / "split")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder.mkdir(), "holds no class folders"),
        (
            lambda folder: (folder.mkdir(), picture((0, 0, 0)).save(folder / "a.jpg")),
            "holds images without class folders",
        ),
        (lambda folder: (make_images(folder / "train"), make_images(folder / "eval")), "is split already"),
        (lambda folder: folder.write_text("x"), "cannot unpack"),
        (lambda folder: None, "there is no .*source.x: expected --source to be"),
    ],
)
def test_a_source_without_class_folders_is_an_error(tmp_path: Path, make, message: str):
    make(tmp_path / "source.x")
    with pytest.raises(UserError, match=message):
        make_split(str(tmp_path / "source.x"), tmp_path / "split")


# ---- the download, from a local server


class Server:
    """Serves `content`. The first `breaks` answers end after `after` bytes, or wait there for `stall`."""

    def __init__(
        self,
        content: bytes,
        breaks: int = 0,
        after: int = 1000,
        ranges: bool = True,
        stall: threading.Event | None = None,
    ):
        self.requests: list[str | None] = []  # the Range header of each
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                wanted = self.headers.get("Range")
                server.requests.append(wanted)
                start = int(wanted[len("bytes=") : -1]) if wanted and ranges else 0
                if start >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                end = start + after if len(server.requests) <= breaks else len(content)
                self.wfile.write(content[start:end])
                if stall and end < len(content):
                    stall.wait()

            def log_message(self, *_):
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_port}/caltech-101.zip"
        threading.Thread(target=self.httpd.serve_forever, daemon=True).start()


@pytest.fixture
def serve() -> Iterator:
    servers: list[Server] = []

    def start(*arguments, **options) -> Server:
        servers.append(Server(*arguments, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.httpd.shutdown()


CONTENT = bytes(range(256)) * 40
SHA1 = hashlib.sha1(CONTENT).hexdigest()


def test_a_broken_connection_is_resumed_where_it_broke(tmp_path: Path, serve):
    server = serve(CONTENT, breaks=3)
    download(server.url, tmp_path / "x.zip", SHA1)
    assert (tmp_path / "x.zip").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1000-", "bytes=2000-", "bytes=3000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def test_a_server_without_ranges_sends_the_whole_file_again(tmp_path: Path, serve):
    server = serve(CONTENT, breaks=1, ranges=False)
    download(server.url, tmp_path / "x.zip", SHA1)
    assert (tmp_path / "x.zip").read_bytes() == CONTENT


def test_a_later_run_resumes_an_unfinished_download(tmp_path: Path, serve):
    (tmp_path / "x.zip.part").write_bytes(CONTENT[:4000])
    server = serve(CONTENT)
    download(server.url, tmp_path / "x.zip", SHA1)
    assert server.requests == ["bytes=4000-"] and (tmp_path / "x.zip").read_bytes() == CONTENT


def test_a_download_with_a_wrong_checksum_is_not_kept(tmp_path: Path, serve):
    with pytest.raises(UserError, match=f"was not kept: expected the SHA-1 {'0' * 40}, found {SHA1}"):
        download(serve(CONTENT).url, tmp_path / "x.zip", "0" * 40)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_download_is_kept_and_leaves_no_split(tmp_path: Path, serve):
    stall = threading.Event()
    server = serve(CONTENT, breaks=1, after=1 << 13, stall=stall)
    command = [sys.executable, str(ROOT / "tools" / "split.py"), "--url", server.url]
    # a shell may have told its background processes to ignore Ctrl-C
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_until(lambda: (tmp_path / "datasets" / "caltech-101.zip.part").exists(), process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=HANG)
    stall.set()
    assert process.returncode == 130 and errors.count("\n") == 1, errors
    assert [path.name for path in (tmp_path / "datasets").iterdir()] == ["caltech-101.zip.part"]


def test_the_official_archive_gives_the_sixteen_classes(tmp_path: Path, serve):
    images = tmp_path / "101_ObjectCategories"
    for name in [*CALTECH_16, "BACKGROUND_Google", "Faces"]:
        (images / name).mkdir(parents=True)
        for index in range(1, 4):
            picture((index, 2, 3)).save(images / name / f"image_{index:04d}.jpg")
    inner = pack(images, tmp_path / "inner.tar.gz", "101_ObjectCategories/")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as packed:
        packed.writestr("caltech-101/Annotations.tar", b"not used")
        packed.write(inner, "caltech-101/101_ObjectCategories.tar.gz")
    content = (tmp_path / "outer.zip").read_bytes()
    server = serve(content)
    datasets = tmp_path / "datasets"
    split = make_split(
        out=tmp_path / "split", datasets=datasets, url=server.url, sha1=hashlib.sha1(content).hexdigest()
    )
    assert split.classes == sorted(CALTECH_16) and split.total("eval") == 16
    assert [path.name for path in datasets.iterdir()] == ["caltech-101.zip"]
    assert make_split(
        out=tmp_path / "again", classes=["Faces", "watch"], datasets=datasets, url=server.url
    ).classes == ["Faces", "watch"]
    assert len(server.requests) == 1  # the second split uses the kept archive


# ---- the command


def test_the_command_prints_the_option_only_for_a_folder_that_configs_do_not_expect(tmp_path: Path):
    make_images(tmp_path / "flowers", per_class=2)
    result = tool("split", "--source", "flowers", "--out", "datasets/caltech101-16", cwd=tmp_path)
    assert result.returncode == 0 and "data.root" not in result.stdout, result.stderr
    assert result.stdout.splitlines()[-1].startswith("3 + 3 images of 3 classes in datasets/caltech101-16")


def test_the_command_names_the_folder_after_the_source_and_prints_its_option(tmp_path: Path):
    make_images(tmp_path / "flowers", per_class=2)
    result = tool("split", "--source", "flowers", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "train on it with: -o data.root=datasets/flowers"
    assert (tmp_path / "datasets" / "flowers" / "split.json").exists()


def test_the_command_names_the_folders_of_the_other_folds_after_them(tmp_path: Path):
    make_images(tmp_path / "flowers")
    result = tool("split", "--source", "flowers", "--fold", 3, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "train on it with: -o data.root=datasets/flowers-fold3"
    assert "beginning with file 4" in result.stdout


def test_the_command_escapes_what_is_not_printable(tmp_path: Path):
    images = make_images(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\x1b[31m \xe9")), per_class=2)
    for name in ("\x1b]0;title\x07.jpg", os.fsdecode(b"\xff.jpg")):
        (images / "red" / name).write_text("text")
        picture((1, 2, 3)).save(images / "red" / f"good {name}")
    for out, word in ((tmp_path / "split", "split"), (tmp_path / "\x1b[2J", r"\x1b[2J")):
        result = tool("split", "--source", images, "--out", out)
        assert result.returncode == 0, result.stderr
        assert "\x1b" not in result.stdout + result.stderr and word in result.stdout.splitlines()[-1]
        assert r"skipped: red/\x1b]0;title\x07.jpg: it is not an image" in result.stdout
        assert r"skipped: red/\xff.jpg: it is not an image" in result.stdout
        assert not any("\x1b" in name for name in tree(out))
    result = tool("split", "--source", images, "--out", tmp_path / "\x1b[2J")
    assert_one_sentence(result, r"\x1b[2J exists")
    assert "\x1b" not in result.stderr


def test_the_command_splits_where_the_encoding_is_ascii(tmp_path: Path):
    images = make_images(tmp_path / "flöwers", per_class=2)
    (images / "red" / "image_00.jpg").rename(images / "red" / "é一.jpg")
    ascii_system = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    result = tool("split", "--source", "flöwers", cwd=tmp_path, **ascii_system)
    assert result.returncode == 0 and result.stdout.endswith(r"datasets/fl\xf6wers'" + "\n"), result.stderr
    files = tree(tmp_path / "datasets" / "flöwers")
    assert "train/red/é一.jpg" in files and "split.json" in files
    again = tool("split", "--source", "flöwers", "--force", cwd=tmp_path, **ascii_system)
    assert again.returncode == 0, again.stderr  # the record names the files


def test_the_command_reports_the_split(tmp_path: Path):
    images = make_images(tmp_path / "images")
    (images / "red" / "bad.jpg").write_text("text")
    result = tool("split", "--source", images, "--out", tmp_path / "split")
    assert result.returncode == 0, result.stderr
    assert (
        "24 + 6 images of 3 classes" in result.stdout
        and "skipped: red/bad.jpg: it is not an image" in result.stdout
    )


def test_without_photographs_and_network_the_command_names_three_ways(tmp_path: Path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nothing listens there
        result = tool("split", "--url", f"http://127.0.0.1:{closed.getsockname()[1]}/x.zip", cwd=tmp_path)
    assert_one_sentence(result, "refused", "datasets/Images", "--source FOLDER_OR_ARCHIVE", "--source demo")
    assert not (tmp_path / "datasets" / "caltech101-16").exists()
