"""The diagnosis of an evaluation and the comparison of runs: values that are known, and hostile input."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import picture, write_cifar
from PIL import Image

from paddle_attn.config import Config, DataConfig, TrainConfig
from paddle_attn.data.base import ImageDataset
from paddle_attn.data.datasets import create_dataset
from paddle_attn.data.folder import ImageFolder
from paddle_attn.data.transforms import Preprocess
from paddle_attn.diagnose import compare_runs, diagnose
from paddle_attn.diagnose.calibration import calibration, cross_fitted_temperatures, fit_temperature
from paddle_attn.diagnose.comparison import mcnemar
from paddle_attn.diagnose.corruptions import CORRUPTIONS, corrupted_top1
from paddle_attn.errors import UserError
from paddle_attn.train import Evaluation
from paddle_attn.train.predictions import Predictions

# ---- calibration


def drawn(count: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from the probabilities of the logits divided by a temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, [count, 5])
    powers = np.exp(logits / temperature)
    cumulated = (powers / powers.sum(1, keepdims=True)).cumsum(1)
    return logits.astype("float32"), (rng.random([count, 1]) > cumulated).sum(1).clip(0, 4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature: float):
    assert fit_temperature(*drawn(20000, temperature)) == pytest.approx(temperature, rel=0.05)


def test_temperature_scaling_mends_a_network_that_is_too_sure():
    logits, labels = drawn(4000, 3.0)
    temperatures, fitted = cross_fitted_temperatures(logits, labels)
    before, after = calibration(logits, labels), calibration(logits, labels, temperatures)
    assert before.error > 0.2 and after.error < 0.03 and after.loss < before.loss
    assert after.error < 2 * after.by_chance and before.error > 5 * before.by_chance
    assert before.accuracy == after.accuracy and fitted == pytest.approx((3, 3), rel=0.1)


def test_the_expected_calibration_error_of_known_probabilities():
    """Four images at 80 %, three of them right, and one at 100 %, right: 4/5 of |0.8 - 0.75|."""
    rows = np.log([[0.8, 0.2]] * 4 + [[1 - 1e-9, 1e-9]])
    assert calibration(rows, np.array([0, 0, 0, 1, 0])).error == pytest.approx(0.04, abs=1e-6)


def test_an_image_is_judged_with_the_temperature_of_the_other_half():
    logits, labels = drawn(2000, 2.0)
    temperatures, (_, second) = cross_fitted_temperatures(logits, labels)
    logits[temperatures == second] *= 100  # the first half: changes the temperature of the second half alone
    changed, _ = cross_fitted_temperatures(logits, labels)
    assert np.array_equal(
        changed == changed.min(), temperatures == second
    ) and changed.min() == pytest.approx(second)


# ---- McNemar's test


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (0, 6, 0.03125), (1, 9, 0.021484375)],
)
def test_mcnemars_exact_p_value(only_a: int, only_b: int, p: float):
    assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a) == pytest.approx(p)


# ---- pages


def evaluation_of(root: Path, logits: np.ndarray) -> Evaluation:
    """An evaluation of the images `root/<class>/*` with these logits."""
    return evaluation_on(ImageFolder(root, Preprocess(32, "stretch", (0.5,) * 3, (0.25,) * 3)), logits)


def evaluation_on(dataset: ImageDataset, logits: np.ndarray) -> Evaluation:
    labels = np.array([dataset.label(index) for index in range(len(dataset))])
    best = logits.argmax(1)
    confusion = np.zeros([len(dataset.classes)] * 2, dtype=int)
    np.add.at(confusion, (labels, best), 1)
    top1 = float((labels == best).mean())
    predictions = Predictions(dataset, labels, logits.astype("float32"))
    return Evaluation(top1, 1.0, 0.5, dataset.classes, confusion, predictions)


def config_of(output: Path) -> Config:
    return Config(data=DataConfig(size=128), train=TrainConfig(output=str(output), device="cpu"))


def images_of(root: Path, classes: list[str], each: int) -> Path:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(each):
            picture((number * 40 % 250, 90, 200), seed=index).save(root / name / f"{index}.png")
    return root


NAMES = ["<script>alert(1)<script>", "猫🐈", "a & b", "$x_1$"]


def test_the_page_shows_hostile_names_odd_images_and_one_that_vanished(tmp_path: Path):
    root = images_of(tmp_path / "eval", NAMES, 5)
    first = root / NAMES[0]
    Image.new("L", (20, 50)).save(first / "0.png")
    Image.new("CMYK", (50, 20)).save(first / "1.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    picture((10, 200, 10)).resize((60, 20)).save(first / "2.jpg", exif=exif)
    result = evaluation_of(root, np.random.default_rng(0).normal(0, 3, [22, 4]))
    (root / NAMES[1] / "0.png").unlink()
    page = diagnose(config_of(tmp_path / "run"), "last.pdparams", result)
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;" in text and "猫🐈" in text
    assert set(re.findall(r'src="(data:image/\w+)', text)) <= {"data:image/jpeg", "data:image/png"}
    assert not re.findall(r'(?:src|href)="(?!data:)', text) and "cannot be read" in text
    values = json.loads((tmp_path / "run" / "report.json").read_text())
    assert values["calibration_before"]["accuracy"] == pytest.approx(result.top1)
    for name in ("mosaic", "confident_errors", "confused_pairs", "per_class", "calibration"):
        assert (tmp_path / "run" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "case", ["certain and right", "certain and wrong", "not a number", "one class", "one image"]
)
def test_extreme_predictions_give_a_page(case: str, tmp_path: Path):
    classes = ["one"] if case.startswith("one") else ["a", "b", "c"]
    each = 1 if case == "one image" else 4
    root = images_of(tmp_path / "eval", classes, each)
    labels = np.repeat(np.arange(len(classes)), each)
    logits = np.where(np.eye(len(classes))[labels] == (case != "certain and wrong"), 1e4, -1e4)
    if case == "not a number":
        logits[5] = np.nan
    text = diagnose(config_of(tmp_path), "x", evaluation_of(root, logits)).read_text(encoding="utf-8")
    assert ("not all finite" in text) == (case == "not a number")
    assert ("None: every image is right." in text) == (
        case in ("certain and right", "one class", "one image")
    )


def test_five_hundred_classes_and_one_without_images(tmp_path: Path):
    names = [f"class {number:03d}" for number in range(500)]
    dataset = ImageFolder(
        images_of(tmp_path / "eval", ["x"], 1), Preprocess(32, "stretch", (0.5,) * 3, (1.0,) * 3)
    )
    dataset.classes, labels = names, np.arange(499)
    dataset.samples = [(dataset.samples[0][0], int(label)) for label in labels]
    predicted = np.roll(labels, 1)
    confusion = np.zeros([500, 500], dtype=int)
    confusion[labels, predicted] = 1
    logits = np.eye(500, dtype="float32")[predicted]
    result = Evaluation(0.0, 0.0, 1.0, names, confusion, Predictions(dataset, labels, logits))
    page = diagnose(config_of(tmp_path), "x", result)
    text = page.read_text()
    assert "No eval images: class 499" in text and page.stat().st_size < 1 << 20
    assert max(Image.open(tmp_path / "per_class.png").size) < 2500


def test_a_page_of_another_program_is_not_replaced(tmp_path: Path):
    result = evaluation_of(images_of(tmp_path / "eval", ["a", "b"], 3), np.eye(2)[[0, 0, 1, 1, 1, 0]])
    (tmp_path / "report.html").write_text("<p>mine")
    with pytest.raises(UserError, match="was not written by this command and is not replaced"):
        diagnose(config_of(tmp_path), "x", result)
    assert (tmp_path / "report.html").read_text() == "<p>mine"
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("name", ["mosaic.png", "corruptions.png", "report.json"])
def test_a_picture_or_a_table_of_the_user_is_not_replaced(tmp_path: Path, name: str):
    result = evaluation_of(images_of(tmp_path / "eval", ["a", "b"], 3), np.eye(2)[[0, 0, 1, 1, 1, 0]])
    picture((1, 2, 3)).save(tmp_path / name, "PNG")
    before = (tmp_path / name).read_bytes()
    with pytest.raises(UserError, match=rf"{name} was not written by this command and is not replaced"):
        diagnose(config_of(tmp_path), "x", result)
    assert (tmp_path / name).read_bytes() == before and not (tmp_path / "report.html").exists()


def test_a_report_replaces_its_own_files_and_removes_those_that_it_lacks(tmp_path: Path):
    root = images_of(tmp_path / "eval", ["a", "b"], 3)
    wrong = evaluation_of(root, np.eye(2)[[0, 0, 1, 1, 1, 0]])
    diagnose(config_of(tmp_path), "x", wrong)
    shutil.copy(tmp_path / "mosaic.png", tmp_path / "corruptions.png")  # of a report with corruptions
    diagnose(config_of(tmp_path), "x", evaluation_of(root, np.eye(2)[[0, 0, 0, 1, 1, 1]]))
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "per_class.png",
        "calibration.png",
        "mosaic.png",
    }


def test_the_report_has_its_values_as_json(tmp_path: Path):
    result = evaluation_of(images_of(tmp_path / "eval", ["a", "b"], 3), np.eye(2)[[0, 0, 1, 1, 1, 0]])
    page = diagnose(config_of(tmp_path), "x", result).read_text()
    values = json.loads((tmp_path / "report.json").read_text())
    low, high = values["top1_interval"]
    assert values["top1"] == pytest.approx(4 / 6) and 0 < low < 4 / 6 < high < 1
    assert [row["class"] for row in values["classes"]] == ["a", "b"] and values["classes"][0][
        "recall_interval"
    ]
    assert values["most_confused"][0] == {"true": "a", "predicted": "b", "images": 1}
    assert "top-5" not in page and "a taken for b: 1 image" in page


# ---- corruptions


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_stronger_corruption_changes_an_image_more_and_always_alike(name: str):
    pixels = np.asarray(picture((90, 120, 200), side=64))
    kind, sizes = CORRUPTIONS[name], []
    for strength in kind.strengths:
        first, second = (kind.change(pixels, strength, np.random.default_rng(3)) for _ in range(2))
        assert first.dtype == np.uint8 and first.shape == pixels.shape and np.array_equal(first, second)
        sizes.append(np.abs(first.astype(float) - pixels).mean())
    assert 0 < sizes[0] < sizes[1] < sizes[2]


def test_a_network_that_sees_brightness_fails_in_the_dark_alone(tmp_path: Path):
    class BrightBlue(paddle.nn.Layer):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            blue = x[:, 2].mean([1, 2])
            return paddle.stack([blue, 0.4 + paddle.zeros_like(blue)], axis=1)

    dataset = ImageFolder(images_of(tmp_path, ["a"], 5), Preprocess(32, "stretch", (0.0,) * 3, (1.0,) * 3))
    found = {(r.corruption, r.strength): r.top1 for r in corrupted_top1(BrightBlue(), dataset, 2)}
    assert len(found) == 12
    assert [key for key, top1 in found.items() if top1 < 1] == [("brightness", 50), ("brightness", 25)]


# ---- two runs


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Runs on the same 40 images: a is right for 20 of them, b for 28."""
    root = images_of(tmp_path / "eval", ["猫", "<b>"], 20)
    labels = np.repeat([0, 1], 20)
    for name, right in (("a", 20), ("b", 28)):
        predicted = np.where(np.arange(40) < right, labels, 1 - labels)
        evaluation_of(root, 3 * np.eye(2)[predicted]).write(tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


def test_a_comparison_counts_the_images_that_one_run_alone_gets_right(
    runs: tuple[Path, Path], tmp_path: Path
):
    found = compare_runs(*runs, tmp_path / "out")
    assert (len(found.only_a), len(found.only_b)) == (0, 8) and found.p == pytest.approx(2 / 2**8)
    assert found.difference == pytest.approx(0.2) and "Run b is better than run a" in found.verdict
    low, high = found.difference_interval
    assert 0 < low < 0.2 < high
    text = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert "猫" in text and "<b>/" not in text and text.count("data:image/jpeg") == 8
    assert (tmp_path / "out" / "comparison.png").exists()
    assert "Images that only b gets right: 8" in text and "top-5" not in text
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["only_b"] == 8
    assert "is worse than" in compare_runs(*runs[::-1], tmp_path / "out").verdict


def test_the_images_of_a_comparison_are_of_all_classes_in_turn(tmp_path: Path):
    root, labels = images_of(tmp_path / "eval", ["a", "b", "c"], 30), np.repeat([0, 1, 2], 30)
    for name, predicted in (("none", (labels + 1) % 3), ("all", labels)):
        evaluation_of(root, np.eye(3)[predicted]).write(tmp_path / name)
    compare_runs(tmp_path / "none", tmp_path / "all", tmp_path / "out")
    text = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert [text.count(f"<br>is {name}<br>") + text.count(f">is {name}<br>") for name in "abc"] == [8, 8, 8]
    assert "Images that only b gets right: 90; 24 of them, of all classes in turn" in text
    (tmp_path / "out" / "comparison.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"comparison\.png was not written by this command"):
        compare_runs(tmp_path / "none", tmp_path / "all", tmp_path / "out")


def test_images_of_an_archive_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_cifar(tmp_path, monkeypatch)
    preprocess = Preprocess(32, "stretch", (0.5,) * 3, (0.25,) * 3)
    dataset = create_dataset("cifar10", tmp_path, "eval", preprocess)
    labels = np.array([dataset.label(index) for index in range(len(dataset))])
    for name, predicted in (("one", labels), ("other", (labels + (np.arange(20) < 3)) % 10)):
        evaluation_on(dataset, np.eye(10)[predicted]).write(tmp_path / name, dataset="cifar10")
    page = tmp_path / "out" / "comparison.html"
    compare_runs(tmp_path / "one", tmp_path / "other", tmp_path / "out")
    text = page.read_text()
    assert text.count("data:image/jpeg") == 3 and "0 of cifar-10-python.tar.gz" in text
    (tmp_path / dataset.archive).unlink()  # nothing is downloaded
    compare_runs(tmp_path / "one", tmp_path / "other", tmp_path / "out")
    assert page.read_text().count("cannot be read") == 3


def test_a_run_cannot_be_told_apart_from_itself(runs: tuple[Path, Path], tmp_path: Path):
    found = compare_runs(runs[0], runs[0], tmp_path / "out")
    assert found.p == 1 and "cannot be told apart" in found.verdict


def test_runs_on_other_images_or_classes_are_refused(runs: tuple[Path, Path], tmp_path: Path):
    a, b = runs
    new = tmp_path / "a new run"
    command = f"paddle-attn eval --weights '{new}/best.pdparams'"
    with pytest.raises(
        UserError, match=rf"there is no .*metrics.json: evaluate the run first, with {command}"
    ):
        compare_runs(a, new, tmp_path / "out")
    table = b / "eval_predictions.csv"
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    table.write_text("".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(UserError, match=r"different images \(40 and 39, such as 猫/9.png\)"):
        compare_runs(a, b, tmp_path / "out")
    metrics = json.loads((b / "metrics.json").read_text(encoding="utf-8"))
    metrics["classes"].pop()
    (b / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(UserError, match=r"different classes \(2 and 1\)"):
        compare_runs(a, b, tmp_path / "out")
    table.write_bytes(b"\xff\x00")
    with pytest.raises(UserError, match="is damaged: evaluate the run again"):
        compare_runs(a, b, tmp_path / "out")
    assert not (tmp_path / "out").exists()
