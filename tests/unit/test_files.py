"""Files and folders are written completely or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers import ROOT, disk_of, tree

from paddle_attn.errors import UserError
from paddle_attn.files import (
    atomic_directory,
    atomic_write,
    checksum,
    files_below,
    read_regular,
    shown,
    write_text,
)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A folder with one old file, alone in its parent folder."""
    folder = tmp_path / "target"
    folder.mkdir()
    (folder / "old").write_text("old")
    return folder


def build(target: Path) -> None:
    with atomic_directory(target, lambda _: ["old", "new"]) as folder:
        (folder / "new").write_text("new")


def assert_only(target: Path, content: dict[str, bytes]) -> None:
    """The target has this content, and no temporary folder is left beside it."""
    assert tree(target) == content
    assert list(target.parent.iterdir()) == [target]


def test_the_new_folder_replaces_the_old(target: Path):
    build(target)
    assert_only(target, {"new": b"new"})


def test_a_failure_while_building_keeps_the_old_folder(target: Path):
    with pytest.raises(KeyError), atomic_directory(target, lambda _: ["old"]) as folder:
        (folder / "half").write_text("half")
        raise KeyError
    assert_only(target, {"old": b"old"})


def test_a_failure_between_the_two_renames_restores_the_old_folder(target: Path):
    with pytest.raises(FileNotFoundError), atomic_directory(target, lambda _: ["old"]) as folder:
        shutil.rmtree(folder)  # the second rename finds no new folder
    assert_only(target, {"old": b"old"})


def test_after_a_kill_between_the_two_renames_the_next_call_restores_the_old_folder(target: Path):
    target.rename(target.with_name(".target.old"))  # what such a kill leaves
    target.with_name(".target.part").mkdir()
    with pytest.raises(KeyError), atomic_directory(target, files_below):
        raise KeyError
    assert_only(target, {"old": b"old"})


@pytest.mark.parametrize("deeper", ["", "a/b"])
def test_the_working_directory_and_its_parents_are_not_replaced(
    target: Path, monkeypatch: pytest.MonkeyPatch, deeper: str
):
    """A shell in it would be left in a folder that is gone."""
    (target / deeper).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(target / deeper)
    with pytest.raises(UserError, match="is or holds the folder in which this command runs"):
        build(target)
    with pytest.raises(UserError, match="is or holds the folder in which this command runs"):
        build(Path("."))
    assert_only(target, {"old": b"old"})


def test_a_folder_whose_files_are_all_known_is_replaced(target: Path):
    (target / "deep").mkdir()
    (target / "deep" / "own").write_text("own")
    (target / ".DS_Store").write_text("written by the Finder")
    with atomic_directory(target, lambda _: ["old", "deep/own", "deleted since"]) as folder:
        (folder / "new").write_text("new")
    assert_only(target, {"new": b"new"})


@pytest.mark.parametrize("late", [False, True])
def test_a_file_of_the_user_keeps_the_folder(target: Path, late: bool):
    def add_notes() -> None:
        (target / "deep").mkdir()
        (target / "deep" / "notes.txt").write_text("mine")

    if not late:
        add_notes()
    with (
        pytest.raises(UserError, match=r"deep/notes\.txt") as error,
        atomic_directory(target, lambda _: ["old"]) as folder,
    ):
        add_notes()  # while the new folder is built
        (folder / "new").write_text("new")
    assert str(target) in str(error.value)
    assert_only(target, {"old": b"old", "deep/notes.txt": b"mine"})


def test_a_link_in_a_folder_is_a_file_of_the_user(target: Path, tmp_path_factory: pytest.TempPathFactory):
    album = tmp_path_factory.mktemp("album")
    (album / "photo.jpg").write_text("photo")
    (target / "album").symlink_to(album)
    assert files_below(target) == ["album", "old"]
    with pytest.raises(UserError, match="album"), atomic_directory(target, lambda _: ["old"]):
        pass
    assert tree(album) == {"photo.jpg": b"photo"}


def test_a_linked_folder_is_replaced_behind_its_link(target: Path):
    link = target.with_name("link")
    link.symlink_to(target.name)
    for _ in range(2):
        build(link)
    assert link.is_symlink() and tree(target) == {"new": b"new"}
    assert sorted(path.name for path in target.parent.iterdir()) == ["link", "target"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file, expected a folder"):
        build(tmp_path / "file")
    assert tree(tmp_path) == {"file": b"mine"}


def test_a_new_file_replaces_the_old(tmp_path: Path):
    path = tmp_path / "deep" / "x.txt"
    for text in ("一", "二"):
        write_text(path, text)
    assert tree(tmp_path) == {"deep/x.txt": "二".encode()}


def test_a_text_with_a_file_name_that_is_not_utf8_is_written(tmp_path: Path):
    write_text(tmp_path / "x.txt", os.fsdecode(b"\xff.jpg"))
    assert tree(tmp_path) == {"x.txt": rb"\udcff.jpg"}


def test_a_failure_while_writing_keeps_the_old_file(tmp_path: Path):
    def fail(path: Path) -> None:
        path.write_text("half")
        raise KeyError

    write_text(tmp_path / "x.txt", "old")
    with pytest.raises(KeyError):
        atomic_write(tmp_path / "x.txt", fail)
    assert tree(tmp_path) == {"x.txt": b"old"}


def test_a_full_disk_names_the_file(tmp_path: Path):
    write_text(tmp_path / "x.txt", "old")
    with disk_of(1000), pytest.raises(OSError) as caught:
        write_text(tmp_path / "x.txt", 5000 * "new")
    assert caught.value.filename == str(tmp_path / "x.txt")
    assert tree(tmp_path) == {"x.txt": b"old"}


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link.csv"
    link.symlink_to("disk/table.csv")  # it does not exist yet
    for text in ("old", "new"):
        write_text(link, text)
    assert link.is_symlink() and tree(tmp_path / "disk") == {"table.csv": text.encode()}


@pytest.mark.parametrize("linked", [False, True])
def test_a_device_receives_the_content_and_stays(tmp_path: Path, linked: bool):
    """A terminal made for the test: as root, a mistake would replace a device that all programs need."""
    controller, device = os.openpty()
    path = Path(os.ttyname(device))
    if linked:
        (tmp_path / "link.csv").symlink_to(path)
    write_text(tmp_path / "link.csv" if linked else path, "text")
    assert os.read(controller, 100) == b"text" and path.is_char_device()
    assert [link.is_symlink() for link in tmp_path.iterdir()] == [True] * linked
    os.close(controller)
    os.close(device)


def test_a_named_pipe_passes_the_content_to_its_reader(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    received = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_text()))
    reader.start()
    while True:  # until the reader has opened it
        try:
            write_text(tmp_path / "pipe", "x" * 100_000)
            break
        except OSError as error:
            assert "nothing reads this pipe" in error.strerror
    reader.join()
    assert received == ["x" * 100_000] and (tmp_path / "pipe").is_fifo()


WRITE = "import sys, pathlib, paddle_attn.files as f; print('before'); sys.stdout.flush(); "
WRITE += "f.write_text(pathlib.Path(sys.argv[1]), 'text\\n'); print('after')"


@pytest.mark.parametrize(
    "path",
    [
        "/dev/fd/1",
        "/proc/self/fd/1",
        pytest.param(
            "/dev/stdout",
            marks=pytest.mark.skipif(os.access("/dev", os.W_OK), reason="root could replace it by mistake"),
        ),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="names of Linux")
def test_stdout_receives_the_content_in_order_also_when_it_is_a_file(tmp_path: Path, path: str):
    command = [sys.executable, "-c", WRITE, path]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout == "before\ntext\nafter\n"
    )
    with open(tmp_path / "out.txt", "w") as file:
        subprocess.run(command, stdout=file, check=True)
    assert tree(tmp_path) == {"out.txt": b"before\ntext\nafter\n"}


def test_a_folder_is_not_replaced_by_a_file(target: Path):
    with pytest.raises(UserError, match="is a folder, expected the path of a file"):
        write_text(target, "text")
    assert_only(target, {"old": b"old"})


def test_only_a_regular_file_is_read(target: Path):
    os.mkfifo(target / "pipe")
    (target / "link").symlink_to("old")
    assert read_regular(target / "old") == read_regular(target / "link") == b"old"
    for path, words in ((target / "pipe", "a pipe"), (Path(os.devnull), "a device"), (target, "a folder")):
        with pytest.raises(OSError, match=words) as error:
            read_regular(path)
        assert error.value.filename == str(path)
    with pytest.raises(FileNotFoundError):
        read_regular(target / "none")


def test_a_path_is_shown_as_utf8_text():
    assert shown("photos/été.jpg") == "photos/été.jpg"
    assert shown(b"\xff.jpg") == r"\xff.jpg"
    assert shown("a\x1b[2J\n.jpg") == r"a\x1b[2J\n.jpg"
    assert shown("Screenshot 9.41\u202fPM 一.png") == "Screenshot 9.41\u202fPM 一.png"
    assert shown("\ud800.jpg") == r"\ud800.jpg"  # no file has this name; a config or a caller may


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, ASCII])
def test_a_path_is_shown_whatever_the_encoding_of_the_system(tmp_path: Path, environment: dict[str, str]):
    os.mkdir(os.fsencode(tmp_path) + "/été".encode())
    code = "import os; from paddle_attn.files import shown; "
    code += "print([ascii(shown(name)) for name in (*os.listdir(), '\\xe9t\\xe9', '\\ud800', b'\\xff')])"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    names = [r"\xe9t\xe9", r"\xe9t\xe9", r"\\ud800", r"\\xff"]
    assert eval(result.stdout) == [f"'{name}'" for name in names]


def test_a_checksum_is_that_of_the_content(tmp_path: Path):
    content = bytes(range(256)) * 10_000  # more than one block
    (tmp_path / "x").write_bytes(content)
    assert checksum(tmp_path / "x") == hashlib.sha256(content).hexdigest()
    assert checksum(tmp_path / "x", "md5") == hashlib.md5(content).hexdigest()


def test_two_writers_of_one_folder_are_refused_and_the_first_one_wins(tmp_path: Path):
    target = tmp_path / "target"
    with atomic_directory(target, lambda folder: ["new"]) as first:
        (first / "new").write_text("first")
        with (
            pytest.raises(UserError, match="another process is writing to"),
            atomic_directory(target, lambda folder: ["new"]),
        ):
            pass
    assert (target / "new").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
