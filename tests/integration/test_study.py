"""Studies with real runs: interrupted, killed and continued; two at once; a run that fails."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT, assert_one_sentence, make_images, tool, tree, wait_until

from paddle_attn.config import load_config
from paddle_attn.study.map_scores import score_maps
from paddle_attn.study.results import MapScore, Results

STUDY = """\
base: base.yaml
attentions: [null, simam]
folds: [0, 1]
source: images
"""
BASE = """\
model: {name: cifar_resnet20}
data: {size: 32}
train: {epochs: 2, batch_size: 8}
"""
RUNS = [f"{variant}_fold{fold}_seed0" for fold in (0, 1) for variant in ("none", "simam")]


def make_workplace(folder: Path, study: str = STUDY) -> Path:
    """A folder with images of three classes, a base config and a study of 2 × 2 runs."""
    make_images(folder / "images")
    (folder / "base.yaml").write_text(BASE)
    (folder / "tiny.yaml").write_text(study)
    return folder


def study_tool(folder: Path, *arguments: object) -> subprocess.CompletedProcess:
    return tool("study", "-c", "tiny.yaml", *arguments, cwd=folder)


def rows(folder: Path) -> list[dict[str, str]]:
    path = folder / "results" / "tiny" / "runs.csv"
    return list(csv.DictReader(path.open())) if path.exists() else []


def without_times(folder: Path) -> dict[str, bytes]:
    """The results without what differs from run to run: the seconds, and the history's column of them."""
    found = {}
    for name, content in tree(folder / "results" / "tiny").items():
        if name.startswith("history/") or name == "runs.csv":
            content = b"\n".join(line.rpartition(b",")[0] for line in content.splitlines())
        if name not in ("timing.md", "minutes.png"):
            found[name] = content
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that ran to its end."""
    folder = make_workplace(tmp_path_factory.mktemp("undisturbed"))
    result = study_tool(folder)
    assert result.returncode == 0 and result.stderr == "", result.stdout + result.stderr
    assert f"{RUNS[-1]}  top-1 " in result.stdout and "4 of 4 runs" in result.stdout
    return folder


def test_a_study_writes_rows_histories_predictions_and_a_report(undisturbed: Path):
    found = rows(undisturbed)
    assert [row["run"] for row in found] == RUNS
    assert {row["epochs"] for row in found} == {"2"} and {row["images"] for row in found} == {"6"}
    results = Results(undisturbed / "results" / "tiny")
    for row in found:
        predictions = results.predictions(row["run"])
        hits = [each.is_right for each in predictions]
        assert float(row["top1"]) == pytest.approx(sum(hits) / 6)
        assert all(each.probability_of_true <= each.probability <= 1 for each in predictions)
        history = results.history(row["run"])
        assert len(history) == 2 and history[-1]["eval_top1"] == float(row["top1"])
    assert predictions[0].image == "blue/image_01.jpg" and predictions[0].true == "blue"
    assert "4 runs of 4" in (undisturbed / "results/tiny/report.md").read_text()


def test_a_finished_study_runs_nothing_again(undisturbed: Path):
    before = tree(undisturbed)
    result = study_tool(undisturbed)
    assert result.returncode == 0 and "nothing to do: all 4 runs" in result.stdout
    assert study_tool(undisturbed, "--report").returncode == 0
    assert tree(undisturbed) == before


def test_a_run_of_a_study_in_reuse_is_not_done_again(undisturbed: Path, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(undisturbed, folder)
    (folder / "tiny.yaml").rename(folder / "first.yaml")
    (folder / "tiny.yaml").write_text(STUDY + "name: second\nreuse: [tiny]\n")
    (folder / "output/studies/second").mkdir()
    shutil.copytree(folder / "output/studies/tiny/data", folder / "output/studies/second/data")
    listed = study_tool(folder, "--dry-run").stdout
    assert all(f"copy   {run}" in listed for run in RUNS) and "4 finished, 4 of them by another" in listed
    result = study_tool(folder)
    assert result.returncode == 0 and "nothing to do: all 4 runs" in result.stdout, result.stderr
    for run in RUNS:
        assert f"copied from results/tiny: {run}" in result.stdout
        assert not (folder / "output/studies/second/runs" / run).exists()
    assert "4 runs of 4" in (folder / "results/second/report.md").read_text()


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "tools" / "study.py"), "-c", "tiny.yaml", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def interrupt(folder: Path, run: str, number: int) -> tuple[int, str]:
    """Start the study and send a signal when a run has done an epoch. Returns the exit code and stderr."""
    process = start(folder)
    wait_until((folder / "output/studies/tiny/runs" / run / "history.csv").exists, process)
    process.send_signal(number)
    _, stderr = process.communicate()
    return process.returncode, stderr


def wait_for_the_last_runs(folder: Path) -> None:
    """After a kill the run in progress saves and ends by itself; until then it holds the study's lock."""
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1800)"])

    def is_free() -> bool:
        from paddle_attn.files import lock_folder, unlock_folder

        lock = lock_folder(folder / "results" / "tiny")
        if lock is not None:
            unlock_folder(lock)
        return lock is not None

    wait_until(is_free, sleeper)
    sleeper.kill()
    sleeper.wait()


def test_a_study_that_is_interrupted_and_killed_ends_like_an_undisturbed_one(
    undisturbed: Path, tmp_path: Path
):
    folder = make_workplace(tmp_path / "work")
    code, stderr = interrupt(folder, RUNS[1], signal.SIGINT)
    assert code == 130 and stderr.startswith("stopped: SIGINT, 1 of 4 runs are finished, all is saved"), (
        stderr
    )
    assert "tools/study.py -c tiny.yaml" in stderr
    kept = rows(folder)
    assert [row["run"] for row in kept] == RUNS[:1]
    checkpoint = folder / "output/studies/tiny/runs" / RUNS[1] / "last.pdstate"
    assert checkpoint.exists()

    code, _ = interrupt(folder, RUNS[2], signal.SIGKILL)
    assert code == -signal.SIGKILL
    wait_for_the_last_runs(folder)
    assert [row["run"] for row in rows(folder)] == RUNS[:2]

    result = study_tool(folder)
    assert result.returncode == 0, result.stderr
    assert RUNS[0] not in result.stdout and RUNS[1] not in result.stdout  # they are not run again
    assert rows(folder)[0] == kept[0]  # not even timed again
    assert without_times(folder) == without_times(undisturbed)


def test_two_runs_at_a_time_share_the_cores(tmp_path: Path):
    folder = make_workplace(tmp_path / "work", STUDY.replace("[0, 1]", "[2]"))
    result = tool("study", "-c", "tiny.yaml", "--jobs", 2, cwd=folder, OMP_NUM_THREADS="2")
    assert result.returncode == 0, result.stderr
    found = rows(folder)
    assert [row["run"] for row in found] == ["none_fold2_seed0", "simam_fold2_seed0"]
    assert {row["threads"] for row in found} == {"1"}


def test_a_failed_run_is_named_and_the_others_are_done(tmp_path: Path):
    folder = make_workplace(
        tmp_path / "work", STUDY.replace("[null, simam]", "[null, sge]").replace("[0, 1]", "[0]")
    )
    result = study_tool(folder)  # SGE's 64 groups do not divide the 16 channels of this network
    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stderr.splitlines() == ["failed: sge_fold0_seed0; the next start tries again"]
    assert "sge_fold0_seed0 failed: attention 'sge' with channels=16" in result.stdout
    assert [row["run"] for row in rows(folder)] == ["none_fold0_seed0"]
    assert "1 run of 2" in (folder / "results/tiny/report.md").read_text()


# ---- what is refused


def test_the_results_of_another_study_are_kept(undisturbed: Path, tmp_path: Path):
    folder = tmp_path / "work"
    shutil.copytree(undisturbed, folder)
    (folder / "tiny.yaml").write_text(STUDY + "overrides: {optim.lr: 0.5}\n")
    before = tree(folder)
    words = [
        "results/tiny holds the run none_fold0_seed0 with other options",
        "overrides was {}",
        "another name",
    ]
    for arguments in ((), ("--report",), ("--dry-run",)):
        assert_one_sentence(study_tool(folder, *arguments), *words)
    assert tree(folder) == before


def test_other_photographs_are_refused(undisturbed: Path, tmp_path: Path):
    folder = tmp_path / "work"
    shutil.copytree(undisturbed, folder)
    shutil.rmtree(folder / "output")
    for path in (folder / "images" / "red").iterdir():
        path.rename(path.with_name(f"new_{path.name}"))
    assert_one_sentence(
        study_tool(folder), "results/tiny holds none_fold0_seed0, which saw other photographs"
    )
    (folder / "tiny.yaml").write_text(STUDY.replace("source: images", "source: demo"))
    assert_one_sentence(study_tool(folder), "holds the folds of another source or other classes")


def test_two_studies_at_once_in_a_folder_are_refused(tmp_path: Path):
    folder = make_workplace(tmp_path / "work")
    with Results(folder / "results" / "tiny").lock():
        assert_one_sentence(study_tool(folder), "another study is writing to results/tiny")
    assert not (folder / "output").exists()


def test_a_dry_run_lists_the_runs_and_writes_nothing(tmp_path: Path):
    folder = make_workplace(tmp_path / "work")
    before = tree(folder)
    result = study_tool(folder, "--dry-run")
    assert result.returncode == 0, result.stderr
    lines = list(filter(None, result.stdout.splitlines()))
    assert [line.split() for line in lines[:4]] == [["to", "do", run] for run in RUNS]
    assert lines[4] == "4 runs, 0 finished; 1 at a time"
    assert "timing a training step of each variant" in lines[5]
    assert "on this machine, from one timed training step of each variant" in lines[6]
    assert tree(folder) == before


def test_a_dry_run_of_a_finished_study_estimates_from_its_runs(undisturbed: Path, tmp_path: Path):
    folder = tmp_path / "work"
    shutil.copytree(undisturbed, folder)
    (folder / "tiny.yaml").write_text(STUDY + "seeds: [0, 1]\n")
    lines = study_tool(folder, "--dry-run").stdout.splitlines()
    assert [line.split()[0] for line in lines[:8]] == ["done", "done", "to", "to"] * 2
    assert lines[8] == "8 runs, 4 finished; 1 at a time" and "from the finished runs" in lines[9]


def test_a_run_ends_with_its_study_even_when_that_is_killed(tmp_path: Path):
    """The process of a run saves and stops when its standard input ends."""
    folder = make_workplace(tmp_path / "work")
    process = start(folder)
    log = folder / "output/studies/tiny/logs" / f"{RUNS[0]}.log"
    wait_until(lambda: log.exists() and "each epoch" in log.read_text(), process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for_the_last_runs(folder)
    assert "stopped: SIGTERM" in log.read_text()


def test_the_maps_of_finished_runs_are_measured_once(undisturbed: Path, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(undisturbed, folder)
    shutil.rmtree(folder / "output/studies/tiny/runs" / RUNS[3])
    result = study_tool(folder, "--faithfulness")
    assert result.returncode == 0, result.stderr
    assert f"{RUNS[0]}  deletion 0." in result.stdout and f"{RUNS[3]}  not measured" in result.stdout
    results = Results(folder / "results/tiny")
    for run in RUNS[:3]:
        scores = results.map_scores(run)
        assert [score.image for score in scores] == [each.image for each in results.predictions(run)]
        assert all(0 <= area <= 1 for score in scores for area in (score.deletion, score.insertion))
    assert results.map_scores(RUNS[3]) == []
    report = (folder / "results/tiny/report.md").read_text()
    _, _, section = report.partition("## How faithful the maps are")
    assert "| none | 2 |" in section and "| simam | 1 |" in section and "one pair" in section
    before = tree(folder)
    again = study_tool(folder, "--faithfulness")
    assert again.stdout.count("deletion") == 0 and tree(folder) == before


def test_a_run_with_other_weights_is_not_measured_and_the_others_are(undisturbed: Path, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(undisturbed, folder)
    runs = folder / "output/studies/tiny/runs"
    shutil.copy(runs / RUNS[2] / "last.pdparams", runs / RUNS[0] / "last.pdparams")
    (runs / RUNS[1] / "last.pdparams").write_bytes(b"damaged")
    result = study_tool(folder, "--faithfulness")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert f"not measured: {RUNS[0]}, {RUNS[1]}; the next start tries again" in result.stderr
    assert f"{RUNS[0]}  not measured: " in result.stdout and "expected its weights" in result.stdout
    assert f"{RUNS[2]}  deletion 0." in result.stdout and f"{RUNS[3]}  deletion 0." in result.stdout
    measured = sorted(path.stem for path in (folder / "results/tiny/map_scores").iterdir())
    assert measured == sorted(RUNS[2:])


def test_maps_on_other_photographs_are_not_measured(undisturbed: Path, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(undisturbed, folder)
    image = next((folder / "output/studies/tiny/data/fold0/eval").glob("*/*"))
    image.rename(image.with_name(f"renamed_{image.name}"))
    result = study_tool(folder, "--faithfulness")
    assert result.returncode == 1 and "has other eval images than the finished run saw" in result.stdout
    assert f"not measured: {RUNS[0]}, {RUNS[1]}; " in result.stderr


def test_the_scores_of_copied_runs_are_copied(undisturbed: Path, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(undisturbed, folder)
    results = Results(folder / "results/tiny")
    scores = [MapScore(each.image, 0.25, 0.5, 0.3, 0.4) for each in results.predictions(RUNS[0])]
    results.add_map_scores(RUNS[0], scores)
    shutil.copytree(folder / "results/tiny", folder / "results/second")
    shutil.rmtree(folder / "results/second/map_scores")
    (folder / "tiny.yaml").write_text(STUDY + "name: second\nreuse: [tiny]\n")
    shutil.rmtree(folder / "output")
    result = study_tool(folder, "--faithfulness")
    assert result.returncode == 0, result.stderr
    assert f"{RUNS[0]}  copied from results/tiny: {RUNS[0]}" in result.stdout
    assert f"{RUNS[1]}  not measured: no output/studies/second/runs/{RUNS[1]}" in result.stdout
    assert Results(folder / "results/second").map_scores(RUNS[0]) == scores
    assert not (folder / "output").exists()  # without weights no split is made


def test_the_scores_of_maps_do_not_depend_on_the_size_of_a_batch(undisturbed: Path):
    run = undisturbed / "output/studies/tiny/runs" / RUNS[0]
    config = load_config(run / "config.yaml", [f"data.root={undisturbed}/output/studies/tiny/data/fold0"])
    predictions = Results(undisturbed / "results/tiny").predictions(RUNS[0])
    scores = [
        score_maps(
            replace(config, train=replace(config.train, batch_size=size)), run / "last.pdparams", predictions
        )
        for size in (2, 5)
    ]
    for one, other in zip(*scores, strict=True):
        assert one.image == other.image and one.areas == pytest.approx(other.areas, abs=0.002)


def test_maps_of_a_study_without_finished_runs_are_one_sentence(tmp_path: Path):
    folder = make_workplace(tmp_path / "work")
    before = tree(folder)
    assert_one_sentence(study_tool(folder, "--faithfulness"), "holds no finished runs: run the study first")
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dry-run", "--report"), "not allowed with"),
        (("--faithfulness", "--report"), "not allowed with"),
        (("--faithfulness", "--jobs", 2), "--jobs is for training runs"),
        (("--report", "--jobs", 2), "--jobs is for training runs"),
    ],
)
def test_arguments_that_exclude_each_other_are_one_sentence(tmp_path: Path, arguments: tuple, message: str):
    assert_one_sentence(study_tool(make_workplace(tmp_path / "work"), *arguments), message)
