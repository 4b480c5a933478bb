"""PaddleX gives the answers of `Predictor`; it runs in an environment of its own, with its packages."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import HANG
from PIL import Image

from paddle_attn import Predictor, create_model
from paddle_attn.data.transforms import Preprocess
from paddle_attn.deploy import export_model

pytestmark = pytest.mark.slow

PACKAGES = ("paddlex==3.7.2", "opencv-contrib-python==4.10.0.84", "pypdfium2", "numpy<2.4")
CLASSES = [f"class {index}" for index in range(16)]
PREDICT = """
import json, sys
import numpy as np
from paddlex import create_model

folder, *images = sys.argv[1:]
network = create_model(model_name="ResNet50", model_dir=folder)
results = [result for image in images for result in network.predict(image, topk=16)]
keys = ("label_names", "scores")
print(json.dumps([[np.ravel(result[key]).tolist() for key in keys] for result in results]))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with PaddleX; Paddle itself is this environment's. Skips the tests without a package index."""
    folder = tmp_path_factory.mktemp("paddlex") / "venv"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *PACKAGES], capture_output=True, text=True, timeout=HANG
    )
    if install.returncode:
        pytest.skip(f"pip cannot install {PACKAGES[0]}")
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "paddle.pth").write_text(str(Path(paddle.__file__).parents[1]))
    return python


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photograph-like images: smooth and sharp parts, both orientations, small, grey, and rotated by EXIF."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = []
    for number, (width, height) in enumerate([(301, 200), (200, 333), (64, 64), (40, 90), (500, 499)] * 3):
        coarse = Image.fromarray(rng.integers(0, 255, [8, 8, 3], dtype="uint8")).resize((width, height))
        noise = rng.integers(-40, 40, [height, width, 3])
        image = Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype("uint8"))
        exif = Image.Exif()
        exif[0x0112] = 6 if number % 5 == 1 else 1  # the orientation: turned by 90 degrees
        path = folder / f"{number}.{'png' if number % 3 == 2 else 'jpg'}"
        (image.convert("L") if number % 5 == 4 else image).save(path, exif=exif)
        paths.append(path)
    return paths


@pytest.mark.parametrize("resize_mode", ["stretch", "crop"])
def test_paddlex_gives_the_same_answers(python: Path, pictures: list[Path], resize_mode: str, tmp_path: Path):
    paddle.seed(0)
    net = create_model("cifar_resnet20", "simam", num_classes=16)
    weight = net.fc.weight
    weight.set_value(weight * 20)  # clear decisions
    preprocess = Preprocess(64, resize_mode, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    export_model(net, tmp_path / "model", preprocess, CLASSES, np.zeros([1, 3, 64, 64], "float32"))
    result = subprocess.run(
        [python, "-c", PREDICT, tmp_path / "model", *pictures],
        env=os.environ | {"PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    expected = Predictor(tmp_path / "model").predict(pictures, topk=16)
    assert len(found) == len(expected) == len(pictures)
    for ours, (labels, scores) in zip(expected, found, strict=True):
        assert labels[0] == ours["labels"][0]
        scores = dict(zip(labels, scores, strict=True))
        np.testing.assert_allclose([scores[label] for label in ours["labels"]], ours["scores"], atol=1e-4)
