"""The commands as a user types them, from a split to a prediction, and what they report for bad input."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from helpers import ROOT, assert_one_sentence, make_images, picture, tool, tree

TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py"))
WEIGHTS = ("--weights", "output/first/best.pdparams")


@pytest.mark.parametrize("name", TOOLS)
def test_help_needs_no_heavy_module(name: str):
    result = tool(name, "-h", PYTHONPROFILEIMPORTTIME="1")  # Python lists every import on stderr
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert result.returncode == 0 and "usage:" in result.stdout
    assert "argparse" in imported and not {"paddle", "numpy", "PIL", "matplotlib", "visualdl"} & imported


@pytest.mark.parametrize("name", TOOLS)
def test_tools_are_thin(name: str):
    assert len((ROOT / "tools" / f"{name}.py").read_text().splitlines()) < 60


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a split and a trained network, made by the commands from photographs in datasets/."""
    folder = tmp_path_factory.mktemp("user")
    make_images(folder / "datasets" / "Images")
    (folder / "config.yaml").write_text(
        "model: {name: towernet, attn: simam}\n"
        "data: {root: datasets/caltech101-16, size: 128}\n"
        "optim: {name: adam, lr: 1e-3}\n"
        "train: {epochs: 2, batch_size: 8, output: output/first}\n"
    )
    split = tool("split", cwd=folder)
    assert split.returncode == 0, split.stderr
    trained = tool("train", "-c", "config.yaml", cwd=folder)
    assert trained.returncode == 0 and trained.stderr == "", trained.stderr
    assert re.search(r"1,358,\d+ trainable parameters.* GMACs", trained.stdout)
    assert re.search(r"epoch   2/2 .*eval ", trained.stdout)
    return folder


def test_evaluation_export_and_prediction_agree(work: Path):
    evaluated = tool("eval", "-c", "config.yaml", *WEIGHTS, cwd=work)
    assert evaluated.returncode == 0 and evaluated.stderr == "", evaluated.stderr
    metrics = json.loads((work / "output/first/metrics.json").read_text())
    assert f"top-1 {100 * metrics['top1']:.2f} %" in evaluated.stdout

    exported = tool("export", "-c", "config.yaml", *WEIGHTS, "--out", "inference/first", cwd=work)
    assert exported.returncode == 0 and exported.stderr == "", exported.stderr
    assert "on 6 eval images" in exported.stdout

    outputs = ("--topk", 2, "--csv", "p.csv", "--json", "p.json")
    predicted = tool(
        "predict", "--model", "inference/first", "datasets/caltech101-16/eval", *outputs, cwd=work
    )
    assert predicted.returncode == 0 and predicted.stderr == "", predicted.stderr
    assert predicted.stdout.split()[:2] == ["image", "class"]  # no messages of Paddle before the table
    results = json.loads((work / "p.json").read_text())
    correct = sum(Path(result["path"]).parent.name == result["labels"][0] for result in results)
    assert len(results) == 6 and correct / len(results) == pytest.approx(metrics["top1"])
    lines = (work / "p.csv").read_text().splitlines()
    assert lines[0] == "path,rank,class_id,label,score" and len(lines) == 1 + 2 * 6


def test_prediction_reports_unreadable_images_and_predicts_the_others(work: Path):
    (work / "text.jpg").write_text("hello")
    picture((220, 40, 40)).save(work / "ok.png")
    tool("export", "-c", "config.yaml", *WEIGHTS, "--out", "inference/second", cwd=work)
    result = tool("predict", "--model", "inference/second", "text.jpg", "ok.png", "none.jpg", cwd=work)
    assert result.returncode == 0 and "ok.png" in result.stdout
    reports = sorted(result.stderr.splitlines())
    assert len(reports) == 2 and "none.jpg" in reports[1] and "text.jpg" in reports[0], reports
    assert_one_sentence(tool("predict", "--model", "inference/second", "text.jpg", cwd=work), "text.jpg")


def test_training_resumes_from_the_command_line(work: Path):
    arguments = ("-c", "config.yaml", "--resume", "-o", "train.output=output/resumed")
    assert tool("train", *arguments, "train.epochs=1", cwd=work).returncode == 0
    result = tool("train", *arguments, "train.epochs=2", cwd=work)
    assert result.returncode == 0, result.stderr
    assert "epoch   2/2" in result.stdout and "epoch   1/2" not in result.stdout
    assert "nothing to do" in tool("train", *arguments, "train.epochs=2", cwd=work).stdout


@pytest.fixture(scope="module")
def damaged(work: Path) -> Path:
    """The user's folder with data sets and weights that each have one fault."""
    good = work / "datasets" / "caltech101-16"
    for name in ("empty-class", "corrupt", "text", "one-sided", "fewer"):
        shutil.copytree(good, work / "datasets" / name)
    image = Path("train/red/image_02.jpg")
    (work / "datasets/empty-class/train/nothing").mkdir()
    (work / "datasets/corrupt" / image).write_bytes((good / image).read_bytes()[:200])
    (work / "datasets/text" / image).write_text("this is not a photograph")
    (work / "datasets/one-sided/train/extra").mkdir()
    picture((1, 2, 3)).save(work / "datasets/one-sided/train/extra/x.png")
    shutil.rmtree(work / "datasets/fewer/eval/red")
    weights = (work / "output/first/best.pdparams").read_bytes()
    (work / "broken.pdparams").write_bytes(weights[: len(weights) // 2])
    return work


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("model.name=towrnet", ["unknown model 'towrnet'", "resnet50", "did you mean 'towernet'?"]),
        (
            "model.attn=simm",
            ["unknown attention 'simm'", "cbam, eca, gc, se, sge, simam, sk, srm", "did you mean 'simam'?"],
        ),
        ("model.attn=sge model.attn_kwargs.groups=7", ["groups must divide channels", "256", "7"]),
        ("model.pretrained=true", ["no ImageNet weights for towernet"]),
        ("model.num_classes=10", ["model.num_classes is 10", "3 classes"]),
        ("model.weights=broken.pdparams", ["broken.pdparams is damaged", "expected a whole .pdparams file"]),
        ("optim.learning_rate=1", ["unknown config key 'optim.learning_rate'", "optim.lr"]),
        ("train.epochs=ten", ["train.epochs must be a whole number, found 'ten'"]),
        ("train.device=gpu:7", ["train.device is 'gpu:7'", "expected"]),
        ("train.device=npu", ["train.device must be", "found 'npu'"]),
        ("data.dataset=cifar11", ["cifar11", "did you mean 'cifar10'?"]),
        ("data.root=nowhere", ["nowhere", "tools/split.py"]),
        ("data.root=datasets/empty-class", ["empty-class/train/nothing", "has no images"]),
        ("data.root=datasets/one-sided", ["must have the same class folders", "extra"]),
    ],
)
def test_a_mistake_found_before_training_is_one_sentence_and_changes_no_file(
    damaged: Path, overrides: str, words: list[str]
):
    before = tree(damaged / "output")
    result = tool("train", "-c", "config.yaml", "-o", *overrides.split(), cwd=damaged)
    assert_one_sentence(result, *words)
    assert tree(damaged / "output") == before


@pytest.mark.parametrize("fault", ["corrupt", "text"])
def test_an_image_that_cannot_be_decoded_is_one_sentence_and_the_earlier_run_is_kept(
    damaged: Path, fault: str
):
    output = damaged / "output" / fault
    shutil.copytree(damaged / "output" / "first", output)
    overrides = (f"data.root=datasets/{fault}", f"train.output=output/{fault}")
    result = tool("train", "-c", "config.yaml", "-o", *overrides, cwd=damaged)
    assert_one_sentence(result, "cannot decode the image", "red/image_02.jpg")
    assert tree(output.with_name(f"{fault}.1")) == tree(damaged / "output" / "first")  # it was moved aside


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train -c config.yaml --resume -o optim.name=sgd", ["optim.name", "'adam'", "found 'sgd'"]),
        ("eval -c config.yaml --weights none.pdparams", ["there is no weights file none.pdparams"]),
        ("eval -c config.yaml --weights broken.pdparams", ["broken.pdparams is damaged", "expected a whole"]),
        (
            "eval -c config.yaml WEIGHTS -o model.attn=se",
            ["was trained with model.attn 'simam'", "found 'se'"],
        ),
        ("eval -c config.yaml WEIGHTS -o model.attn=null", ["model.attn 'simam'", "found None"]),
        ("eval -c config.yaml WEIGHTS -o model.num_classes=10", ["model.num_classes is 10"]),
        ("eval -c config.yaml WEIGHTS -o data.root=datasets/fewer", ["3 classes", "expected the 2 of"]),
        ("export -c config.yaml WEIGHTS --out x -o data.size=256", ["with data.size 128", "found 256"]),
        ("export -c config.yaml WEIGHTS --out datasets", ["datasets", "is not an export"]),
        ("export -c none.yaml WEIGHTS --out x", ["cannot read the config none.yaml"]),
        ("predict --model inference/first output/first/vdl", ["no images"]),
        ("predict --model datasets x.jpg", ["datasets", "tools/export.py"]),
        ("split", ["pass --force"]),
    ],
)
def test_a_mistake_in_another_command_is_one_sentence_and_changes_no_file(
    damaged: Path, command: str, words: list[str]
):
    before = tree(damaged)
    name, *arguments = command.replace("WEIGHTS", " ".join(WEIGHTS)).split()
    assert_one_sentence(tool(name, *arguments, cwd=damaged), *words)
    assert tree(damaged) == before
