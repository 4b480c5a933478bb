"""The notebooks: one source in two languages, the outputs of a real run, the run in AI Studio's layout."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import nbformat
import paddle
import pytest
from helpers import HANG, ROOT, make_images

from notebooks.build import NOTEBOOKS, execute, make_notebook, read_cells, stored_outputs
from paddle_attn.commands import COMMANDS
from paddle_attn.data.prepare.synthetic import CLASSES

LANGUAGES = list(NOTEBOOKS)
MAX_BYTES = 400_000


def stored(language: str) -> dict:
    return json.loads(NOTEBOOKS[language].read_text(encoding="utf-8"))


def code_cells(language: str) -> list[dict]:
    return [cell for cell in stored(language)["cells"] if cell["cell_type"] == "code"]


def texts(outputs: list[dict]) -> str:
    """All text in the outputs of cells."""
    parts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    return "\n".join("".join(part) for part in parts)  # a picture's text has no end of line


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_notebook_is_what_build_writes_from_the_source(language: str):
    cells, outputs = read_cells(), stored_outputs(NOTEBOOKS["zh"])
    assert stored(language) == make_notebook(cells, language, outputs), "run python notebooks/build.py"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_notebook_is_valid_and_small(language: str):
    nbformat.validate(stored(language))
    assert NOTEBOOKS[language].stat().st_size < MAX_BYTES


def test_the_stored_run_is_complete_and_without_errors():
    for number, cell in enumerate(code_cells("zh"), 1):
        compile("".join(cell["source"]), f"cell {number}", "exec")
        assert cell["execution_count"] == number, "run python notebooks/build.py --execute"
        for output in cell["outputs"]:
            assert output["output_type"] != "error" and output.get("name") != "stderr", output
    outputs = [output for cell in code_cells("zh") for output in cell["outputs"]]
    assert "synthetic demo images" in texts(outputs)  # photographs have licences


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_notebook_names_no_folder_of_a_machine(language: str):
    folder = r"(?<![\w.…])/(?:home|root|tmp|usr|opt|work|mnt|var)/\S*"
    assert not re.findall(folder, json.dumps(stored(language)))


def test_both_languages_say_the_same_at_the_same_places():
    """A text in Chinese stands before its English one, with the same headings, lists and names of code."""
    cells = read_cells()
    chinese = [place for place, cell in enumerate(cells) if cell.language == "zh"]
    assert chinese and [place for place, cell in enumerate(cells) if cell.language == "en"] == [
        place + 1 for place in chinese
    ]
    for place in chinese[1:]:  # the first one names the other notebook
        ours, theirs = (cells[each].text.replace("README.zh-CN", "README") for each in (place, place + 1))
        for pattern in (r"`[^`]+`", r"^(#+ \d*|-) ?", r"\d+(?:,\d+)*"):
            found, expected = (sorted(re.findall(pattern, text, re.M)) for text in (ours, theirs))
            assert found == expected, (ours, theirs)


def test_commands_named_in_the_texts_exist():
    named = {name for cell in read_cells() for name in re.findall(r"`paddle-attn (\w+)", cell.text)}
    assert {"split", "train", "eval", "explain", "export", "predict", "study"} <= named <= set(COMMANDS)


# ---- the run


def ai_studio(folder: Path) -> Path:
    """The layout of AI Studio's home."""
    for name in ("data", "work"):
        (folder / name).mkdir(parents=True)
    return folder


def run(folder: Path, **options: object) -> list[dict]:
    """The outputs of all cells, run in a folder."""
    for package in ("nbclient", "ipykernel"):
        pytest.importorskip(package, reason=f"needs {package}: pip install -e '.[notebook]'")
    outputs = execute(make_notebook(read_cells(), "en", {}), folder, **options)
    return [output for cell in outputs.values() for output in cell]


def pictures(outputs: list[dict]) -> int:
    return sum("image/jpeg" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
def test_the_notebook_runs_on_ai_studio_with_demo_images(tmp_path: Path):
    home = ai_studio(tmp_path / "home")
    outputs = run(home)
    text = texts(outputs)
    assert "this run uses synthetic demo images" in text
    bars = re.findall(r"^run ━+ +100% epoch (\d+)/\1 ", text, re.M)
    assert len(bars) == 2, "the bar of each training stays, at its end"
    assert "\x1b" not in text and "ipywidgets" not in text
    assert "McNemar" in text and "95 % interval" in text
    assert float(re.search(r"^top-1 ([\d.]+) %", text, re.M)[1]) > 80
    assert pictures(outputs) == pictures([each for cell in code_cells("zh") for each in cell["outputs"]]) == 5
    assert {path.name for path in (home / "work").iterdir()} == {"datasets", "inference", "output"}
    assert len(list((home / "work" / "datasets" / "notebook-demo" / "train").iterdir())) == len(CLASSES)
    assert not list((home / "data").iterdir())


@pytest.mark.slow
def test_the_notebook_installs_a_clone_in_work_and_takes_the_photographs_in_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In an environment that has the requirements, but not the project."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    home = ai_studio(tmp_path / "home")
    clone = home / "work" / "paddle_attn"
    for name in ("configs", "paddle_attn"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml", "setup.cfg", "setup.py"):
        shutil.copy(ROOT / name, clone)
    images = make_images(tmp_path / "images")
    (home / "data" / "data1234").mkdir()
    with zipfile.ZipFile(home / "data" / "data1234" / "flowers.zip", "w") as archive:
        for path in images.rglob("*.jpg"):
            archive.write(path, path.relative_to(tmp_path))

    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    (site_packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    # a .pth file adds this environment's packages, but not its own .pth files: the project is not among them
    (site_packages / "requirements.pth").write_text(str(Path(paddle.__file__).parents[1]))
    check = "import importlib.util; assert not importlib.util.find_spec('paddle_attn')"
    subprocess.run([python, "-c", check], cwd=tmp_path, check=True, timeout=HANG)
    kernel = tmp_path / "jupyter" / "kernels" / "fresh"
    kernel.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    specification = {"argv": argv, "display_name": "fresh", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(specification))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))

    outputs = run(home, kernel_name="fresh")
    text = texts(outputs)
    assert "synthetic" not in text and "train 24 images\neval 6 images" in text
    assert pictures(outputs) == 5
    split = json.loads((home / "work" / "datasets" / "notebook-flowers" / "split.json").read_text())
    assert split["source"] == "../data/data1234/flowers.zip"
    assert sys.prefix not in text and str(clone) not in text
