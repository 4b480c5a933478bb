"""The compiled operators: each does what the plain form does, and is left alone where it does not serve."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn

from paddle_attn import create_attention, create_model, ops
from paddle_attn.attention.base import global_mean, scale
from paddle_attn.attention.cbam import max_and_mean
from paddle_attn.errors import UserError
from paddle_attn.models.layers import Conv2D, MaxPool2D

needs_operators = pytest.mark.skipif(
    ops.kernels(paddle.zeros([1, 1, 2, 2])) is None,
    reason="no compiled operators here (no C++ compiler?): not held against the plain form",
)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype("float32")


def results(layer: nn.Layer, x: np.ndarray, dtype: str) -> list[np.ndarray]:
    """The output, and the gradients of the input and of every parameter, for a gradient of the output that has no symmetry."""
    layer.to(dtype=dtype)
    layer.clear_gradients()
    tensor = paddle.to_tensor(x.astype(dtype), stop_gradient=False)
    y = layer(tensor)
    y.backward(paddle.to_tensor(noise(*y.shape).astype(dtype)))
    return [y.numpy(), tensor.grad.numpy(), *(parameter.grad.numpy() for parameter in layer.parameters())]


def assert_both_forms_are_exact(layer: nn.Layer, x: np.ndarray) -> None:
    """Against the plain form in float64, which the operators leave alone."""
    for parameter in layer.parameters():
        parameter.set_value(noise(*parameter.shape))
    exact = results(layer, x, "float64")
    for mode in ("on", "off"):
        with ops.using(mode):
            assert (ops.kernels(paddle.to_tensor(x)) is not None) == (mode == "on" and x.shape[2:] != (1, 1))
            for found, expected in zip(results(layer, x, "float32"), exact, strict=True):
                np.testing.assert_allclose(
                    found, expected, atol=1e-5 * max(1, np.abs(expected).max()), err_msg=mode
                )


BATCH, CHANNELS, SIDE = st.integers(1, 3), st.integers(1, 5), st.integers(1, 19)


@needs_operators
@settings(max_examples=25, deadline=None)
@given(BATCH, CHANNELS, SIDE, SIDE, st.sampled_from([1e-4, 0.1]))
def test_simam(batch: int, channels: int, height: int, width: int, e_lambda: float):
    assert_both_forms_are_exact(
        create_attention("simam", channels, e_lambda=e_lambda), noise(batch, channels, height, width)
    )


@needs_operators
@settings(max_examples=25, deadline=None)
@given(BATCH, CHANNELS, st.integers(2, 4), st.integers(2, 19), st.integers(2, 19))
def test_sge(batch: int, groups: int, each: int, height: int, width: int):
    assert_both_forms_are_exact(
        create_attention("sge", groups * each, groups=groups), noise(batch, groups * each, height, width)
    )


@needs_operators
@settings(max_examples=25, deadline=None)
@given(BATCH, st.integers(2, 5), SIDE, SIDE, st.sampled_from([1, 2]))
def test_depthwise_convolution(batch: int, channels: int, height: int, width: int, stride: int):
    layer = Conv2D(channels, channels, 3, stride, padding=1, groups=channels, bias_attr=False)
    assert layer.depthwise
    assert_both_forms_are_exact(layer, noise(batch, channels, height, width))


@needs_operators
@settings(max_examples=25, deadline=None)
@given(BATCH, st.integers(8, 20), st.integers(1, 20), SIDE, SIDE, st.booleans())
def test_dense_3x3_convolution(
    batch: int, in_channels: int, out_channels: int, height: int, width: int, bias: bool
):
    layer = Conv2D(in_channels, out_channels, 3, padding=1, bias_attr=None if bias else False)
    assert layer.dense
    assert_both_forms_are_exact(layer, noise(batch, in_channels, height, width))


@needs_operators
@settings(max_examples=25, deadline=None)
@given(
    BATCH,
    CHANNELS,
    st.integers(3, 19),
    st.integers(3, 19),
    st.sampled_from([(2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 3, 0)]),
)
def test_max_pool(batch: int, channels: int, height: int, width: int, window: tuple[int, int, int]):
    assert_both_forms_are_exact(MaxPool2D(*window), noise(batch, channels, height, width))


class Gated(nn.Layer):
    """x times a gate of `[N, C, 1, 1]` or `[N, 1, H, W]`."""

    def __init__(self, *shape: int):
        super().__init__()
        self.gate = self.create_parameter(list(shape))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return scale(x, self.gate)


class Pooled(nn.Layer):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return max_and_mean(x)


class Averaged(nn.Layer):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return global_mean(x)


@needs_operators
@settings(max_examples=25, deadline=None)
@given(BATCH, CHANNELS, SIDE, SIDE, st.booleans())
def test_gates_and_pooling_over_channels(
    batch: int, channels: int, height: int, width: int, by_channel: bool
):
    x = noise(batch, channels, height, width)
    assert_both_forms_are_exact(
        Gated(batch, channels, 1, 1) if by_channel else Gated(batch, 1, height, width), x
    )
    assert_both_forms_are_exact(Pooled(), x)
    assert_both_forms_are_exact(Averaged(), x)


@needs_operators
def test_a_long_stretch_of_places_is_cut_and_put_together():
    x = noise(2, 3, 50, 70)
    assert_both_forms_are_exact(Gated(2, 1, 50, 70), x)
    assert_both_forms_are_exact(Pooled(), x)


@needs_operators
def test_equal_values_give_their_gradient_to_the_first_as_paddle_does():
    x = np.zeros([1, 1, 4, 4], "float32")
    found = {}
    for mode in ("on", "off"):
        with ops.using(mode):
            found[mode] = results(MaxPool2D(2, 2), x, "float32")[1]
    np.testing.assert_array_equal(found["on"], found["off"])


@needs_operators
def test_a_view_that_is_not_contiguous_is_read_right():
    x = paddle.to_tensor(noise(2, 5, 6, 8)).transpose([0, 2, 3, 1])
    assert not x.is_contiguous()
    simam = create_attention("simam", 6)
    np.testing.assert_array_equal(simam(x).numpy(), simam(x.contiguous()).numpy())


@needs_operators
def test_nothing_but_the_input_is_kept_for_backward():
    x = paddle.to_tensor(noise(8, 16, 64, 64), stop_gradient=False)
    held = lambda: paddle.base.core.host_memory_stat_current_value("Allocated", 0)  # noqa: E731
    kept = {}
    for mode in ("on", "off"):
        with ops.using(mode):
            simam = create_attention("simam", 16)
            simam(x)
            before = held()
            y = simam(x)
            kept[mode] = (held() - before) / (x.numel().item() * 4) - 1  # less the output itself
            del y
    assert kept["on"] < 0.01 < 1 < kept["off"]


@needs_operators
@pytest.mark.parametrize(
    "model", ["towernet", "mobilenet_v2", "resnet18", "cifar_preresnet20", "cifar_mobilenetv2"]
)
def test_whole_networks_agree(model: str):
    net = create_model(model, "simam", num_classes=4)
    x = paddle.to_tensor(noise(2, 3, 128, 128))
    net.eval()
    logits = {}
    for mode in ("on", "off"):
        with ops.using(mode):
            logits[mode] = net(x).numpy()
    np.testing.assert_allclose(logits["on"], logits["off"], atol=1e-5 * np.abs(logits["off"]).max())
    assert not np.array_equal(logits["on"], logits["off"]), "the operators were not used at all"


@needs_operators
def test_training_twice_gives_the_same_bits():
    def trained() -> np.ndarray:
        paddle.seed(0)
        net = create_model("cifar_resnet20", "simam", num_classes=4)
        optimizer = paddle.optimizer.Momentum(0.1, 0.9, net.parameters())
        for _ in range(3):
            net(paddle.to_tensor(noise(4, 3, 32, 32))).square().mean().backward()
            optimizer.step()
            optimizer.clear_grad()
        return np.concatenate([parameter.numpy().ravel() for parameter in net.parameters()])

    np.testing.assert_array_equal(trained(), trained())


SECOND = {  # a layer for each operator
    "simam": (lambda: create_attention("simam", 2), 2),
    "sge": (lambda: create_attention("sge", 2, groups=1), 2),
    "scale and mean": (lambda: create_attention("se", 4, reduction=2), 4),
    "channel_pool": (Pooled, 2),
    "depthwise": (lambda: Conv2D(2, 2, 3, padding=1, groups=2, bias_attr=False), 2),
    "conv3x3": (lambda: Conv2D(8, 2, 3, padding=1, bias_attr=False), 8),
    "conv3x3_bias": (lambda: Conv2D(8, 2, 3, padding=1), 8),
    "max_pool": (lambda: MaxPool2D(2, 2), 2),
}


@needs_operators
@pytest.mark.parametrize("name", SECOND)
def test_a_second_derivative_is_refused_and_not_left_out(name: str):
    make, channels = SECOND[name]
    layer = make()

    def penalty() -> None:
        x = paddle.to_tensor(noise(1, channels, 4, 4), stop_gradient=False)
        gradient = paddle.grad(layer(x).square().sum(), x, create_graph=True)[0]
        gradient.square().sum().backward()
        assert x.grad is not None

    with (
        ops.using("on"),
        pytest.raises(
            (OSError, RuntimeError), match=r"no second derivative; PADDLE_ATTN_OPS=off|flatten_grad"
        ),
    ):
        penalty()
    if name in ("simam", "sge", "conv3x3", "conv3x3_bias"):  # the others have none in Paddle either
        with ops.using("off"):
            penalty()


# ---- where they do not serve


@pytest.mark.parametrize(
    "x",
    [
        paddle.zeros([2, 3, 1, 1]),
        paddle.zeros([0, 3, 4, 4]),
        paddle.zeros([2, 3, 4, 4], "float64"),
        paddle.zeros([3, 4]),
    ],
)
def test_other_maps_are_left_to_paddle(x: paddle.Tensor):
    with ops.using("on"):
        assert ops.kernels(x) is None


def test_a_graph_has_none(tmp_path: Path):
    net = create_model("cifar_mobilenetv2", "simam", num_classes=4)
    net.eval()
    with ops.using("on" if ops.kernels(paddle.zeros([1, 1, 2, 2])) else "auto"):
        paddle.jit.save(
            net, str(tmp_path / "net"), input_spec=[paddle.static.InputSpec([None, 3, 32, 32], "float32")]
        )
        assert "paddle_attn_" not in (tmp_path / "net.json").read_text()
        x = paddle.to_tensor(noise(2, 3, 32, 32))
        np.testing.assert_allclose(
            paddle.jit.load(str(tmp_path / "net"))(x).numpy(), net(x).numpy(), rtol=1e-4, atol=1e-5
        )


def test_off_is_off_and_a_mode_ends_with_its_block():
    x = paddle.zeros([1, 1, 2, 2])
    with ops.using("off"):
        assert ops.kernels(x) is None and ops.mode() == "off"
        with ops.using(None):
            assert ops.mode() == "off"
    assert ops.mode() == (os.environ.get("PADDLE_ATTN_OPS") or "auto")
    with pytest.raises(UserError, match="unknown mode of the compiled operators 'of'"), ops.using("of"):
        pass


PROGRAM = """
import paddle
from paddle_attn import create_attention, ops
x = paddle.ones([1, 2, 2, 2])
print(create_attention("simam", 2)(x).sum().item())
print(ops.kernels(x))
"""


def in_a_new_process(cache: Path, **environment: str) -> subprocess.CompletedProcess:
    told = os.environ | {"PADDLE_ATTN_CACHE": str(cache)} | environment
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, env=told, timeout=300
    )


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"CXX": "no-such-compiler"}, "no C++ compiler, expected no-such-compiler on the PATH"),
        ({"CXX": "false"}, "false failed"),
    ],
)
def test_without_a_compiler_auto_goes_on_silently_and_on_says_why(
    tmp_path: Path, environment: dict, reason: str
):
    auto = in_a_new_process(tmp_path, PADDLE_ATTN_OPS="auto", **environment)
    assert auto.returncode == 0 and auto.stdout.split()[1] == "None", auto.stderr
    assert float(auto.stdout.split()[0]) == pytest.approx(8 / (1 + np.exp(-0.5)), rel=1e-5)
    on = in_a_new_process(tmp_path, PADDLE_ATTN_OPS="on", **environment)
    assert (
        on.returncode == 1
        and "the compiled operators were asked for and are not there" in on.stderr
        and reason in on.stderr
    )
    wrong = in_a_new_process(tmp_path, PADDLE_ATTN_OPS="yes", **environment)
    assert "unknown value of PADDLE_ATTN_OPS 'yes'" in wrong.stderr


def test_a_cache_that_cannot_be_written_or_holds_rubbish_is_no_harm(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    found = in_a_new_process(tmp_path / "file")
    assert found.returncode == 0 and found.stdout.split()[1] == "None", found.stderr
    if ops.kernels(paddle.zeros([1, 1, 2, 2])) is None:
        return
    first = in_a_new_process(tmp_path / "cache")
    assert "compiling the operators" in first.stderr and "Kernels" in first.stdout
    (library,) = (tmp_path / "cache").iterdir()
    assert "compiling the operators" not in in_a_new_process(tmp_path / "cache").stderr
    library.write_bytes(b"rubbish")
    assert in_a_new_process(tmp_path / "cache").returncode == 0
    assert (
        "compiling the operators" in in_a_new_process(tmp_path / "cache").stderr
    )  # the rubbish was thrown away
