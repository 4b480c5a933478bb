"""The split: its rule, its sources, the download, and what it refuses. Nothing half-made is ever left."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from helpers import COLOURS, assert_one_sentence, make_images, picture, tool

from paddle_attn.data.dataset import ImageFolder
from paddle_attn.data.prepare import sources
from paddle_attn.data.prepare.sources import CALTECH_16, download
from paddle_attn.data.prepare.split import make_split
from paddle_attn.data.transforms import Preprocess
from paddle_attn.errors import UserError


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def nothing_is_left_beside(out: Path, *allowed: str) -> bool:
    return {path.name for path in out.parent.iterdir()} <= {out.name, *allowed}


# ---- the rule


def test_every_fifth_file_of_each_sorted_class_goes_to_eval(tmp_path: Path):
    images, out = make_images(tmp_path / "images", per_class=11), tmp_path / "split"
    split = make_split(str(images), out)
    assert split.classes == sorted(COLOURS)
    for name in COLOURS:
        assert sorted(path.name for path in (out / "eval" / name).iterdir()) == [
            "image_00.jpg",
            "image_05.jpg",
            "image_10.jpg",
        ]
        assert (
            split.counts[name]
            == {"train": 8, "eval": 3}
            == {part: len(list((out / part / name).iterdir())) for part in ("train", "eval")}
        )
    record = json.loads((out / "split.json").read_text())
    assert (
        record["classes"] == split.classes
        and record["source"] == str(images)
        and "5th file" in record["rule"]
    )
    pixels = (
        np.stack([np.asarray(sources_image) for sources_image in _train_pixels(out)]).reshape(-1, 3) / 255
    )
    np.testing.assert_allclose(record["mean"], pixels.mean(0), atol=1e-4)
    np.testing.assert_allclose(record["std"], pixels.std(0), atol=1e-4)
    assert len(tree(images)) == 33  # the source is untouched
    assert nothing_is_left_beside(out, "images")


def _train_pixels(out: Path):
    from paddle_attn.data.images import load_image

    return [load_image(path) for path in sorted((out / "train").rglob("*.jpg"))]


def test_a_seed_shuffles_the_same_way_each_time(tmp_path: Path):
    images = make_images(tmp_path / "images")
    for name, seed in [("a", 1), ("b", 1), ("c", 2), ("d", None)]:
        make_split(str(images), tmp_path / name, seed=seed)
    found = {name: set(tree(tmp_path / name / "eval")) for name in "abcd"}
    assert found["a"] == found["b"] != found["c"] != found["d"]
    assert len(found["a"]) == len(found["d"]) == 6


def test_the_photographs_split_as_their_page_says(photos: Path, tmp_path: Path):
    split = make_split(str(photos), tmp_path / "split")
    assert split.classes == sorted(CALTECH_16)
    assert (split.total("train"), split.total("eval")) == (1447, 370) and not split.left_out


def test_what_is_no_usable_image_is_left_out_by_name(tmp_path: Path):
    images = make_images(tmp_path / "images", per_class=6)
    (images / "red" / "image_00.jpg").write_bytes(b"this is text")
    (images / "blue" / "image_03.jpg").write_bytes((images / "blue" / "image_03.jpg").read_bytes()[:300])
    (images / "green" / ".hidden.jpg").write_bytes(b"x")
    (images / "green" / "notes.txt").write_text("x")
    (images / ".git").mkdir()
    split = make_split(str(images), tmp_path / "split")
    assert set(split.left_out) == {str(Path("red") / "image_00.jpg"), str(Path("blue") / "image_03.jpg")}
    assert split.left_out[str(Path("red") / "image_00.jpg")] == "it is no image"
    assert {name: sum(count.values()) for name, count in split.counts.items()} == {
        "blue": 5,
        "green": 6,
        "red": 5,
    }
    assert not list((tmp_path / "split").rglob(".*"))


def test_spaces_become_underscores_and_names_that_meet_are_kept_apart(tmp_path: Path):
    images = make_images(tmp_path / "images", per_class=4)
    (images / "red").rename(images / "dark red")
    for name in ("0.jpg", "a b.jpg", "a_b.jpg"):  # the first goes to eval, the other two meet in train
        picture((1, 2, 3)).save(images / "dark red" / name)
    (images / "dark red" / "deeper").mkdir()
    picture((1, 2, 3)).save(images / "dark red" / "deeper" / "c.jpg")
    split = make_split(str(images), tmp_path / "split")
    assert "dark_red" in split.classes
    names = {Path(name).name for name in tree(tmp_path / "split") if "dark_red" in name}
    assert {"a_b.jpg", "a_b-2.jpg", "deeper_c.jpg"} <= names and sum(split.counts["dark_red"].values()) == 8


def test_odd_names_are_used_or_left_out_by_name(tmp_path: Path):
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
        "red/pipe.jpg": "it is no plain file",
        "red/round": "a link to a folder, which is not followed",
    }
    assert split.left_out == {**reasons, "red/broken \\xe9.jpg": "it is no image"}
    assert sum(split.counts["red"].values()) == 2 + 9
    assert (
        sum(
            len(ImageFolder(tmp_path / "split" / part, Preprocess(8, "stretch", (0,) * 3, (1,) * 3)))
            for part in ("train", "eval")
        )
        == 15
    )
    assert (
        json.loads((tmp_path / "split" / "split.json").read_text(encoding="utf-8"))["left_out"]
        == split.left_out
    )


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_bombs_are_refused_and_leave_nothing(tmp_path: Path, name: str):
    images = make_images(tmp_path / "images")
    (images / "red" / "big.txt").write_bytes(bytes(100 << 20))
    archive = pack(images, tmp_path / name)
    with pytest.raises(UserError, match=r"is refused: it would unpack to more than 50 times its \d+ bytes"):
        make_split(str(archive), tmp_path / "split")
    (images / "red" / "big.txt").unlink()
    for index in range(2000 if name == "x.zip" else 20_000):
        (images / "red" / f"{index}.txt").touch()
    archive = pack(images, tmp_path / name)
    if name == "x.tar.gz":  # in a zip each file takes more room than that
        with pytest.raises(UserError, match="is refused: it has more than a file for each 50 of its bytes"):
            make_split(str(archive), tmp_path / "split")
    assert nothing_is_left_beside(tmp_path / "split", "images", name)


def test_two_folders_that_would_become_one_class_are_an_error(tmp_path: Path):
    images = make_images(tmp_path / "images")
    (images / "red").rename(images / "dark red")
    (images / "blue").rename(images / "dark_red")
    with pytest.raises(UserError, match="'dark red' and 'dark_red' would both become the class 'dark_red'"):
        make_split(str(images), tmp_path / "split")


def test_only_the_classes_that_are_asked_for(tmp_path: Path):
    images = make_images(tmp_path / "images")
    assert make_split(str(images), tmp_path / "split", classes=["red", "blue"]).classes == ["blue", "red"]
    with pytest.raises(
        UserError, match="unknown class 'rad': expected one of blue, green, red; did you mean 'red'"
    ):
        make_split(str(images), tmp_path / "other", classes=["rad"])
    assert not (tmp_path / "other").exists()


# ---- never half-made, never over another


def test_an_older_split_is_replaced_only_when_forced_and_only_by_a_whole_one(tmp_path: Path):
    images, out = make_images(tmp_path / "images"), tmp_path / "split"
    make_split(str(images), out)
    before = tree(out)
    with pytest.raises(UserError, match="is there already: pass --force"):
        make_split(str(images), out)
    make_images(tmp_path / "bad")
    shutil.rmtree(tmp_path / "bad" / "red")
    (tmp_path / "bad" / "red").mkdir()
    with pytest.raises(UserError, match="the class 'red' has 0 usable images"):
        make_split(str(tmp_path / "bad"), out, force=True)
    assert tree(out) == before and nothing_is_left_beside(out, "images", "bad")
    shutil.rmtree(images / "red")
    assert make_split(str(images), out, force=True).classes == ["blue", "green"]
    assert nothing_is_left_beside(out, "images", "bad")


def test_a_folder_that_is_no_split_is_never_replaced(tmp_path: Path):
    images, out = make_images(tmp_path / "images"), tmp_path / "precious"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="was not made by this tool"):
        make_split(str(images), out, force=True)
    assert (out / "thesis.tex").exists()


def test_an_interrupted_split_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images, out = make_images(tmp_path / "images"), tmp_path / "split"
    monkeypatch.setattr(
        "paddle_attn.data.split.shutil.copyfile", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        make_split(str(images), out)
    assert nothing_is_left_beside(out, "images") and not out.exists()


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
def test_archives_split_as_their_folder_does(tmp_path: Path, name: str):
    images = make_images(tmp_path / "images")
    expected = make_split(str(images), tmp_path / "a").counts
    assert make_split(str(pack(images, tmp_path / name)), tmp_path / "b").counts == expected
    assert tree(tmp_path / "a" / "train") == tree(tmp_path / "b" / "train")


def test_images_zip_comes_before_the_images_folder(tmp_path: Path):
    datasets = tmp_path / "datasets"
    make_images(datasets / "Images")
    assert make_split(out=tmp_path / "a", datasets=datasets).source == str(datasets / "Images")
    pack(datasets / "Images", datasets / "Images.zip")
    assert make_split(out=tmp_path / "b", datasets=datasets).source == str(datasets / "Images.zip")


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
def test_archives_whose_members_leave_the_target_are_refused(tmp_path: Path, make, name: str, link: bool):
    archive = make(tmp_path / ("x.zip" if make is hostile_zip else "x.tar.gz"), name, link)
    with pytest.raises(UserError, match=r"is refused: its member .*(leave the folder|is a link)"):
        make_split(str(archive), tmp_path / "split")
    assert nothing_is_left_beside(tmp_path / "split", archive.name)


def test_a_zip_that_unpacks_without_a_bound_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_BZIP2) as packed:
        packed.writestr("photos/a/0.png", bytes(1000))
    with pytest.raises(UserError, match=r"is refused: 'photos/a/0\.png' is neither stored nor deflated"):
        make_split(str(tmp_path / "x.zip"), tmp_path / "split")


@pytest.mark.parametrize(
    "headers", [{"path": "photos/a/x\0y.png"}, {"GNU.sparse.map": "x,y", "GNU.sparse.size": "1"}]
)
def test_headers_that_make_no_sense_are_damage(tmp_path: Path, headers: dict[str, str]):
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as packed:
        info = tarfile.TarInfo("photos/a/0.png")
        info.size, info.pax_headers = 1, headers
        packed.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(UserError, match="is damaged: expected a whole archive"):
        make_split(str(tmp_path / "x.tar"), tmp_path / "split")


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_archive_is_told(tmp_path: Path, name: str, damage: str):
    archive = pack(make_images(tmp_path / "images"), tmp_path / name)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    archive.write_bytes(content if damage == "flipped" else content[:1500])
    with pytest.raises(UserError, match="is damaged: expected a whole archive"):
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
def test_other_sources_are_told_apart(tmp_path: Path, make, message: str):
    make(tmp_path / "source.x")
    with pytest.raises(UserError, match=message):
        make_split(str(tmp_path / "source.x"), tmp_path / "split")


# ---- the download, against a server of our own


class Server:
    """Serves bytes, with Range; the first `breaks` answers end after `after` bytes."""

    def __init__(self, content: bytes, breaks: int = 0, after: int = 1000, ranges: bool = True):
        self.requests: list[str | None] = []
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
                cut = start + after if len(server.requests) <= breaks else len(content)
                self.wfile.write(content[start:cut])

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


def test_a_broken_connection_is_continued_where_it_broke(tmp_path: Path, serve):
    server = serve(CONTENT, breaks=3)
    download(server.url, tmp_path / "x.zip", SHA1)
    assert (tmp_path / "x.zip").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1000-", "bytes=2000-", "bytes=3000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def test_a_server_that_cannot_continue_sends_it_anew(tmp_path: Path, serve):
    server = serve(CONTENT, breaks=1, ranges=False)
    download(server.url, tmp_path / "x.zip", SHA1)
    assert (tmp_path / "x.zip").read_bytes() == CONTENT


def test_a_later_run_goes_on_with_what_an_earlier_one_fetched(tmp_path: Path, serve):
    (tmp_path / "x.zip.part").write_bytes(CONTENT[:4000])
    server = serve(CONTENT)
    download(server.url, tmp_path / "x.zip", SHA1)
    assert server.requests == ["bytes=4000-"] and (tmp_path / "x.zip").read_bytes() == CONTENT


def test_a_wrong_checksum_is_an_error_and_leaves_nothing(tmp_path: Path, serve):
    with pytest.raises(UserError, match=f"SHA-1 {'0' * 40} expected, {SHA1} found; nothing of it was kept"):
        download(serve(CONTENT).url, tmp_path / "x.zip", "0" * 40)
    assert not list(tmp_path.iterdir())


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources.time, "sleep", lambda _: None)
    with pytest.raises(ConnectionError, match="refused"):
        download("http://127.0.0.1:9/x.zip", tmp_path / "x.zip", SHA1)


def test_the_official_archive_gives_the_sixteen_classes(tmp_path: Path, serve):
    images = tmp_path / "101_ObjectCategories"
    for name in [*CALTECH_16, "BACKGROUND_Google", "Faces"]:
        (images / name).mkdir(parents=True)
        for index in range(1, 4):
            picture((index, 2, 3)).save(images / name / f"image_{index:04d}.jpg")
    inner = pack(images, tmp_path / "inner.tar.gz", "101_ObjectCategories/")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as packed:
        packed.writestr("caltech-101/Annotations.tar", b"no matter")
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
    assert len(server.requests) == 1  # it was kept


# ---- the command


def test_the_command_makes_a_split_and_says_what_it_made(tmp_path: Path):
    images = make_images(tmp_path / "images")
    (images / "red" / "bad.jpg").write_text("text")
    result = tool("split", "--source", images, "--out", tmp_path / "split")
    assert result.returncode == 0, result.stderr
    assert (
        "24 + 6 images of 3 classes" in result.stdout
        and "left out: red/bad.jpg: it is no image" in result.stdout
    )


def test_without_data_and_network_the_command_names_three_ways(tmp_path: Path):
    result = tool("split", "--url", "http://127.0.0.1:9/caltech-101.zip", cwd=tmp_path)
    assert_one_sentence(result, "datasets/Images", "--source FOLDER_OR_ARCHIVE", "--source demo", "refused")
    assert not (tmp_path / "datasets" / "caltech101-16").exists()
