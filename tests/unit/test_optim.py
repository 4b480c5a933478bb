"""Schedules, optimisers, the loss and the moving average."""

from __future__ import annotations

import copy
import math

import numpy as np
import paddle
import pytest
from helpers import EXPECTED, smaller_kwargs
from hypothesis import given
from hypothesis import strategies as st

from paddle_attn import create_attention, list_attention, ops
from paddle_attn.config import OptimConfig
from paddle_attn.errors import UserError
from paddle_attn.train.ema import ExponentialMovingAverage
from paddle_attn.train.loss import ClassificationLoss
from paddle_attn.train.optim import Adam, Momentum, lr_factor, make_optimizer, make_schedule

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


def test_t_max_is_that_of_paddles_cosine():
    paddles = paddle.optimizer.lr.CosineAnnealingDecay(0.1, T_max=4)
    ours = make_schedule(OptimConfig(lr=0.1, schedule_unit="step", t_max=4), epochs=2, steps_per_epoch=10)
    for _ in range(20):
        assert ours() == pytest.approx(paddles(), abs=1e-9)
        ours.step(), paddles.step()


def test_t_max_without_a_cosine_is_an_error():
    with pytest.raises(UserError, match=r"optim\.t_max is 4 with optim\.schedule 'step', expected 'cosine'"):
        OptimConfig(schedule="step", t_max=4)


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


# the parameters that their authors exempt from weight decay; of a later module in `tests/attention/NAME.json`
WITHOUT_DECAY = {
    "srm": ["cfc", "bn.weight", "bn.bias"],
    **{name: expected["without_decay"] for name, expected in EXPECTED.items() if "without_decay" in expected},
}


@pytest.mark.parametrize("attn", list_attention())
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_spares_what_the_authors_exempt_and_nothing_else(name: str, attn: str):
    layer = create_attention(attn, 32, **smaller_kwargs(attn))
    own = {key: value for key, value in layer.named_parameters() if not value.stop_gradient}
    other = paddle.nn.Linear(4, 4)  # SimAM has no parameters
    parameters = [*own.values(), *other.parameters()]
    for value in parameters:
        value.set_value(np.ones(value.shape, "float32"))
    optimizer = make_optimizer(OptimConfig(name=name, weight_decay=0.5), 0.1, parameters)
    sum((value * 0).sum() for value in parameters).backward()
    optimizer.step()
    assert [key for key, value in own.items() if np.all(value.numpy() == 1)] == WITHOUT_DECAY.get(attn, [])
    assert all(np.all(value.numpy() < 1) for value in other.parameters())


@pytest.mark.parametrize("name", ["sgd", "momentum"])
def test_clipping_bounds_the_common_norm_of_the_gradients(name: str):
    parameters = [parameter(1.0, 1.0), parameter(1.0, 1.0, 1.0)]
    config = OptimConfig(name=name, clip_norm=1.0, weight_decay=0.0)
    optimizer = make_optimizer(config, 1.0, parameters)
    sum((value * 100).sum() for value in parameters).backward()
    optimizer.step()
    moved = np.concatenate([value.numpy() - 1 for value in parameters])
    assert moved == pytest.approx(-np.ones(5) / math.sqrt(5), rel=1e-4)


# ---- the fused update

needs_fused = pytest.mark.skipif(
    not ops.available("momentum"), reason="needs fused operators: no C++ compiler, or PADDLE_ATTN_OPS=off"
)
FUSED = ["momentum", "adam", "adamw"]
PADDLE = {
    "momentum": paddle.optimizer.Momentum,
    "adam": paddle.optimizer.Adam,
    "adamw": paddle.optimizer.AdamW,
}
SHAPES = [[], [1], [17], [7, 5], [6, 4, 3, 3], [40_001]]  # the last has three blocks


class Problem:
    """Parameters of all shapes, an optimiser of one form, and a random linear loss for each step."""

    def __init__(self, form: str, config: OptimConfig, attr: paddle.ParamAttr | None = None):
        random = np.random.default_rng(0)
        with paddle.utils.unique_name.guard():
            self.parameters = [
                paddle.create_parameter(shape, "float32", attr=attr if index else None)
                for index, shape in enumerate(SHAPES)
            ]
        for each in self.parameters:
            each.set_value(random.standard_normal(each.shape).astype("float32"))
        self.form, self.steps = form, 0
        self.schedule = make_schedule(config, epochs=20, steps_per_epoch=1)
        if form == "fused":
            self.optimizer = make_optimizer(config, self.schedule, self.parameters)
        else:
            clip = paddle.nn.ClipGradByGlobalNorm(config.clip_norm) if config.clip_norm else None
            self.optimizer = PADDLE[config.name](
                self.schedule, parameters=self.parameters, weight_decay=config.weight_decay, grad_clip=clip
            )

    def step(self, without: int | None = None, nan: bool = False) -> None:
        """An update; the parameter `without` has no gradient, and one number of a gradient can be NaN."""
        random = np.random.default_rng(self.steps)
        losses = []
        for index, each in enumerate(self.parameters):
            gradient = random.standard_normal(each.shape).astype("float32")
            if nan and index == 2:
                gradient[3] = np.nan
            if index == without or each.stop_gradient:
                continue
            if each.ndim == 2:  # its gradient is not contiguous
                each, gradient = each.transpose([1, 0]), gradient.T
            losses.append((each * paddle.to_tensor(gradient)).sum())
        sum(losses).backward()
        with paddle.utils.unique_name.guard(), ops.using("on" if self.form == "fused" else "off"):
            self.optimizer.step()  # names its tensors at the first step
        self.optimizer.clear_grad(set_to_zero=False)
        self.schedule.step()
        self.steps += 1

    def arrays(self) -> dict[str, np.ndarray]:
        """The parameters and the optimiser's state."""
        state = {name: t for name, t in self.optimizer.state_dict().items() if name != "LR_Scheduler"}
        named = {each.name: each for each in self.parameters} | state
        return {name: tensor.numpy() for name, tensor in named.items()}


def assert_same(found: Problem, expected: Problem, rtol: float = 1e-6) -> None:
    found, expected = found.arrays(), expected.arrays()
    assert list(found) == list(expected)
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=rtol, atol=rtol, err_msg=name)


@needs_fused
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("clip_norm", [None, 1.0, 1e6])
@pytest.mark.parametrize("name", FUSED)
def test_the_fused_update_is_paddles(name: str, clip_norm: float | None, weight_decay: float):
    config = OptimConfig(name=name, lr=0.01, clip_norm=clip_norm, weight_decay=weight_decay)
    fused, paddles = Problem("fused", config), Problem("paddle", config)
    for _ in range(20):
        fused.step(), paddles.step()
    if name == "momentum" and clip_norm != 1.0:
        assert_same(fused, paddles, rtol=0)  # bit for bit
    else:  # Paddle's kernel of Adam depends on the processor; its norm is a sum of float32
        assert_same(fused, paddles, rtol=3e-6)


@needs_fused
@pytest.mark.parametrize(
    ("optimiser", "options"),
    [
        (Momentum, {"use_nesterov": True}),
        (Momentum, {"grad_clip": paddle.nn.ClipGradByNorm(0.1), "weight_decay": 0.1}),
        (Adam, {"amsgrad": True, "weight_decay": 0.1}),
    ],
)
def test_other_settings_of_paddle_are_left_to_paddle(optimiser: type, options: dict):
    """The config offers none of them; a caller of the class may."""

    def trained(kind: type) -> np.ndarray:
        paddle.seed(0)
        layer = paddle.nn.Linear(3, 2)
        optimizer = kind(learning_rate=0.1, parameters=layer.parameters(), **options)
        for _ in range(3):
            layer(paddle.ones([4, 3])).square().sum().backward()
            optimizer.step(), optimizer.clear_grad()
        return layer.weight.numpy()

    np.testing.assert_array_equal(trained(optimiser), trained(getattr(paddle.optimizer, optimiser.__name__)))


@needs_fused
@pytest.mark.parametrize("name", FUSED)
def test_a_frozen_parameter_and_one_without_a_gradient_stay(name: str):
    config = OptimConfig(name=name, weight_decay=0.1, clip_norm=1.0)
    fused, paddles = Problem("fused", config), Problem("paddle", config)
    for problem in (fused, paddles):
        problem.parameters[3].stop_gradient = True
    frozen, before = fused.parameters[3].numpy(), fused.parameters[5].numpy()
    for _ in range(2):
        fused.step(without=5), paddles.step(without=5)
    np.testing.assert_array_equal(fused.parameters[5].numpy(), before)
    fused.step(), paddles.step()
    np.testing.assert_array_equal(fused.parameters[3].numpy(), frozen)
    assert not np.array_equal(fused.parameters[5].numpy(), before)
    assert_same(fused, paddles)


@needs_fused
@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("name", FUSED)
def test_nan_in_a_gradient_reaches_what_it_reaches_in_paddle(name: str, clip_norm: float | None):
    config = OptimConfig(name=name, clip_norm=clip_norm)
    fused, paddles = Problem("fused", config), Problem("paddle", config)
    for problem in (fused, paddles):
        problem.step(nan=True)
    found, expected = fused.arrays(), paddles.arrays()
    for key in found:
        np.testing.assert_array_equal(np.isnan(found[key]), np.isnan(expected[key]), err_msg=key)
    assert np.isnan(fused.parameters[2].numpy()).sum() == (17 if clip_norm else 1)


@needs_fused
@pytest.mark.parametrize(
    "attr",
    [
        paddle.ParamAttr(learning_rate=0.5),
        paddle.ParamAttr(regularizer=paddle.regularizer.L2Decay(0.3)),
        paddle.ParamAttr(regularizer=paddle.regularizer.L1Decay(0.3)),
        paddle.ParamAttr(need_clip=False),
    ],
    ids=["learning_rate", "L2", "L1", "need_clip"],
)
@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_a_parameters_own_settings_hold(name: str, attr: paddle.ParamAttr):
    config = OptimConfig(name=name, clip_norm=1.0, weight_decay=0.1)
    fused, paddles = Problem("fused", config, attr), Problem("paddle", config, attr)
    for _ in range(3):
        fused.step(), paddles.step()
    assert_same(fused, paddles)


@needs_fused
@pytest.mark.parametrize("forms", [("fused", "paddle"), ("paddle", "fused")])
@pytest.mark.parametrize("name", FUSED)
def test_a_state_of_one_form_continues_in_the_other(name: str, forms: tuple[str, str]):
    first, second = (Problem(form, OptimConfig(name=name)) for form in forms)
    for _ in range(3):
        first.step()
    state = {key: copy.deepcopy(value) for key, value in first.optimizer.state_dict().items()}
    second.optimizer.set_state_dict(state)
    second.steps = first.steps
    for to, of in zip(second.parameters, first.parameters, strict=True):
        to.set_value(of)
    for _ in range(3):
        first.step(), second.step()
    assert_same(second, first)


@needs_fused
@pytest.mark.parametrize("name", FUSED)
def test_the_fused_update_gives_the_same_bits_twice(name: str):
    problems = [Problem("fused", OptimConfig(name=name, clip_norm=1.0, weight_decay=0.1)) for _ in range(2)]
    for problem in problems:
        for _ in range(5):
            problem.step()
    assert_same(*problems, rtol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_of_the_loop_drops_the_gradients_and_trains_as_with_zeros(name: str):
    x = np.random.default_rng(0).standard_normal([8, 3]).astype("float32")
    labels, weights = np.arange(8).reshape(8, 1) % 2, []
    for loop in (True, False):
        paddle.seed(0)
        network = paddle.nn.Sequential(paddle.nn.Linear(3, 4), paddle.nn.ReLU(), paddle.nn.Linear(4, 2))
        optimizer, loss = (
            make_optimizer(OptimConfig(name=name), 0.1, network.parameters()),
            ClassificationLoss(),
        )
        model = paddle.Model(network)
        model.prepare(optimizer, loss)
        for step in range(1, 7):
            if loop:
                model.train_batch([x], [labels], update=step % 2 == 0)  # the sum of two gradients
                assert all((each.grad is None) == (step % 2 == 0) for each in network.parameters())
                continue
            loss(network(paddle.to_tensor(x)), paddle.to_tensor(labels)).backward()
            if step % 2 == 0:
                optimizer.step()
                optimizer.clear_grad()
        weights.append(np.concatenate([each.numpy().ravel() for each in network.parameters()]))
    np.testing.assert_array_equal(*weights)


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
