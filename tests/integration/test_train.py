"""Training and evaluation: the schedule, the figures, the files, the same run twice, going on after a break."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import io
import json
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import ROOT, config_for, make_images, write_cifar
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from paddle_attn import create_attention, create_model, save_weights
from paddle_attn.config import (
    AugmentConfig,
    Config,
    ModelConfig,
    OptimConfig,
    load_config,
)
from paddle_attn.errors import Stopped, UserError
from paddle_attn.train import evaluate, evaluate_config, fit, load_trained, make_loader, set_device
from paddle_attn.train.ema import WeightAverage
from paddle_attn.train.history import Row
from paddle_attn.train.optim import ClassificationLoss, make_optimizer, make_schedule, rate_factor
from paddle_attn.train.signals import StopRequest
from paddle_attn.weights import read_weights

QUIET = Console(quiet=True)
fit_room = importlib.import_module("paddle_attn.train.fit")  # `engine.fit` is the function


@pytest.fixture(scope="module")
def run(split_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, list[Row]]:
    """One finished run of four epochs, shared by the tests that look at it."""
    config = config_for(split_data, tmp_path_factory.mktemp("run") / "whole", epochs=4)
    return config, fit(config, QUIET)


# ---- the schedule


def test_cosine_is_the_papers_formula_and_is_stepped_per_epoch(run: tuple[Config, list[Row]]):
    config, rows = run
    expected = [0.5 * config.optim.lr * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]
    assert [row.lr for row in rows] == pytest.approx(expected)


def test_per_step_it_moves_with_every_batch(split_data: Path, tmp_path: Path):
    config = config_for(split_data, tmp_path / "run", epochs=2)
    rows = fit(dataclasses.replace(config, optim=OptimConfig(schedule_unit="step", warmup_epochs=1)), QUIET)
    assert [row.lr for row in rows] == pytest.approx([0.01 / 4, 0.01])  # three steps of warm-up, then the top


@given(
    schedule=st.sampled_from(["cosine", "step", "multistep", "constant"]),
    total=st.integers(1, 200),
    warmup=st.integers(0, 20),
    t=st.integers(0, 300),
)
def test_the_factor_is_a_fraction_that_never_rises_after_warm_up(
    schedule: str, total: int, warmup: int, t: int
):
    factor = rate_factor(schedule, total, warmup, drops=[30, 60])
    assert 0 <= factor(t) <= 1
    if t < warmup:
        assert factor(t) < 1 and (t + 1 == warmup or factor(t) < factor(t + 1))
    else:
        assert factor(t + 1) <= factor(t)


def test_step_schedule_divides_when_it_should():
    factor = rate_factor("step", 100, drops=[30, 60, 90], gamma=0.1)
    assert [factor(t) for t in (0, 29, 30, 59, 60)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_warm_up_and_steps_count_in_the_unit(unit: str):
    schedule = make_schedule(
        OptimConfig(lr=1.0, schedule_unit=unit, warmup_epochs=2, schedule="constant"),
        epochs=10,
        steps_per_epoch=5,
    )
    rates = []
    for _ in range(12):
        rates.append(schedule())
        schedule.step()
    top = rates.index(1.0)
    assert top == (2 if unit == "epoch" else 10) and rates[top:] == [1.0] * (12 - top)


# ---- optimisers and loss


@pytest.mark.parametrize("name", ["momentum", "sgd", "adam", "adamw"])
def test_each_optimiser_goes_down_the_slope(name: str):
    weight = paddle.create_parameter([1], "float32", default_initializer=paddle.nn.initializer.Constant(1.0))
    optimizer = make_optimizer(OptimConfig(name=name, weight_decay=0.0), 0.1, [weight])
    for _ in range(20):
        (weight * weight).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
    assert abs(float(weight)) < 0.7


@pytest.mark.parametrize(
    ("name", "expected"), [("sgd", 1 - 0.1 * 0.5), ("momentum", 1 - 0.1 * 0.5), ("adamw", 1 - 0.1 * 0.5)]
)
def test_weight_decay_pulls_to_zero_without_a_gradient(name: str, expected: float):
    weight = paddle.create_parameter([1], "float32", default_initializer=paddle.nn.initializer.Constant(1.0))
    optimizer = make_optimizer(OptimConfig(name=name, weight_decay=0.5), 0.1, [weight])
    (weight * 0).sum().backward()
    optimizer.step()
    assert float(weight) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["momentum", "sgd", "adam", "adamw"])
def test_srm_gets_no_weight_decay_and_the_rest_does(name: str):
    srm, fc = create_attention("srm", 4), paddle.nn.Linear(4, 4)
    srm.cfc.set_value(np.ones([4, 2], "float32"))
    fc.weight.set_value(np.ones([4, 4], "float32"))
    optimizer = make_optimizer(
        OptimConfig(name=name, weight_decay=0.5), 0.1, [*srm.parameters(), *fc.parameters()]
    )
    sum(
        (parameter * 0).sum()
        for parameter in [*srm.parameters(), *fc.parameters()]
        if not parameter.stop_gradient
    ).backward()
    optimizer.step()
    assert (
        np.all(srm.cfc.numpy() == 1) and np.all(srm.bn.weight.numpy() == 1) and np.all(fc.weight.numpy() < 1)
    )


def test_smoothing_is_of_the_training_loss_alone():
    logits, labels = paddle.to_tensor([[2.0, 0.0, -1.0]]), paddle.to_tensor([0])
    loss = ClassificationLoss(0.3)
    log_p = np.log(np.exp([2.0, 0.0, -1.0]) / np.exp([2.0, 0.0, -1.0]).sum())
    assert float(loss(logits, labels)) == pytest.approx(-(np.array([0.8, 0.1, 0.1]) * log_p).sum(), rel=1e-5)
    loss.eval()
    assert float(loss(logits, labels)) == pytest.approx(-log_p[0], rel=1e-5)


# ---- a run and its figures


# ---- what is off by default


def batch_gradients(
    accumulate: int, batch_size: int, split_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, np.ndarray]]:
    """The gradients of a linear network at each update of an epoch."""
    seen = []

    class Linear(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.fc = paddle.nn.Linear(
                3, 3, weight_attr=paddle.ParamAttr(initializer=paddle.nn.initializer.Constant(0.1))
            )

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return self.fc(x.mean([2, 3]))

    class Watched(paddle.optimizer.SGD):
        def minimize(self, *args, **kwargs):
            seen.append({parameter.name: parameter.grad.numpy() for parameter in self._parameter_list})

    monkeypatch.setattr(fit_room, "make_network", lambda config, num_classes: Linear())
    monkeypatch.setattr(fit_room, "make_optimizer", lambda optim, rate, parameters: Watched(rate, parameters))
    config = config_for(split_data, tmp_path / f"{accumulate}-{batch_size}", epochs=1, batch_size=batch_size)
    config = dataclasses.replace(
        config,
        optim=OptimConfig(accumulate=accumulate),
        data=dataclasses.replace(config.data, augment=AugmentConfig(rotation=0)),
    )
    rows = fit(config, QUIET)
    return [*seen, {"loss": np.float32(rows[0].train_loss)}]


def test_accumulated_gradients_are_the_average_over_all_images_of_the_group(
    split_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Batches of 5, 5, 5, 5, 4: groups of two are batches of 10, 10 and 4."""
    for small, large in zip(
        batch_gradients(2, 5, split_data, tmp_path, monkeypatch),
        batch_gradients(1, 10, split_data, tmp_path, monkeypatch),
        strict=True,
    ):
        for one, other in zip(small.values(), large.values(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_the_average_follows_its_formula_and_two_swaps_change_nothing():
    net = paddle.nn.Linear(1, 1, bias_attr=False)
    average, expected = WeightAverage(net, 0.5), float(net.weight)
    for update, value in enumerate([3.0, -1.0, 4.0, 1.0]):
        net.weight.set_value(np.float32([[value]]))
        average.update()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * value
    average.swap()
    assert float(net.weight) == pytest.approx(expected, rel=1e-6)
    average.swap()
    assert float(net.weight) == 1.0


def test_a_run_with_an_average_evaluates_and_keeps_it_and_resumes_bitwise(
    split_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def averaged(name: str, **train) -> Config:
        config = config_for(split_data, tmp_path / name, **train)
        return dataclasses.replace(config, optim=dataclasses.replace(config.optim, ema_decay=0.9))

    whole = fit(averaged("whole"), QUIET)
    plain = fit(config_for(split_data, tmp_path / "plain"), QUIET)
    assert [row.train_loss for row in whole] == [
        row.train_loss for row in plain
    ]  # the average takes no part in training
    assert whole[-1].eval_loss != plain[-1].eval_loss
    evaluation = evaluate(
        load_trained(averaged("whole"), tmp_path / "whole" / "last.pdparams")[0],
        make_loader(averaged("whole"), "eval"),
        ["a", "b", "c"],
    )
    assert evaluation.loss == pytest.approx(whole[-1].eval_loss, rel=1e-5)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted_after(1, patch)
        fit(averaged("broken"), QUIET)
    fit(averaged("broken", resume=True), QUIET)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize("name", ["momentum", "sgd", "adam", "adamw"])
def test_clipping_bounds_the_common_norm_of_the_gradients(name: str):
    parameters = [paddle.create_parameter([4], "float32") for _ in range(2)]
    before = [parameter.numpy().copy() for parameter in parameters]
    optimizer = make_optimizer(OptimConfig(name=name, clip_norm=1.0, weight_decay=0.0), 1.0, parameters)
    sum((parameter * 100).sum() for parameter in parameters).backward()
    clipped = optimizer._grad_clip([(parameter, parameter.grad) for parameter in parameters])
    assert float(sum((gradient**2).sum() for _, gradient in clipped)) == pytest.approx(1.0, rel=1e-4)
    optimizer.step()
    if name in ("sgd", "momentum"):
        moved = np.concatenate(
            [parameter.numpy() - old for parameter, old in zip(parameters, before, strict=True)]
        )
        assert np.linalg.norm(moved) == pytest.approx(1.0, rel=1e-4)


def test_a_run_without_progress_ends_early_and_does_not_go_on(split_data: Path, tmp_path: Path):
    config = config_for(split_data, tmp_path / "run", epochs=9, patience=2)
    config = dataclasses.replace(config, optim=OptimConfig(lr=0.0))  # learns nothing
    said = io.StringIO()
    rows = fit(config, Console(file=said, width=200))
    assert (
        len(rows) == 3 and "eval top-1 has not risen for 2 epochs" in said.getvalue()
    )  # the first epoch is the best
    assert (
        len(fit(dataclasses.replace(config, train=dataclasses.replace(config.train, resume=True)), QUIET))
        == 3
    )


def test_a_loss_that_is_no_number_stops_the_run_and_names_where(
    split_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = config_for(split_data, tmp_path / "run", epochs=3, stop_on_nan=True)
    right = ClassificationLoss.forward

    def wrong(self, logits, labels, *others):
        wrong.calls += self.training
        return right(self, logits, labels, *others) * (float("nan") if wrong.calls == 5 else 1.0)

    wrong.calls = 0
    monkeypatch.setattr(ClassificationLoss, "forward", wrong)
    with pytest.raises(
        UserError,
        match=r"step 2 of epoch 2, learning rate 0\.00075: the last good checkpoint is .*last\.pdstate, of epoch 1",
    ):
        fit(config, QUIET)
    assert (tmp_path / "run" / "best.pdparams").exists()


def test_mixed_precision_on_a_cpu_is_refused(split_data: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"train\.amp is 'O1', but this run is on the cpu"):
        fit(config_for(split_data, tmp_path / "run", amp="O1"), QUIET)
    assert not (tmp_path / "run").exists()


def test_a_mixed_batch_has_the_loss_of_both_labels():
    logits, labels = paddle.randn([4, 3]), paddle.to_tensor([0, 1, 2, 0])
    others, part = labels.flip([0]), paddle.full([4], 0.3)
    loss = ClassificationLoss(0.1)
    one, other = loss(logits, labels), loss(logits, others)
    assert float(loss(logits, labels, others, part)) == pytest.approx(
        0.3 * float(one) + 0.7 * float(other), rel=1e-5
    )


@pytest.mark.parametrize("mixing", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_a_run_with_mixed_batches_learns_and_is_the_same_twice(
    split_data: Path, tmp_path: Path, mixing: dict
):
    rows = []
    for name in ("one", "two"):
        config = config_for(split_data, tmp_path / name)
        config = dataclasses.replace(
            config, data=dataclasses.replace(config.data, augment=AugmentConfig(**mixing))
        )
        rows.append([dataclasses.replace(row, seconds=0.0) for row in fit(config, QUIET)])
    assert rows[0] == rows[1] and rows[0][-1].train_loss < rows[0][0].train_loss


def test_a_run_leaves_all_that_it_promises(run: tuple[Config, list[Row]]):
    config, rows = run
    folder = Path(config.train.output)
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "best.pdparams",
        "last.pdparams",
        "last.pdstate",
        "before.pdstate",
        "config.yaml",
        "classes.txt",
        "history.csv",
        "curves.png",
        "vdl",
    }
    assert (folder / "classes.txt").read_text().split() == ["blue", "green", "red"]
    with open(folder / "history.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(line["epoch"]) for line in table] == [1, 2, 3, 4]
    assert [float(line["eval_loss"]) for line in table] == [row.eval_loss for row in rows]


def test_the_network_learns_three_colours(run: tuple[Config, list[Row]]):
    _, rows = run
    assert max(row.eval_top1 for row in rows) >= 0.8 and rows[-1].train_loss < rows[0].train_loss


def test_logged_eval_figures_are_those_of_an_evaluation_of_the_saved_weights(
    run: tuple[Config, list[Row]], tmp_path: Path
):
    config, rows = run
    loader = make_loader(config, "eval")
    best = max(rows, key=lambda row: row.eval_top1)
    for name, row in [("last", rows[-1]), ("best", best)]:
        net, classes = load_trained(config, Path(config.train.output) / f"{name}.pdparams")
        result = evaluate(net, loader, classes)
        assert result.top1 == pytest.approx(row.eval_top1) and result.loss == pytest.approx(
            row.eval_loss, rel=1e-4
        )
        assert result.top5 == row.eval_top5 == 1.0  # of three classes


def test_the_training_loss_is_the_mean_over_the_images(
    split_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen = []
    forward = ClassificationLoss.forward

    def spy(self, logits, labels):
        loss = forward(self, logits, labels)
        seen.append((self.training, len(labels), float(loss)))
        return loss

    monkeypatch.setattr(ClassificationLoss, "forward", spy)
    (row,) = fit(config_for(split_data, tmp_path / "run", epochs=1), QUIET)
    for training, logged, images in [(True, row.train_loss, 24), (False, row.eval_loss, 6)]:
        batches = [(count, loss) for mode, count, loss in seen if mode == training]
        assert sum(count for count, _ in batches) == images
        assert logged == pytest.approx(sum(count * loss for count, loss in batches) / images, rel=1e-5)


def read_log(folder: Path, part: str, tag: str) -> list[tuple[int, float]]:
    from visualdl import LogReader

    (file,) = (folder / "vdl" / part).glob("*.log")
    return [(point.id, point.value) for point in LogReader(file_path=str(file)).get_data("scalar", tag)]


def test_visualdl_has_every_epoch_once(run: tuple[Config, list[Row]]):
    config, rows = run
    folder = Path(config.train.output)
    for part in ("train", "eval"):
        for figure in ("loss", "top1", "top5"):
            points = read_log(folder, part, figure)
            assert [step for step, _ in points] == [1, 2, 3, 4]
            assert [value for _, value in points] == pytest.approx(
                [getattr(row, f"{part}_{figure}") for row in rows], rel=1e-5
            )
    assert [value for _, value in read_log(folder, "train", "lr")] == pytest.approx(
        [row.lr for row in rows], rel=1e-5
    )


def test_visualdl_has_sample_images_and_the_settings(run: tuple[Config, list[Row]]):
    from visualdl import LogReader

    folder = Path(run[0].train.output)
    tags = {
        part: LogReader(file_path=str(next((folder / "vdl" / part).glob("*.log")))).get_tags()
        for part in ("train", "eval")
    }
    assert tags["train"]["image"] == ["samples"] and tags["eval"]["hyper_parameters"] == ["hparam"]


# ---- the same again


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return read_weights(folder / "last.pdparams")


def assert_same_run(one: Path, two: Path) -> None:
    first, second = weights_of(one), weights_of(two)
    assert first.keys() == second.keys()
    for key in first:
        assert np.array_equal(first[key], second[key]), key


def test_a_seed_gives_the_same_run_twice_bitwise(run: tuple[Config, list[Row]], tmp_path: Path):
    config, rows = run
    again = dataclasses.replace(
        config, train=dataclasses.replace(config.train, output=str(tmp_path / "again"))
    )
    repeated = fit(again, QUIET)
    assert_same_run(Path(config.train.output), tmp_path / "again")
    assert [dataclasses.replace(row, seconds=0) for row in repeated] == [
        dataclasses.replace(row, seconds=0) for row in rows
    ]
    other = dataclasses.replace(
        config, train=dataclasses.replace(config.train, output=str(tmp_path / "other"), seed=1, epochs=1)
    )
    fit(other, QUIET)
    assert not np.array_equal(
        weights_of(tmp_path / "other")["b6.weight"], weights_of(tmp_path / "again")["b6.weight"]
    )


def interrupted_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C when this many epochs are done."""
    from paddle_attn.train.callbacks import EpochRecorder

    begin = EpochRecorder.on_epoch_begin

    def stop(self, epoch, logs=None):
        if self.first_epoch + epoch == epochs:
            raise KeyboardInterrupt
        begin(self, epoch, logs)

    monkeypatch.setattr(EpochRecorder, "on_epoch_begin", stop)


def test_a_resumed_run_ends_as_the_undisturbed_one(run: tuple[Config, list[Row]], tmp_path: Path):
    whole, rows = run
    config = dataclasses.replace(
        whole, train=dataclasses.replace(whole.train, output=str(tmp_path / "broken"), resume=True)
    )
    with pytest.MonkeyPatch.context() as patch:
        interrupted_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            fit(config, QUIET)
    resumed = fit(config, QUIET)
    assert_same_run(Path(whole.train.output), tmp_path / "broken")
    assert [dataclasses.replace(row, seconds=0) for row in resumed] == [
        dataclasses.replace(row, seconds=0) for row in rows
    ]
    assert [step for step, _ in read_log(tmp_path / "broken", "eval", "loss")] == [1, 2, 3, 4]
    assert fit(config, QUIET) == resumed  # nothing is left to do


def test_a_longer_schedule_goes_on_with_its_own_rates(split_data: Path, tmp_path: Path):
    short = config_for(split_data, tmp_path / "run", epochs=1, resume=True)
    fit(short, QUIET)
    rows = fit(dataclasses.replace(short, train=dataclasses.replace(short.train, epochs=4)), QUIET)
    assert [row.lr for row in rows[1:]] == pytest.approx(
        [0.5 * 1e-3 * (1 + math.cos(math.pi * epoch / 4)) for epoch in (1, 2, 3)]
    )


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
def test_going_on_with_another_config_is_refused(run: tuple[Config, list[Row]], section: str, change: dict):
    config, _ = run
    resumed = dataclasses.replace(config, train=dataclasses.replace(config.train, resume=True, epochs=9))
    other = dataclasses.replace(
        resumed, **{section: dataclasses.replace(getattr(resumed, section), **change)}
    )
    with pytest.raises(UserError, match=f"had {section}.{next(iter(change))} .*expected the same to go on"):
        fit(other, QUIET)


def test_an_earlier_run_is_moved_aside_not_overwritten(split_data: Path, tmp_path: Path):
    config = config_for(split_data, tmp_path / "run", epochs=1)
    fit(config, QUIET)
    before = (tmp_path / "run" / "best.pdparams").read_bytes()
    fit(dataclasses.replace(config, train=dataclasses.replace(config.train, seed=5)), QUIET)
    assert (
        (tmp_path / "run.1" / "best.pdparams").read_bytes()
        == before
        != (tmp_path / "run" / "best.pdparams").read_bytes()
    )


def test_starting_from_weights_of_other_classes_says_what_starts_anew(split_data: Path, tmp_path: Path):
    save_weights(create_model("towernet", "simam", num_classes=7), tmp_path / "seven.pdparams")
    config = config_for(split_data, tmp_path / "run", epochs=1)
    console = Console(record=True, width=300, file=io.StringIO())
    fit(
        dataclasses.replace(
            config, model=dataclasses.replace(config.model, weights=str(tmp_path / "seven.pdparams"))
        ),
        console,
    )
    assert "the classifier starts anew (b6.weight: expected [256, 3], found [256, 7]" in console.export_text()


def test_the_cifar_recipe_runs_on_a_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_cifar(tmp_path, monkeypatch)
    changes = [
        f"data.root={tmp_path}",
        "train.epochs=3",
        "train.batch_size=20",
        "optim.milestones=[1, 2]",
        "optim.lr=0.05",
    ]
    config = load_config(
        ROOT / "configs" / "cifar" / "resnet20_simam.yaml", [*changes, f"train.output={tmp_path / 'run'}"]
    )
    rows = fit(config, QUIET)
    assert [row.lr for row in rows] == pytest.approx([0.05, 0.005, 0.0005])
    assert rows[-1].train_loss < rows[0].train_loss
    assert evaluate_config(config, tmp_path / "run" / "best.pdparams").confusion.sum() == 20


def test_the_imagenet_recipe_runs_on_a_small_folder_with_val(tmp_path: Path):
    make_images(tmp_path / "train", per_class=4)
    make_images(tmp_path / "val", per_class=2)
    changes = [
        f"data.root={tmp_path}",
        "train.epochs=1",
        "train.batch_size=4",
        "data.size=64",
        "data.workers=0",
    ]
    config = load_config(
        ROOT / "configs" / "imagenet" / "resnet18_simam.yaml", [*changes, f"train.output={tmp_path / 'run'}"]
    )
    (row,) = fit(config, QUIET)
    assert math.isfinite(row.train_loss) and row.lr == 0.1


def test_all_augmentations_and_workers_run(split_data: Path, tmp_path: Path):
    config = config_for(split_data, tmp_path / "run", epochs=1)
    augment = AugmentConfig(rotation=10, hflip=0.5, vflip=0.5, crop_scale=(0.5, 1.0), color_jitter=0.2)
    (row,) = fit(
        dataclasses.replace(
            config, data=dataclasses.replace(config.data, augment=augment, workers=1, resize="crop")
        ),
        QUIET,
    )
    assert math.isfinite(row.train_loss)


# ---- evaluation


def test_evaluation_counts_right(split_data: Path):
    class Always(paddle.nn.Layer):
        """Says green, unless the image is red."""

        def forward(self, x):
            is_red = (x[:, 0].mean([1, 2]) > x[:, 1].mean([1, 2]) + 0.5).astype("float32")
            return paddle.stack([paddle.zeros_like(is_red), paddle.ones_like(is_red), 9 * is_red], axis=1)

    loader = make_loader(config_for(split_data, Path("unused")), "eval")
    result = evaluate(Always(), loader, ["blue", "green", "red"])
    assert result.confusion.tolist() == [[0, 2, 0], [0, 2, 0], [0, 0, 2]]
    assert (result.top1, result.top5) == (pytest.approx(4 / 6), 1.0)
    sure, unsure = math.log(math.exp(9) + math.e + 1), math.log(2 + math.e)
    assert result.loss == pytest.approx((2 * (sure - 9) + 2 * (unsure - 1) + 2 * unsure) / 6, rel=1e-4)
    assert result.by_class()[1] == {"class": "green", "images": 2, "recall": 1.0, "precision": 0.5}
    assert result.by_class()[0]["precision"] == 0.0


def test_evaluation_writes_its_metrics(run: tuple[Config, list[Row]], tmp_path: Path):
    config, rows = run
    elsewhere = dataclasses.replace(
        config, train=dataclasses.replace(config.train, output=str(tmp_path / "eval"))
    )
    result = evaluate_config(elsewhere, Path(config.train.output) / "best.pdparams")
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["top1"] == result.top1 == max(row.eval_top1 for row in rows)
    assert metrics["images"] == 6 and {line["class"] for line in metrics["classes"]} == {
        "blue",
        "green",
        "red",
    }
    assert (tmp_path / "eval" / "confusion.png").read_bytes()[:4] == b"\x89PNG"


# ---- what is refused


def test_device_that_is_not_there_is_told():
    if not paddle.device.is_compiled_with_cuda():
        with pytest.raises(UserError, match="this Paddle was built for CPU alone"):
            set_device("gpu:0")
    assert set_device("cpu")


def test_too_small_an_image_is_told_before_anything_is_written(split_data: Path, tmp_path: Path):
    config = config_for(split_data, tmp_path / "run")
    with pytest.raises(UserError, match=r"data\.size is 96, but towernet needs images of at least 128x128"):
        fit(dataclasses.replace(config, data=dataclasses.replace(config.data, size=96)), QUIET)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_network_is_refused(split_data: Path, tmp_path: Path):
    config = config_for(split_data, tmp_path / "run", epochs=1)
    fit(config, QUIET)
    other = dataclasses.replace(
        config, model=ModelConfig(attn="se"), train=dataclasses.replace(config.train, resume=True, epochs=2)
    )
    with pytest.raises(UserError, match=r"had model\.attn .simam., expected the same to go on, found .se."):
        fit(other, QUIET)
    state = tmp_path / "run" / "last.pdstate"
    state.write_bytes(state.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"last\.pdstate is damaged"):
        fit(other, QUIET)


# ---- nothing is lost


def stopping_at(step: int, monkeypatch: pytest.MonkeyPatch, how: Callable[[], None]) -> None:
    """Do something when this step of the whole run ends, counted from 1."""
    from paddle_attn.train.callbacks import EpochRecorder

    end, seen = EpochRecorder.on_train_batch_end, []

    def watched(self, *args):
        seen.append(1)
        if len(seen) == step:
            how()
        end(self, *args)

    monkeypatch.setattr(EpochRecorder, "on_train_batch_end", watched)


def demanding(split_data: Path, output: Path, **train) -> Config:
    """Everything that a checkpoint must hold: dropout, an average, a rate that moves with each step, groups of batches, mixed images."""
    config = config_for(split_data, output, **{"batch_size": 4, "epochs": 2} | train)
    optim = OptimConfig(
        name="adam", lr=1e-3, schedule_unit="step", warmup_epochs=1, ema_decay=0.9, accumulate=2
    )
    data = dataclasses.replace(config.data, size=32, augment=AugmentConfig(rotation=5, mixup=0.3))
    return dataclasses.replace(config, model=ModelConfig("mobilenet_v2", "se"), optim=optim, data=data)


@pytest.mark.parametrize("step", [2, 3, 8, 10])
def test_a_signal_ends_the_step_saves_and_the_run_ends_bitwise_as_if_undisturbed(
    split_data: Path, tmp_path: Path, monkeypatch, step: int
):
    whole = fit(demanding(split_data, tmp_path / "whole"), QUIET)
    with (
        monkeypatch.context() as patch,
        pytest.raises(Stopped, match=r"^SIGTERM after .* all is saved; go on with: .*--resume$") as stopped,
    ):
        stopping_at(step, patch, lambda: os.kill(os.getpid(), signal.SIGTERM))
        fit(demanding(split_data, tmp_path / "broken"), QUIET)
    assert stopped.value.exit_code == 143
    rows = fit(demanding(split_data, tmp_path / "broken", resume="auto"), QUIET)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
    assert [dataclasses.replace(row, seconds=0) for row in rows] == [
        dataclasses.replace(row, seconds=0) for row in whole
    ]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_checkpoints_between_epochs_survive_a_death_without_warning(
    split_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Death(BaseException):
        pass

    def die() -> None:
        raise Death

    fit(demanding(split_data, tmp_path / "whole"), QUIET)
    with monkeypatch.context() as patch, pytest.raises(Death):
        stopping_at(11, patch, die)
        fit(demanding(split_data, tmp_path / "broken", checkpoint_steps=2), QUIET)
    said = io.StringIO()
    fit(demanding(split_data, tmp_path / "broken", resume=True), Console(file=said, width=200))
    assert "going on after step 4 of epoch 2" in said.getvalue()
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_of_a_damaged_checkpoint_the_one_before_is_taken(split_data: Path, tmp_path: Path, damage: str):
    config = config_for(split_data, tmp_path / "run", epochs=2)
    whole = fit(config, QUIET)
    weights = weights_of(tmp_path / "run")
    last = tmp_path / "run" / "last.pdstate"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    if damage == "gone":
        last.unlink()
    said = io.StringIO()
    rows = fit(
        dataclasses.replace(config, train=dataclasses.replace(config.train, resume=True)),
        Console(file=said, width=200),
    )
    assert "going on with" in said.getvalue() and "going on after epoch 1" in said.getvalue()
    assert [row.eval_loss for row in rows] == [row.eval_loss for row in whole]
    for key, value in weights_of(tmp_path / "run").items():
        assert np.array_equal(value, weights[key])


def test_a_second_signal_acts_at_once():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins with it ignored
    with pytest.raises(KeyboardInterrupt), StopRequest() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.signal == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
