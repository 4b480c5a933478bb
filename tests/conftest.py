"""What the tests share: the reference tensors, a tiny data set, the tools as a user types them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))  # tests.baselines, as `python -m` finds it

from paddle_attn.cli import prepare_paddle

prepare_paddle()

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
COMMITTED = ROOT / "tests" / "golden"  # a part of the authors' tensors; the rest stays beside the project
GOLDEN = SHARED / "reference" / "golden" if (SHARED / "reference" / "golden").is_dir() else COMMITTED
PHOTOS = SHARED / "data" / "Images.zip"


def golden_file(name: str) -> Path:
    """A file of the authors' tensors; a test whose file is not here is skipped, and says so."""
    if not (GOLDEN / name).exists():
        pytest.skip(f"{name} is not here, only what is in tests/golden: not held against it")
    return GOLDEN / name


@pytest.fixture(scope="session")
def photos() -> Path:
    """The archive of real photographs; without it the test is skipped, and says so."""
    if not PHOTOS.is_file():
        pytest.skip(f"the photographs are not here ({PHOTOS}): not tried on them")
    return PHOTOS


def picture(colour: tuple[int, int, int], side: int = 40, seed: int = 0) -> Image.Image:
    """A noisy square of one colour."""
    noise = np.random.default_rng(seed).integers(-20, 20, [side, side, 3])
    return Image.fromarray((np.asarray(colour) + noise).clip(0, 255).astype("uint8"))


COLOURS = {"blue": (40, 60, 220), "green": (30, 200, 60), "red": (220, 40, 40)}


def make_images(root: Path, per_class: int = 10) -> Path:
    """`root/<colour>/image_NN.jpg`, three classes that a network tells apart at once."""
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            picture(colour, seed=index).save(root / name / f"image_{index:02d}.jpg")
    return root


@pytest.fixture(scope="session")
def split_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of three classes with train/ and eval/. Not to be changed."""
    from paddle_attn.data.split import make_split

    folder = tmp_path_factory.mktemp("data")
    make_split(str(make_images(folder / "images")), folder / "split")
    return folder / "split"


def tool(name: str, *arguments: object, cwd: Path = ROOT, timeout: int = 300) -> subprocess.CompletedProcess:
    """Run a tool as a user does, in a process of its own."""
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8", "COLUMNS": "200"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, env=environment)


def assert_one_sentence(result: subprocess.CompletedProcess, *words: str) -> None:
    """Exit code 2, one line on stderr that has the words, no traceback."""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert result.returncode == 2, result.stdout + result.stderr
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for word in words:
        assert word in lines[0], f"{word!r} is not in {lines[0]!r}"
