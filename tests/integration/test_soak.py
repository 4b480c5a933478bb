"""A tenth of the hostile files, three kills, a full disk, lost data; the pages on reliability and scaling."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import HANG, ROOT, assert_one_sentence, tree, wait_until
from soak import cases, report, size

from paddle_attn.weights import read_weights

SOAK = ROOT / "tests" / "soak"
CONFIG = ROOT / "configs" / "towernet_simam.yaml"
TINY = ("model.attn=simam", "data.size=128", "train.batch_size=8", "train.device=cpu")


def command(data: Path, output: Path, epochs: int, *overrides: str) -> list[str]:
    """A tiny training run; the same command starts and resumes it."""
    settings = [f"data.root={data}", f"train.output={output}", f"train.epochs={epochs}"]
    train = [ROOT / "tools" / "train.py", "-c", CONFIG, "--resume", "-o", *TINY, *settings, *overrides]
    return list(map(str, [sys.executable, *train]))


def run(command: list[object], **options: object) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG, **options)


def started(command: list[str], **options: object) -> subprocess.Popen:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


# ---- training


def test_three_kills_change_nothing(split_data: Path):
    kills = [sys.executable, SOAK / "kills.py", "--kills", "3", "--data", split_data]
    result = run([*kills, "-o", "train.epochs=12", "train.batch_size=2"])
    assert result.returncode == 0, result.stdout + result.stderr
    assert "kills, 0 differences" in result.stdout


def full_disk() -> None:
    """No file may grow beyond 100 kB: writing fails in the middle, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))


def test_a_full_disk_is_one_sentence_and_the_run_resumes_from_the_last_checkpoint(
    split_data: Path, tmp_path: Path
):
    def train(name: str, epochs: int, **options: object) -> subprocess.CompletedProcess:
        return run(command(split_data, tmp_path / name, epochs, "optim.schedule=constant"), **options)

    assert train("run", 1).returncode == 0
    before = tree(tmp_path / "run")
    assert_one_sentence(train("run", 2, preexec_fn=full_disk), "File too large")
    after = tree(tmp_path / "run")
    for name in ("best.pdparams", "last.pdparams", "last.pdstate"):
        assert after[name] == before[name]
    assert not [name for name in after if name.startswith(".")]  # the incomplete file is gone
    assert train("run", 2).returncode == 0 and train("undisturbed", 2).returncode == 0
    resumed, undisturbed = (
        read_weights(tmp_path / name / "last.pdparams") for name in ("run", "undisturbed")
    )
    assert resumed.keys() == undisturbed.keys()
    assert all((resumed[key] == undisturbed[key]).all() for key in resumed)


def test_an_output_folder_that_cannot_be_created_is_one_sentence(split_data: Path, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    result = run(command(split_data, tmp_path / "file" / "run", 1))
    assert_one_sentence(result, str(tmp_path / "file"), "Not a directory")
    assert (tmp_path / "file").read_text() == "x"


def test_a_signal_to_the_process_group_lets_the_loaders_finish_the_step(split_data: Path, tmp_path: Path):
    train = command(split_data, tmp_path / "run", 1000, "data.workers=1", "optim.accumulate=3")
    steps = tmp_path / "run" / "steps.csv"

    def is_inside_the_second_epoch() -> bool:
        """The loaders leave the process group when an epoch starts: the signal comes after a step of it."""
        return (tmp_path / "run" / "history.csv").exists() and steps.read_text().count("\n") >= first + 2

    with started(train, start_new_session=True) as process:
        wait_until((tmp_path / "run" / "last.pdstate").exists, process)
        first = steps.read_text().count("\n")
        wait_until(is_inside_the_second_epoch, process)
        os.killpg(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=HANG)
    assert process.returncode == 143, errors
    assert errors.startswith("stopped: SIGTERM after ") and errors.count("\n") == 1, errors


def test_lost_data_are_one_sentence_and_the_run_resumes_when_they_are_back(split_data: Path, tmp_path: Path):
    data, run_folder = tmp_path / "data", tmp_path / "run"
    shutil.copytree(split_data, data)
    with started(command(data, run_folder, 1000, "data.cache=0")) as process:
        wait_until((run_folder / "last.pdstate").exists, process)
        data.rename(tmp_path / "elsewhere")
        _, errors = process.communicate(timeout=HANG)
    assert process.returncode == 2, errors
    assert errors.startswith("error: cannot decode the image ") and "No such file" in errors
    assert errors.count("\n") == 1, errors
    lost = run(command(data, run_folder, 1000, "data.cache=0"))
    assert_one_sentence(lost, "no data directory", str(data / "train"))
    (tmp_path / "elsewhere").rename(data)
    done = len((run_folder / "history.csv").read_text().splitlines()) - 1
    again = run(command(data, run_folder, done + 1, "data.cache=0"))
    assert again.returncode == 0, again.stdout + again.stderr
    assert len((run_folder / "history.csv").read_text().splitlines()) == 1 + done + 1


# ---- files


@pytest.mark.parametrize("kind", ["images", "weights", "libraries", "archives", "configs"])
def test_every_hostile_file_is_accepted_or_rejected(kind: str):
    result = run([sys.executable, SOAK / "hostile.py", kind, "--tenth", "--seed", "1"])
    assert result.returncode == 0, result.stdout + result.stderr
    assert f" {kind}: " in result.stdout and ", 0 failed" in result.stdout


def test_hostile_py_would_notice_executed_code(tmp_path: Path):
    """Python's own unpickler executes the cases, and leaves the file for which hostile.py looks."""
    rng = random.Random(0)
    for index in range(30):
        (tmp_path / f"{index}.pickle").write_bytes(cases.hostile_pickle(b"x", rng))
    (tmp_path / "home").mkdir()
    unpickle = """
import contextlib, pathlib, pickle
for path in pathlib.Path("..").glob("*.pickle"):
    with contextlib.suppress(Exception):
        pickle.loads(path.read_bytes())
"""
    subprocess.run([sys.executable, "-c", unpickle], cwd=tmp_path / "home", check=True)
    assert [path.name for path in (tmp_path / "home").iterdir()] == [cases.EXECUTED]


# ---- the pages


def test_the_page_on_reliability_is_made_from_the_committed_counts():
    rows = report.read(ROOT / "docs" / "reliability.csv")
    assert (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8") == report.page(rows)
    assert all(row.accepted + row.rejected == row.cases for row in rows)
    total = {kind: sum(row.cases for row in rows if row.kind == kind) for kind in report.SECTIONS}
    assert total == {
        "images": 5000,
        "weights": 500,
        "libraries": 50,
        "archives": 500,
        "configs": 500,
        "kills": 20,
    }


def test_the_page_on_scaling_has_the_table_that_its_command_writes():
    (committed,) = size.TABLE.findall((ROOT / "docs" / "scaling.md").read_text(encoding="utf-8"))
    figures = dict.fromkeys(("list", "first", "epoch", "listing", "held"), 1)
    made = size.table(dict.fromkeys(size.COUNTS, figures))
    heads, counts = zip(*(split_table(text) for text in (committed, made)), strict=True)
    assert heads[0] == heads[1] and counts[0] == counts[1]


def split_table(text: str) -> tuple[list[str], list[str]]:
    """The two head lines of a table, and the first cell of each row."""
    head, rule, *rows = text.strip().splitlines()
    return [head, rule], [row.split(" | ")[0] for row in rows]
