"""A new attention, backbone or data set costs a file and two lines, and every command takes it.

The test copies the package, adds the three files and registers them as a contributor does.
"""

from __future__ import annotations

import difflib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import ROOT, assert_one_sentence, make_images, tool

from paddle_attn.weights import read_weights

ATTENTION = '''
"""A gate for every channel from its own mean."""

from paddle import Tensor

from .base import Attention, global_mean


class ChannelAffine(Attention):
    """`x * sigmoid(scale * mean_HW(x) + bias)`."""

    def __init__(self, channels: int, *, start: float = 1.0):
        super().__init__(channels)
        self.scale = self.create_parameter([channels])
        self.bias = self.create_parameter([channels], is_bias=True)
        self.start = start

    def gate(self, x: Tensor) -> Tensor:
        return ((self.start + self.scale) * global_mean(x) + self.bias).sigmoid().unsqueeze([2, 3])

    def macs(self, height: int, width: int) -> int:
        return 2 * self.channels * height * width + 3 * self.channels
'''

BACKBONE = '''
"""Two convolutions, an attention after each."""

import paddle.nn.functional as F
from paddle import nn

from .placement import Placement
from .spec import ModelSpec


class Stage(nn.Layer):
    def __init__(self, in_channels: int, out_channels: int, placement: Placement):
        super().__init__()
        self.conv = nn.Conv2D(in_channels, out_channels, 3, stride=2, padding=1, bias_attr=False)
        self.bn = nn.BatchNorm2D(out_channels)
        self.attn = placement.make(out_channels)

    def forward(self, x):
        x = self.bn(self.conv(x))
        return F.relu(self.attn(x) if self.attn else x)


class TwoStages(nn.Layer):
    classifier_name = "fc."
    void_biases = {}
    torch_names = ()
    feature_channels = (8, 16)

    def __init__(self, num_classes: int, placements: list[Placement]):
        super().__init__()
        self.stages = nn.LayerList([Stage(3, 8, placements[0]), Stage(8, 16, placements[1])])
        self.fc = nn.Linear(16, num_classes)

    def forward_features(self, x):
        maps = []
        for stage in self.stages:
            maps.append(x := stage(x))
        return maps

    def forward(self, x):
        return self.fc(F.adaptive_avg_pool2d(self.forward_features(x)[-1], 1).flatten(1))


MODELS = {
    "twostages": ModelSpec(TwoStages, slots=("post_bn",), stages=2, input_size=32, min_size=8, num_classes=10)
}
'''

DATA_SET = '''
"""Images in a list: each line of `<root>/<split>.txt` has a path and a class."""

from pathlib import Path

from .base import ImageDataset
from .images import load_image


class ListedImages(ImageDataset):
    def __init__(self, root, split, preprocess, augment=None, seed=0, cache=0):
        super().__init__(preprocess, augment, seed, cache)
        lines = Path(root, f"{split}.txt").read_text().splitlines()
        self.samples = [line.split() for line in lines]
        self.classes = sorted({name for _, name in self.samples})

    def __len__(self):
        return len(self.samples)

    def image(self, index):
        return load_image(self.samples[index][0])

    def label(self, index):
        return self.classes.index(self.samples[index][1])

    def name(self, index):
        return self.samples[index][0]
'''


class ExtensionPoint(NamedTuple):
    file: str  # the new one
    content: str
    registry: str  # the edited file
    dictionary: str
    imported: str  # the line for the import
    entry: str  # the line in the dictionary


EXTENSION_POINTS = {
    "attention": ExtensionPoint(
        "attention/channel_affine.py",
        ATTENTION,
        "attention/__init__.py",
        "ATTENTION",
        "from .channel_affine import ChannelAffine",
        '    "channel_affine": ChannelAffine,',
    ),
    "backbone": ExtensionPoint(
        "models/twostages.py",
        BACKBONE,
        "models/__init__.py",
        "MODELS",
        "from . import twostages",
        "    **twostages.MODELS,",
    ),
    "data set": ExtensionPoint(
        "data/listed.py",
        DATA_SET,
        "data/datasets.py",
        "DATASETS",
        "from .listed import ListedImages",
        '    "listed": ListedImages,',
    ),
}

CONFIG = """
model: {name: twostages, attn: channel_affine, attn_kwargs: {start: 0.5}}
data: {dataset: listed, root: lists}
optim: {name: adam, lr: 1e-2}
train: {epochs: 4, batch_size: 8, device: cpu, output: run}
"""


def extend(package: Path, point: ExtensionPoint) -> None:
    """Write the new file, and add an import and an entry to the registry."""
    (package / point.file).write_text(point.content.lstrip(), encoding="utf-8")
    registry = package / point.registry
    lines = registry.read_text(encoding="utf-8").splitlines()
    lines.insert(number_of(lines, r"from \.(\w+)? ?import "), point.imported)
    lines.insert(number_of(lines, rf"{point.dictionary}\b.*= {{") + 1, point.entry)
    registry.write_text("\n".join([*lines, ""]), encoding="utf-8")


def number_of(lines: list[str], pattern: str) -> int:
    return next(number for number, line in enumerate(lines) if re.match(pattern, line))


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package that has the three additions."""
    folder = tmp_path_factory.mktemp("extended")
    package = folder / "paddle_attn"
    shutil.copytree(ROOT / "paddle_attn", package, ignore=shutil.ignore_patterns("__pycache__"))
    for point in EXTENSION_POINTS.values():
        extend(package, point)
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, outside the repository: a config, images, and the lists that name them."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "config.yaml").write_text(CONFIG)
    images = sorted(make_images(folder / "images").rglob("*.jpg"))
    (folder / "lists").mkdir()
    for split, chosen in (
        ("eval", images[::5]),
        ("train", [image for image in images if image not in images[::5]]),
    ):
        (folder / "lists" / f"{split}.txt").write_text(
            "".join(f"{path} {path.parent.name}\n" for path in chosen)
        )
    return folder


@pytest.mark.parametrize("point", EXTENSION_POINTS.values(), ids=EXTENSION_POINTS)
def test_an_extension_costs_one_import_and_one_entry(extended: Path, point: ExtensionPoint):
    before, after = (
        (folder / "paddle_attn" / point.registry).read_text(encoding="utf-8").splitlines()
        for folder in (ROOT, extended)
    )
    changed = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
    assert changed == [f"+ {point.imported}", f"+ {point.entry}"]


def test_every_command_takes_the_additions(extended: Path, work: Path):
    def run(name: str, *arguments: object) -> str:
        result = tool(name, *arguments, cwd=work, PYTHONPATH=str(extended))
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    where = [sys.executable, "-c", "import paddle_attn; print(paddle_attn.__file__)"]
    imported = subprocess.run(
        where, cwd=work, env={"PYTHONPATH": str(extended)}, capture_output=True, text=True
    )
    assert Path(imported.stdout.strip()).is_relative_to(extended)

    trained = run("train", "-c", "config.yaml")
    assert "twostages, attention channel_affine, 32 px, 3 classes" in trained
    assert {"stages.0.attn.scale", "stages.1.attn.bias"} <= set(read_weights(work / "run" / "best.pdparams"))

    weights = ("--weights", "run/best.pdparams")
    run("eval", "-c", "config.yaml", *weights)
    metrics = json.loads((work / "run" / "metrics.json").read_text())
    assert metrics["images"] == 6 and metrics["top1"] > 1 / 3  # more than one of the three colours

    run("export", "-c", "config.yaml", *weights, "--out", "inference")
    run("predict", "--model", "inference", "images", "--json", "predictions.json")
    predictions = {
        entry["path"]: entry["labels"][0] for entry in json.loads((work / "predictions.json").read_text())
    }
    listed = [line.split() for line in (work / "lists" / "eval.txt").read_text().splitlines()]
    right = [predictions[str(Path(path).relative_to(work))] == name for path, name in listed]
    assert sum(right) / len(right) == pytest.approx(metrics["top1"])


@pytest.mark.parametrize(
    ("option", "name"),
    [("model.attn", "channel_affine"), ("model.name", "twostages"), ("data.dataset", "listed")],
)
def test_the_additions_are_among_the_valid_names(extended: Path, work: Path, option: str, name: str):
    result = tool("train", "-c", "config.yaml", "-o", f"{option}={name}s", cwd=work, PYTHONPATH=str(extended))
    assert_one_sentence(result, f"'{name}s'", f"did you mean '{name}'?")
