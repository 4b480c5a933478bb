"""Products in bfloat16 on a CPU: their error, and what stays float32."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn

from benchmarks import rounded
from paddle_attn import create_model, ops
from paddle_attn.ops.layers import Conv2D, Linear
from paddle_attn.ops.table import TABLE
from paddle_attn.runtime import Machine

needs_onednn = pytest.mark.skipif(
    not ops.available("onednn_conv"), reason="needs fused operators: no C++ compiler, or PADDLE_ATTN_OPS=off"
)
needs_bfloat16 = pytest.mark.skipif(bool(ops.bfloat16_problem()), reason=ops.bfloat16_problem())
ROUNDING = 2.0**-8  # the largest relative error of a number rounded to bfloat16
PRODUCT = 2 * ROUNDING + ROUNDING**2 + 1e-4  # of a product of two of them, and the float32 sum
BATCH, SIDE = st.integers(1, 5), st.integers(1, 19)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype("float32")


def results(layer: nn.Layer, x: np.ndarray, gradient: np.ndarray) -> list[np.ndarray]:
    """The output, and the gradients of the input and the parameters for a gradient of the output."""
    layer.clear_gradients()
    tensor = paddle.to_tensor(x, stop_gradient=False)
    y = layer(tensor)
    y.backward(paddle.to_tensor(gradient))
    return [y.numpy(), tensor.grad.numpy(), *(parameter.grad.numpy() for parameter in layer.parameters())]


def exact_and_bound(layer: nn.Layer, x: np.ndarray, gradient: np.ndarray) -> Iterator[tuple]:
    """What `results` returns in float64, and the sums of the absolute products."""
    found = []
    for change in (np.asarray, np.abs):
        twin = type(layer)(*layer.arguments)
        for parameter, own in zip(twin.parameters(), layer.parameters(), strict=True):
            parameter.set_value(change(own.numpy()))
        twin.to(dtype="float64")
        found.append(results(twin, change(x).astype("float64"), change(gradient).astype("float64")))
    yield from zip(*found, strict=True)


class Convolution(Conv2D):
    """A convolution with random weights."""

    def __init__(self, *arguments: object):
        super().__init__(*arguments)
        self.arguments = arguments
        for parameter in self.parameters():
            parameter.set_value(noise(*parameter.shape))


def bfloat16(array: np.ndarray) -> np.ndarray:
    return paddle.to_tensor(array).astype("bfloat16").astype("float32").numpy()


class Projection(Linear):
    """A linear layer with random weights."""

    def __init__(self, *arguments: object):
        super().__init__(*arguments)
        self.arguments = arguments
        for parameter in self.parameters():
            parameter.set_value(noise(*parameter.shape))


def assert_rounds_each_factor_once(layer: nn.Layer, x: np.ndarray) -> None:
    """Each element is off by at most the error of its products."""
    gradient = noise(*layer(paddle.to_tensor(x)).shape[::-1]).T
    with ops.using("on"), ops.autocast():
        found = results(layer, x, gradient)
    for own, (exact, absolute) in zip(found, exact_and_bound(layer, x, gradient), strict=True):
        assert own.dtype == np.float32
        assert (np.abs(own - exact) <= PRODUCT * absolute + 1e-6).all()
    assert (found[0] != layer(paddle.to_tensor(x)).numpy()).any()  # it did multiply in bfloat16


@needs_bfloat16
@settings(max_examples=10)
@given(
    BATCH,
    st.integers(8, 35),
    st.integers(1, 35),
    SIDE,
    SIDE,
    st.sampled_from([(1, 1), (1, 2), (3, 1), (3, 2), (5, 1), (5, 2), (7, 1), (7, 2)]),
    st.booleans(),
)
def test_convolutions_round_each_factor_once(
    batch: int, channels: int, filters: int, height: int, width: int, kernel: tuple[int, int], bias: bool
):
    side, stride = kernel
    layer = Convolution(channels, filters, side, stride, side // 2, 1, None, None if bias else False)
    assert layer.bfloat16 == ("bfloat16_conv_bias" if bias else "bfloat16_conv")
    assert_rounds_each_factor_once(layer, noise(batch, channels, height, width + 2 * (stride == 2)))


@needs_bfloat16
@pytest.mark.parametrize("side", [1, 3, 5, 7])
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("height", [1, 2, 9])
def test_one_column_of_outputs_is_right(height: int, width: int, side: int):
    """oneDNN's bfloat16 would use memory that is not initialised."""
    layer = Convolution(16, 20, side, 2, side // 2, 1, None, False)
    x, gradient = noise(3, 16, height, width), noise(3, 20, (height + 1) // 2, 1)
    with ops.using("on"), ops.autocast():
        found = results(layer, x, gradient)
    for own, (exact, absolute) in zip(found, exact_and_bound(layer, x, gradient), strict=True):
        assert (np.abs(own - exact) <= PRODUCT * absolute + 1e-6).all()


@needs_bfloat16
@pytest.mark.parametrize(
    ("batch", "channels", "filters", "size", "side", "stride"),
    [
        *((3, 700, 20, 14, 1, 1), (2, 33, 40, 120, 3, 2), (5, 300, 9, 60, 1, 1), (1, 48, 17, 90, 5, 1)),
        *((9, 16, 33, 75, 3, 1), (3, 130, 520, 12, 3, 1), (3, 700, 20, 14, 1, 2), (2, 600, 700, 8, 1, 1)),
    ],
)
def test_large_convolutions_round_each_factor_once(
    batch: int, channels: int, filters: int, size: int, side: int, stride: int
):
    layer = Convolution(channels, filters, side, stride, side // 2, 1, None, False)
    assert_rounds_each_factor_once(layer, noise(batch, channels, size, size - 3))


@needs_bfloat16
@settings(max_examples=8)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 40))
def test_linear_layers_round_each_factor_once(batch: int, inputs: int, outputs: int):
    assert_rounds_each_factor_once(Projection(inputs, outputs), noise(batch, inputs))


@needs_bfloat16
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kernel", [(1, 1), (1, 2), (3, 1), (3, 2), (5, 1)])
def test_nan_and_inf_are_not_hidden(kernel: tuple[int, int], value: float):
    side, stride = kernel
    layer = Convolution(8, 9, side, stride, side // 2, 1, None, False)
    x = noise(2, 8, 7, 6)
    x[1, 2, 2, 4] = value
    gradient = np.ones(layer(paddle.to_tensor(x)).shape, "float32")
    reference = results(layer, x, gradient)
    with ops.autocast():
        found = results(layer, x, gradient)
    for own, other in zip(found, reference, strict=True):  # oneDNN may multiply them by zeros: more are NaN
        assert not np.isfinite(own[~np.isfinite(other)]).any()


# ---- the same by rounding, for processors without AVX512-BF16


@needs_onednn
@pytest.mark.parametrize(
    "layer",
    [
        Convolution(8, 9, 3, 1, 1, 1, 1, None, False),
        Convolution(12, 8, 1, 2, 0, 1, 1, None, None),
        Projection(20, 7),
    ],
    ids=["convolution", "convolution with a bias", "linear"],
)
def test_rounded_factors_give_the_numbers_of_bfloat16(layer: nn.Layer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ops.layers, "_bfloat16_conv", rounded.convolution)
    monkeypatch.setattr(Linear, "forward", rounded.linear)
    x = noise(3, 20) if isinstance(layer, Projection) else noise(3, layer._in_channels, 7, 6)
    gradient = noise(*layer(paddle.to_tensor(x)).shape[::-1]).T
    assert_rounds_each_factor_once(layer, x)
    with ops.using("on"), ops.autocast():
        found = results(layer, x, gradient)
    layer.weight.set_value(bfloat16(layer.weight.numpy()))
    expected = results(layer, bfloat16(x), bfloat16(gradient))
    for own, other in zip(found[:3], expected[:3], strict=True):  # the gradient of a bias is no product
        np.testing.assert_allclose(own, other, atol=1e-5 * np.abs(other).max())


# ---- what stays float32

FLOAT32: dict[str, Callable[[], nn.Layer]] = {  # for x [2, 12, 9, 8]
    "groups": lambda: Conv2D(12, 12, 3, 1, 1, groups=4),
    "depthwise": lambda: Conv2D(12, 12, 3, 1, 1, groups=12, bias_attr=False),
    "another padding": lambda: Conv2D(12, 8, 3, 1, 0),
    "another stride": lambda: Conv2D(12, 8, 3, 3, 1),
    "an even kernel": lambda: Conv2D(12, 8, 2, 2, 0),
    "dilation": lambda: nn.Conv2D(12, 8, 3, padding=2, dilation=2),
}


@pytest.mark.parametrize("name", FLOAT32)
def test_other_layers_stay_float32(name: str):
    layer, x = FLOAT32[name](), noise(2, 12, 9, 8)
    gradient = np.ones(layer(paddle.to_tensor(x)).shape, "float32")
    reference = results(layer, x, gradient)
    with ops.autocast():
        found = results(layer, x, gradient)
    for own, other in zip(found, reference, strict=True):
        np.testing.assert_array_equal(own, other)


def test_an_image_of_three_channels_stays_float32():
    layer, x = Conv2D(3, 8, 3, 2, 1), paddle.to_tensor(noise(2, 3, 9, 8))
    assert layer.bfloat16 is None
    y = layer(x).numpy()
    with ops.autocast():
        np.testing.assert_array_equal(layer(x).numpy(), y)


def test_float64_stays_float64():
    for layer, x in ((Conv2D(8, 8, 1), noise(2, 8, 5, 5)), (Linear(8, 8), noise(2, 8))):
        layer.to(dtype="float64")
        tensor = paddle.to_tensor(x.astype("float64"))
        with ops.autocast():
            y = layer(tensor)
        assert y.dtype == paddle.float64
        np.testing.assert_array_equal(y.numpy(), layer(tensor).numpy())


def test_an_empty_batch_is_left_to_paddle():
    x = paddle.zeros([0, 8, 4, 4])
    with ops.autocast():
        assert all(ops.find(name, x) is None for name in TABLE if name.startswith("bfloat16"))
        assert Linear(8, 3)(paddle.zeros([0, 8])).shape == [0, 3]


@needs_bfloat16
@pytest.mark.parametrize(
    ("name", "shape", "arguments", "message"),
    [
        ("bfloat16_conv", [2, 8, 6, 6], ([2, 7, 3, 3], 1, 1, True), "a weight of the shape"),
        ("bfloat16_conv", [2, 8, 6, 6], ([2, 8, 4, 4], 1, 1, True), "odd h and w"),
        ("bfloat16_conv", [2, 8, 6, 6], ([2, 8, 3, 3], 3, 1, True), "a stride of 1 or 2"),
        ("bfloat16_conv", [2, 8, 0, 6], ([2, 8, 3, 3], 1, 1, True), "not empty"),
        ("bfloat16_conv", [2, 8, 6, 6], ([0, 8, 3, 3], 1, 1, True), "a weight"),
        ("bfloat16_conv_bias", [2, 8, 6, 6], ([2, 8, 3, 3], [3], 1, 1, True), "a bias of the shape"),
    ],
)
def test_a_wrong_input_is_refused(name: str, shape: list[int], arguments: tuple, message: str):
    tensors = [paddle.ones(item) if isinstance(item, list) else item for item in arguments]
    with pytest.raises(OSError, match=f"paddle_attn: expected .*{message}.*found"):
        TABLE[name]["cpu"](paddle.ones(shape), *tensors)


# ---- where it is on


def test_autocast_ends_with_its_block_and_is_off_by_default():
    assert not ops.casts()
    with ops.autocast():
        assert ops.casts()
        with ops.autocast(False):
            assert not ops.casts()
    assert not ops.casts()


@needs_bfloat16
def test_a_backward_after_the_block_multiplies_in_bfloat16():
    layer, x = Conv2D(16, 16, 1, bias_attr=False), noise(2, 16, 5, 5)
    gradients = []
    for inside in (True, False):
        tensor = paddle.to_tensor(x, stop_gradient=False)
        with contextlib.ExitStack() as stack:
            stack.enter_context(ops.autocast())
            y = layer(tensor)
            if inside:
                y.sum().backward()
        if not inside:
            y.sum().backward()
        gradients.append(tensor.grad.numpy())
    np.testing.assert_array_equal(*gradients)


def test_an_exported_network_multiplies_in_float32(tmp_path: Path):
    net = create_model("cifar_resnet20", "simam", num_classes=4)
    net.eval()
    x = paddle.to_tensor(noise(2, 3, 32, 32))
    spec = [paddle.static.InputSpec([None, 3, 32, 32], "float32")]
    with ops.autocast():
        paddle.jit.save(net, str(tmp_path / "net"), input_spec=spec)
    program = (tmp_path / "net.json").read_text()
    assert "paddle_attn_" not in program and "bfloat16" not in program
    found = paddle.jit.load(str(tmp_path / "net"))(x)
    np.testing.assert_allclose(found.numpy(), net(x).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx2", "avx512f", "avx512_bf16"}, ""),
        ({"avx2", "avx512f"}, "this processor lacks AVX512-BF16 (the flag avx512_bf16)"),
        (set(), "this processor lacks AVX512-BF16 (the flag avx512_bf16)"),
    ],
)
def test_a_processor_is_judged_by_its_flags(flags: set[str], expected: str):
    machine = Machine("Linux", "glibc", "AuthenticAMD", frozenset(flags), 2)
    assert ops.bfloat16_problem(machine) == expected


def test_without_compiled_operators_there_is_no_bfloat16():
    with ops.using("off"):
        assert ops.bfloat16_problem()


# ---- the same bits


@needs_bfloat16
@pytest.mark.parametrize(
    "arguments", [(24, 40, 1, 1, 0), (24, 40, 1, 2, 0), (24, 40, 3, 2, 1), (130, 140, 3, 1, 1)]
)
def test_equal_calls_give_equal_bits(arguments: tuple):
    layer, x = Convolution(*arguments), noise(5, arguments[0], 15, 14)
    gradient = noise(*layer(paddle.to_tensor(x)).shape)
    with ops.autocast():
        first = results(layer, x, gradient)
        for _ in range(5):
            for one, two in zip(first, results(layer, x, gradient), strict=True):
                np.testing.assert_array_equal(one, two)


# ---- networks


@needs_bfloat16
@pytest.mark.parametrize("model", ["cifar_resnet20", "cifar_preresnet20"])
def test_gradients_of_a_network_have_the_direction_of_float32(model: str):
    paddle.seed(0)
    net = create_model(model, num_classes=4)
    gradients = []
    for enabled in (False, True):
        net.clear_gradients()
        with ops.autocast(enabled):
            loss = F.cross_entropy(net(paddle.to_tensor(noise(8, 3, 32, 32))), paddle.arange(8) % 4)
        loss.backward()
        gradients.append(np.concatenate([p.grad.numpy().ravel() for p in net.parameters() if p.trainable]))
    plain, cast = gradients
    cosine = plain @ cast / np.linalg.norm(plain) / np.linalg.norm(cast)
    assert 0.93 < cosine < 1 - 1e-7
    assert all(p.dtype == p.grad.dtype == paddle.float32 for p in net.parameters() if p.trainable)
