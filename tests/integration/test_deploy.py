"""Export and prediction: the exported program does what the network does, and damaged ones are refused."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
import yaml
from helpers import fits, kwargs_for, picture

from paddle_attn import Predictor, create_model, list_attention, list_models, model_spec
from paddle_attn.data.images import load_image
from paddle_attn.data.transforms import Preprocess
from paddle_attn.deploy import export as export_room
from paddle_attn.deploy.export import export_model
from paddle_attn.deploy.predictor import print_results
from paddle_attn.errors import UserError

CLASSES = ["blue", "green", "grün 01", "no"]  # names that YAML must not take for something else
PREPROCESS = Preprocess(128, "stretch", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
SMALL = (
    "cifar_preresnet20",
    "mobilenet_v2",
    "resnet18",
    "towernet",
)  # one of each family; the others are slow


def network(model: str = "towernet", attn: str | None = "simam") -> paddle.nn.Layer:
    net = create_model(model, attn, kwargs_for(model, attn), num_classes=4)
    for name, parameter in net.named_parameters():
        if "attn." in name and not parameter.stop_gradient:
            parameter.set_value(paddle.uniform(parameter.shape, min=0.005, max=0.03))
    net.eval()
    return net


def noise(batch: int, size: int = 128) -> np.ndarray:
    return np.random.default_rng(0).standard_normal([batch, 3, size, size]).astype("float32")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[paddle.nn.Layer, Path]:
    net, out = network(), tmp_path_factory.mktemp("export") / "towernet"
    assert export_model(net, out, PREPROCESS, CLASSES, noise(3)) < 1e-5
    return net, out


def copy(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_exported_probabilities_are_the_networks_at_any_batch(exported):
    net, out = exported
    predictor = Predictor(out)
    for batch in (1, 2, 5):
        with paddle.no_grad():
            expected = F.softmax(net(paddle.to_tensor(noise(batch)))).numpy()
        found = predictor.probabilities(noise(batch))
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


def exports_at_a_second_size(model: str, attn: str | None, out: Path) -> None:
    net = network(model, attn)
    smallest = max(model_spec(model).min_size, 64)
    preprocess = Preprocess(smallest, "stretch", (0, 0, 0), (1, 1, 1))
    export_model(net, out, preprocess, CLASSES, noise(1, smallest), dynamic=True)
    predictor = Predictor(out)
    for batch, size in [(2, smallest), (1, smallest + 40)]:
        with paddle.no_grad():
            expected = F.softmax(net(paddle.to_tensor(noise(batch, size)))).numpy()
        np.testing.assert_allclose(predictor.probabilities(noise(batch, size)), expected, atol=1e-4)
    del predictor
    gc.collect()  # the traced program and its network refer to each other: 200 of them are more than a machine holds


COMBINATIONS = [
    (model, attn) for model in list_models() for attn in [None, *list_attention(), "sk"] if fits(model, attn)
]


@pytest.mark.parametrize(("model", "attn"), [pair for pair in COMBINATIONS if pair[0] in SMALL])
def test_a_small_one_of_each_family_exports_with_dynamic_sizes(model: str, attn: str | None, tmp_path: Path):
    exports_at_a_second_size(model, attn, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize(("model", "attn"), [pair for pair in COMBINATIONS if pair[0] not in SMALL])
def test_every_model_exports_with_dynamic_sizes(model: str, attn: str | None, tmp_path: Path):
    exports_at_a_second_size(model, attn, tmp_path / "out")


def test_the_description_is_what_paddlex_reads(exported):
    described = yaml.safe_load((exported[1] / "inference.yml").read_text(encoding="utf-8"))
    assert [next(iter(op)) for op in described["PreProcess"]["transform_ops"]] == [
        "ResizeImage",
        "NormalizeImage",
        "ToCHWImage",
    ]
    normalise = described["PreProcess"]["transform_ops"][1]["NormalizeImage"]
    assert (
        normalise["scale"] == pytest.approx(1 / 255)
        and normalise["order"] == ""
        and normalise["channel_num"] == 3
    )
    assert described["PostProcess"]["Topk"] == {"topk": 4, "label_list": CLASSES}
    assert set(described["paddle_attn"]["files"]) == {"inference.json", "inference.pdiparams"}


def test_an_export_that_differs_is_an_error_and_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"
    export_model(network(), out, PREPROCESS, CLASSES, noise(1))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(
        export_room.Predictor, "probabilities", lambda self, images: np.full([len(images), 4], 0.25)
    )
    with pytest.raises(RuntimeError, match="differs from the network"):
        export_model(network(), out, PREPROCESS, CLASSES, noise(1))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_no_export_is_not_replaced(tmp_path: Path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "x.txt").write_text("x")
    with pytest.raises(UserError, match="is no export"):
        export_model(network(), tmp_path / "precious", PREPROCESS, CLASSES, noise(1))
    with pytest.raises(UserError, match="4 classes, but 2 names"):
        export_model(network(), tmp_path / "new", PREPROCESS, CLASSES[:2], noise(1))
    assert (tmp_path / "precious" / "x.txt").exists() and not (tmp_path / "new").exists()


@pytest.mark.parametrize("file", ["inference.pdiparams", "inference.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damaged_models_are_refused_before_paddle_sees_them(exported, tmp_path: Path, file: str, damage: str):
    folder = copy(exported[1], tmp_path / "copy")
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 255
    (folder / file).write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    if damage == "missing":
        (folder / file).unlink()
    with pytest.raises(UserError, match=rf"{file} is (missing|not the file that was exported)"):
        Predictor(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "is no exported model"), ("a: [", "is damaged"), ("a: 1", "is damaged"), ("", "is damaged")],
)
def test_a_folder_without_a_description_is_told(exported, tmp_path: Path, text: str | None, message: str):
    folder = copy(exported[1], tmp_path / "copy")
    (folder / "inference.yml").unlink()
    if text is not None:
        (folder / "inference.yml").write_text(text)
    with pytest.raises(UserError, match=message):
        Predictor(folder)


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


def test_prediction_is_the_network_after_the_training_preprocessing(exported, pictures: Path):
    net, out = exported
    results = Predictor(out).predict([pictures], topk=3, batch_size=2)
    assert [Path(result["path"]).relative_to(pictures).as_posix() for result in results] == [
        "a.png",
        "b.jpg",
        "deeper/c.jpg",
    ]
    for result in results:
        with paddle.no_grad():
            expected = F.softmax(net(paddle.to_tensor(PREPROCESS(load_image(result["path"]))[None]))).numpy()[
                0
            ]
        order = np.argsort(-expected)[:3].tolist()
        assert set(result) == {"path", "labels", "class_ids", "scores"}
        assert result["class_ids"] == order and result["labels"] == [CLASSES[i] for i in order]
        np.testing.assert_allclose(result["scores"], expected[order], atol=1e-5)


def test_a_single_path_and_more_topk_than_classes(exported, pictures: Path):
    (result,) = Predictor(exported[1]).predict(str(pictures / "a.png"), topk=50)
    assert len(result["labels"]) == 4


def test_what_is_no_image_is_reported_and_the_rest_goes_on(exported, pictures: Path):
    errors: list[UserError] = []
    inputs = [pictures / "a.png", pictures / "notes.txt", pictures / "none.jpg", pictures / "b.jpg"]
    results = Predictor(exported[1]).predict(inputs, on_error=errors.append)
    assert [Path(result["path"]).name for result in results] == ["a.png", "b.jpg"]
    assert ["notes.txt" in str(errors[0]), "there is no" in str(errors[1])] == [True, True]
    with pytest.raises(UserError, match=r"notes\.txt"):
        Predictor(exported[1]).predict(inputs)


def test_a_folder_without_images_is_told_and_topk_must_name_one(exported, tmp_path: Path):
    with pytest.raises(UserError, match="holds no images"):
        Predictor(exported[1]).predict(tmp_path)
    with pytest.raises(UserError, match="topk must be at least 1, found 0"):
        Predictor(exported[1]).predict(tmp_path, topk=0)


def test_names_in_brackets_are_printed_as_they_are(capsys: pytest.CaptureFixture):
    print_results([{"path": "d[/a]/IMG[edited].jpg", "labels": ["[red]"], "class_ids": [0], "scores": [1.0]}])
    printed = capsys.readouterr().out
    assert "d[/a]/IMG[edited].jpg" in printed and "[red]" in printed
