"""What the tests share: the reference tensors, a tiny data set, the tools as a user types them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddle_attn.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
COMMITTED = ROOT / "reference" / "golden"  # a part of the authors' tensors; the rest stays beside the project
GOLDEN = SHARED / "reference" / "golden" if (SHARED / "reference" / "golden").is_dir() else COMMITTED
PHOTOS = SHARED / "data" / "Images.zip"


def golden_file(name: str) -> Path:
    """A file of the authors' tensors; a test whose file is not here is skipped, and says so."""
    if not (GOLDEN / name).exists():
        pytest.skip(f"{name} is not here, only what is in reference/golden: not held against it")
    return GOLDEN / name


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


def write_cifar(
    folder: Path, monkeypatch: pytest.MonkeyPatch, dataset: str = "cifar10", count: int = 20
) -> None:
    """An archive with the official one's layout, and its checksum made the expected one."""
    import io
    import pickle
    import tarfile

    from paddle_attn.data import cifar
    from paddle_attn.files import checksum

    reader, name, _ = cifar.ARCHIVES[dataset]
    rng = np.random.default_rng(0)
    names = (
        [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
        if dataset == "cifar10"
        else ["train", "test"]
    )
    with tarfile.open(folder / name, "w:gz") as archive:
        for batch in names:
            labels = (np.arange(count) % 10).tolist()
            pixels = (
                rng.integers(0, 60, [count, 3072]) + np.asarray(labels)[:, None] * 18
            )  # the class is the brightness
            content = pickle.dumps(
                {
                    b"data": pixels.astype("uint8"),
                    b"labels" if dataset == "cifar10" else b"fine_labels": labels,
                }
            )
            info = tarfile.TarInfo(f"cifar/{batch}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    monkeypatch.setitem(cifar.ARCHIVES, dataset, (reader, name, checksum(folder / name, "md5")))


def kwargs_for(model: str, attn: str | None) -> dict:
    """Arguments that suit the model's widths."""
    if attn == "sge" and ("mobilenet" in model or model.startswith("cifar")):
        return {"groups": 8}
    if attn == "sk" and model.startswith("cifar"):
        return {"groups": 16}
    return {"reduction": 4} if attn in ("se", "cbam", "bam") and model.startswith("cifar") else {}


def fits(model: str, attn: str | None) -> bool:
    """Whether some paper has this combination: BAM is in no MobileNetV2, SK replaces the 3x3 convolution of a bottleneck."""
    from paddle_attn import model_spec

    if attn == "sk":
        return model_spec(model).block == "bottleneck"
    return not (attn == "bam" and "mobilenet" in model)


def config_for(data: Path, output: Path, **train) -> Config:
    """TowerNet-SimAM at 128 px on 24 + 6 images; a batch of 10 leaves a small last one."""
    return Config(
        model=ModelConfig(attn="simam"),
        data=DataConfig(root=str(data), size=128),
        optim=OptimConfig(name="adam", lr=1e-3),
        train=TrainConfig(**{"epochs": 3, "batch_size": 10, "output": str(output), "device": "cpu"} | train),
    )
