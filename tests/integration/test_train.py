"""Training runs: their metrics and files, the same run twice, a run that is stopped and resumed."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import ROOT, config_for, make_images, tree, write_cifar
from rich.console import Console

from paddle_attn import create_model, ops, save_weights
from paddle_attn.builders import load_trained, make_loader, set_device
from paddle_attn.config import AugmentConfig, Config, ModelConfig, OptimConfig, load_config
from paddle_attn.errors import Stopped, UserError
from paddle_attn.models import MODELS
from paddle_attn.train import EpochMetrics, Evaluation, TrainState, evaluate, evaluate_config, fit
from paddle_attn.train.checkpoint import read_checkpoint
from paddle_attn.train.folder_lock import FolderLock
from paddle_attn.train.signals import StopSignal
from paddle_attn.weights import read_weights

QUIET = Console(quiet=True)
OnStep = Callable[[TrainState], None]


def changed(config: Config, **sections: dict) -> Config:
    """The config with some options of some sections changed."""
    return dataclasses.replace(
        config,
        **{name: dataclasses.replace(getattr(config, name), **options) for name, options in sections.items()},
    )


def timeless(history: list[EpochMetrics]) -> list[EpochMetrics]:
    return [dataclasses.replace(metrics, seconds=0) for metrics in history]


def last_weights(folder: Path) -> dict[str, np.ndarray]:
    return read_weights(folder / "last.pdparams")


def assert_same_weights(one: Path, two: Path) -> None:
    first, second = last_weights(one), last_weights(two)
    assert first.keys() == second.keys()
    for key in first:
        assert np.array_equal(first[key], second[key]), key


def at_update(number: int, act: Callable[[], None]) -> OnStep:
    """An `on_step` that acts after this update of the run, counted from 1."""
    seen = []

    def on_step(state: TrainState) -> None:
        seen.append(state)
        if len(seen) == number:
            act()

    return on_step


class Death(BaseException):
    """Ends a run without warning, as a kill would."""


def die() -> None:
    raise Death


def send_sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Linear(paddle.nn.Layer):
    """Classifies by the mean colour. Without batch norm and dropout its gradients can be computed by hand."""

    classifier_name = "fc."

    def __init__(self, num_classes: int):
        super().__init__()
        start = paddle.ParamAttr(initializer=paddle.nn.initializer.Constant(0.1))
        self.fc = paddle.nn.Linear(3, num_classes, weight_attr=start)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.fc(x.mean([2, 3]))


@pytest.fixture
def linear_model(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a registered model that is linear."""
    spec = dataclasses.replace(MODELS["resnet18"], build=lambda num_classes, placements: Linear(num_classes))
    monkeypatch.setitem(MODELS, "linear", spec)
    return "linear"


@pytest.fixture(scope="module")
def run(split_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, list[EpochMetrics]]:
    """One finished run of four epochs, shared by the tests that look at it."""
    config = config_for(split_data, tmp_path_factory.mktemp("run") / "whole", epochs=4)
    return config, fit(config, QUIET)


# ---- the metrics and files of a run


def test_the_schedule_moves_per_epoch(run: tuple[Config, list[EpochMetrics]]):
    config, history = run
    expected = [0.5 * config.optim.lr * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]
    assert [metrics.lr for metrics in history] == pytest.approx(expected)


def test_the_schedule_moves_per_step(split_data: Path, tmp_path: Path):
    config = config_for(split_data, tmp_path / "run", epochs=2)
    history = fit(
        dataclasses.replace(config, optim=OptimConfig(schedule_unit="step", warmup_epochs=1)), QUIET
    )
    assert [metrics.lr for metrics in history] == pytest.approx([0.01 / 4, 0.01])  # three steps of warm-up


def test_a_run_writes_its_files(run: tuple[Config, list[EpochMetrics]]):
    config, history = run
    folder = Path(config.train.output)
    assert {path.name for path in folder.iterdir()} - {"before_best.pdparams"} == {
        *("best.pdparams", "last.pdparams", "last.pdstate", "before.pdstate"),
        *("config.yaml", "classes.txt", "history.csv", "steps.csv", "curves.png", "vdl"),
    }
    assert (folder / "classes.txt").read_text().split() == ["blue", "green", "red"]
    assert load_config(folder / "config.yaml") == config
    with open(folder / "history.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in table] == [1, 2, 3, 4]
    assert [float(row["eval_loss"]) for row in table] == [metrics.eval_loss for metrics in history]


def test_the_network_learns_three_colours(run: tuple[Config, list[EpochMetrics]]):
    _, history = run
    assert max(metrics.eval_top1 for metrics in history) >= 0.8
    assert history[-1].train_loss < history[0].train_loss


@pytest.mark.parametrize("name", ["last", "best"])
def test_the_eval_metrics_are_those_of_the_saved_weights(run: tuple[Config, list[EpochMetrics]], name: str):
    config, history = run
    metrics = history[-1] if name == "last" else max(history, key=lambda metrics: metrics.eval_top1)
    network, classes = load_trained(config, Path(config.train.output) / f"{name}.pdparams")
    evaluation = evaluate(network, make_loader(config, "eval"), classes)
    assert evaluation.top1 == pytest.approx(metrics.eval_top1)
    assert evaluation.loss == pytest.approx(metrics.eval_loss, rel=1e-4)
    assert evaluation.top5 == metrics.eval_top5 == 1.0  # of three classes


def test_the_training_metrics_are_means_over_the_images(split_data: Path, tmp_path: Path, linear_model: str):
    """24 images in batches of 10, 10 and 4; at a rate of 0 the network stays what it is."""
    config = config_for(split_data, tmp_path / "run", epochs=1)
    config = changed(
        config, model={"name": linear_model, "attn": None}, optim={"lr": 0.0, "weight_decay": 0.0}
    )
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, augment=AugmentConfig()))
    (metrics,) = fit(config, QUIET)
    network, _ = load_trained(config, tmp_path / "run" / "last.pdparams")
    loader = make_loader(config, "train")
    loss = sum(
        float(paddle.nn.functional.cross_entropy(network(images), labels, reduction="sum"))
        for images, labels in loader
    )
    assert metrics.train_loss == pytest.approx(loss / 24, rel=1e-5)
    assert metrics.train_top5 == 1.0


def visualdl_points(folder: Path, split: str, tag: str) -> list[tuple[int, float]]:
    from visualdl import LogReader

    (file,) = (folder / "vdl" / split).glob("*.log")
    return [(point.id, point.value) for point in LogReader(file_path=str(file)).get_data("scalar", tag)]


@pytest.mark.parametrize("split", ["train", "eval"])
def test_visualdl_has_every_epoch_once(run: tuple[Config, list[EpochMetrics]], split: str):
    config, history = run
    folder = Path(config.train.output)
    for name in ("loss", "top1", "top5"):
        expected = [(metrics.epoch, getattr(metrics, f"{split}_{name}")) for metrics in history]
        assert visualdl_points(folder, split, name) == [
            (epoch, pytest.approx(value)) for epoch, value in expected
        ]
    rates = [(metrics.epoch, pytest.approx(metrics.lr)) for metrics in history]
    assert visualdl_points(folder, split, "lr") == rates


def test_visualdl_has_sample_images_and_the_hyperparameters(run: tuple[Config, list[EpochMetrics]]):
    from visualdl import LogReader

    folder = Path(run[0].train.output)
    logs = {split: next((folder / "vdl" / split).glob("*.log")) for split in ("train", "eval")}
    tags = {split: LogReader(file_path=str(log)).get_tags() for split, log in logs.items()}
    assert tags["train"]["image"] == ["samples"] and tags["eval"]["hyper_parameters"] == ["hparam"]


# ---- options that are off by default


def weights_at_each_update(config: Config) -> list[np.ndarray]:
    weights: list[np.ndarray] = []
    fit(config, QUIET, on_step=lambda state: weights.append(state.network.fc.weight.numpy().copy()))
    return weights


def test_accumulated_gradients_are_averaged_over_the_images(
    split_data: Path, tmp_path: Path, linear_model: str
):
    """Batches of 5, 5, 5, 5 and 4, two of them an update: the same updates as batches of 10, 10 and 4."""
    updates = []
    for accumulate, batch_size in ((2, 5), (1, 10)):
        config = config_for(split_data, tmp_path / f"{accumulate}", epochs=1, batch_size=batch_size)
        config = changed(
            config, model={"name": linear_model, "attn": None}, data={"augment": AugmentConfig()}
        )
        config = dataclasses.replace(config, optim=OptimConfig(name="sgd", lr=0.5, accumulate=accumulate))
        updates.append(weights_at_each_update(config))
    assert len(updates[0]) == 3
    np.testing.assert_allclose(updates[0], updates[1], rtol=1e-4, atol=1e-6)


def test_a_moving_average_is_evaluated_and_kept_and_resumes_bitwise(split_data: Path, tmp_path: Path):
    def averaged(name: str, **train) -> Config:
        return changed(config_for(split_data, tmp_path / name, **train), optim={"ema_decay": 0.9})

    whole = fit(averaged("whole"), QUIET)
    plain = fit(config_for(split_data, tmp_path / "plain"), QUIET)
    assert [metrics.train_loss for metrics in whole] == [metrics.train_loss for metrics in plain]
    assert whole[-1].eval_loss != plain[-1].eval_loss
    network, classes = load_trained(averaged("whole"), tmp_path / "whole" / "last.pdparams")
    evaluation = evaluate(network, make_loader(averaged("whole"), "eval"), classes)
    assert evaluation.loss == pytest.approx(whole[-1].eval_loss, rel=1e-5)
    with pytest.raises(Death):
        fit(averaged("broken"), QUIET, on_step=at_update(4, die))
    fit(averaged("broken", resume=True), QUIET)
    assert_same_weights(tmp_path / "whole", tmp_path / "broken")


def test_a_run_without_progress_ends_early_and_stays_ended(split_data: Path, tmp_path: Path):
    config = config_for(split_data, tmp_path / "run", epochs=9, patience=2)
    config = dataclasses.replace(config, optim=OptimConfig(lr=0.0))  # learns nothing
    output = io.StringIO()
    history = fit(config, Console(file=output, width=200))
    assert len(history) == 3  # the first epoch is the best
    assert "eval top-1 has not risen for 2 epochs" in output.getvalue()
    assert fit(changed(config, train={"resume": True}), QUIET) == history


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(split_data: Path, tmp_path: Path):
    config = config_for(split_data, tmp_path / "run", epochs=3, stop_on_nan=True)

    def spoil_weights(state: TrainState) -> None:
        if (state.epoch, state.step) == (1, 1):
            state.network.b6.bias.set_value(np.full([3], np.nan, "float32"))

    message = r"not a finite number at step 2 of epoch 2, learning rate 0\.00075: .*last\.pdstate, of epoch 1"
    with pytest.raises(UserError, match=message):
        fit(config, QUIET, on_step=spoil_weights)
    assert (tmp_path / "run" / "best.pdparams").exists()


@pytest.mark.parametrize("checkpoint_steps", [None, 1])
def test_weights_that_are_not_finite_stop_the_run_before_they_are_saved(
    split_data: Path, tmp_path: Path, checkpoint_steps: int | None
):
    """The running variance of a batch norm does not enter the training loss."""
    config = config_for(split_data, tmp_path / "run", stop_on_nan=True, checkpoint_steps=checkpoint_steps)
    config = changed(config, model={"name": "cifar_resnet20"}, data={"size": 32})
    saved: dict[str, bytes] = {}

    def spoil_weights(state: TrainState) -> None:
        if (state.epoch, state.step) == (1, 2):
            saved.update(tree(tmp_path / "run"))
            variance = next(v for k, v in state.network.state_dict().items() if k.endswith("_variance"))
            variance.set_value(np.full(variance.shape, np.inf, "float32"))

    step = 2 if checkpoint_steps else 3
    with pytest.raises(
        UserError, match=rf"a weight is not a finite number at step {step} of epoch 2.*epoch 1"
    ):
        fit(config, QUIET, on_step=spoil_weights)
    for name in ("best.pdparams", "last.pdparams", "last.pdstate"):
        assert (tmp_path / "run" / name).read_bytes() == saved[name]


# ---- mixed precision on a CPU

needs_bfloat16 = pytest.mark.skipif(bool(ops.bfloat16_problem()), reason=ops.bfloat16_problem())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amp": "O2"}, "train.amp is 'O2', but this run is on the cpu, where weights stay float32"),
        (
            {"amp": "O1", "ops": "off"},
            r"train.amp is 'O1', but this run is on the cpu, where .* bfloat16, and ",
        ),
    ],
)
def test_mixed_precision_that_a_cpu_lacks_is_refused(
    split_data: Path, tmp_path: Path, options: dict, message: str
):
    with pytest.raises(UserError, match=message):
        fit(config_for(split_data, tmp_path / "run", **options), QUIET)
    assert not (tmp_path / "run").exists()


def mixed(data: Path, output: Path, optim: dict | None = None, **train: object) -> Config:
    """A run in mixed precision of a network with large enough maps to train well."""
    config = config_for(data, output, amp="O1", **train)
    return changed(config, model={"name": "cifar_resnet20"}, data={"size": 32}, optim=optim or {})


@needs_bfloat16
def test_mixed_precision_learns_as_float32_does(split_data: Path, tmp_path: Path):
    cast = fit(mixed(split_data, tmp_path / "cast", epochs=4), QUIET)
    plain = fit(changed(mixed(split_data, tmp_path / "plain", epochs=4), train={"amp": None}), QUIET)
    assert cast[-1].train_loss < cast[0].train_loss
    assert cast[0].train_loss != plain[0].train_loss
    assert cast[0].train_loss == pytest.approx(plain[0].train_loss, rel=0.05)
    assert all(value.dtype != np.uint16 for value in last_weights(tmp_path / "cast").values())


@needs_bfloat16
@pytest.mark.parametrize("optim", [{}, {"accumulate": 2, "ema_decay": 0.9, "clip_norm": 1.0}])
def test_a_killed_run_in_mixed_precision_resumes_bitwise(split_data: Path, tmp_path: Path, optim: dict):
    whole = fit(mixed(split_data, tmp_path / "whole", optim, epochs=3, checkpoint_steps=1), QUIET)
    broken = mixed(split_data, tmp_path / "broken", optim, epochs=3, checkpoint_steps=1)
    with pytest.raises(Death):
        fit(broken, QUIET, on_step=at_update(3, die))
    resumed = fit(changed(broken, train={"resume": True}), QUIET)
    assert timeless(resumed) == timeless(whole)
    assert_same_weights(tmp_path / "broken", tmp_path / "whole")


@needs_bfloat16
def test_an_evaluation_of_mixed_precision_is_that_of_the_exported_float32(split_data: Path, tmp_path: Path):
    config = mixed(split_data, tmp_path / "run", epochs=1)
    (metrics,) = fit(config, QUIET)
    network, classes = load_trained(config, tmp_path / "run" / "last.pdparams")
    evaluation = evaluate(network, make_loader(config, "eval"), classes)
    assert evaluation.loss == pytest.approx(metrics.eval_loss, rel=1e-6)


@pytest.mark.parametrize("mixing", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_a_run_with_mixed_batches_learns_and_is_the_same_twice(
    split_data: Path, tmp_path: Path, mixing: dict
):
    histories = []
    for name in ("one", "two"):
        config = changed(config_for(split_data, tmp_path / name), data={"augment": AugmentConfig(**mixing)})
        histories.append(timeless(fit(config, QUIET)))
    assert histories[0] == histories[1]
    assert histories[0][-1].train_loss < histories[0][0].train_loss


def test_all_augmentations_and_a_loading_process_work_together(split_data: Path, tmp_path: Path):
    augment = AugmentConfig(rotation=10, hflip=0.5, vflip=0.5, crop_scale=(0.5, 1.0), color_jitter=0.2)
    config = config_for(split_data, tmp_path / "run", epochs=1)
    (metrics,) = fit(changed(config, data={"augment": augment, "workers": 1, "resize": "crop"}), QUIET)
    assert math.isfinite(metrics.train_loss)


def test_weights_of_other_classes_start_all_but_the_classifier(split_data: Path, tmp_path: Path):
    save_weights(create_model("towernet", "simam", num_classes=7), tmp_path / "seven.pdparams")
    config = config_for(split_data, tmp_path / "run", epochs=1)
    console = Console(record=True, width=300, file=io.StringIO())
    fit(changed(config, model={"weights": str(tmp_path / "seven.pdparams")}), console)
    assert (
        "the classifier starts untrained (b6.weight: expected [256, 3], found [256, 7]"
        in console.export_text()
    )


# ---- the same run again, and resumed runs


def test_a_seed_gives_the_same_run_twice_bitwise(run: tuple[Config, list[EpochMetrics]], tmp_path: Path):
    config, history = run
    again = fit(changed(config, train={"output": str(tmp_path / "again")}), QUIET)
    assert_same_weights(Path(config.train.output), tmp_path / "again")
    assert timeless(again) == timeless(history)
    fit(changed(config, train={"output": str(tmp_path / "other"), "seed": 1, "epochs": 1}), QUIET)
    other, first = last_weights(tmp_path / "other"), last_weights(tmp_path / "again")
    assert not np.array_equal(other["b6.weight"], first["b6.weight"])


def test_a_resumed_run_ends_as_the_undisturbed_one(run: tuple[Config, list[EpochMetrics]], tmp_path: Path):
    whole, history = run
    config = changed(whole, train={"output": str(tmp_path / "broken"), "resume": True})
    with pytest.raises(Death):
        fit(config, QUIET, on_step=at_update(8, die))  # in the third epoch of three steps
    resumed = fit(config, QUIET)
    assert_same_weights(Path(whole.train.output), tmp_path / "broken")
    assert timeless(resumed) == timeless(history)
    assert [step for step, _ in visualdl_points(tmp_path / "broken", "eval", "loss")] == [1, 2, 3, 4]
    assert fit(config, QUIET) == resumed  # nothing is left to do


def test_a_longer_schedule_continues_with_its_own_rates(split_data: Path, tmp_path: Path):
    short = config_for(split_data, tmp_path / "run", epochs=1, resume=True)
    fit(short, QUIET)
    history = fit(changed(short, train={"epochs": 4}), QUIET)
    expected = [0.5 * 1e-3 * (1 + math.cos(math.pi * epoch / 4)) for epoch in (1, 2, 3)]
    assert [metrics.lr for metrics in history[1:]] == pytest.approx(expected)


def die_at_rename(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """From now on the run dies instead of this rename of a finished file, counted from 1."""
    rename, seen = os.replace, []

    def dying(*arguments: object) -> None:
        seen.append(arguments)
        if len(seen) == number:
            die()
        rename(*arguments)

    monkeypatch.setattr(os, "replace", dying)


@pytest.mark.parametrize("number", [1, 3, 4, 5, 6])
def test_the_best_weights_are_those_of_the_best_epoch_wherever_the_run_died_while_saving(
    split_data: Path, tmp_path: Path, linear_model: str, monkeypatch: pytest.MonkeyPatch, number: int
):
    """The first epoch's network knows nothing, so the second is the best; the resumed run is shorter."""
    rename = os.replace
    config = config_for(split_data, tmp_path / "run", epochs=2, batch_size=24)
    config = changed(config, model={"name": linear_model, "attn": None}, data={"augment": AugmentConfig()})

    def on_step(state: TrainState) -> None:
        if state.epoch == 0:
            for value in state.network.state_dict().values():
                value.set_value(paddle.zeros_like(value))
        else:
            die_at_rename(monkeypatch, number)

    with pytest.raises(Death):
        fit(config, QUIET, on_step=on_step)
    monkeypatch.setattr(os, "replace", rename)
    history = fit(changed(config, train={"epochs": 1, "resume": True}), QUIET)
    best = max(history, key=lambda metrics: metrics.eval_top1)
    network, classes = load_trained(config, tmp_path / "run" / "best.pdparams")
    evaluation = evaluate(network, make_loader(config, "eval"), classes)
    assert evaluation.loss == pytest.approx(best.eval_loss, rel=1e-4)
    with open(tmp_path / "run" / "history.csv", newline="") as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == [m.epoch for m in history]


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("optim", {"name": "momentum"}),
        ("optim", {"lr": 0.5}),
        ("train", {"seed": 3}),
        ("data", {"size": 160}),
        ("model", {"attn": None}),
    ],
)
def test_resuming_with_another_config_is_refused(
    run: tuple[Config, list[EpochMetrics]], section: str, change: dict
):
    config = changed(run[0], train={"resume": True, "epochs": 9})
    with pytest.raises(UserError, match=f"had {section}.{next(iter(change))} .*expected the same to resume"):
        fit(changed(config, **{section: change}), QUIET)


def test_resuming_after_a_class_was_renamed_is_refused(split_data: Path, tmp_path: Path):
    import shutil

    data = tmp_path / "data"
    shutil.copytree(split_data, data)
    config = config_for(data, tmp_path / "run", epochs=1, resume=True)
    fit(config, QUIET)
    for split in ("train", "eval"):
        (data / split / "red").rename(data / split / "amber")
    with pytest.raises(UserError, match="the data lacks red, adds amber"):
        fit(changed(config, train={"epochs": 2}), QUIET)


def test_a_run_that_was_moved_resumes_by_its_own_config(split_data: Path, tmp_path: Path):
    first = config_for(split_data, tmp_path / "run", epochs=1)
    fit(first, QUIET)
    fit(changed(first, train={"seed": 5}), QUIET)  # moves the first run to run.1
    second = (tmp_path / "run" / "last.pdparams").read_bytes()
    moved = load_config(tmp_path / "run.1" / "config.yaml", ["train.epochs=2", "train.resume=true"])
    assert len(fit(moved, QUIET)) == 2
    assert moved.train.seed == 0 and (tmp_path / "run" / "last.pdparams").read_bytes() == second


def test_the_config_of_a_run_does_not_ask_to_resume(split_data: Path, tmp_path: Path):
    fit(config_for(split_data, tmp_path / "run", epochs=1, resume="auto"), QUIET)
    assert load_config(tmp_path / "run" / "config.yaml").train.resume is False


def test_two_runs_in_one_folder_are_refused_and_a_dead_one_keeps_no_lock(split_data: Path, tmp_path: Path):
    config = config_for(split_data, tmp_path / "run", epochs=1)
    fit(config, QUIET)
    with FolderLock() as another:
        assert another.acquire(tmp_path / "run") == ""
        for resume in (False, True):
            with pytest.raises(UserError, match="another run is writing to"):
                fit(changed(config, train={"epochs": 3, "resume": resume}), QUIET)
    assert not (tmp_path / "run.1").exists()
    with pytest.raises(Death):
        fit(changed(config, train={"epochs": 3, "resume": True}), QUIET, on_step=at_update(1, die))
    assert len(fit(changed(config, train={"epochs": 3, "resume": True}), QUIET)) == 3


def test_a_second_run_in_the_process_is_refused(split_data: Path, tmp_path: Path):
    config = config_for(split_data, tmp_path / "run", epochs=1)

    def start_another() -> None:
        fit(config_for(split_data, tmp_path / "other", epochs=1), QUIET)

    with pytest.raises(UserError, match="another fit"):
        fit(config, QUIET, on_step=at_update(1, start_another))
    assert not (tmp_path / "other").exists() and len(fit(config, QUIET)) == 1


@pytest.mark.parametrize("fate", ["moved", "deleted"])
def test_a_folder_that_is_moved_or_deleted_meanwhile_stops_the_run(
    split_data: Path, tmp_path: Path, fate: str
):
    import shutil

    def lose() -> None:
        (tmp_path / "run").rename(tmp_path / "elsewhere")
        if fate == "deleted":
            shutil.rmtree(tmp_path / "elsewhere")

    with pytest.raises(UserError, match="was moved or deleted while this run wrote to it"):
        fit(config_for(split_data, tmp_path / "run"), QUIET, on_step=at_update(4, lose))
    assert not (tmp_path / "run" / "last.pdparams").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_results_without_a_checkpoint_are_moved_aside(split_data: Path, tmp_path: Path, resume: bool):
    config = config_for(split_data, tmp_path / "run", epochs=1)
    fit(config, QUIET)
    best = (tmp_path / "run" / "best.pdparams").read_bytes()
    (tmp_path / "run" / "last.pdstate").unlink()
    fit(changed(config, train={"seed": 5, "resume": resume}), QUIET)
    assert (tmp_path / "run.1" / "best.pdparams").read_bytes() == best


def test_an_output_that_is_a_link_stays_one(split_data: Path, tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "real")
    config = config_for(split_data, tmp_path / "run", epochs=1)
    fit(config, QUIET)
    fit(changed(config, train={"seed": 5}), QUIET)
    assert (tmp_path / "run").is_symlink()
    assert (tmp_path / "real" / "best.pdparams").exists() and (tmp_path / "real.1" / "best.pdparams").exists()


def test_checkpoints_inside_an_epoch_are_as_many_with_accumulation(split_data: Path, tmp_path: Path):
    """24 steps of an image each, an update every 5 steps: saved at 5, 10, 15, 20 for a checkpoint every 3."""
    config = config_for(split_data, tmp_path / "run", epochs=1, batch_size=1, checkpoint_steps=3)
    config = changed(config, optim={"accumulate": 5}, model={"name": "cifar_resnet20"}, data={"size": 32})
    saved = []
    state_file = tmp_path / "run" / "last.pdstate"

    def on_step(state: TrainState) -> None:  # before this update's own checkpoint
        saved.append(read_checkpoint(state_file)["state"]["progress"]["step"] if state_file.exists() else 0)

    fit(config, QUIET, on_step=on_step)
    assert saved == [0, 5, 10, 15, 20]


@pytest.mark.parametrize("place", ["data", "data/split", "data/split/train", "data/split/runs/one", "."])
def test_an_output_that_holds_the_data_or_is_inside_it_is_refused(
    split_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "split").symlink_to(split_data)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"expected a folder (of its own|outside the data)"):
        fit(config_for(Path("data/split"), Path(place), epochs=1), QUIET)


def test_a_run_that_learns_nothing_says_so(split_data: Path, tmp_path: Path):
    config = config_for(split_data, tmp_path / "run", epochs=3)
    output = io.StringIO()
    still = OptimConfig(lr=0.0)
    fit(dataclasses.replace(config, optim=still), Console(file=output, width=400))
    assert output.getvalue().count("the network is not learning: ") == 1
    learning = io.StringIO()
    fit(config_for(split_data, tmp_path / "learns", epochs=3), Console(file=learning, width=400))
    assert "not learning" not in learning.getvalue()


def test_an_earlier_run_is_moved_aside(split_data: Path, tmp_path: Path):
    config = config_for(split_data, tmp_path / "run", epochs=1)
    fit(config, QUIET)
    before = (tmp_path / "run" / "best.pdparams").read_bytes()
    fit(changed(config, train={"seed": 5}), QUIET)
    assert (tmp_path / "run.1" / "best.pdparams").read_bytes() == before
    assert (tmp_path / "run" / "best.pdparams").read_bytes() != before


def demanding(split_data: Path, output: Path, **train) -> Config:
    """All that a checkpoint must hold: dropout, an average, a rate per step, accumulation, mixed images."""
    config = config_for(split_data, output, **{"batch_size": 4, "epochs": 2} | train)
    config = changed(config, data={"size": 32, "augment": AugmentConfig(rotation=5, mixup=0.3)})
    optim = OptimConfig(
        name="adam", lr=1e-3, schedule_unit="step", warmup_epochs=1, ema_decay=0.9, accumulate=2
    )
    return dataclasses.replace(config, model=ModelConfig("mobilenet_v2", "se"), optim=optim)


@pytest.mark.parametrize("update", [1, 2, 3, 5])  # six updates: in an epoch, and the last of the first epoch
def test_a_signal_ends_the_step_and_saves_and_the_resumed_run_is_bitwise_the_same(
    split_data: Path, tmp_path: Path, update: int
):
    whole = fit(demanding(split_data, tmp_path / "whole"), QUIET)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(
        Stopped, match=r"^SIGTERM after .* all is saved; continue with: .*--resume$"
    ) as stopped:
        fit(demanding(split_data, tmp_path / "broken"), QUIET, on_step=at_update(update, send_sigterm))
    assert stopped.value.exit_code == 143 and signal.getsignal(signal.SIGTERM) == before
    history = fit(demanding(split_data, tmp_path / "broken", resume="auto"), QUIET)
    assert_same_weights(tmp_path / "whole", tmp_path / "broken")
    assert timeless(history) == timeless(whole)


def test_checkpoints_inside_an_epoch_survive_a_death_without_warning(split_data: Path, tmp_path: Path):
    fit(demanding(split_data, tmp_path / "whole"), QUIET)
    with pytest.raises(Death):
        broken = demanding(split_data, tmp_path / "broken", checkpoint_steps=2)
        fit(broken, QUIET, on_step=at_update(6, die))
    output = io.StringIO()
    fit(demanding(split_data, tmp_path / "broken", resume=True), Console(file=output, width=200))
    assert "resuming after step 4 of epoch 2" in output.getvalue()
    assert_same_weights(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(split_data: Path, tmp_path: Path, damage: str):
    config = config_for(split_data, tmp_path / "run", epochs=2)
    whole, weights = fit(config, QUIET), last_weights(tmp_path / "run")
    last = tmp_path / "run" / "last.pdstate"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    if damage == "gone":
        last.unlink()
    output = io.StringIO()
    history = fit(changed(config, train={"resume": True}), Console(file=output, width=200))
    assert "continuing from" in output.getvalue() and "resuming after epoch 1" in output.getvalue()
    assert timeless(history) == timeless(whole)
    for key, value in last_weights(tmp_path / "run").items():
        assert np.array_equal(value, weights[key]), key


def test_a_second_signal_acts_at_once():
    previous = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # background jobs start with it ignored
    try:
        with pytest.raises(KeyboardInterrupt), StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.received == signal.SIGINT
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 60)  # the handler raises before
    finally:
        signal.signal(signal.SIGINT, previous)


# ---- recipes


def test_the_cifar_recipe_runs_on_a_small_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = tmp_path / "data"
    data.mkdir()
    write_cifar(data, monkeypatch)
    changes = ["train.epochs=3", "train.batch_size=20", "optim.milestones=[1, 2]", "optim.lr=0.05"]
    places = [f"data.root={data}", f"train.output={tmp_path / 'run'}"]
    config = load_config(ROOT / "configs" / "cifar" / "resnet20_simam.yaml", [*changes, *places])
    history = fit(config, QUIET)
    assert [metrics.lr for metrics in history] == pytest.approx([0.05, 0.005, 0.0005])
    assert history[-1].train_loss < history[0].train_loss
    assert evaluate_config(config, tmp_path / "run" / "best.pdparams").confusion.sum() == 20


def test_the_imagenet_recipe_runs_on_a_small_folder_with_val(tmp_path: Path):
    data = tmp_path / "data"
    make_images(data / "train", per_class=4)
    make_images(data / "val", per_class=2)
    changes = ["train.epochs=1", "train.batch_size=4", "data.size=64", "data.workers=0"]
    places = [f"data.root={data}", f"train.output={tmp_path / 'run'}"]
    config = load_config(ROOT / "configs" / "imagenet" / "resnet18_simam.yaml", [*changes, *places])
    (metrics,) = fit(config, QUIET)
    assert math.isfinite(metrics.train_loss) and metrics.lr == 0.1


# ---- evaluation


class GreenUnlessRed(paddle.nn.Layer):
    """Predicts green with a small margin, red with a large one."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        is_red = (x[:, 0].mean([1, 2]) > x[:, 1].mean([1, 2]) + 0.5).astype("float32")
        return paddle.stack([paddle.zeros_like(is_red), paddle.ones_like(is_red), 9 * is_red], axis=1)


def test_an_evaluation_counts_right(split_data: Path):
    loader = make_loader(config_for(split_data, Path("unused")), "eval")
    result = evaluate(GreenUnlessRed(), loader, ["blue", "green", "red"])
    assert result.confusion.tolist() == [[0, 2, 0], [0, 2, 0], [0, 0, 2]]
    assert (result.top1, result.top5) == (pytest.approx(4 / 6), 1.0)
    sure, unsure = math.log(math.exp(9) + math.e + 1), math.log(2 + math.e)
    assert result.loss == pytest.approx((2 * (sure - 9) + 2 * (unsure - 1) + 2 * unsure) / 6, rel=1e-4)
    none, all_ = [0.0, pytest.approx(0.6576, abs=1e-4)], [pytest.approx(0.3424, abs=1e-4), 1.0]  # Wilson
    assert result.by_class() == [
        {"class": "blue", "images": 2, "recall": 0.0, "recall_interval": none, "precision": 0.0, "f1": 0.0},
        {
            "class": "green",
            "images": 2,
            "recall": 1.0,
            "recall_interval": all_,
            "precision": 0.5,
            "f1": 2 / 3,
        },
        {"class": "red", "images": 2, "recall": 1.0, "recall_interval": all_, "precision": 1.0, "f1": 1.0},
    ]


def test_an_evaluation_writes_its_metrics(run: tuple[Config, list[EpochMetrics]], tmp_path: Path):
    config, history = run
    elsewhere = changed(config, train={"output": str(tmp_path / "eval")})
    result = evaluate_config(elsewhere, Path(config.train.output) / "best.pdparams")
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["top1"] == result.top1 == max(metrics.eval_top1 for metrics in history)
    assert metrics["images"] == 6 and metrics["classes"] == result.by_class()
    assert (tmp_path / "eval" / "confusion.png").read_bytes()[:4] == b"\x89PNG"


def test_a_loss_that_is_not_finite_is_null_in_the_metrics(tmp_path: Path):
    """NaN is no JSON: strict readers refuse the whole file."""
    for loss in (math.nan, math.inf):
        Evaluation(0.5, 1.0, loss, ["a", "b"], np.eye(2, dtype="int64")).write(tmp_path)
        metrics = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
        assert metrics["loss"] is None and metrics["top1"] == 0.5


# ---- what is refused


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00c", b"blue\x00\ngreen\nred\n", b"\x1b[31mblue\n"])
def test_a_list_of_classes_that_is_not_text_is_refused(split_data: Path, tmp_path: Path, content: bytes):
    config = config_for(split_data, tmp_path)
    save_weights(create_model("towernet", "simam", num_classes=3), tmp_path / "best.pdparams")
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"classes\.txt is damaged: expected the name of a class"):
        load_trained(config, tmp_path / "best.pdparams")


@pytest.mark.parametrize(("section", "key"), [("train", "output"), ("data", "root")])
def test_a_nul_in_a_path_is_refused(split_data: Path, tmp_path: Path, section: str, key: str):
    config = changed(config_for(split_data, tmp_path / "run"), **{section: {key: "a\0b"}})
    with pytest.raises(UserError, match="must be paths, found a NUL character"):
        fit(config, QUIET)


@pytest.mark.skipif(paddle.device.is_compiled_with_cuda(), reason="this Paddle supports GPUs")
def test_a_gpu_without_the_gpu_wheel_is_refused():
    with pytest.raises(UserError, match="the installed Paddle supports only the CPU"):
        set_device("gpu:0")
    assert set_device("auto") == "cpu"


def test_a_too_small_image_is_refused_before_anything_is_written(split_data: Path, tmp_path: Path):
    config = config_for(split_data, tmp_path / "run")
    with pytest.raises(UserError, match=r"data\.size is 96, but towernet needs images of at least 128x128"):
        fit(changed(config, data={"size": 96}), QUIET)
    assert not (tmp_path / "run").exists()
