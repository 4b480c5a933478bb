"""tools/explain.py as users run it: figures, layers, errors, exit codes."""

from __future__ import annotations

from pathlib import Path

import paddle
import pytest
from helpers import assert_one_sentence, make_images, tool, tree
from PIL import Image

from paddle_attn import create_model, save_weights


def make_run(folder: Path, attn: str, seed: int) -> Path:
    """A run's folder as a training leaves it; the weights are random."""
    folder.mkdir()
    paddle.seed(seed)
    save_weights(create_model("cifar_resnet20", attn, num_classes=3), folder / "best.pdparams")
    (folder / "classes.txt").write_text("blue\ngreen\n红\n", encoding="utf-8")
    config = f"model: {{name: cifar_resnet20, attn: {attn}}}\ndata: {{size: 32}}\ntrain: {{device: cpu}}\n"
    (folder / "config.yaml").write_text(config)
    return folder / "best.pdparams"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    make_images(folder / "images", per_class=2)
    (folder / "images" / "red" / "broken.jpg").write_text("no image")
    make_run(folder / "simam", "simam", 1)
    make_run(folder / "se", "se", 2)
    return folder


WEIGHTS = ("--weights", "simam/best.pdparams")


def test_maps_of_two_models_and_their_judgement_become_two_figures(work: Path):
    others = ("--compare", "se/best.pdparams", "--faithfulness", "--limit", 2, "--method", "layer-cam")
    result = tool("explain", *WEIGHTS, "images/red", "images/red", *others, "--class", "红", cwd=work)
    assert result.returncode == 1  # an image could not be read
    assert "broken.jpg" in result.stderr and "shows 2 images and leaves out 3" in result.stderr
    assert "cifar_resnet20-simam: layer-cam at layer3" in result.stdout
    judged = result.stdout.partition("cifar_resnet20-se layer-cam:\n")[2]
    assert "insertion" in judged and "the map does not depend on learned weights" in judged
    assert result.stdout.count("红") == 4
    for name in ("explain.png", "explain_faithfulness.png"):
        assert Image.open(work / "simam" / name).width > 500
    again = tool("explain", *WEIGHTS, "images/blue", "--method", "gate", cwd=work)  # replaces its own figure
    assert again.returncode == 0 and again.stderr == "", again.stderr
    assert (
        "gates of layer1.0.attn, layer1.2.attn" in again.stdout and "wrote simam/explain.png" in again.stdout
    )


def test_the_layers_are_listed_with_the_default_one(work: Path):
    result = tool("explain", *WEIGHTS, "--list-layers", cwd=work)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("(default)")] == ["layer3"]
    assert "64x8x8" in next(line for line in lines if line.startswith("layer3 "))
    assert sum(line.endswith("(a gate)") for line in lines) == 9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("images/blue", "--layer", "layer33"), ("unknown layer 'layer33'", "did you mean 'layer3'")),
        (("images/blue", "--class", "gren"), ("unknown class", "did you mean 'green'")),
        (("images/blue", "--out", "images/red/image_00.jpg"), (".png", "image_00.jpg")),
        (("images/blue", "--compare", "none.pdparams"), ("there is no weights file none.pdparams",)),
        ((), ("expected images or folders",)),
        (("images/blue", "--method", "gate", "--faithfulness"), ("a gate belongs to no class",)),
    ],
    ids=lambda value: "-".join(map(str, value[-2:])) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_one_sentence_and_writes_nothing(work: Path, arguments: tuple, words: tuple):
    before = tree(work)
    assert_one_sentence(tool("explain", *WEIGHTS, *arguments, cwd=work), *words)
    assert tree(work) == before


def test_nothing_readable_is_an_error(work: Path):
    result = tool("explain", *WEIGHTS, "images/red/broken.jpg", "missing", cwd=work)
    assert result.returncode == 2 and result.stderr.count("error: ") == 2
