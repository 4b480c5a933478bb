"""Files and folders are written completely or not at all."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from helpers import tree

from paddle_attn.files import atomic_directory, atomic_write, checksum, shown, write_text


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A folder with one old file, alone in its parent folder."""
    folder = tmp_path / "target"
    folder.mkdir()
    (folder / "old").write_text("old")
    return folder


def build(target: Path) -> None:
    with atomic_directory(target) as folder:
        (folder / "new").write_text("new")


def assert_only(target: Path, content: dict[str, bytes]) -> None:
    """The target has this content, and no temporary folder is left beside it."""
    assert tree(target) == content
    assert list(target.parent.iterdir()) == [target]


def test_the_new_folder_replaces_the_old(target: Path):
    build(target)
    assert_only(target, {"new": b"new"})


def test_a_failure_while_building_keeps_the_old_folder(target: Path):
    with pytest.raises(KeyError), atomic_directory(target) as folder:
        (folder / "half").write_text("half")
        raise KeyError
    assert_only(target, {"old": b"old"})


def test_a_failure_between_the_two_renames_restores_the_old_folder(target: Path):
    with pytest.raises(FileNotFoundError), atomic_directory(target) as folder:
        shutil.rmtree(folder)  # the second rename finds no new folder
    assert_only(target, {"old": b"old"})


def test_after_a_kill_between_the_two_renames_the_next_call_restores_the_old_folder(target: Path):
    target.rename(target.with_name(".target.old"))  # what such a kill leaves
    target.with_name(".target.part").mkdir()
    with pytest.raises(KeyError), atomic_directory(target):
        raise KeyError
    assert_only(target, {"old": b"old"})


def test_the_working_directory_can_be_replaced(target: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(target)
    build(Path("."))
    assert_only(target, {"new": b"new"})


def test_a_new_file_replaces_the_old(tmp_path: Path):
    path = tmp_path / "deep" / "x.txt"
    for text in ("一", "二"):
        write_text(path, text)
    assert tree(tmp_path) == {"deep/x.txt": "二".encode()}


def test_a_failure_while_writing_keeps_the_old_file(tmp_path: Path):
    def fail(path: Path) -> None:
        path.write_text("half")
        raise KeyError

    write_text(tmp_path / "x.txt", "old")
    with pytest.raises(KeyError):
        atomic_write(tmp_path / "x.txt", fail)
    assert tree(tmp_path) == {"x.txt": b"old"}


def test_a_path_is_shown_as_utf8_text():
    assert shown("photos/été.jpg") == "photos/été.jpg"
    assert shown(b"\xff.jpg") == r"\xff.jpg"


def test_a_checksum_is_that_of_the_content(tmp_path: Path):
    content = bytes(range(256)) * 10_000  # more than one block
    (tmp_path / "x").write_bytes(content)
    assert checksum(tmp_path / "x") == hashlib.sha256(content).hexdigest()
    assert checksum(tmp_path / "x", "md5") == hashlib.md5(content).hexdigest()
