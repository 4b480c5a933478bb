"""The commands as a user types them, from a split to a prediction, and what they report for bad input."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import HANG, ROOT, assert_one_sentence, make_images, paddle_attn, picture, tool, tree

from paddle_attn.commands import COMMANDS

TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py"))
HEAVY = {"paddle", "numpy", "PIL", "matplotlib", "visualdl", "yaml", "rich"}
WEIGHTS = ("--weights", "output/first/best.pdparams")


@pytest.mark.parametrize("name", TOOLS)
def test_help_needs_no_heavy_module(name: str):
    result = tool(name, "-h", PYTHONPROFILEIMPORTTIME="1")  # Python lists every import on stderr
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert result.returncode == 0 and f"usage: {name}.py" in result.stdout
    assert "argparse" in imported and not HEAVY & imported


def test_the_list_of_commands_needs_no_heavy_module():
    result = paddle_attn("-h", PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert result.returncode == 0 and "argparse" in imported and not HEAVY & imported
    assert all(f"  {name} " in result.stdout for name in COMMANDS)
    assert paddle_attn().stdout == result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_paddle_attn_runs_every_command(name: str):
    result = paddle_attn(name, "-h")
    assert result.returncode == 0 and f"usage: paddle-attn {name}" in result.stdout, result.stderr


def test_an_unknown_command_is_one_sentence_with_the_nearest_one():
    assert_one_sentence(paddle_attn("trian"), "unknown command 'trian'", "did you mean 'train'?")
    assert_one_sentence(paddle_attn("--trian"), "unknown argument '--trian'")


def test_the_configs_of_the_package_are_listed_copied_and_never_replace_a_file(tmp_path: Path):
    listed = paddle_attn("configs", cwd=tmp_path).stdout.split()
    assert {"towernet_simam", "cifar/resnet20_simam", "studies/demo"} <= set(listed)
    copied = paddle_attn("configs", "cifar/*", "demo", "--copy", "mine", cwd=tmp_path)
    assert copied.returncode == 0 and "wrote mine/demo.yaml" in copied.stdout.splitlines()
    assert set(tree(tmp_path / "mine")) == {
        f"{name}.yaml" for name in listed if name[:5] in ("cifar", "demo")
    }
    (tmp_path / "mine/demo.yaml").write_text("train: {epochs: 1}\n")
    before = tree(tmp_path)
    assert_one_sentence(paddle_attn("configs", "*", "--copy", "mine", cwd=tmp_path), "exists")
    assert tree(tmp_path) == before
    assert_one_sentence(paddle_attn("configs", "towernet_siman"), "did you mean 'towernet_simam'?")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a split, a trained network and its export, made by the commands from photographs."""
    folder = tmp_path_factory.mktemp("user")
    make_images(folder / "datasets" / "Images")
    (folder / "config.yaml").write_text(
        "model: {name: towernet, attn: simam}\n"
        "data: {root: datasets/caltech101-16, size: 128}\n"
        "optim: {name: adam, lr: 1e-3}\n"
        "train: {epochs: 2, batch_size: 8, output: output/first}\n"
    )
    split = tool("split", "--out", "datasets/caltech101-16", cwd=folder)
    assert split.returncode == 0, split.stderr
    trained = tool("train", "-c", "config.yaml", cwd=folder)
    assert trained.returncode == 0 and trained.stderr == "", trained.stderr
    assert re.search(r"1,358,\d+ trainable parameters.* GMACs", trained.stdout)
    assert re.search(r"epoch   2/2 .*eval ", trained.stdout)
    exported = tool("export", "-c", "config.yaml", *WEIGHTS, "--out", "inference/first", cwd=folder)
    assert exported.returncode == 0 and exported.stderr == "", exported.stderr
    assert "on 6 eval images" in exported.stdout
    return folder


def test_evaluation_export_and_prediction_agree(work: Path):
    evaluated = tool("eval", "-c", "config.yaml", *WEIGHTS, cwd=work)
    assert evaluated.returncode == 0 and evaluated.stderr == "", evaluated.stderr
    metrics = json.loads((work / "output/first/metrics.json").read_text())
    assert f"top-1 {100 * metrics['top1']:.2f} %" in evaluated.stdout
    assert "top-5" not in evaluated.stdout  # of three classes every image is in it

    outputs = ("--topk", 2, "--csv", "p.csv", "--json", "p.json", "--out-dir", "sorted")
    predicted = tool(
        "predict", "--model", "inference/first", "datasets/caltech101-16/eval", *outputs, cwd=work
    )
    assert predicted.returncode == 0 and predicted.stderr == "", predicted.stderr
    assert predicted.stdout.split()[:2] == ["score", "class"]  # no messages of Paddle before the table
    *_, summary, sheet = predicted.stdout.splitlines()
    assert re.fullmatch(r"6 images, 0 failures, [\d.]+ ms an image", summary)
    assert sheet == "the images by class: sorted/contact_sheet.html"
    results = json.loads((work / "p.json").read_text())
    for entry in json.loads((work / "sorted/predictions.json").read_text()):
        assert entry["file"] == f"{entry['labels'][0]}/{Path(entry['path']).name}"
        assert (work / "sorted" / entry["file"]).read_bytes() == (work / entry["path"]).read_bytes()
    correct = sum(Path(result["path"]).parent.name == result["labels"][0] for result in results)
    assert len(results) == 6 and correct / len(results) == pytest.approx(metrics["top1"])
    lines = (work / "p.csv").read_text().splitlines()
    assert lines[0] == "path,rank,class_id,label,score" and len(lines) == 1 + 2 * 6


def test_weights_alone_are_enough_to_evaluate_and_export(work: Path):
    shutil.copytree(work / "output" / "first", work / "output" / "alone")
    weights = ("--weights", "output/alone/best.pdparams")
    assert (result := tool("eval", *weights, cwd=work)).returncode == 0, result.stderr
    assert "eval_predictions.csv" in tool("eval", "-h").stdout
    assert "metrics.json, confusion.png and eval_predictions.csv are in output/alone" in result.stdout
    result = tool("export", *weights, "--out", "inference/alone", cwd=work)
    assert result.returncode == 0 and (work / "inference/alone/inference.yml").exists(), result.stderr


def test_weights_without_a_config_in_a_folder_with_an_emoji_say_which_config_is_used(work: Path):
    (work / "output" / "🐈").mkdir()
    shutil.copy(work / WEIGHTS[1], work / "output" / "🐈")
    result = tool("eval", "-c", "config.yaml", "--weights", "output/🐈/best.pdparams", cwd=work)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(
        "no config.yaml beside output/🐈/best.pdparams: model and image size are those of config.yaml\n"
    )
    assert (work / "output/🐈/metrics.json").exists()


def test_an_evaluation_is_written_beside_the_weights_unless_an_override_names_a_folder(work: Path):
    shutil.copytree(work / "output" / "first", work / "output" / "other")
    (work / "output/other/metrics.json").unlink(missing_ok=True)
    before = tree(work / "output" / "first")  # the folder of config.yaml
    arguments = ("-c", "config.yaml", "--weights", "output/other/best.pdparams")
    for folder, override in (("output/other", ()), ("elsewhere", ("-o", "train.output=elsewhere"))):
        assert tool("eval", *arguments, *override, cwd=work).returncode == 0
        assert (work / folder / "metrics.json").exists()
    assert tree(work / "output" / "first") == before


def test_two_evaluated_runs_have_pages_and_are_compared(work: Path):
    for name in ("run_a", "run_b"):
        shutil.copytree(work / "output" / "first", work / "output" / name)
        for stale in ("metrics.json", "eval_predictions.csv"):
            (work / "output" / name / stale).unlink(missing_ok=True)
    runs = ("output/run_a", "output/run_b")
    assert_one_sentence(
        tool("compare", *runs, cwd=work), "evaluate the run first", "paddle-attn eval --weights"
    )
    for run in runs:
        result = tool("eval", "--weights", f"{run}/best.pdparams", "--corruptions", cwd=work)
        assert result.returncode == 0 and f"{run}/report.html" in result.stdout, result.stderr
        assert len(json.loads((work / run / "report.json").read_text())["corruptions"]) == 12
    result = tool("compare", *runs, cwd=work)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert "The two runs cannot be told apart on these images" in result.stdout
    assert (work / "output/compare/run_a-run_b/comparison.html").exists()


def test_a_csv_is_written_through_stdout_and_a_link(work: Path):
    image = "datasets/caltech101-16/eval/red"
    (work / "link.csv").symlink_to("real.csv")
    for path in ("link.csv", "/dev/fd/1"):
        result = tool("predict", "--model", "inference/first", image, "--csv", path, cwd=work)
        assert result.returncode == 0, result.stderr
    assert "path,rank,class_id,label,score" in result.stdout
    assert (work / "link.csv").is_symlink() and (work / "real.csv").is_file()


@pytest.mark.slow
def test_the_list_of_models_shows_its_progress_on_stderr(work: Path):
    result = tool("models", cwd=work)
    assert result.returncode == 0 and "| `resnet50` | 224 | 1000 |" in result.stdout
    assert "counting resnet50 with simam" in result.stderr.splitlines()


def test_prediction_reports_unreadable_images_and_predicts_the_others(work: Path):
    (work / "text.jpg").write_text("hello")
    picture((220, 40, 40)).save(work / "ok.png")
    result = tool("predict", "--model", "inference/first", "text.jpg", "ok.png", "none.jpg", cwd=work)
    assert result.returncode == 1 and "ok.png" in result.stdout
    reports = sorted(result.stderr.splitlines())
    assert len(reports) == 2 and "none.jpg" in reports[1] and "text.jpg" in reports[0], reports
    result = tool("predict", "--model", "inference/first", "text.jpg", cwd=work)
    assert_one_sentence(result, "text.jpg")
    assert result.stdout == ""


def test_training_resumes_from_the_command_line(work: Path):
    arguments = ("-c", "config.yaml", "--resume", "-o", "train.output=output/resumed")
    first = tool("train", *arguments, "train.epochs=1", cwd=work)
    assert first.returncode == 0
    assert "output/resumed has no checkpoint: training starts from the beginning" in first.stdout
    result = tool("train", *arguments, "train.epochs=2", cwd=work)
    assert result.returncode == 0, result.stderr
    assert "epoch   2/2" in result.stdout and "epoch   1/2" not in result.stdout
    assert "has no checkpoint" not in result.stdout
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
    (work / "alone").mkdir()
    shutil.copy(work / WEIGHTS[1], work / "alone")
    (work / "linked.pth").symlink_to(WEIGHTS[1])
    os.mkfifo(work / "pipe.yaml")
    return work


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("model.name=towrnet", ["unknown model 'towrnet'", "resnet50", "did you mean 'towernet'?"]),
        (
            "model.attn=simm",
            ["unknown attention 'simm'", "one of bam, cbam, coordatt", "did you mean 'simam'?"],
        ),
        ("model.attn=sge model.attn_kwargs.groups=7", ["groups must divide channels", "256", "7"]),
        (
            "model.pretrained=true model.name=cifar_resnet20",
            ["no pretrained weights for cifar_resnet20"],
        ),
        ("model.num_classes=10", ["model.num_classes is 10", "3 classes"]),
        ("model.weights=broken.pdparams", ["broken.pdparams is damaged", "expected a whole .pdparams file"]),
        ("optim.learning_rate=1", ["unknown config key 'optim.learning_rate'", "'optim.lr=1'?"]),
        ("lr=0.1", ["unknown config key 'lr'", "did you mean 'optim.lr=0.1'?"]),
        ("model.attn_kwargs={e_lambda:0.1}", ["write a space after the colon, as in 'e_lambda: 0.1'"]),
        ("model.attn=cbam model.attn_kwargs.kernel_size=100001", ["kernel_size must be odd, from 1 to 31"]),
        ("train.epochs=ten", ["train.epochs must be a whole number, found 'ten'"]),
        ("train.device=gpu:7", ["train.device is 'gpu:7'", "expected"]),
        ("train.device=npu", ["train.device must be", "found 'npu'"]),
        ("data.dataset=cifar11", ["cifar11", "did you mean 'cifar10'?"]),
        ("data.root=nowhere", ["nowhere", "paddle-attn split"]),
        ("data.root=nowhere model.attn=simm", ["unknown attention 'simm'", "did you mean 'simam'?"]),
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
        ("export -c config.yaml WEIGHTS --out datasets", ["datasets", "holds the folder of the data"]),
        ("export -c config.yaml WEIGHTS --out output/first/vdl", ["vdl", "is not an export"]),
        ("export -c none.yaml WEIGHTS --out x", ["cannot read the config none.yaml"]),
        ("train -c confg.yaml", ["cannot read the config confg.yaml", "did you mean 'config.yaml'?"]),
        ("train -c pipe.yaml", ["cannot read the config pipe.yaml: it is a pipe"]),
        ("train -c config.yaml --resum3", ["unknown argument '--resum3'; did you mean '--resume'?"]),
        ("train", ["the following arguments are required: -c/--config"]),
        ("eval --weights none.pdparams", ["there is no weights file none.pdparams"]),
        ("eval --weights alone/best.pdparams", ["no config.yaml beside alone/best.pdparams", "with -c"]),
        ("convert WEIGHT --arch towernet --attn simam", ["is the checkpoint itself", "--out"]),
        ("convert linked.pth --out WEIGHT --arch towernet", ["is the checkpoint itself", "--out"]),
        ("predict --model inference/first output/first/vdl", ["no images"]),
        ("predict --model inference/first datasets --out-dir datasets/sorted", ["datasets", "--out-dir"]),
        (
            "predict --model inference/first datasets --out-dir output",
            ["output holds", "choose another folder"],
        ),
        ("predict --model inference/first datasets --annotate", ["--annotate", "pass --out-dir too"]),
        ("predict --model datasets x.jpg", ["datasets", "paddle-attn export"]),
        ("split --out datasets/caltech101-16", ["pass --force"]),
    ],
)
def test_a_mistake_in_another_command_is_one_sentence_and_changes_no_file(
    damaged: Path, command: str, words: list[str]
):
    before = tree(damaged)
    name, *arguments = command.replace("WEIGHTS", " ".join(WEIGHTS)).replace("WEIGHT", WEIGHTS[1]).split()
    assert_one_sentence(tool(name, *arguments, cwd=damaged), *words)
    assert tree(damaged) == before


def fake_python(path: Path, version: str) -> None:
    """A Python that only knows its version, and writes how it is called to `calls` beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    supported = int(version in ("3.10", "3.11", "3.12"))
    path.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> {path.parent}/calls\n'
        f'[ "$1" = --version ] && echo "Python {version}.1"\n'
        f'[ "$1" != -c ] || [ {supported} = 1 ]\n'
    )
    path.chmod(0o755)


@pytest.fixture
def makefile(tmp_path: Path) -> Path:
    """A folder with the Makefile, and with a stamp, as an installation leaves it."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "setup.py").touch()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = ["make", ".venv/.installed", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=HANG)


@pytest.mark.parametrize("version", ["3.9", "3.13"])
def test_make_refuses_a_python_without_paddle_and_makes_no_environment(makefile: Path, version: str):
    shutil.rmtree(makefile / ".venv")
    fake_python(makefile / "other" / "python", version)
    result = make(makefile, "PYTHON=other/python")
    errors = [line for line in result.stderr.splitlines() if not line.startswith("make")]
    assert result.returncode == 2 and len(errors) == 1, result.stderr
    assert f"expected Python 3.10, 3.11 or 3.12, found Python {version}.1" in errors[0]
    assert "venv" not in (makefile / "other" / "calls").read_text() and not (makefile / ".venv").exists()


@pytest.mark.parametrize("broken", ["missing", "3.13"])
def test_make_replaces_an_environment_that_is_broken_or_of_another_python(makefile: Path, broken: str):
    if broken != "missing":
        fake_python(makefile / ".venv/bin/python", broken)
    fake_python(makefile / "other" / "python", "3.12")
    make(makefile, "PYTHON=other/python")
    assert "-m venv --clear .venv" in (makefile / "other" / "calls").read_text()


def test_make_keeps_a_working_environment(makefile: Path):
    fake_python(makefile / ".venv/bin/python", "3.10")
    fake_python(makefile / "other" / "python", "3.12")
    (makefile / ".venv" / ".installed").touch()
    assert make(makefile, "PYTHON=other/python").returncode == 0
    assert not (makefile / "other" / "calls").exists()
