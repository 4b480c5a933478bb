"""Export and prediction: an export computes what its network computes; a damaged one is refused."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import gc
import importlib.util
import json
import os
import pty
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
import yaml
from helpers import (
    COLOURS,
    HANG,
    ROOT,
    assert_one_sentence,
    condition,
    fits,
    is_quick,
    kwargs_for,
    leave_the_start,
    picture,
    tool,
    tree,
)
from PIL import Image

from paddle_attn import Predictor, create_attention, create_model, list_attention, list_models, model_spec
from paddle_attn.attention.sk import SelectiveKernel
from paddle_attn.config import Config, DataConfig, ModelConfig, dump_config
from paddle_attn.data.images import load_image
from paddle_attn.data.transforms import Preprocess
from paddle_attn.deploy import export_config, export_model
from paddle_attn.deploy.formats import FORMATS, EngineKind, Format
from paddle_attn.deploy.paddle_inference import Engine, write
from paddle_attn.deploy.results import check_outputs, print_results, write_results
from paddle_attn.errors import UserError
from paddle_attn.train.checkpoint import write_checkpoint
from paddle_attn.weights import save_weights

CLASSES = ["blue", "green", "grün 01", "no"]  # YAML would read an unquoted "no" as a boolean
PREPROCESS = Preprocess(128, "stretch", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


class Small(paddle.nn.Layer):
    """A convolution with an attention, for images of any size."""

    def __init__(self, name: str):
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 128, 3, padding=1)
        self.attn = create_attention(name, 128)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.attn(self.conv(x))


@pytest.mark.parametrize("name", list_attention())
def test_paddles_engine_computes_every_attention_at_changing_sizes(name: str, tmp_path: Path):
    """Its optimisation depends on what is around an operator: a whole network may hide a wrong one."""
    net = Small(name)
    leave_the_start(net)
    net.eval()
    write(net, tmp_path, None, {})
    engine = Engine(tmp_path / "inference.json", 1, "fp32")
    for height, width in ((9, 7), (16, 16), (33, 5), (9, 7)):
        x = np.random.default_rng(height).standard_normal((2, 3, height, width)).astype("float32")
        expected = net(paddle.to_tensor(x)).numpy()
        largest = max(1, np.abs(expected).max())
        np.testing.assert_allclose(engine.run(x), expected, atol=1e-4 * largest)


def network(model: str = "towernet", attn: str | None = "simam") -> paddle.nn.Layer:
    """A network in eval mode whose attention parameters are not at their neutral initial values."""
    net = create_model(model, attn, kwargs_for(model, attn), num_classes=4)
    leave_the_start(net)
    net.eval()
    return net


def noise(batch: int, size: int = 128) -> np.ndarray:
    return np.random.default_rng(0).standard_normal([batch, 3, size, size], "float32")


def softmax_of(net: paddle.nn.Layer, images: np.ndarray) -> np.ndarray:
    with paddle.no_grad():
        return F.softmax(net(paddle.to_tensor(images))).numpy()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[paddle.nn.Layer, Path]:
    """A network and the folder of its export. The module shares it: copy it before a change."""
    net, out = network(), tmp_path_factory.mktemp("export") / "towernet"
    assert export_model(net, out, PREPROCESS, CLASSES, noise(3)) < 1e-5
    return net, out


# ---- export


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_an_export_computes_the_probabilities_of_the_network_at_any_batch_size(exported, batch: int):
    net, out = exported
    found = Predictor(out).probabilities(noise(batch))
    np.testing.assert_allclose(found, softmax_of(net, noise(batch)), atol=1e-5)


def check_dynamic_export(model: str, attn: str | None, out: Path) -> None:
    """Export at one size, compare at another and at another batch size."""
    net = network(model, attn)
    size = max(model_spec(model).min_size, 64)
    condition(net, noise(4, size))
    preprocess = Preprocess(size, "stretch", (0, 0, 0), (1, 1, 1))
    export_model(net, out, preprocess, CLASSES, noise(1, size), dynamic=True)
    predictor = Predictor(out)
    for images in (noise(2, size), noise(1, size + 40)):
        np.testing.assert_allclose(predictor.probabilities(images), softmax_of(net, images), atol=1e-4)
    del predictor
    gc.collect()  # traced programs and their networks form cycles; 200 of them fill the memory


COMBINATIONS = [
    (model, attn) for model in list_models() for attn in [None, *list_attention()] if fits(model, attn)
]
QUICK = [
    pair
    for pair in COMBINATIONS
    if is_quick(*pair)
    and (pair[1] not in (None, "simam") or pair[0] in ("mobilenet_v2", "resnet18", "towernet"))
]


@pytest.mark.parametrize(("model", "attn"), QUICK)
def test_every_attention_exports_with_dynamic_sizes_in_one_family(
    model: str, attn: str | None, tmp_path: Path
):
    check_dynamic_export(model, attn, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize(("model", "attn"), [pair for pair in COMBINATIONS if pair not in QUICK])
def test_every_other_model_exports_with_dynamic_sizes(model: str, attn: str | None, tmp_path: Path):
    check_dynamic_export(model, attn, tmp_path / "out")


def test_the_description_has_the_layout_that_paddlex_reads(exported):
    content = yaml.safe_load((exported[1] / "inference.yml").read_text(encoding="utf-8"))
    normalise = {"channel_num": 3, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "order": ""}
    assert content["PreProcess"]["transform_ops"] == [
        {"ResizeImage": {"size": 128, "backend": "pil", "interpolation": "bilinear"}},
        {"NormalizeImage": normalise | {"scale": pytest.approx(1 / 255)}},
        {"ToCHWImage": None},
    ]
    assert content["PostProcess"]["Topk"] == {"topk": 4, "label_list": CLASSES}


class DividesByTheSize(paddle.nn.Layer):
    """As a user may write it: the height and width are numbers in eager mode, unknown in a program."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x * (100.0 / (x.shape[2] * x.shape[3]))


class BranchesByTheSize(paddle.nn.Layer):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if x.shape[2] > 20:
            return x * 3
        return x * 0.5


class BranchesByAValue(paddle.nn.Layer):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if x.mean() > 0.3:
            return x * 3
        return x * 0.5


@pytest.mark.parametrize("layer", [DividesByTheSize, BranchesByTheSize, BranchesByAValue])
def test_a_users_layer_inside_a_network_of_the_zoo_is_translated(layer: type, tmp_path: Path):
    net = network("cifar_resnet20", None)
    net.bn1 = paddle.nn.Sequential(net.bn1, layer())
    preprocess = Preprocess(32, "stretch", (0, 0, 0), (1, 1, 1))
    export_model(net, tmp_path / "out", preprocess, CLASSES, noise(1, 32), dynamic=True)
    predictor = Predictor(tmp_path / "out")
    for images in (noise(2, 32), noise(1, 16), noise(3, 40)):
        np.testing.assert_allclose(predictor.probabilities(images), softmax_of(net, images), atol=1e-5)


class TracesWrongly(paddle.nn.Layer):
    """A network with a branch that only eager mode takes, so that the traced program differs."""

    def __init__(self):
        super().__init__()
        self.classifier = paddle.nn.Linear(3, 4)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        logits = self.classifier(x.mean([2, 3]))
        return logits + paddle.arange(4, dtype="float32") if paddle.in_dynamic_mode() else logits


def test_an_export_that_differs_is_an_error_and_the_earlier_export_remains(exported, tmp_path: Path):
    out = shutil.copytree(exported[1], tmp_path / "out")
    before = tree(tmp_path)
    with pytest.raises(RuntimeError, match=r"differs from the network by 0\.\d+, expected at most 0\.0001"):
        export_model(TracesWrongly(), out, PREPROCESS, CLASSES, noise(1))
    assert tree(tmp_path) == before


def test_an_export_replaces_an_earlier_export_but_no_other_folder(exported, tmp_path: Path):
    out = shutil.copytree(exported[1], tmp_path / "out")
    net = network(attn=None)
    export_model(net, out, PREPROCESS, CLASSES, noise(1))
    np.testing.assert_allclose(Predictor(out).probabilities(noise(1)), softmax_of(net, noise(1)), atol=1e-5)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.txt").write_text("x")
    before = tree(tmp_path)
    with pytest.raises(UserError, match="photos exists and is not an export"):
        export_model(net, tmp_path / "photos", PREPROCESS, CLASSES, noise(1))
    assert tree(tmp_path) == before


def test_an_export_keeps_a_users_file_in_the_folder(exported, tmp_path: Path):
    out = shutil.copytree(exported[1], tmp_path / "out")
    (out / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"notes\.txt, which this command did not write"):
        export_model(exported[0], out, PREPROCESS, CLASSES, noise(1))
    assert tree(tmp_path) == before


def test_an_export_follows_a_link(exported, tmp_path: Path):
    shutil.copytree(exported[1], tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    net = network(attn=None)
    for _ in range(2):
        export_model(net, tmp_path / "link", PREPROCESS, CLASSES, noise(1))
    assert (tmp_path / "link").is_symlink() and not (tmp_path / "real").is_symlink()
    found = Predictor(tmp_path / "real").probabilities(noise(1))
    np.testing.assert_allclose(found, softmax_of(net, noise(1)), atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_not_exported(value: float, tmp_path: Path):
    net = create_model("cifar_resnet20", num_classes=4)
    with paddle.no_grad():
        net.conv1.weight[0, 0, 0, 0] = value
    with pytest.raises(UserError, match=r"NaN or Inf: conv1\.weight$"):
        export_model(net, tmp_path / "out", PREPROCESS, CLASSES, noise(1, 32))
    assert not list(tmp_path.iterdir())


class SelectiveKernelClassifier(paddle.nn.Layer):
    """The last block of a ResNet-50 with SK, with random weights of the attention."""

    def __init__(self):
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 512, 1)
        self.sk = SelectiveKernel(512)
        self.classifier = paddle.nn.Linear(512, 4)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.classifier(self.sk(F.relu(self.conv(x))).mean([2, 3]))


def test_a_dynamic_export_runs_maps_that_are_one_pixel_wide(tmp_path: Path):
    """Paddle's oneDNN refuses the product of the grouped convolution's output there."""
    net = SelectiveKernelClassifier()
    export_model(net, tmp_path / "out", PREPROCESS, CLASSES, noise(1, 4), dynamic=True)
    predictor = Predictor(tmp_path / "out")
    for height, width in ((3, 1), (4, 4), (1, 3), (3, 1)):
        images = noise(2, 4)[:, :, :height, :width]
        np.testing.assert_allclose(predictor.probabilities(images), softmax_of(net, images), atol=1e-5)


def test_the_number_of_class_names_must_be_that_of_the_network(exported, tmp_path: Path):
    with pytest.raises(UserError, match="the network has 4 classes, but 2 names were given"):
        export_model(exported[0], tmp_path / "out", PREPROCESS, CLASSES[:2], noise(1))
    assert not list(tmp_path.iterdir())


# ---- formats

JIT_FORMAT = '''
"""A format that runs in Paddle itself."""

import numpy as np
import paddle
from paddle.static import InputSpec

FILES = ("net.json", "net.pdiparams")


def write(net, folder, size, metadata):
    spec = InputSpec([None, 3, size, size], "float32", "x")
    paddle.jit.save(paddle.jit.to_static(net, input_spec=[spec], full_graph=True), str(folder / "net"))


class Engine:
    def __init__(self, path, threads, precision):
        self.net = paddle.jit.load(str(path.with_suffix("")))
        self.net.eval()

    def run(self, images):
        return self.net(paddle.to_tensor(images)).numpy()
'''


def test_a_new_format_is_one_file_and_one_entry(exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "jit.py").write_text(JIT_FORMAT)
    spec = importlib.util.spec_from_file_location("jit", tmp_path / "jit.py")
    jit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(jit)
    monkeypatch.setitem(FORMATS, "jit", Format(jit.FILES, jit.write, {"jit": EngineKind(jit.Engine)}))
    net, out = exported[0], tmp_path / "out"
    assert export_model(net, out, PREPROCESS, CLASSES, noise(2), format="jit") < 1e-5
    assert sorted(path.name for path in out.iterdir()) == ["inference.yml", "net.json", "net.pdiparams"]
    np.testing.assert_allclose(Predictor(out).probabilities(noise(3)), softmax_of(net, noise(3)), atol=1e-5)


def test_an_unknown_format_is_an_error(exported, tmp_path: Path):
    with pytest.raises(UserError, match=r"unknown export format 'padle'.*did you mean 'paddle'"):
        export_model(exported[0], tmp_path / "out", PREPROCESS, CLASSES, noise(1), format="padle")
    out = shutil.copytree(exported[1], tmp_path / "out")
    edit_description(out, lambda content: content["paddle_attn"].update(format="padle"))
    with pytest.raises(UserError, match=r"unknown export format in .*inference\.yml 'padle'"):
        Predictor(out)


# ---- damaged exports


def edit_description(folder: Path, change) -> None:
    path = folder / "inference.yml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["inference.pdiparams", "inference.json"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "is not the exported file: expected"),
        (flip_a_bit, "is not the exported file: expected"),
        (Path.unlink, "is missing; export again"),
    ],
)
def test_damaged_files_are_refused(exported, tmp_path: Path, file: str, damage, message: str):
    folder = shutil.copytree(exported[1], tmp_path / "copy")
    damage(folder / file)
    with pytest.raises(UserError, match=f"{file} {message}"):
        Predictor(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [", "is damaged"),
        (b"a: 1", "is damaged"),
        (b"", "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (None, "is not an exported model"),
    ],
)
def test_a_folder_needs_a_readable_description(exported, tmp_path: Path, text: bytes | None, message: str):
    folder = shutil.copytree(exported[1], tmp_path / "copy")
    (folder / "inference.yml").unlink()
    if text is not None:
        (folder / "inference.yml").write_bytes(text)
    with pytest.raises(UserError, match=message):
        Predictor(folder)


def resize(size: object):
    return lambda content: content["PreProcess"]["transform_ops"][0].update(ResizeImage={"size": size})


def normalise(**values: object):
    return lambda content: content["PreProcess"]["transform_ops"][1]["NormalizeImage"].update(values)


def labels(value: object):
    return lambda content: content["PostProcess"]["Topk"].update(label_list=value)


def own(**values: object):
    return lambda content: content["paddle_attn"].update(values)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(PreProcess=[]),
        lambda content: content.update(PostProcess=[1]),
        lambda content: content.update(paddle_attn=[{}]),
        lambda content: content["PostProcess"].update(Topk=["label_list"]),
        resize(-5),
        resize(0),
        resize(10**9),
        resize(float("inf")),
        normalise(std=[0.2, 0.0, 0.2]),
        normalise(std=[0.2, float("nan"), 0.2]),
        normalise(std=[-0.2, 0.2, 0.2]),
        normalise(std=[0.2]),
        normalise(mean=[float("inf"), 0.5, 0.5]),
        labels("abcd"),
        labels([False, 1, 2, 3]),
        labels([["a"]] * 4),
        labels({"a": 0}),
        own(files=[]),
        own(files={"inference.json": 1}),
        own(files={"inference.json": ["size", "sha256"]}),
        own(format=["paddle"]),
    ],
)
def test_a_description_with_other_values_is_damaged(exported, tmp_path: Path, change):
    folder = shutil.copytree(exported[1], tmp_path / "copy")
    edit_description(folder, change)
    with pytest.raises(UserError, match=r"inference\.yml is damaged: .*; export again$"):
        Predictor(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["PreProcess"].update(transform_ops={"ResizeImage": 1}),
        resize([128]),
        normalise(mean="abc"),
        resize(None),
    ],
)
def test_another_preprocessing_is_refused(exported, tmp_path: Path, change):
    folder = shutil.copytree(exported[1], tmp_path / "copy")
    edit_description(folder, change)
    with pytest.raises(UserError, match=r"preprocessing in inference\.yml"):
        Predictor(folder)


@pytest.mark.parametrize("classes", [CLASSES[:3], [*CLASSES, "five"], []])
def test_a_label_list_of_another_length_is_refused(exported, tmp_path: Path, pictures: Path, classes):
    folder = shutil.copytree(exported[1], tmp_path / "copy")
    edit_description(folder, labels(classes))
    with pytest.raises(UserError, match=f"names {len(classes)} classes, but the network has 4"):
        Predictor(folder).predict(pictures)


ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))


@pytest.mark.parametrize(
    "text", ["[" * 5000, "a: " + "{b: " * 5000, ALIASES, "PreProcess: {}\nPreProcess: {}"]
)
def test_a_deep_or_an_expanding_description_is_damaged(exported, tmp_path: Path, text: str):
    folder = shutil.copytree(exported[1], tmp_path / "copy")
    (folder / "inference.yml").write_text(text)
    with pytest.raises(UserError, match=r"inference\.yml is damaged"):
        Predictor(folder)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("inference.yml", r"cannot read .* \(it is a pipe"),
        ("inference.json", "json is not a regular file"),
        ("inference.pdiparams", "pdiparams is not a regular file"),
    ],
)
def test_a_pipe_in_an_export_does_not_block(exported, tmp_path: Path, file: str, message: str):
    folder = shutil.copytree(exported[1], tmp_path / "copy")
    (folder / file).unlink()
    os.mkfifo(folder / file)
    with pytest.raises(UserError, match=message):
        Predictor(folder)


@pytest.mark.parametrize(
    "names", [["1e5", "1_000", "on", "no", "~", "0o17", "1:30"], ["=x", "- a", "#", "\u2028"]]
)
def test_class_names_that_look_like_other_yaml_are_kept(tmp_path: Path, names: list[str]):
    net = paddle.nn.Sequential(paddle.nn.Flatten(), paddle.nn.Linear(3, len(names)))
    export_model(net, tmp_path / "out", Preprocess(1, "stretch", (0,) * 3, (1,) * 3), names, noise(1, 1))
    assert Predictor(tmp_path / "out").classes == names
    content = yaml.safe_load((tmp_path / "out" / "inference.yml").read_text(encoding="utf-8"))
    assert content["PostProcess"]["Topk"]["label_list"] == names  # as PaddleX reads it


# ---- export from a config


@pytest.fixture
def run_folder(split_data: Path, tmp_path: Path) -> tuple[Config, Path]:
    """The config and the weights of a small network, in a folder as training writes it."""
    config = Config(
        model=ModelConfig(name="cifar_resnet20", attn="simam"), data=DataConfig(root=str(split_data), size=32)
    )
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    (folder / "classes.txt").write_text("blue\ngreen\nred\n", encoding="utf-8")
    save_weights(create_model("cifar_resnet20", "simam", num_classes=3), folder / "best.pdparams")
    return config, folder / "best.pdparams"


def test_export_from_a_config_compares_on_eval_images(run_folder: tuple[Config, Path], tmp_path: Path):
    config, weights = run_folder
    exported = export_config(config, weights, tmp_path / "out")
    assert exported.source == "6 eval images" and exported.difference < 1e-5
    predictor = Predictor(tmp_path / "out")
    assert predictor.classes == ["blue", "green", "red"] and predictor.preprocess.size == 32


def test_export_from_a_config_without_its_data_compares_on_noise(
    run_folder: tuple[Config, Path], tmp_path: Path
):
    config, weights = run_folder
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(tmp_path / "gone")))
    exported = export_config(config, weights, tmp_path / "out")
    assert exported.source.startswith("noise, because there is no data directory")
    assert exported.difference < 1e-5


def test_names_in_another_order_than_those_of_the_data_are_refused(
    run_folder: tuple[Config, Path], tmp_path: Path
):
    config, weights = run_folder
    weights.with_name("classes.txt").write_text("red\ngreen\nblue\n")
    with pytest.raises(UserError, match=r"classes\.txt .*\(red, green, blue, …\) has another order"):
        export_config(config, weights, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", ["red\ngreen\nblue\n", "blue\ngreen\nteal\n", "blue\ngreen\n"])
def test_names_that_differ_from_the_checkpoint_are_refused(
    run_folder: tuple[Config, Path], tmp_path: Path, names: str
):
    config, weights = run_folder
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(tmp_path / "gone")))
    write_checkpoint({"classes": ["blue", "green", "red"]}, weights.with_name("last.pdstate"))
    export_config(config, weights, tmp_path / "out")
    before = tree(tmp_path)
    weights.with_name("classes.txt").write_text(names)
    with pytest.raises(UserError, match=r"classes\.txt and .*last\.pdstate state different classes"):
        export_config(config, weights, tmp_path / "out")
    weights.with_name("classes.txt").write_text("blue\ngreen\nred\n")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("content", [None, b"", b"x" * 100])
def test_a_damaged_checkpoint_says_nothing_about_the_classes(
    run_folder: tuple[Config, Path], tmp_path: Path, content: bytes | None
):
    config, weights = run_folder
    checkpoint = weights.with_name("last.pdstate")
    if content is None:
        os.mkfifo(checkpoint)
    else:
        checkpoint.write_bytes(content)
    export_config(config, weights, tmp_path / "out")


@pytest.mark.parametrize(("out", "what"), [("run", "weights"), (".", "weights"), ("data", "data")])
def test_an_export_does_not_replace_the_folder_of_the_weights_or_of_the_data(
    run_folder: tuple[Config, Path], split_data: Path, tmp_path: Path, out: str, what: str
):
    config, weights = run_folder
    shutil.copytree(split_data, tmp_path / "data" / "deep")
    data = dataclasses.replace(config.data, root=str(tmp_path / "data" / "deep"))
    before = tree(tmp_path)
    with pytest.raises(UserError, match=f"is or holds the folder of the {what}, "):
        export_config(dataclasses.replace(config, data=data), weights, tmp_path / out)
    assert tree(tmp_path) == before


def test_a_description_cannot_give_a_users_file_to_the_next_export(exported, tmp_path: Path):
    out = shutil.copytree(exported[1], tmp_path / "out")
    (out / "notes.txt").write_text("mine")
    edit_description(out, lambda content: content["paddle_attn"]["files"].update({"notes.txt": {}}))
    with pytest.raises(UserError, match=r"notes\.txt, which this command did not write"):
        export_model(exported[0], out, PREPROCESS, CLASSES, noise(1))
    assert (out / "notes.txt").read_text() == "mine"


WITHOUT_TRAIN = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == "paddle_attn.train" or name.startswith("paddle_attn.train."):
            raise ImportError("paddle_attn.train is blocked")

sys.meta_path.insert(0, Blocker())
root, config, weights, image = sys.argv[1:]

from paddle_attn.cli import prepare_paddle
prepare_paddle()
import numpy as np
import paddle_attn
from paddle_attn.data.transforms import Preprocess
from paddle_attn.deploy import Predictor, export_config, export_model

try:
    paddle_attn.train
except ImportError:
    pass
else:
    raise SystemExit("the blocker does not work")

net = paddle_attn.create_model("cifar_resnet20", "simam", num_classes=2)
preprocess = Preprocess(32, "stretch", (0.5,) * 3, (0.5,) * 3)
export_model(net, "model", preprocess, ["a", "b"], np.zeros([1, 3, 32, 32], "float32"))
export_config(paddle_attn.load_config(config), weights, "config")
for folder in ("model", "config"):
    (result,) = Predictor(folder).predict(image)
    assert len(result["labels"]) == {"model": 2, "config": 3}[folder]

sys.argv = ["predict.py", "--model", "config", image]
runpy.run_path(f"{root}/tools/predict.py", run_name="__main__")
"""


def test_deploy_works_without_train(run_folder: tuple[Config, Path], tmp_path: Path):
    _, weights = run_folder
    picture((220, 40, 40)).save(tmp_path / "red.png")
    arguments = [ROOT, weights.with_name("config.yaml"), weights, tmp_path / "red.png"]
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRAIN, *map(str, arguments)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert result.returncode == 0, result.stderr
    assert "red.png" in result.stdout


# ---- prediction on files


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    for index, name in enumerate(["b.jpg", "a.png", "deeper/c.jpg"]):
        picture((60 * index, 100, 200), seed=index).save(folder / name)
    (folder / ".hidden.jpg").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    return folder


def test_prediction_is_the_network_after_the_preprocessing_of_training(exported, pictures: Path):
    net, out = exported
    results = Predictor(out).predict([pictures], topk=3, batch_size=2)
    paths = [pictures / name for name in ("a.png", "b.jpg", "deeper/c.jpg")]
    assert [result["path"] for result in results] == list(map(str, paths))
    for path, result in zip(paths, results, strict=True):
        (expected,) = softmax_of(net, PREPROCESS(load_image(path))[None])
        order = np.argsort(-expected)[:3]
        assert set(result) == {"path", "labels", "class_ids", "scores"}
        assert result["class_ids"] == order.tolist()
        assert result["labels"] == [CLASSES[index] for index in order]
        np.testing.assert_allclose(result["scores"], expected[order], atol=1e-5)


def test_a_single_path_and_a_topk_above_the_number_of_classes(exported, pictures: Path):
    (result,) = Predictor(exported[1]).predict(str(pictures / "a.png"), topk=50)
    assert sorted(result["labels"]) == CLASSES


def test_inputs_that_cannot_be_read_are_reported_and_the_others_classified(exported, pictures: Path):
    errors: list[str] = []
    inputs = [pictures / name for name in ("a.png", "notes.txt", "none.jpg", "b.jpg")]
    predictor = Predictor(exported[1])
    results = predictor.predict(inputs, on_error=lambda error: errors.append(str(error)))
    assert [result["path"] for result in results] == [str(inputs[0]), str(inputs[3])]
    first, second = errors
    assert f"cannot decode the image {inputs[1]}" in first and f"{inputs[2]} does not exist" in second
    with pytest.raises(UserError, match=r"notes\.txt"):
        predictor.predict(inputs)


def test_a_folder_without_images_is_an_error(exported, tmp_path: Path):
    with pytest.raises(UserError, match="contains no images"):
        Predictor(exported[1]).predict(tmp_path)


@pytest.mark.parametrize("option", ["topk", "batch_size"])
def test_numbers_below_one_are_errors(exported, pictures: Path, option: str):
    with pytest.raises(UserError, match=f"{option} must be at least 1, found 0"):
        Predictor(exported[1]).predict(pictures, **{option: 0})


# ---- images in memory


def test_pil_images_and_arrays_are_classified_as_files_are(exported, pictures: Path):
    predictor = Predictor(exported[1])
    image = load_image(pictures / "a.png")
    (expected,) = predictor.predict(pictures / "a.png")
    inputs = [
        image,
        np.asarray(image),
        Image.open(pictures / "a.png"),
        pictures / "a.png",
        image.convert("RGBA"),
    ]
    results = predictor.predict(inputs)
    assert [result["path"] for result in results] == [None, None, None, str(pictures / "a.png"), None]
    for result in [*results, *predictor.predict(image), *predictor.predict(np.asarray(image))]:
        assert result["class_ids"] == expected["class_ids"]
        np.testing.assert_allclose(result["scores"], expected["scores"], atol=1e-6)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros([4, 4, 3], "float32"), r"input 2 is an array of float32 with shape \[4, 4, 3\]"),
        (np.zeros([3, 4, 4], "uint8"), r"shape \[3, 4, 4\], expected uint8 \[H, W, 3\]"),
        (np.zeros([1, 4, 4, 3], "uint8"), r"shape \[1, 4, 4, 3\], expected uint8 \[H, W, 3\]"),
        (np.zeros([0, 4, 3], "uint8"), r"shape \[0, 4, 3\]"),
        (None, "input 2 is a NoneType, expected a path, a PIL image or an array"),
    ],
)
def test_other_arrays_are_reported(exported, pictures: Path, image, message: str):
    with pytest.raises(UserError, match=message):
        Predictor(exported[1]).predict([pictures / "a.png", image])


# ---- threads


def test_threads_that_share_a_predictor_get_their_own_answers(exported, tmp_path: Path):
    predictor = Predictor(exported[1])
    images = [noise(2 + index % 3)[:, :, ::-1] * index for index in range(12)]
    files = [tmp_path / f"{name}{seed}.png" for name in COLOURS for seed in range(4)]
    for seed, path in enumerate(files):
        picture(COLOURS[path.name[:-5]], seed=seed).save(path)
    expected = [predictor.probabilities(batch) for batch in images]
    alone = [predictor.predict(path) for path in files]
    with ThreadPoolExecutor(8) as pool:
        for found, one in zip(pool.map(predictor.probabilities, images * 4), expected * 4, strict=True):
            np.testing.assert_allclose(found, one, atol=1e-6)
        for found, one in zip(pool.map(predictor.predict, files * 2), alone * 2, strict=True):
            assert found[0]["path"] == one[0]["path"] and found[0]["class_ids"] == one[0]["class_ids"]
            np.testing.assert_allclose(found[0]["scores"], one[0]["scores"], atol=1e-6)


FIRST_RUNS = """
import sys, threading
from paddle_attn.cli import prepare_paddle
prepare_paddle()
import numpy as np
from paddle_attn.deploy import Predictor

for round in range(5):
    predictors = [Predictor(sys.argv[1]) for _ in range(6)]
    start = threading.Barrier(6)

    def first_run(predictor):
        start.wait()
        predictor.probabilities(np.zeros([1, 3, 8, 8], "float32"))
        print(f"round {round}\\n", end="", flush=True)

    threads = [threading.Thread(target=first_run, args=[predictor]) for predictor in predictors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print("end")
"""


def test_first_runs_in_threads_keep_stdout_and_what_is_printed_meanwhile(tmp_path: Path):
    out = tmp_path / "out"
    export_model(Mean(), out, PREPROCESS, CLASSES, noise(1, 8), dynamic=True)
    result = subprocess.run(
        [sys.executable, "-c", FIRST_RUNS, out], cwd=ROOT, capture_output=True, text=True, timeout=HANG
    )
    assert result.returncode == 0, result.stderr
    expected = [f"round {round}" for round in range(5) for _ in range(6)]
    assert result.stdout.splitlines() == [*expected, "end"]


class Mean(paddle.nn.Layer):
    """A graph with a mean, for which Paddle 3.3 prints a debug line."""

    def __init__(self):
        super().__init__()
        self.classifier = paddle.nn.Linear(3, 4)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.classifier(x.mean([2, 3]))


# ---- what predict.py writes


def test_brackets_in_names_are_printed_as_they_are(capsys: pytest.CaptureFixture):
    print_results([{"path": "d[/a]/IMG[edited].jpg", "labels": ["[red]"], "class_ids": [0], "scores": [1.0]}])
    printed = capsys.readouterr().out
    assert "d[/a]/IMG[edited].jpg" in printed and "[red]" in printed


def on_terminal(columns: int, monkeypatch: pytest.MonkeyPatch, results: list[dict]) -> list[str]:
    """The lines of `print_results` on a real terminal."""
    monkeypatch.setenv("COLUMNS", str(columns))
    master, slave = pty.openpty()
    with open(slave, "w", encoding="utf-8") as stream, contextlib.redirect_stdout(stream):
        print_results(results)
    text = b""
    with contextlib.suppress(OSError), open(master, "rb", buffering=0) as stream:  # Linux ends with an error
        while block := stream.read(1 << 16):
            text += block
    return text.decode().splitlines()


def test_the_table_fits_in_80_columns_and_breaks_paths_at_slashes(monkeypatch: pytest.MonkeyPatch):
    path = "/".join(
        ["datasets", "caltech101-16", "eval", "a-long-name-of-a-folder", "airplanes", "image_0001.jpg"]
    )
    results = [
        {
            "path": path,
            "labels": ["airplanes", "ketch", "grand piano", "chandelier", "butterfly"],
            "class_ids": [0, 1, 2, 3, 4],
            "scores": [0.9, 0.05, 0.03, 0.01, 0.01],
        }
    ]
    header, first, second, *then = on_terminal(80, monkeypatch, results)
    assert header.split() == ["score", "class", "image"]
    assert first.split()[:2] == ["0.900", "airplanes"] and first.endswith("/")
    assert first.split()[-1] + second.strip() == path
    assert " ".join(line.strip() for line in then).startswith("then ketch 0.050, grand piano 0.030")
    assert max(map(len, [header, first, second, *then])) <= 80


def test_terminal_escapes_in_names_are_printed_escaped(capsys: pytest.CaptureFixture):
    print_results(
        [{"path": "\x1b[31mred\n.png", "labels": ["\x1b]0;title\x07"], "class_ids": [0], "scores": [1.0]}]
    )
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and r"\x1b[31mred\n.png" in printed and r"\x1b]0;title\x07" in printed


def odd_pictures(folder: Path) -> list[bytes]:
    """Images whose names are hard to write; the names."""
    names = [b"\xff.png", b"\x1b[31m.png", "grün.png".encode(), b"=1+1.png"]
    picture((220, 40, 40)).save(folder / "plain.png")
    for name in names:
        shutil.copy(folder / "plain.png", os.path.join(os.fsencode(folder), name))
    (folder / "plain.png").unlink()
    return names


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (("pictures/a.png", None), "pictures/a.png is one of the input images"),
        ((None, "pictures/deeper/c.jpg"), "pictures/deeper/c.jpg is one of the input images"),
        (("link.csv", None), "link.csv is one of the input images"),
        (("single.png", None), "single.png is one of the input images"),
        (("out/inference.yml", None), "out/inference.yml is a file of the model"),
        ((None, "out/inference.pdiparams"), "out/inference.pdiparams is a file of the model"),
        (("new/p", "new/../new/p"), "new/p is the output of both --csv and --json"),
    ],
)
def test_outputs_that_would_replace_a_file_of_the_user_are_refused(
    exported, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outputs, message: str
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(exported[1], "out")
    shutil.copy(pictures / "a.png", "single.png")
    Path("link.csv").symlink_to("pictures/b.jpg")
    with pytest.raises(UserError, match=message):
        check_outputs(outputs, ["pictures", "single.png"], "out")


def test_other_outputs_are_allowed(exported, pictures: Path):
    notes = str(pictures / "notes.txt")  # beside the images, but not one
    check_outputs([notes, str(pictures / "new.png")], [str(pictures)], str(exported[1]))
    check_outputs([os.devnull, os.devnull], [str(pictures)], str(exported[1]))
    check_outputs([None, None], [str(pictures)], str(exported[1]))


def test_the_command_refuses_an_output_before_it_writes(exported, pictures: Path):
    before = tree(pictures)
    outputs = ("--json", "new.json", "--csv", "a.png")
    result = tool("predict", "--model", exported[1], ".", *outputs, cwd=pictures)
    assert_one_sentence(result, "a.png is one of the input images")
    assert tree(pictures) == before and result.stdout == ""


OUTPUTS = ("--csv", "p.csv", "--json", "p.json")


def test_predictions_for_odd_file_names_are_written(exported, tmp_path: Path):
    names = odd_pictures(tmp_path)
    command = ("predict", "--model", exported[1], ".", "--topk", 1, *OUTPUTS)
    result = tool(*command, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert result.returncode == 0 and result.stderr == "", result.stderr
    results = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    written = sorted(name.decode("utf-8", "backslashreplace") for name in names)
    assert sorted(result["path"] for result in results) == written
    with open(tmp_path / "p.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["path"].removeprefix("'") for row in rows) == written
    for shown in (r"\xff.png", r"\x1b[31m.png", r"gr\xfcn.png", "=1+1.png"):
        assert shown in result.stdout


def test_a_cell_that_a_spreadsheet_would_run_is_text(tmp_path: Path):
    names = ["=1+1", "+1", "-1", "@a", "\tx", "a=1"]
    results = [{"path": name, "labels": [name], "class_ids": [0], "scores": [1e-5]} for name in names]
    write_results(results, str(tmp_path / "p.csv"), str(tmp_path / "p.json"))
    with open(tmp_path / "p.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = ["'=1+1", "'+1", "'-1", "'@a", "'\tx", "a=1"]
    assert [row["path"] for row in rows] == [row["label"] for row in rows] == expected
    assert json.loads((tmp_path / "p.json").read_text()) == results


def test_predictions_are_written_before_they_are_printed(exported, tmp_path: Path):
    """stdout is closed, or is a full device."""
    odd_pictures(tmp_path)
    for redirection, code in ((">&-", 0), (">/dev/full", 2)):
        words = [sys.executable, ROOT / "tools/predict.py", "--model", exported[1], ".", *OUTPUTS]
        script = f'exec "$@" {redirection}'
        result = subprocess.run(
            ["sh", "-c", script, "sh", *words], cwd=tmp_path, capture_output=True, text=True, timeout=HANG
        )
        assert result.returncode == code and "Traceback" not in result.stderr, result.stderr
        for name in ("p.csv", "p.json"):
            assert (tmp_path / name).stat().st_size
            (tmp_path / name).unlink()


def test_the_exit_code_tells_whether_some_or_all_files_failed(exported, pictures: Path):
    command = ("predict", "--model", exported[1])
    some = tool(*command, "a.png", "notes.txt", "b.jpg", cwd=pictures)
    assert some.returncode == 1 and "a.png" in some.stdout and "b.jpg" in some.stdout
    assert some.stderr == "error: cannot decode the image notes.txt: it is not an image\n"
    assert tool(*command, "a.png", cwd=pictures).returncode == 0
    assert_one_sentence(tool(*command, "notes.txt", cwd=pictures), "notes.txt")


@pytest.mark.parametrize("shape", [(0, 3, 128, 128), (3, 128, 128), (1, 1, 128, 128)])
def test_arrays_of_another_shape_are_refused_before_the_engine(exported, shape: tuple[int, ...]):
    with pytest.raises(UserError, match=r"expected images \[N, 3, H, W\], found an array of shape"):
        Predictor(exported[1]).probabilities(np.zeros(shape, "float32"))
