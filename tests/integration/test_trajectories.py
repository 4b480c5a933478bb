"""Our networks start as their authors' do, and train as theirs did for twenty steps."""

from __future__ import annotations

import functools
import json

import numpy as np
import paddle
import pytest
from helpers import COMMITTED
from paddle import Tensor, nn
from paddle.regularizer import L2Decay

from paddle_attn import ops
from paddle_attn.attention import SimAM
from reference.initialisation import (
    CHOSEN,
    has_distribution,
    initial_differences,
    networks_with_a_start,
    unintended,
)
from reference.trajectories import WIDER, training_differences, trajectories

CONTROLS = json.loads((COMMITTED / "trajectories" / "controls.json").read_text(encoding="utf-8"))
FAST = ("cifar/preresnet20/simam", "cifar/resnet20/cbam")
needs_fused = pytest.mark.skipif(
    not ops.available("batch_norm"), reason="needs fused operators: no C++ compiler, or PADDLE_ATTN_OPS=off"
)
FORMS = [pytest.param("off", id="reference"), pytest.param("on", id="fused", marks=needs_fused)]


def marked(name: str, *values: object, fast: tuple[str, ...] = FAST) -> object:
    """The parameters of a test; slow unless the network is one of the fast ones."""
    return pytest.param(
        name, *values, id="-".join((name, *map(str, values))), marks=[] if name in fast else pytest.mark.slow
    )


@functools.cache
def differences(name: str, form: str, dtype: str = "float32") -> dict[str, float]:
    paddle.set_default_dtype(dtype)
    try:
        with ops.using(form):
            return training_differences(COMMITTED, name)
    finally:
        paddle.set_default_dtype("float32")


def outside(found: dict[str, float], allowed: float = 1) -> set[str]:
    """What is not within its tolerance; PyTorch's running variance is another convention, no fault."""
    return {what for what, share in found.items() if not share <= allowed and not what.startswith("unbiased")}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [marked(name) for name in trajectories(COMMITTED)])
def test_trains_as_the_authors_network(name: str, form: str):
    allowed, _ = WIDER.get(name, (1, ""))
    assert not outside(differences(name, form), allowed), differences(name, form)


@pytest.mark.parametrize("name", [marked(name) for name in trajectories(COMMITTED)])
def test_trains_as_the_authors_network_in_double_precision(name: str):
    assert not outside(differences(name, "off", "float64"), 0.1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [marked(name) for name in CONTROLS])
def test_the_running_variance_is_that_of_paddle_and_not_that_of_pytorch(name: str, form: str):
    found = differences(name, form)
    for step in CONTROLS[name]["biased_running_var"]["eval_logits_outside"]:
        assert found[f"unbiased eval logits after {step}"] > 1 >= found[f"eval logits after {step}"]


# ---- wrong trainers


def without_decay_on_vectors(net: nn.Layer) -> None:
    for parameter in net.parameters():
        if parameter.ndim == 1:
            parameter.regularizer = L2Decay(0.0)


def with_batch_norms(net: nn.Layer, **values: float) -> None:
    for layer in net.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            vars(layer).update(values)


def with_lambda(net: nn.Layer) -> None:
    for layer in net.sublayers():
        if isinstance(layer, SimAM):
            layer.e_lambda = 1e-3


class DividedByTheArea(SimAM):
    """SimAM whose variance is divided by h·w, not by h·w - 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)

    def inverse_energy(self, x: Tensor) -> Tensor:
        d = (x - x.mean([2, 3], keepdim=True)) ** 2
        return d / (4 * (d.mean([2, 3], keepdim=True) + self.e_lambda)) + 0.5


def with_divisor(net: nn.Layer) -> None:
    for block in net.sublayers():
        if isinstance(getattr(block, "attn", None), SimAM):
            block.attn = DividedByTheArea(block.attn.channels)


WRONG = {
    "lr_1pct_high": {"lr_factor": 1.01},
    "no_decay_on_1d": {"change": without_decay_on_vectors},
    "bn_eps_1e-3": {"change": functools.partial(with_batch_norms, _epsilon=1e-3)},
    "bn_running_momentum_0.05": {"change": functools.partial(with_batch_norms, _momentum=0.95)},
    "simam_lambda_1e-3": {"change": with_lambda},
    "simam_n_is_hw": {"change": with_divisor},
}


@pytest.mark.parametrize(
    "form",
    [
        pytest.param("off", id="reference"),
        pytest.param("on", id="fused", marks=[needs_fused, pytest.mark.slow]),
    ],
)
@pytest.mark.parametrize(
    ("name", "control"),
    [
        marked(name, control, fast=FAST[:1])
        for name, controls in CONTROLS.items()
        for control in controls
        if control != "biased_running_var"  # Paddle's own, see above
    ],
)
def test_a_wrong_trainer_is_caught_by_what_catches_the_authors(name: str, control: str, form: str):
    with ops.using(form):
        found = outside(training_differences(COMMITTED, name, **WRONG[control]))
    theirs = CONTROLS[name][control]
    expected = {f"eval logits after {step}" for step in theirs["eval_logits_outside"]}
    expected |= {"losses"} if theirs["steps_outside"] else set()
    expected |= {"parameters"} if theirs["params_outside"] else set()
    expected |= {"running statistics"} if theirs["first_bn_outside"] else set()
    # a parameter may fall on either side of its tolerance: the divisor of SimAM changes ours a little less
    assert expected - {"parameters"} <= found and expected & found


# ---- how networks start


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if "wideresnet" in name else ())
        for name in networks_with_a_start(COMMITTED)
    ],
)
def test_every_parameter_starts_as_in_the_authors_network(name: str):
    assert unintended(initial_differences(COMMITTED, name)) == {}


def test_every_chosen_difference_exists():
    found = initial_differences(COMMITTED, "cifar/resnet20/cbam")
    assert len(CHOSEN) == 1 and len(found) == 9 and set(found.values()) == {CHOSEN[0].found}


@pytest.mark.parametrize(
    "kind", [{"normal": 0.1 * 1.04}, {"uniform": 0.1 * 3**0.5}, {"constant": 0.0}], ids=str
)
def test_another_distribution_is_caught(kind: dict[str, float]):
    drawn = np.random.default_rng(0).normal(0, 0.1, [64, 32, 3, 3]).astype("float32")
    assert has_distribution(drawn, {"normal": 0.1})
    assert not has_distribution(drawn, kind)
