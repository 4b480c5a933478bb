"""The commands as a user types them, from a split to a prediction, and what they say to bad input."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, assert_one_sentence, make_images, picture, tool

TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py"))


@pytest.mark.parametrize("name", TOOLS)
def test_help_answers_without_importing_anything_heavy(name: str):
    started = time.perf_counter()
    result = tool(name, "-h")
    assert result.returncode == 0 and "usage:" in result.stdout
    assert (
        time.perf_counter() - started < 5
    )  # under a second on a quiet machine; Paddle alone takes more than one
    heavy = "import sys, runpy\nsys.argv = ['x', '-h']\ntry: runpy.run_path({!r}, run_name='__main__')\nexcept SystemExit: pass\n"
    code = (
        heavy.format(str(ROOT / "tools" / f"{name}.py"))
        + "assert not {'paddle', 'numpy', 'matplotlib', 'visualdl'} & set(sys.modules)"
    )
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("name", TOOLS)
def test_tools_are_thin(name: str):
    assert len((ROOT / "tools" / f"{name}.py").read_text().splitlines()) < 60


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a split made and a network trained by the commands, from a zip in datasets/."""
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
    assert (
        "1,358," in trained.stdout and "trainable parameters" in trained.stdout and "GMACs" in trained.stdout
    )
    assert re.search(r"epoch   2/2 .*eval loss", trained.stdout)
    return folder


WEIGHTS = ("--weights", "output/first/best.pdparams")


def test_evaluation_export_and_prediction_agree(work: Path):
    evaluated = tool("eval", "-c", "config.yaml", *WEIGHTS, cwd=work)
    assert evaluated.returncode == 0 and evaluated.stderr == "", evaluated.stderr
    metrics = json.loads((work / "output/first/metrics.json").read_text())
    assert f"top-1 {100 * metrics['top1']:.2f} %" in evaluated.stdout

    exported = tool("export", "-c", "config.yaml", *WEIGHTS, "--out", "inference/first", cwd=work)
    assert exported.returncode == 0 and exported.stderr == "", exported.stderr
    assert "on 6 eval images" in exported.stdout

    predicted = tool(
        "predict",
        "--model",
        "inference/first",
        "datasets/caltech101-16/eval",
        "--topk",
        2,
        "--csv",
        "p.csv",
        "--json",
        "p.json",
        cwd=work,
    )
    assert predicted.returncode == 0 and predicted.stderr == "", predicted.stderr
    results = json.loads((work / "p.json").read_text())
    right = sum(Path(result["path"]).parent.name == result["labels"][0] for result in results)
    assert right / len(results) == pytest.approx(metrics["top1"]) and len(results) == 6
    lines = (work / "p.csv").read_text().splitlines()
    assert lines[0] == "path,rank,class_id,label,score" and len(lines) == 1 + 2 * 6
    assert predicted.stdout.splitlines()[0].split()[:2] == [
        "image",
        "class",
    ]  # nothing of Paddle's own chatter before


def test_prediction_reports_what_is_no_image_and_goes_on(work: Path):
    (work / "text.jpg").write_text("hello")
    picture((220, 40, 40)).save(work / "ok.png")
    tool("export", "-c", "config.yaml", *WEIGHTS, "--out", "inference/second", cwd=work)
    result = tool("predict", "--model", "inference/second", "text.jpg", "ok.png", "none.jpg", cwd=work)
    assert result.returncode == 0 and "ok.png" in result.stdout
    assert (
        len(result.stderr.splitlines()) == 2
        and "text.jpg: it is not an image" in result.stderr
        and "none.jpg does not exist" in result.stderr
    )
    assert_one_sentence(tool("predict", "--model", "inference/second", "text.jpg", cwd=work), "text.jpg")


def test_resume_goes_on_from_the_command_line(work: Path):
    arguments = ("-c", "config.yaml", "-o", "train.output=output/resumed", "train.resume=true")
    assert tool("train", *arguments, "train.epochs=1", cwd=work).returncode == 0
    result = tool("train", *arguments, "train.epochs=2", cwd=work)
    assert (
        result.returncode == 0
        and "going on after epoch 1" in result.stdout
        and "epoch   1/2" not in result.stdout
    )
    assert "nothing to do" in tool("train", *arguments, "train.epochs=2", cwd=work).stdout


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


BAD = [
    # what is changed on the command line, and what the sentence must say: expected and found
    (["-o", "model.name=towrnet"], ["unknown model 'towrnet'", "resnet50", "did you mean 'towernet'?"]),
    (
        ["-o", "model.attn=simm"],
        ["unknown attention 'simm'", "cbam, eca, gc, se, sge, simam, sk, srm", "did you mean 'simam'?"],
    ),
    (["-o", "optim.learning_rate=1"], ["unknown config key 'optim.learning_rate'", "optim.lr"]),
    (["-o", "train.epochs=ten"], ["train.epochs must be a whole number, found 'ten'"]),
    (["-o", "train.device=gpu:7"], ["train.device is 'gpu:7'", "expected"]),
    (["-o", "train.device=npu"], ["found 'npu'"]),
    (["-o", "data.root=nowhere"], ["there is no data directory nowhere/", "tools/split.py"]),
    (["-o", "model.num_classes=10"], ["model.num_classes is 10, but there are 3 classes"]),
    (
        ["-o", "data.root=datasets/empty-class"],
        ["the class folder", "empty-class/train/nothing has no images"],
    ),
    (["-o", "data.root=datasets/corrupt"], ["cannot decode the image", "red/image_02.jpg"]),
    (["-o", "data.root=datasets/text"], ["cannot decode the image", "red/image_02.jpg: it is not an image"]),
    (["-o", "data.root=datasets/one-sided"], ["must have the same class folders, found extra"]),
    (
        ["-o", "model.weights=broken.pdparams"],
        ["broken.pdparams is damaged", "expected a whole .pdparams file"],
    ),
    (["-o", "model.attn=sge", "model.attn_kwargs.groups=7"], ["groups must divide channels", "256", "7"]),
    (["-o", "model.pretrained=true"], ["no ImageNet weights for towernet"]),
]


@pytest.fixture(scope="module")
def spoilt(work: Path) -> Path:
    """Data sets that each have one thing wrong."""
    import shutil

    good = work / "datasets" / "caltech101-16"
    for name in ("empty-class", "corrupt", "text", "one-sided"):
        shutil.copytree(good, work / "datasets" / name)
    (work / "datasets/empty-class/train/nothing").mkdir()
    victim = Path("train/red/image_02.jpg")
    (work / "datasets/corrupt" / victim).write_bytes((good / victim).read_bytes()[:200])
    (work / "datasets/text" / victim).write_text("this is no photograph")
    (work / "datasets/one-sided/train/extra").mkdir()
    picture((1, 2, 3)).save(work / "datasets/one-sided/train/extra/x.png")
    whole = (work / "output/first/best.pdparams").read_bytes()
    (work / "broken.pdparams").write_bytes(whole[: len(whole) // 2])
    return work


@pytest.mark.parametrize(
    ("arguments", "words"), BAD, ids=lambda value: value[1] if value[0] == "-o" else None
)
def test_bad_input_to_training_is_one_sentence_and_nothing_is_lost(
    spoilt: Path, arguments: list[str], words: list[str]
):
    before = tree(spoilt / "output" / "first")
    result = tool("train", "-c", "config.yaml", *arguments, cwd=spoilt)
    assert_one_sentence(result, *words)
    kept = spoilt / "output" / ("first.1" if (spoilt / "output" / "first.1").exists() else "first")
    assert tree(kept) == before
    if (
        kept.name == "first.1"
    ):  # a broken image is met after the start: the earlier run was moved aside, not overwritten
        import shutil

        shutil.rmtree(spoilt / "output" / "first")
        kept.rename(spoilt / "output" / "first")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["eval", "-c", "config.yaml", "--weights", "none.pdparams"],
            ["there is no weights file none.pdparams"],
        ),
        (
            ["eval", "-c", "config.yaml", "--weights", "broken.pdparams"],
            ["broken.pdparams is damaged", "expected a whole .pdparams file"],
        ),
        (
            ["eval", "-c", "config.yaml", *WEIGHTS, "-o", "model.attn=se"],
            ["was trained with model.attn 'simam'", "found 'se'"],
        ),
        (
            ["eval", "-c", "config.yaml", *WEIGHTS, "-o", "model.attn=null"],
            ["was trained with model.attn 'simam'", "found None"],
        ),
        (
            ["export", "-c", "config.yaml", *WEIGHTS, "--out", "x", "-o", "data.size=256"],
            ["was trained with data.size 128", "found 256"],
        ),
        (
            ["train", "-c", "config.yaml", "-o", "train.resume=true", "optim.name=sgd"],
            ["had optim.name 'adam', expected the same to go on, found 'sgd'"],
        ),
        (["predict", "--model", "inference/first", "output/first/vdl"], ["contains no images"]),
        (["eval", "-c", "config.yaml", *WEIGHTS, "-o", "model.num_classes=10"], ["model.num_classes is 10"]),
        (
            ["eval", "-c", "config.yaml", *WEIGHTS, "-o", "data.root=datasets/other"],
            ["learned 3 classes", "expected the 2 of"],
        ),
        (
            ["export", "-c", "config.yaml", *WEIGHTS, "--out", "datasets"],
            ["datasets exists and is not an export"],
        ),
        (["export", "-c", "none.yaml", *WEIGHTS, "--out", "x"], ["cannot read the config none.yaml"]),
        (["predict", "--model", "datasets", "x.jpg"], ["datasets is not an exported model", "tools/export.py"]),
        (["split"], ["is there already: pass --force"]),
    ],
    ids=lambda value: (
        None if isinstance(value[0], str) and " " in value[0] else "_".join(value[:1] + value[-1:])
    ),
)
def test_bad_input_to_the_other_tools_is_one_sentence(spoilt: Path, arguments: list[str], words: list[str]):
    import shutil

    other = spoilt / "datasets" / "other"
    if not other.exists():
        shutil.copytree(spoilt / "datasets" / "caltech101-16", other)
        shutil.rmtree(other / "eval" / "red")
    before = tree(spoilt)
    assert_one_sentence(tool(*arguments, cwd=spoilt), *words)
    assert tree(spoilt) == before
