"""Helpers of the tests: the reference tensors, a tiny data set, the tools as a user runs them."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import os
import pickle
import re
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from paddle_attn.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig, TrainConfig

if TYPE_CHECKING:
    import paddle  # the tests import it when they need it

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
COMMITTED = ROOT / "reference" / "golden"  # some of the authors' tensors
GOLDEN = SHARED / "reference" / "golden" if (SHARED / "reference" / "golden").is_dir() else COMMITTED
# what the tests of the attention modules expect of each: `tests/attention/README.md`
EXPECTED: dict[str, dict] = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "tests" / "attention").glob("*.json"))
}
PHOTOS = SHARED / "data" / "Images.zip"
HANG = 1800  # seconds of wall time, the limit of every subprocess: only a hang reaches it, on any machine


def golden_file(name: str) -> Path:
    """A file of the authors' tensors. Skips the test without it; pytest lists equal reasons in one line."""
    if not (GOLDEN / name).exists():
        pytest.skip(
            "needs all of the authors' tensors, ../shared/reference/golden; a part is in the repository"
        )
    return GOLDEN / name


def picture(colour: tuple[int, int, int], side: int = 40, seed: int = 0) -> Image.Image:
    """A noisy square of one colour."""
    noise = np.random.default_rng(seed).integers(-20, 20, [side, side, 3])
    return Image.fromarray((np.asarray(colour) + noise).clip(0, 255).astype("uint8"))


COLOURS = {"blue": (40, 60, 220), "green": (30, 200, 60), "red": (220, 40, 40)}


def make_images(root: Path, per_class: int = 10) -> Path:
    """Write `root/<colour>/image_NN.jpg`: three classes that a network separates within an epoch or two."""
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            picture(colour, seed=index).save(root / name / f"image_{index:02d}.jpg")
    return root


def tool(name: str, *arguments: object, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess:
    """Run `python tools/NAME.py ARGUMENTS` as a user does; `environ` adds environment variables."""
    return _python(ROOT / "tools" / f"{name}.py", *arguments, cwd=cwd, **environ)


def paddle_attn(*arguments: object, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess:
    """Run `python -m paddle_attn ARGUMENTS`, the same as the command `paddle-attn`."""
    return _python("-m", "paddle_attn", *arguments, cwd=cwd, **environ)


def _python(*arguments: object, cwd: Path, **environ: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, arguments)]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8", "COLUMNS": "200"} | environ
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=HANG, env=environment)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait for something that a running process does, such as write a file."""
    began = time.monotonic()
    while not condition():
        assert process.poll() is None, f"the process ended too early: {process.communicate()}"
        assert time.monotonic() - began < HANG, "the process hangs"
        time.sleep(0.02)


@contextlib.contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Inside the block this process can write no file beyond this number of bytes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def tree(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def assert_one_sentence(result: subprocess.CompletedProcess, *words: str) -> None:
    """Assert exit code 2 and one line on stderr that has all the words: no traceback."""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert result.returncode == 2, result.stdout + result.stderr
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for word in words:
        assert word in lines[0], f"{word!r} is not in {lines[0]!r}"


def write_cifar(
    folder: Path, monkeypatch: pytest.MonkeyPatch, dataset: str = "cifar10", count: int = 20
) -> None:
    """Write a small archive with CIFAR's layout, one brightness per class, and expect its checksum."""
    from paddle_attn.data.datasets import DATASETS
    from paddle_attn.files import checksum

    files, key = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"], b"labels"
    if dataset == "cifar100":
        files, key = ["train", "test"], b"fine_labels"
    path, rng = folder / DATASETS[dataset].archive, np.random.default_rng(0)
    labels = np.arange(count) % 10
    with tarfile.open(path, "w:gz") as archive:
        for name in files:
            pixels = rng.integers(0, 60, [count, 3072]) + labels[:, None] * 18
            content = pickle.dumps({b"data": pixels.astype("uint8"), key: labels.tolist()})
            info = tarfile.TarInfo(f"cifar/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    monkeypatch.setattr(DATASETS[dataset], "md5", checksum(path, "md5"))


SMALLER = {"groups": 8, "ratio": 0.25, "reduction": 4}  # attention arguments for narrow networks


def smaller_kwargs(attn: str) -> dict:
    """The attention's own ones among `SMALLER`, and what its expectations add."""
    from paddle_attn.attention import ATTENTION

    accepted = inspect.signature(ATTENTION[attn]).parameters
    common = {key: value for key, value in SMALLER.items() if key in accepted}
    return common | EXPECTED.get(attn, {}).get("narrow", {})


@functools.cache
def kwargs_for(model: str, attn: str | None) -> dict:
    """{} when the attention's defaults fit the widths of the model, smaller arguments otherwise."""
    import paddle

    from paddle_attn import create_model
    from paddle_attn.errors import UserError

    with paddle.LazyGuard():  # allocates no parameters
        try:
            create_model(model, attn)
        except UserError:
            return smaller_kwargs(attn)
    return {}


def fits(model: str, attn: str | None) -> bool:
    """Whether a paper has the attention in this model."""
    from paddle_attn import model_spec
    from paddle_attn.models.placement import paper_slot

    return attn is None or paper_slot(model_spec(model), attn) is not None


def is_quick(model: str, attn: str | None) -> bool:
    """Whether the tests that are not slow take the pair: no attention and SimAM in every model, the others in
    one that has the slot of their paper.
    """
    from paddle_attn import model_spec
    from paddle_attn.attention import ATTENTION

    if attn in (None, "simam"):
        return True
    slot = ATTENTION[attn].paper_slot
    families = ("cifar_resnet20", "cifar_mobilenetv2", "resnet50", "cifar_preresnet20")
    chosen = next((family for family in families if slot in model_spec(family).slots), families[0])
    return model == chosen


def leave_the_start(net: paddle.nn.Layer) -> None:
    """Give the attentions small parameters, where many of theirs start at 0 or do nothing.

    Weights of one sign would add up over hundreds of channels: a gate without a sigmoid grows from block to
    block, and of two gates, of which the larger one counts, it is always the same. Biases and the scales of
    norms are positive, so that few ReLUs are dead.
    """
    import paddle

    for name, parameter in net.named_parameters():
        if "attn." in name and not parameter.stop_gradient:
            lowest = -0.03 if parameter.ndim > 1 else 0.005
            parameter.set_value(paddle.uniform(parameter.shape, min=lowest, max=0.03))


def condition(net: paddle.nn.Layer, images: np.ndarray) -> None:
    """Give the batch norms the statistics of these images and small scales, and the classifier logits of at
    most 5 for them.

    Without that, the maps of an untrained deep network and their rounding grow from block to block.
    ResNet-152 with PSA then gives logits of 1e7, and float32 differs from float64 in the first digit.
    """
    import paddle

    norms = [layer for layer in net.sublayers() if isinstance(layer, paddle.nn.layer.norm._BatchNormBase)]
    momenta = [norm._momentum for norm in norms]
    training = net.training
    net.train()
    with paddle.no_grad():
        for norm in norms:
            norm._momentum = 0.0
            norm.weight.set_value(norm.weight * 0.1)
        net(paddle.to_tensor(images))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm._momentum = momentum
        net.eval()
        largest = float(net(paddle.to_tensor(images)).abs().max())
        for name, parameter in net.named_parameters():
            if name.startswith(net.classifier_name):
                parameter.set_value(parameter * min(1.0, 5 / largest))
    net.train() if training else net.eval()


def assert_learns(net: paddle.nn.Layer, x: paddle.Tensor) -> None:
    """One forward and backward pass gives every part of a classifier a finite gradient that is not zero."""
    import paddle

    for layer in net.sublayers():  # a dropped or zero-initialised unit has no gradient
        if isinstance(layer, paddle.nn.Dropout):
            layer.p = 0.0
    leave_the_start(net)
    net.train()
    outputs = net(x)  # GoogLeNet also returns those of its auxiliary classifiers
    for logits in outputs if isinstance(outputs, (list, tuple)) else [outputs]:
        labels = paddle.arange(logits.shape[0]) % logits.shape[1]
        paddle.nn.functional.cross_entropy(logits, labels).backward(retain_graph=True)
    # all places of an attention count as one: a ReLU or a 1x1 map may block the gradient at some of them
    learns: dict[str, bool] = {}
    for name, parameter in net.named_parameters():
        if not parameter.stop_gradient:
            assert parameter.grad is not None and np.isfinite(parameter.grad.numpy()).all(), name
            part = re.sub(r".*attn\.(\d+\.)?", "attn.", name)
            learns[part] = learns.get(part, False) or np.abs(parameter.grad.numpy()).max() > 0
    # a bias before a batch norm has no gradient
    assert not [part for part, found in learns.items() if not found and not part.endswith("bias")]


def config_for(data: Path, output: Path, **train) -> Config:
    """TowerNet-SimAM at 128 px on 24 + 6 images; with batches of 10 the last one has 4."""
    return Config(
        model=ModelConfig(attn="simam"),
        data=DataConfig(root=str(data), size=128, augment=AugmentConfig(rotation=10)),
        optim=OptimConfig(name="adam", lr=1e-3),
        train=TrainConfig(**{"epochs": 3, "batch_size": 10, "output": str(output), "device": "cpu"} | train),
    )
