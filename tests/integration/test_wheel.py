"""The wheel: what it contains, and that it works when it is installed without the repository."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import paddle
import pytest
from helpers import HANG, ROOT, assert_one_sentence, make_images, picture

pytestmark = pytest.mark.slow


def start(*command: object, cwd: Path) -> subprocess.CompletedProcess:
    """Run a command without the environment variables that lead Python elsewhere."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=HANG
    )


def run(*command: object, cwd: Path) -> str:
    """The output of a command that succeeds."""
    result = start(*command, cwd=cwd)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the repository: a build in place leaves files and packs old ones."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("benchmarks", "configs", "paddle_attn", "reference", "tests", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, folder)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "out", ".", cwd=folder)
    (found,) = (folder / "out").iterdir()
    return found


def test_the_wheel_contains_the_package_its_cpp_sources_and_the_configs_only(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.py", "py.typed", "*.cc", "*.h", "*.safetensors")
        for path in (ROOT / "paddle_attn").rglob(pattern)
    }
    expected |= {
        f"paddle_attn/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")
    }
    assert names == expected
    assert any(name.endswith(".cc") for name in names)


def test_an_editable_installation_works_beside_a_clone_of_the_packages_name(tmp_path: Path):
    """There Python finds the clone's folder first, as a namespace package; the build needs no network."""
    for package in ("setuptools", "wheel"):
        pytest.importorskip(package)
    clone = tmp_path / "paddle_attn"
    clone.mkdir()
    for name in ("README.md", "pyproject.toml", "setup.cfg", "setup.py"):
        shutil.copy(ROOT / name, clone)
    for name in ("configs", "paddle_attn"):
        shutil.copytree(ROOT / name, clone / name)
    build = "from setuptools.build_meta import build_editable; build_editable('../wheel')"
    run(sys.executable, "-c", build, cwd=clone)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site-packages")
    program = "import site; site.addsitedir('site-packages'); import paddle_attn; print(paddle_attn.__file__)"
    found = run(sys.executable, "-S", "-c", program, cwd=tmp_path)  # without the packages of this environment
    assert found.strip() == str(clone / "paddle_attn" / "__init__.py")


EXPORT_AND_PREDICT = """
import sys
from pathlib import Path

from paddle_attn.cli import prepare_paddle
prepare_paddle()
import numpy as np
import paddle_attn
from paddle_attn.data.transforms import Preprocess
from paddle_attn.deploy import export_model

assert Path(paddle_attn.__file__).is_relative_to(sys.prefix), paddle_attn.__file__
net = paddle_attn.create_model("cifar_resnet20", "simam", num_classes=2)
preprocess = Preprocess(32, "stretch", (0.5,) * 3, (0.5,) * 3)
export_model(net, "exported", preprocess, ["cat", "dog"], np.zeros([1, 3, 32, 32], "float32"))
(result,) = paddle_attn.Predictor("exported").predict("image.png")
paddle_attn.create_model("towernet", "simam", pretrained=True)
assert sorted(result["labels"]) == ["cat", "dog"] and abs(sum(result["scores"]) - 1) < 1e-5
"""


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `python` and `paddle-attn` in an environment in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=folder)
    # Paddle and the other requirements come from this environment: they are too large for another download.
    # A .pth file adds its packages, but not its own .pth files, such as the one of an editable install.
    site_packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    Path(site_packages.strip(), "requirements.pth").write_text(str(Path(paddle.__file__).parents[1]))
    return python.parent


def test_an_installed_wheel_exports_and_predicts_without_the_repository(programs: Path, tmp_path: Path):
    picture((220, 40, 40)).save(tmp_path / "image.png")
    run(programs / "python", "-c", EXPORT_AND_PREDICT, cwd=tmp_path)


def test_the_commands_of_the_readme_run_from_an_installed_wheel(programs: Path, tmp_path: Path):
    """In their order, with one epoch on a few images."""
    make_images(tmp_path / "datasets" / "Images")
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [shlex.split(line) for line in re.findall(r"^paddle-attn .*$", text, re.M)]
    assert [words[1] for words in commands] == ["split", "train", "eval", "export", "predict"]
    shorter = ["train.epochs=1", "train.batch_size=8"]
    for _, name, *arguments in commands:
        if name == "split":
            arguments += ["--out", "datasets/caltech101-16"]
        elif name == "train":
            arguments += shorter
        run(programs / "paddle-attn", name, *arguments, cwd=tmp_path)
    assert (tmp_path / "inference" / "towernet_simam" / "inference.yml").exists()
    assert (tmp_path / "output" / "towernet_simam" / "metrics.json").exists()


def test_an_installed_wheel_copies_its_configs_and_says_which_commands_need_a_clone(
    programs: Path, tmp_path: Path
):
    run(programs / "paddle-attn", "configs", "--copy", "mine", cwd=tmp_path)
    originals = {path.relative_to(ROOT / "configs"): path for path in (ROOT / "configs").rglob("*.yaml")}
    assert {path: original.read_bytes() for path, original in originals.items()} == {
        path.relative_to(tmp_path / "mine"): path.read_bytes() for path in tmp_path.rglob("*.yaml")
    }
    assert "4 runs" in run(programs / "paddle-attn", "study", "-c", "studies/demo", "--dry-run", cwd=tmp_path)
    for name in ("benchmark", "fidelity"):
        result = start(programs / "paddle-attn", name, cwd=tmp_path)
        assert_one_sentence(result, f"paddle-attn {name} needs a clone of the repository")
