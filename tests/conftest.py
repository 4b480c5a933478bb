"""Fixtures that several test files use; plain helpers are in helpers.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from paddle_attn.cli import prepare_paddle

prepare_paddle()

from helpers import PHOTOS, make_images  # noqa: E402

# `make test` tries the same cases on every run and sets no time limit; `make soak` draws new ones
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("fixed")


@pytest.fixture(scope="session", autouse=True)
def compiled_operators() -> None:
    """Compile the fused operators once, so that no command of a test is the first to report it on stderr."""
    from paddle_attn import ops

    ops.available("simam")


@pytest.fixture(scope="session")
def photos() -> Path:
    """The archive of real photographs. Skips the test without it."""
    if not PHOTOS.is_file():
        pytest.skip(f"needs the photographs: {PHOTOS} does not exist")
    return PHOTOS


@pytest.fixture(scope="session")
def split_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of three classes with train/ and eval/. The session shares it: copy it before a change."""
    from paddle_attn.data.prepare.split import make_split

    folder = tmp_path_factory.mktemp("data")
    make_split(str(make_images(folder / "images")), folder / "split")
    return folder / "split"
