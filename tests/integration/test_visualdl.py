"""What a run shows: VisualDL's log, steps.csv, the progress bar and the line of each epoch."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import config_for
from PIL import Image
from rich.console import Console
from rich.text import Text
from visualdl import LogReader

from paddle_attn.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig
from paddle_attn.errors import Stopped
from paddle_attn.plotting.bar import NOTEBOOK_WIDTH, plain_console
from paddle_attn.train import EpochMetrics, TrainState, fit
from paddle_attn.train.history import MAX_PICTURES, RunLog, picture_epochs, read_steps
from paddle_attn.train.progress import ProgressBar, duration, epoch_line
from paddle_attn.train.state import EpochProgress

METRICS = EpochMetrics(1, 0.01, 2.5, 0.25, 0.5, 2.0, 0.5, 0.75, 12.0)


def read_log(folder: Path, split: str) -> LogReader:
    (file,) = (folder / "vdl" / split).glob("vdlrecords.*.log")
    return LogReader(file_path=str(file))


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(point.id, point.value) for point in read_log(folder, "train").get_data("scalar", tag)]


def steps_of(folder: Path) -> list[tuple[int, float]]:
    with open(folder / "steps.csv", newline="") as file:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]


def in_terminal(width: int = 80) -> Console:
    """A terminal that keeps what is written to it."""
    environ = {"TERM": "xterm-256color"}
    return Console(file=io.StringIO(), force_terminal=True, width=width, _environ=environ)


# ---- VisualDL


@pytest.fixture(scope="module")
def stopped_twice(split_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a run of 3 epochs of 3 steps, stopped inside the first two epochs, and its screens."""
    folder, screens, consoles = tmp_path_factory.mktemp("run") / "run", [], []
    config = config_for(split_data, folder)
    for last in (2, 4, None):

        def stop(state: TrainState, last: int | None = last) -> None:
            if state.epoch * 3 + state.step == last:
                os.kill(os.getpid(), signal.SIGTERM)

        consoles.append(in_terminal())
        try:
            fit(config, consoles[-1], on_step=stop)
        except Stopped:
            config = dataclasses.replace(config, train=dataclasses.replace(config.train, resume=True))
        screens.append(consoles[-1].file.getvalue())
    return folder, screens


def test_the_loss_of_each_step_is_there_once_after_resumes(stopped_twice: tuple[Path, list[str]]):
    folder, _ = stopped_twice
    losses = steps_of(folder)
    assert [step for step, _ in losses] == list(range(1, 10))
    assert points(folder, "loss_per_step") == [(step, pytest.approx(loss)) for step, loss in losses]
    assert [epoch for epoch, _ in points(folder, "loss")] == [1, 2, 3]


def test_the_mean_of_an_epochs_steps_is_its_loss(stopped_twice: tuple[Path, list[str]]):
    folder, _ = stopped_twice
    losses = np.asarray([loss for _, loss in steps_of(folder)]).reshape(3, 3)
    means = losses @ [10 / 24, 10 / 24, 4 / 24]  # batches of 10, 10 and 4 images
    assert means == pytest.approx([loss for _, loss in points(folder, "loss")], rel=1e-5)


def test_the_pictures_are_labelled_and_of_the_epochs_since_the_resume(stopped_twice: tuple[Path, list[str]]):
    folder, _ = stopped_twice
    samples = read_log(folder, "train").get_data("image", "samples")
    predictions = read_log(folder, "eval").get_data("image", "predictions")
    assert [picture.id for picture in samples] == [0] and [picture.id for picture in predictions] == [2, 3]
    size = {Image.open(io.BytesIO(picture.image.encoded_image_string)).size for picture in predictions}
    assert len(size) == 1 and max(size.pop()) < 1000


def test_the_hyperparameters_are_eight_without_dots(stopped_twice: tuple[Path, list[str]]):
    """VisualDL's table stays blank for names with dots, and its parallel view freezes with many."""
    (record,) = read_log(stopped_twice[0], "eval").get_data("hyper_parameters", "hparam")
    shown = {item.name: getattr(item, item.WhichOneof("type")) for item in record.hparam.hparamInfos}
    expected = {
        "model": "towernet",
        "attention": "simam",
        "size": 128,
        "batch_size": 10,
        "epochs": 3,
        "seed": 0,
    }
    assert shown == expected | {"lr": pytest.approx(1e-3), "augmentation": "rotation 10"}
    assert [item.name for item in record.hparam.metricInfos] == ["top1", "top5", "loss"]


def test_hyperparameters_keep_one_type(tmp_path: Path):
    """A rate of 1 stays a real number; no augmentation and no attention have a name."""
    config = Config(ModelConfig(), DataConfig(augment=AugmentConfig()), OptimConfig(lr=1))
    log = RunLog(tmp_path, [], 0)
    log.add_hyperparameters(config, 256)
    log.close()
    (record,) = read_log(tmp_path, "eval").get_data("hyper_parameters", "hparam")
    found = {item.name: item for item in record.hparam.hparamInfos}
    assert found["lr"].WhichOneof("type") == "float_value"
    assert found["augmentation"].string_value == found["attention"].string_value == "none"


def test_a_log_removes_only_logs_of_its_own(tmp_path: Path):
    others = [tmp_path / "vdl" / "mine.txt", tmp_path / "vdl" / "train" / "vdlrecords.1.log"]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    for _ in range(2):
        RunLog(tmp_path, [METRICS], 0).close()
    assert [path.read_text() for path in others] == ["mine", "mine"]
    assert len(list((tmp_path / "vdl" / "train").iterdir())) == 2


def test_runs_in_folders_of_the_same_name_are_both_shown(tmp_path: Path):
    """VisualDL shows one run of those that share a display name; a run moved aside had that of its heir."""
    for folder in (tmp_path / "run", tmp_path / "other" / "run"):
        RunLog(folder, [METRICS], 0).close()
    reader = LogReader(logdir=str(tmp_path))
    assert len({reader.tags2name.get(run, run) for run in reader.runs()}) == 4


@pytest.mark.parametrize(
    "text",
    ["", "step,loss\n", "step,loss\n1,0.5\n2,", "step,loss\n1,0.5\n\x00\x00", "step,loss\n1,0.5\n3,1.0\n"],
)
def test_damaged_or_later_steps_are_left_out(tmp_path: Path, text: str):
    (tmp_path / "steps.csv").write_text(text)
    assert list(read_steps(tmp_path / "steps.csv", 2)) == ([(1, 0.5)] if "0.5" in text else [])


@pytest.mark.parametrize("epochs", [1, 2, 10, 11, 100, 999])
def test_the_pictures_of_a_run_are_few(epochs: int):
    chosen = picture_epochs(epochs)
    assert {1, epochs} <= chosen <= set(range(1, epochs + 1))
    assert len(chosen) == min(epochs, MAX_PICTURES)


# ---- the terminal


def test_the_bar_continues_where_the_run_stopped(stopped_twice: tuple[Path, list[str]]):
    _, (first, second, third) = stopped_twice
    assert "  0%" in first and " 22%" in first and " 33%" not in first
    assert "  0%" not in second and " 22%" in second and " 44%" in second
    assert " 22%" not in third and " 44%" in third and "100%" in third
    assert "epoch 2/3" in third and "epoch 1/3" not in third


def test_a_run_fits_in_80_columns(stopped_twice: tuple[Path, list[str]]):
    for screen in stopped_twice[1]:
        lines = Text.from_ansi(screen.replace("\r", "\n")).plain.splitlines()
        lines = [line for line in lines if ".pdparams" not in line and "resum" not in line]  # paths
        assert lines and max(map(len, lines)) <= 80


@pytest.mark.parametrize(("epoch", "epochs"), [(1, 3), (100, 100), (99, 1000)])
def test_the_line_of_an_epoch_fits_in_80_columns(epoch: int, epochs: int):
    first = dataclasses.replace(METRICS, eval_top1=0.0)
    newest = EpochMetrics(epoch, 1e-5, 12.345678, 0.98765, 1.0, 12.345678, 0.98765, 1.0, 59.94)
    state = TrainState(None, None, history=[*[first] * (epoch - 1), newest])
    line = epoch_line(state, epochs)
    assert len(line) <= 80
    assert f"epoch {epoch:3d}/{epochs}  train 12.346 98.8%  eval 12.346 98.8% best  60 s" in line
    assert (" left" in line) == (epoch < epochs)


def test_the_time_left_is_that_of_the_newest_epochs():
    history = [dataclasses.replace(METRICS, seconds=seconds) for seconds in (9999, 60, 120, 180)]
    assert epoch_line(TrainState(None, None, history=history), 7).endswith("  3 min, 6 min left")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (1.25, "1.2 s"), (59.4, "59 s"), (90, "2 min"), (3599, "60 min"), (7560, "2.1 h")],
)
def test_durations_are_short(seconds: float, text: str):
    assert duration(seconds) == text


def bar_of(console: Console) -> None:
    """A bar over 4 epochs of 5 steps of 10 images, resumed after 7 steps, 2 s into the epoch."""
    state = TrainState(None, None, history=[dataclasses.replace(METRICS, seconds=5.0)])
    with ProgressBar(console, 4, 5, 10, done=7) as bar:
        for step in (3, 4, 5):
            state.progress = EpochProgress(0.1, step, 10 * step, 10.0, 15, 30, seconds=float(step))
            bar.advance(state, 0.75)


def test_the_bar_shows_speed_and_time_left():
    console = in_terminal()
    bar_of(console)
    screen = console.file.getvalue()
    assert "loss 0.750  top1 30.0%  10 images/s  10 s left" in screen


def test_the_percentage_is_that_of_the_run_and_stands_beside_it():
    console = in_terminal()
    bar_of(console)
    lines = Text.from_ansi(console.file.getvalue().replace("\r", "\n")).plain.splitlines()
    assert any(re.search(r"run [━╸╺ ]+ 50% epoch 2/4 loss", line) for line in lines)


def test_without_a_terminal_there_is_no_bar():
    console = Console(file=io.StringIO())
    bar_of(console)
    assert not console.file.getvalue()


def test_a_notebook_has_a_bar_that_needs_no_ipywidgets(monkeypatch: pytest.MonkeyPatch):
    """One line of text, which changes in place; the last state stays."""
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    shown: list[str] = []

    class Handle:
        def update(self, line: dict[str, str], raw: bool) -> None:
            shown[-1] = line["text/plain"]

    def display(line: dict[str, str], raw: bool, display_id: bool) -> Handle:
        shown.append(line["text/plain"])
        return Handle()

    monkeypatch.setattr("paddle_attn.plotting.bar.notebook_display", lambda: display)
    bar_of(plain_console())
    (line,) = shown
    assert re.fullmatch(r"run [━╸╺ ]+ 50% epoch 2/4 loss 0\.750  top1 30\.0%  10 images/s  10 s left", line)
    assert len(line) <= NOTEBOOK_WIDTH
