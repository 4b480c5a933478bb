"""Fixtures that the tests share; their helpers are in helpers.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from paddle_attn.cli import prepare_paddle

prepare_paddle()

from helpers import PHOTOS, make_images  # noqa: E402


@pytest.fixture(scope="session")
def photos() -> Path:
    """The archive of real photographs; without it the test is skipped, and says so."""
    if not PHOTOS.is_file():
        pytest.skip(f"the photographs are not here ({PHOTOS}): not tried on them")
    return PHOTOS


@pytest.fixture(scope="session")
def split_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of three classes with train/ and eval/. Not to be changed."""
    from paddle_attn.data.prepare.split import make_split

    folder = tmp_path_factory.mktemp("data")
    make_split(str(make_images(folder / "images")), folder / "split")
    return folder / "split"
