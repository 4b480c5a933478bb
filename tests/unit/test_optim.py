"""Schedules, optimisers, the loss and the moving average."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddle_attn import create_attention
from paddle_attn.config import OptimConfig
from paddle_attn.train.ema import ExponentialMovingAverage
from paddle_attn.train.loss import ClassificationLoss
from paddle_attn.train.optim import lr_factor, make_optimizer, make_schedule

OPTIMIZERS = ["momentum", "sgd", "adam", "adamw"]


def parameter(*values: float) -> paddle.Tensor:
    """A trainable vector."""
    start = paddle.nn.initializer.Assign(np.float32(values))
    return paddle.create_parameter([len(values)], "float32", default_initializer=start)


# ---- schedules


@given(
    schedule=st.sampled_from(["cosine", "step", "multistep", "constant"]),
    total=st.integers(1, 200),
    warmup=st.integers(0, 20),
    t=st.integers(0, 300),
)
def test_the_factor_rises_in_warm_up_and_never_after(schedule: str, total: int, warmup: int, t: int):
    factor = lr_factor(schedule, total, warmup, drops=[30, 60])
    assert 0 <= factor(t) <= 1
    if t < warmup:
        assert factor(t) < 1 and (t + 1 == warmup or factor(t) < factor(t + 1))
    else:
        assert factor(t + 1) <= factor(t)


def test_the_cosine_is_the_papers_formula():
    factor = lr_factor("cosine", 8)
    expected = [0.5 * (1 + math.cos(math.pi * t / 8)) for t in range(9)]
    assert [factor(t) for t in range(9)] == pytest.approx(expected)


def test_the_step_schedule_multiplies_by_gamma_at_each_drop():
    factor = lr_factor("step", 100, drops=[30, 60, 90], gamma=0.1)
    assert [factor(t) for t in (0, 29, 30, 59, 60)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_warm_up_counts_in_the_unit_of_the_schedule(unit: str):
    optim = OptimConfig(lr=1.0, schedule_unit=unit, warmup_epochs=2, schedule="constant")
    schedule = make_schedule(optim, epochs=10, steps_per_epoch=5)
    rates = []
    for _ in range(12):
        rates.append(schedule())
        schedule.step()
    end = 2 if unit == "epoch" else 10
    assert rates[:end] == pytest.approx([(t + 1) / (end + 1) for t in range(end)])
    assert rates[end:] == [1.0] * (12 - end)


@pytest.mark.parametrize(("scale_lr", "expected"), [(False, 0.1), (True, 0.4)])
@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_the_rate_grows_with_the_processes_only_with_scale_lr(unit: str, scale_lr: bool, expected: float):
    optim = OptimConfig(lr=0.1, schedule="constant", schedule_unit=unit, scale_lr=scale_lr)
    assert make_schedule(optim, 3, 10, world_size=4).get_lr() == pytest.approx(expected)
    assert make_schedule(optim, 3, 10).get_lr() == pytest.approx(0.1)


# ---- optimisers


def first_update(name: str) -> float:
    """What the papers' formulas subtract from a weight of 1 with gradient 2 at a rate of 0.1."""
    return {"sgd": 0.2, "momentum": 0.2, "adam": 0.1, "adamw": 0.1}[name]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_first_update_is_the_papers(name: str):
    weight = parameter(1.0)
    optimizer = make_optimizer(OptimConfig(name=name, weight_decay=0.0), 0.1, [weight])
    (weight * weight).sum().backward()
    optimizer.step()
    assert float(weight) == pytest.approx(1 - first_update(name), rel=1e-5)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw"])
def test_weight_decay_shrinks_a_weight_without_a_gradient(name: str):
    weight = parameter(1.0)
    optimizer = make_optimizer(OptimConfig(name=name, weight_decay=0.5), 0.1, [weight])
    (weight * 0).sum().backward()
    optimizer.step()
    assert float(weight) == pytest.approx(1 - 0.1 * 0.5, rel=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_srm_is_exempt_from_weight_decay(name: str):
    srm, fc = create_attention("srm", 4), paddle.nn.Linear(4, 4)
    srm.cfc.set_value(np.ones([4, 2], "float32"))
    fc.weight.set_value(np.ones([4, 4], "float32"))
    parameters = [*srm.parameters(), *fc.parameters()]
    optimizer = make_optimizer(OptimConfig(name=name, weight_decay=0.5), 0.1, parameters)
    sum((value * 0).sum() for value in parameters if not value.stop_gradient).backward()
    optimizer.step()
    assert np.all(srm.cfc.numpy() == 1) and np.all(srm.bn.weight.numpy() == 1)
    assert np.all(fc.weight.numpy() < 1)


@pytest.mark.parametrize("name", ["sgd", "momentum"])
def test_clipping_bounds_the_common_norm_of_the_gradients(name: str):
    parameters = [parameter(1.0, 1.0), parameter(1.0, 1.0, 1.0)]
    config = OptimConfig(name=name, clip_norm=1.0, weight_decay=0.0)
    optimizer = make_optimizer(config, 1.0, parameters)
    sum((value * 100).sum() for value in parameters).backward()
    optimizer.step()
    moved = np.concatenate([value.numpy() - 1 for value in parameters])
    assert moved == pytest.approx(-np.ones(5) / math.sqrt(5), rel=1e-4)


# ---- the loss


def test_label_smoothing_mixes_the_target_with_all_classes():
    logits = np.array([2.0, 0.0, -1.0])
    log_p = np.log(np.exp(logits) / np.exp(logits).sum())
    loss = ClassificationLoss(label_smoothing=0.3)
    found = loss(paddle.to_tensor([logits], dtype="float32"), paddle.to_tensor([0]))
    assert float(found) == pytest.approx(-(np.array([0.8, 0.1, 0.1]) * log_p).sum(), rel=1e-5)


def test_a_mixed_batch_has_the_loss_of_both_labels():
    logits, labels = paddle.randn([4, 3]), paddle.to_tensor([0, 1, 2, 0])
    other_labels, lam = labels.flip([0]), paddle.full([4], 0.3)
    loss = ClassificationLoss(0.1)
    expected = 0.3 * float(loss(logits, labels)) + 0.7 * float(loss(logits, other_labels))
    assert float(loss(logits, labels, other_labels, lam)) == pytest.approx(expected, rel=1e-5)


# ---- the moving average


def test_the_average_follows_its_formula_and_is_in_the_network_only_inside_the_block():
    network = paddle.nn.Linear(1, 1, bias_attr=False)
    ema, expected = ExponentialMovingAverage(network, 0.5), float(network.weight)
    for update, value in enumerate([3.0, -1.0, 4.0, 1.0]):
        network.weight.set_value(np.float32([[value]]))
        ema.update()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * value
    with ema.applied():
        assert float(network.weight) == pytest.approx(expected, rel=1e-6)
    assert float(network.weight) == 1.0
    assert float(ema.average["weight"]) == pytest.approx(expected, rel=1e-6)
