"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from paddle_attn.files import atomic_directory, write_text


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    (folder / "old").write_text("old")
    return folder


def build(target: Path) -> None:
    with atomic_directory(target) as aside:
        (aside / "new").write_text("new")


def test_the_new_folder_takes_the_place_of_the_old(target: Path):
    build(target)
    assert content(target) == {"new": "new"} and len(list(target.parent.iterdir())) == 1


def test_a_failure_while_building_keeps_the_old(target: Path):
    with pytest.raises(KeyError), atomic_directory(target) as aside:
        (aside / "half").write_text("half")
        raise KeyError
    assert content(target) == {"old": "old"} and len(list(target.parent.iterdir())) == 1


@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_a_failure_between_the_two_renames_puts_the_old_back(
    target: Path, monkeypatch: pytest.MonkeyPatch, failure: type
):
    replace, calls = os.replace, []

    def second_fails(source, to):
        calls.append(source)
        if len(calls) == 2:
            raise failure
        replace(source, to)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(failure):
        build(target)
    assert content(target) == {"old": "old"} and len(list(target.parent.iterdir())) == 1


def test_after_a_kill_between_the_two_renames_the_old_is_put_back_first(target: Path):
    target.rename(target.with_name(".target.old"))
    target.with_name(".target.part").mkdir()
    with pytest.raises(KeyError), atomic_directory(target):
        raise KeyError
    assert content(target) == {"old": "old"} and len(list(target.parent.iterdir())) == 1


def test_the_folder_one_stands_in_can_be_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    build(Path("."))
    assert content(tmp_path / "here") == {"new": "new"}


def test_a_file_is_replaced_whole(tmp_path: Path):
    write_text(tmp_path / "deep" / "x.txt", "一")
    write_text(tmp_path / "deep" / "x.txt", "二")
    assert (tmp_path / "deep" / "x.txt").read_text(encoding="utf-8") == "二" and len(
        list((tmp_path / "deep").iterdir())
    ) == 1
