"""Three of the kills of tests/soak/kills.py, and a tenth of what tests/soak/hostile.py feeds the readers."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, assert_one_sentence

from paddle_attn.weights import read_checkpoint

sys.path.insert(0, str(ROOT / "tests" / "soak"))
import cases
import report
import size


def test_three_kills_change_nothing(split_data: Path):
    command = [sys.executable, ROOT / "tests" / "soak" / "kills.py", "--kills", "3", "--data", split_data]
    result = subprocess.run(
        [*command, "-o", "train.epochs=12", "train.batch_size=2"], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "kills, 0 differences" in result.stdout


TINY = ["model.attn=simam", "data.size=128", "train.batch_size=8", "train.device=cpu"]


def train(
    data: Path, output: Path, epochs: int, *more: str, **options: object
) -> subprocess.CompletedProcess:
    settings = [
        *TINY,
        f"data.root={data}",
        f"train.output={output}",
        f"train.epochs={epochs}",
        "optim.schedule=constant",
        *more,
    ]
    command = [
        sys.executable,
        ROOT / "tools" / "train.py",
        "-c",
        ROOT / "configs" / "towernet_simam.yaml",
        "--resume",
        "-o",
        *settings,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def full_disk() -> None:
    """No file may grow beyond 100 kB: writing fails in the middle, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))


def test_a_full_disk_is_one_sentence_and_the_last_good_checkpoint_goes_on(split_data: Path, tmp_path: Path):
    assert train(split_data, tmp_path / "run", 1).returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    failed = train(split_data, tmp_path / "run", 2, preexec_fn=full_disk)
    assert_one_sentence(failed, "File too large")
    after = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    for name in ("last.pdstate", "last.pdparams", "best.pdparams"):
        assert after[name] == before[name]
    assert not [name for name in after if name.startswith((".", "new"))]  # no half a file is left
    assert train(split_data, tmp_path / "run", 2).returncode == 0
    assert train(split_data, tmp_path / "whole", 2).returncode == 0
    assert (tmp_path / "run" / "last.pdparams").read_bytes() == (
        tmp_path / "whole" / "last.pdparams"
    ).read_bytes()


def test_a_place_that_cannot_be_written_is_one_sentence(split_data: Path, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    assert_one_sentence(
        train(split_data, tmp_path / "file" / "run", 1), str(tmp_path / "file"), "Not a directory"
    )
    assert (tmp_path / "file").read_text() == "x"


def test_a_signal_to_all_processes_leaves_the_loaders_at_work(split_data: Path, tmp_path: Path):
    command = [
        sys.executable,
        ROOT / "tools" / "train.py",
        "-c",
        ROOT / "configs" / "towernet_simam.yaml",
        "-o",
        *TINY,
        "data.workers=1",
    ]
    settings = [
        f"data.root={split_data}",
        f"train.output={tmp_path / 'run'}",
        "train.epochs=1000",
        "optim.accumulate=3",
    ]
    with subprocess.Popen(
        [*command, *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        limit = time.monotonic() + 200
        while not (tmp_path / "run" / "last.pdstate").exists() and time.monotonic() < limit:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=200)
    assert (
        process.returncode == 143 and said.startswith("stopped: SIGTERM after ") and said.count("\n") == 1
    ), said


def test_data_that_vanish_are_one_sentence_and_the_run_goes_on_when_they_are_back(
    split_data: Path, tmp_path: Path
):
    data = tmp_path / "data"
    shutil.copytree(split_data, data)
    command = [
        sys.executable,
        ROOT / "tools" / "train.py",
        "-c",
        ROOT / "configs" / "towernet_simam.yaml",
        "-o",
        *TINY,
    ]
    settings = [f"data.root={data}", f"train.output={tmp_path / 'run'}", "train.epochs=1000", "data.cache=0"]
    with subprocess.Popen(
        [*command, *settings], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        limit = time.monotonic() + 200
        while not (tmp_path / "run" / "last.pdstate").exists() and time.monotonic() < limit:
            time.sleep(0.05)
        data.rename(tmp_path / "elsewhere")
        _, said = process.communicate(timeout=200)
    assert (
        process.returncode == 2
        and said.startswith("error: cannot decode the image ")
        and "No such file" in said
        and said.count("\n") == 1
    ), said
    assert_one_sentence(train(data, tmp_path / "run", 1000), f"there is no data directory {data / 'train'}")
    (tmp_path / "elsewhere").rename(data)
    done = read_checkpoint(tmp_path / "run" / "last.pdstate")["rows"]
    again = subprocess.run(
        [*command[:4], "--resume", "-o", *TINY, *settings, f"train.epochs={len(done) + 1}"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert again.returncode == 0 and f"going on after epoch {len(done)} of" in again.stdout, (
        again.stdout + again.stderr
    )


@pytest.mark.parametrize("kind", ["images", "weights", "archives", "configs"])
def test_what_is_damaged_odd_or_hostile_is_taken_or_refused(kind: str):
    command = [sys.executable, ROOT / "tests" / "soak" / "hostile.py", kind, "--tenth", "--seed", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f" {kind}: " in result.stdout and ", 0 failed" in result.stdout


def test_a_hostile_pickle_would_be_seen(tmp_path: Path):
    """Python's own unpickler runs them, in its folder: where hostile.py looks after its reader."""
    rng = random.Random(0)
    for index in range(30):
        (tmp_path / f"{index}.pickle").write_bytes(cases.hostile_pickle(b"x", rng))
    (tmp_path / "home").mkdir()
    code = "import pathlib, pickle\nfor path in pathlib.Path('..').glob('*.pickle'):\n  try: pickle.loads(path.read_bytes())\n  except Exception: pass"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "home", check=True)
    assert [path.name for path in (tmp_path / "home").iterdir()] == [cases.EXECUTED]


def test_the_committed_page_is_made_from_the_committed_counts():
    rows = report.read(ROOT / "docs" / "reliability.csv")
    assert (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8") == report.page(rows)
    assert all(row.taken + row.refused == row.cases for row in rows)
    total = {kind: sum(row.cases for row in rows if row.kind == kind) for kind in report.TITLES}
    assert total == {"images": 5000, "weights": 500, "archives": 500, "configs": 500, "kills": 20}


def test_the_page_on_scaling_has_the_table_that_its_command_writes():
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    (there,) = size.TABLE.findall(page)
    head = size.table(
        {count: {"list": 1, "first": 1, "epoch": 1, "listing": 1, "held": 1} for count in size.COUNTS}
    ).splitlines()
    assert there.splitlines()[:3] == head[:3] and len(there.splitlines()) == len(head)
    assert [row.split(" | ")[0] for row in there.splitlines()[3:-1]] == [
        row.split(" | ")[0] for row in head[3:-1]
    ]
