"""Fused operators: each computes what its reference form computes, and is used only where it is supported."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from helpers import HANG, ROOT, smaller_kwargs
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn

from paddle_attn import create_attention, create_model, list_attention, ops
from paddle_attn.attention.base import (
    global_mean,
    scale,
    scale_by_strip_sums,
    scale_strips,
    sigmoid_gate,
    strip_maxima,
    strip_means,
)
from paddle_attn.attention.cbam import ChannelGate, max_and_mean
from paddle_attn.attention.se import plain_weights
from paddle_attn.errors import UserError
from paddle_attn.ops.build import cache_folder
from paddle_attn.ops.layers import BatchNorm2D, Conv2D, MaxPool2D, ReLU, batch_norm, fused_form
from paddle_attn.runtime import this_machine

needs_fused = pytest.mark.skipif(
    not ops.available("simam"), reason="needs fused operators: no C++ compiler, or PADDLE_ATTN_OPS=off"
)
# the operators of a map `[N, C, H, W]`, with a gradient: all but the optimisers' updates
FORMS = {name: forms["cpu"] for name, forms in ops.TABLE.items() if forms["cpu"].runs_on(this_machine())}
MAP_OPERATORS = [name for name, form in FORMS.items() if form.min_places is not None]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(sum(shape) + seed).standard_normal(shape).astype("float32")


def results(layer: nn.Layer, x: np.ndarray, dtype: str) -> list[np.ndarray]:
    """The output, and the gradients of the input and the parameters for a random gradient of the output."""
    layer.to(dtype=dtype)
    layer.clear_gradients()
    tensor = paddle.to_tensor(x.astype(dtype), stop_gradient=False)
    y = layer(tensor)
    y.backward(paddle.to_tensor(noise(*y.shape).astype(dtype)))
    return [y.numpy(), tensor.grad.numpy(), *(parameter.grad.numpy() for parameter in trained(layer))]


def trained(layer: nn.Layer) -> list[paddle.Tensor]:
    """Its parameters without running statistics, which Paddle lists among them."""
    return [parameter for parameter in layer.parameters() if not parameter.stop_gradient]


def assert_both_forms_are_exact(
    name: str, layer: nn.Layer, x: np.ndarray, deviation: float = 1.0, tolerance: float = 1e-5
) -> None:
    """Compare both forms of a layer in float32 with its reference form in float64.

    `name` is the operator, `deviation` that of the parameters; `tolerance` is in parts of the largest value.
    """
    for parameter in trained(layer):
        parameter.set_value(deviation * noise(*parameter.shape))
    exact = results(layer, x, "float64")
    for mode in ("on", "off"):
        with ops.using(mode):
            fused = ops.find(name, paddle.to_tensor(x))
            supported = x.shape[2] * x.shape[3] >= ops.TABLE[name]["cpu"].min_places
            assert (fused is not None) == (mode == "on" and supported)
            for found, expected in zip(results(layer, x, "float32"), exact, strict=True):
                np.testing.assert_allclose(
                    found, expected, atol=tolerance * max(1, np.abs(expected).max()), err_msg=mode
                )


BATCH, CHANNELS, SIDE = st.integers(1, 3), st.integers(1, 5), st.integers(1, 19)


@needs_fused
@settings(max_examples=25)
@given(BATCH, CHANNELS, SIDE, SIDE, st.sampled_from([1e-4, 0.1]))
def test_simam(batch: int, channels: int, height: int, width: int, e_lambda: float):
    layer = create_attention("simam", channels, e_lambda=e_lambda)
    assert_both_forms_are_exact("simam", layer, noise(batch, channels, height, width))


@needs_fused
@settings(max_examples=25)
@given(BATCH, CHANNELS, st.integers(2, 4), st.integers(2, 19), st.integers(2, 19))
def test_sge(batch: int, groups: int, channels_per_group: int, height: int, width: int):
    channels = groups * channels_per_group
    layer = create_attention("sge", channels, groups=groups)
    assert_both_forms_are_exact("sge", layer, noise(batch, channels, height, width))


@needs_fused
@settings(max_examples=25)
@given(BATCH, st.integers(2, 5), SIDE, SIDE, st.sampled_from([1, 2]))
def test_depthwise_convolution(batch: int, channels: int, height: int, width: int, stride: int):
    layer = Conv2D(channels, channels, 3, stride, padding=1, groups=channels, bias_attr=False)
    assert layer.fused == "depthwise"
    assert_both_forms_are_exact("depthwise", layer, noise(batch, channels, height, width))


@needs_fused
@settings(max_examples=25)
@given(BATCH, st.integers(8, 20), st.integers(1, 36), SIDE, SIDE, st.booleans())
def test_dense_3x3_convolution(
    batch: int, in_channels: int, out_channels: int, height: int, width: int, bias: bool
):
    layer = Conv2D(in_channels, out_channels, 3, padding=1, bias_attr=None if bias else False)
    assert layer.fused == ("conv3x3_bias" if bias else "conv3x3")
    assert_both_forms_are_exact(layer.fused, layer, noise(batch, in_channels, height, width))


class Direct(nn.Layer):
    """A fused convolution, or Paddle's, of any number of channels."""

    def __init__(
        self, in_channels: int, out_channels: int, side: int, stride: int, form: str = "conv_direct"
    ):
        super().__init__()
        self.weight = self.create_parameter([out_channels, in_channels, side, side])
        self.stride, self.form = stride, form

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        fused = ops.find(self.form, x)
        if not fused:
            return F.conv2d(x, self.weight, None, self.stride, self.weight.shape[2] // 2)
        dilation = [1] if self.form == "onednn_conv" else []
        return fused(x, self.weight, self.stride, *dilation, not x.stop_gradient)


KERNEL = st.sampled_from([1, 3, 5, 7])


@needs_fused
@settings(max_examples=100)
@given(BATCH, st.integers(1, 20), st.integers(1, 20), SIDE, SIDE, KERNEL, st.sampled_from([1, 2]))
def test_direct_convolution(
    batch: int, in_channels: int, out_channels: int, height: int, width: int, side: int, stride: int
):
    layer = Direct(in_channels, out_channels, side, stride)
    assert_both_forms_are_exact("conv_direct", layer, noise(batch, in_channels, height, width))


WIDE = st.integers(1, 40)


@needs_fused
@settings(max_examples=100)
@given(BATCH, WIDE, WIDE, SIDE, SIDE, KERNEL, st.sampled_from([1, 2]))
def test_convolution_by_onednn(
    batch: int, in_channels: int, out_channels: int, height: int, width: int, side: int, stride: int
):
    layer = Direct(in_channels, out_channels, side, stride, "onednn_conv")
    assert_both_forms_are_exact("onednn_conv", layer, noise(batch, in_channels, height, width))


@needs_fused
@settings(max_examples=100)
@given(
    st.sampled_from([(1, 1), (2, 2), (4, 1), (1, 3)]),  # channels and filters of a group
    st.integers(1, 9),
    st.tuples(SIDE, SIDE),
    st.tuples(KERNEL, KERNEL),
    st.integers(1, 3),
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_convolution_by_onednn_in_groups_with_dilation_and_any_odd_kernel(
    group: tuple[int, int],
    groups: int,
    sides: tuple[int, int],
    kernel: tuple[int, int],
    dilation: int,
    stride: int,
    bias: bool,
):
    padding = tuple(dilation * (side // 2) for side in kernel)
    channels, filters = groups * group[0], groups * group[1]
    layer = Conv2D(
        channels, filters, kernel, stride, padding, groups, dilation, bias_attr=None if bias else False
    )
    layer.fused = "onednn_conv_bias" if bias else "onednn_conv"
    assert_both_forms_are_exact(layer.fused, layer, noise(2, channels, *sides))


@needs_fused
@settings(max_examples=25)
@given(BATCH, WIDE, WIDE, SIDE, SIDE, KERNEL)
def test_convolution_by_onednn_with_a_bias(
    batch: int, in_channels: int, out_channels: int, height: int, width: int, side: int
):
    layer = Conv2D(in_channels, out_channels, side, 2, side // 2)
    assert layer.fused == "onednn_conv_bias"
    assert_both_forms_are_exact("onednn_conv_bias", layer, noise(batch, in_channels, height, width))


@needs_fused
def test_many_filters_on_a_tiny_map_are_left_to_onednn():
    for channels, size, form in ((512, 7, "onednn_conv"), (512, 9, "conv3x3"), (256, 7, "conv3x3")):
        layer = Conv2D(channels, 16, 3, padding=1, bias_attr=False)
        assert fused_form(layer, paddle.zeros([1, channels, size, size]))[0] == form
    layer = Conv2D(512, 16, 3, padding=1)
    assert_both_forms_are_exact("onednn_conv_bias", layer, noise(2, 512, 4, 3))


@needs_fused
@settings(max_examples=25)
@given(BATCH, CHANNELS, SIDE, SIDE)
def test_relu(batch: int, channels: int, height: int, width: int):
    assert_both_forms_are_exact("relu", ReLU(), noise(batch, channels, height, width))


@needs_fused
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [16, 32, 48, 64])
def test_direct_convolution_of_several_strips_and_of_many_small_maps(channels: int, stride: int):
    for batch, height, width in ((1, 90, 37), (19, 4, 4)):
        layer = Direct(channels, channels, 3, stride)
        assert_both_forms_are_exact("conv_direct", layer, noise(batch, channels, height, width))


@needs_fused
@pytest.mark.parametrize(
    ("batch", "height", "width"),  # the last four in tiles of 4x4
    [(5, 5, 6), (19, 4, 4), (40, 2, 2), (1, 90, 37), (5, 13, 14), (50, 4, 3), (12, 8, 7)],
)
@pytest.mark.parametrize("channels", [16, 64])
def test_dense_3x3_convolution_of_several_bands_and_of_bands_of_several_images(
    channels: int, batch: int, height: int, width: int
):
    layer = Conv2D(channels, channels, 3, padding=1, bias_attr=False)
    assert_both_forms_are_exact("conv3x3", layer, noise(batch, channels, height, width))


@needs_fused
@pytest.mark.parametrize(("size", "factor"), [(6, 6), (32, 12)])  # tiles of 2x2 outputs, and of 4x4
def test_rounding_in_winograds_form_stays_near_that_of_the_sums_as_written(size: int, factor: float):
    layer = Conv2D(64, 64, 3, padding=1, bias_attr=False)
    x = noise(8, 64, size, size)
    exact, errors = results(layer, x, "float64"), {}
    for mode in ("on", "off"):
        with ops.using(mode):
            found = results(layer, x, "float32")
        errors[mode] = [np.square(a - b).mean() ** 0.5 for a, b in zip(found, exact, strict=True)]
    assert all(fused < factor * plain for fused, plain in zip(*errors.values(), strict=True)), errors


@needs_fused
@pytest.mark.slow
def test_convolutions_are_exact_at_real_sizes():
    # without AVX-512, oneDNN adds 100,000 products of the weight's gradient one by one
    for form, tolerance in (("conv_direct", 1e-5), ("onednn_conv", 5e-5)):
        layer = Direct(3, 64, 7, 2, form)
        assert_both_forms_are_exact(form, layer, noise(8, 3, 224, 224), tolerance=tolerance)
    layer = Direct(4096, 2048, 1, 1, "onednn_conv")  # two images at a time in the gradient of the weight
    assert_both_forms_are_exact("onednn_conv", layer, noise(3, 4096, 9, 9))
    layer = Direct(64, 256, 1, 1, "onednn_conv")
    assert_both_forms_are_exact("onednn_conv", layer, noise(32, 64, 56, 56))
    for channels, batch, size in ((16, 8, 112), (64, 32, 56), (256, 32, 14)):
        layer = Conv2D(channels, channels, 3, padding=1, bias_attr=False)
        assert_both_forms_are_exact("conv3x3", layer, noise(batch, channels, size, size))


@needs_fused
@pytest.mark.parametrize(
    ("arguments", "form"),
    [
        ((3, 64, 7, 2, 3), "onednn_conv"),
        ((3, 16, 3, 1, 1), "conv_direct"),
        ((16, 16, 3, 1, 1), "conv3x3"),
        ((32, 64, 3, 2, 1), "onednn_conv"),
        ((32, 64, 1, 2, 0), "onednn_conv"),
        ((32, 64, 1, 1, 0), "onednn_conv"),
        ((16, 16, 5, 1, 2), "onednn_conv"),
        ((16, 16, 3, 1, 0), None),
        ((16, 16, 3, 3, 1), None),
        ((16, 16, 4, 2, 2), None),
        ((16, 16, 3, 1, 1, 2), "onednn_conv"),  # groups
        ((16, 16, 3, 1, 1, 16), "depthwise"),
        ((16, 32, 3, 1, 1, 16), "onednn_conv"),
        ((16, 16, 3, 1, 2, 1, 2), "onednn_conv"),  # dilation
        ((16, 16, 3, 1, 1, 1, 2), None),
        ((16, 16, (1, 5), 1, (0, 2)), "onednn_conv"),
        ((16, 16, (1, 5), 1, 2), None),
        ((2, 1, 7, 1, 3), "conv_direct"),
        ((2, 1, 7, 1, 9, 1, 3), "onednn_conv"),
    ],
)
@pytest.mark.parametrize("is_image", [False, True])
def test_each_convolution_has_its_fastest_form(arguments: tuple, form: str | None, is_image: bool):
    layer, found = Conv2D(*arguments, bias_attr=False), {}
    assert layer.fused == form
    for mode in ("on", "off"):
        x = paddle.to_tensor(noise(2, arguments[0], 9, 10), stop_gradient=is_image)
        layer.clear_gradients()
        with ops.using(mode):
            layer(x).square().sum().backward()
        assert is_image == (x.grad is None)
        found[mode] = [layer.weight.grad.numpy(), *([] if is_image else [x.grad.numpy()])]
    for fused, reference in zip(found["on"], found["off"], strict=True):
        np.testing.assert_allclose(fused, reference, atol=1e-5 * np.abs(reference).max())


@needs_fused
@settings(max_examples=25)
@given(
    BATCH,
    CHANNELS,
    st.integers(3, 19),
    st.integers(3, 19),
    st.sampled_from([(2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 3, 0)]),
)
def test_max_pool(batch: int, channels: int, height: int, width: int, window: tuple[int, int, int]):
    assert_both_forms_are_exact("max_pool", MaxPool2D(*window), noise(batch, channels, height, width))


class Gated(nn.Layer):
    """x times a parameter `[N, C, 1, 1]` or `[N, 1, H, W]`."""

    def __init__(self, *shape: int):
        super().__init__()
        self.gate = self.create_parameter(list(shape))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return scale(x, self.gate)


class Function(nn.Layer):
    """A function of x as a layer."""

    def __init__(self, function: Callable[[paddle.Tensor], paddle.Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.function(x)


class Strips(nn.Layer):
    """x scaled by a number for each row and each column, which are parameters."""

    def __init__(self, function: Callable, batch: int, channels: int, height: int, width: int):
        super().__init__()
        self.function = function
        self.strip = self.create_parameter([batch, channels, height + width, 1])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.function(x, self.strip)


class GatedByAnother(nn.Layer):
    """x gated by itself within ±3 (the gate of -Inf is 1e-38, not 0), with parameters for each channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.factor, self.shift = (self.create_parameter([channels]) for _ in range(2))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return sigmoid_gate(x, x.clip(-3, 3), self.factor, self.shift)


class GatedAndPooled(nn.Layer):
    """x times CBAM's channel gate, and the maximum and mean of that over the channels: `[N, C + 2, H, W]`."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        self.gate = ChannelGate(channels, reduction)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return paddle.concat(self.outputs(self.gate, x), 1)

    @staticmethod
    def outputs(gate: ChannelGate, x: paddle.Tensor) -> list[paddle.Tensor]:
        fused = ops.find("cbam", x)
        if fused:
            return ops.all_outputs(fused, x, *plain_weights(gate.mlp, x))[:2]
        gated = scale(x, gate(x))
        return [gated, max_and_mean(gated)]


@needs_fused
@settings(max_examples=25)
@given(BATCH, CHANNELS, SIDE, SIDE, st.booleans())
def test_gates_means_and_channel_pooling(
    batch: int, channels: int, height: int, width: int, by_channel: bool
):
    x = noise(batch, channels, height, width)
    gate = [batch, channels, 1, 1] if by_channel else [batch, 1, height, width]
    assert_both_forms_are_exact("scale", Gated(*gate), x)
    assert_both_forms_are_exact("channel_pool", Function(max_and_mean), x)
    assert_both_forms_are_exact("mean", Function(global_mean), x)
    assert_both_forms_are_exact("strip_mean", Function(strip_means), x)
    assert_both_forms_are_exact("sigmoid_gate", GatedByAnother(channels), x)
    assert_both_forms_are_exact("strip_max", Function(strip_maxima), x)
    for function in (scale_strips, scale_by_strip_sums):
        assert_both_forms_are_exact("strip_scale", Strips(function, batch, channels, height, width), x)


@needs_fused
def test_maps_larger_than_one_stretch_of_a_thread():
    x = noise(2, 3, 90, 70)  # a stretch is 4096 places
    assert_both_forms_are_exact("scale", Gated(2, 1, 90, 70), x)
    assert_both_forms_are_exact("channel_pool", Function(max_and_mean), x)
    assert_both_forms_are_exact("cbam", GatedAndPooled(3, 1), x, 0.3)


@needs_fused
@settings(max_examples=25)
@given(BATCH, st.integers(2, 20), SIDE, SIDE)
def test_gct(batch: int, channels: int, height: int, width: int):
    x = noise(batch, channels, height, width)
    # one channel alone would be compared with itself: its gradient is a difference of nearly equal numbers
    assert_both_forms_are_exact("gct", create_attention("gct", channels), x, tolerance=2e-5)


@needs_fused
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_gct_of_nan_and_inf_is_nan_in_their_channel_and_nan_reaches_the_others(value: float):
    x = noise(2, 8, 5, 6)
    x[1, 2, 2, 3] = value
    y = create_attention("gct", 8)(paddle.to_tensor(x)).numpy()
    assert np.isfinite(y[0]).all() and np.isnan(y[1, 2]).all()
    assert np.isnan(y[1]).all() == np.isnan(value)


@needs_fused
@settings(max_examples=25)
@given(BATCH, st.integers(2, 20), SIDE, SIDE, st.sampled_from([1, 2]))
def test_gates_with_a_perceptron(batch: int, channels: int, height: int, width: int, reduction: int):
    x = noise(batch, channels, height, width)
    assert_both_forms_are_exact("se", create_attention("se", channels, reduction=reduction), x, 0.3)
    assert_both_forms_are_exact("cbam", GatedAndPooled(channels, reduction), x, 0.3)


@needs_fused
def test_gates_with_a_perceptron_of_more_images_than_one_group():
    x = noise(5, 64, 70, 70)  # a group has 2^20 floats
    assert_both_forms_are_exact("se", create_attention("se", 64), x, 0.3)
    assert_both_forms_are_exact("cbam", GatedAndPooled(64, 16), x, 0.3)


@needs_fused
@pytest.mark.parametrize("used", [0, 1])
def test_an_unused_output_of_the_channel_gate_has_no_gradient(used: int):
    x, gate, found = noise(2, 8, 5, 6), ChannelGate(8, 2), {}
    for mode in ("on", "off"):
        with ops.using(mode):
            function = Function(lambda x: GatedAndPooled.outputs(gate, x)[used])
            found[mode] = results(function, x, "float32")[1]
    np.testing.assert_allclose(found["on"], found["off"], rtol=1e-4, atol=1e-6)


@needs_fused
@pytest.mark.parametrize("name", ["se", "cbam"])
def test_hooks_inside_a_gate_are_called(name: str):
    layer, x = create_attention(name, 16), paddle.to_tensor(noise(2, 16, 5, 6))
    for inner in layer.sublayers():
        seen = []
        handle = inner.register_forward_post_hook(lambda _, inputs, output, seen=seen: seen.append(output))
        with ops.using("on"):
            hooked = layer(x)
        handle.remove()
        assert seen, inner
        np.testing.assert_allclose(hooked.numpy(), layer(x).numpy(), rtol=1e-5, err_msg=str(inner))


# ---- batch norm

ACTIVATIONS = st.sampled_from([None, F.relu, F.relu6])


def exact_batch_norm(bn: nn.Layer, x: np.ndarray, gradient: np.ndarray, frozen: bool) -> dict:
    """The formula without residual and activation, its gradients, the new running statistics, in float64."""
    x, gradient = x.astype("float64"), gradient.astype("float64")
    weight, bias, mean, variance = (
        t.numpy().astype("float64") for t in (bn.weight, bn.bias, bn._mean, bn._variance)
    )
    running = {"running mean": mean, "running variance": variance}
    if not frozen:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
        running = {"running mean": running["running mean"] * 0.9 + mean * 0.1} | {
            "running variance": running["running variance"] * 0.9 + variance * 0.1
        }
    column = [1, -1, 1, 1]
    factor = (weight / np.sqrt(variance + bn._epsilon)).reshape(column)
    xhat = (x - mean.reshape(column)) / np.sqrt(variance + bn._epsilon).reshape(column)
    by_bias, by_weight = gradient.sum((0, 2, 3)), (gradient * xhat).sum((0, 2, 3))
    places = x.size // x.shape[1]
    through = (by_bias.reshape(column) + xhat * by_weight.reshape(column)) / places
    return running | {
        "y": xhat * weight.reshape(column) + bias.reshape(column),
        "weight": by_weight,
        "bias": by_bias,
        "x": factor * (gradient if frozen else gradient - through),
        "scale of x": factor * gradient,
    }


def assert_batch_norm_is_exact(
    x: np.ndarray,
    residual: np.ndarray | None,
    activation: Callable | None,
    frozen: bool = False,
    modes: tuple[str, ...] = ("on", "off"),
) -> None:
    """Compare both forms, forward and backward and the running statistics, with the formula in float64."""
    channels = x.shape[1]
    for mode in modes:
        bn = BatchNorm2D(channels)
        bn.training = not frozen
        random = np.random.default_rng(0)
        for parameter, low, high in zip(bn.parameters(), (0.5, -1, -1, 0.5), (2, 1, 1, 2), strict=True):
            parameter.set_value(random.uniform(low, high, channels).astype("float32"))
        before = copy.deepcopy(bn)
        tensor = paddle.to_tensor(x, stop_gradient=False)
        added = None if residual is None else paddle.to_tensor(residual, stop_gradient=False)
        with ops.using(mode):
            y = batch_norm(bn, tensor, added, activation)
        gradient = noise(*x.shape)
        y.backward(paddle.to_tensor(gradient))
        if activation is not None:
            gradient = gradient * (y.numpy() > 0)
        if activation is F.relu6:
            gradient = gradient * (y.numpy() < 6)
        exact = exact_batch_norm(before, x, gradient, frozen)
        exact["y"] = exact["y"] + (0 if residual is None else residual)
        if activation is not None:
            exact["y"] = np.clip(exact["y"], 0, 6 if activation is F.relu6 else None)
        found = {
            "y": y,
            "x": tensor.grad,
            "weight": bn.weight.grad,
            "bias": bn.bias.grad,
            "running mean": bn._mean,
            "running variance": bn._variance,
        }
        scales = {"x": exact.pop("scale of x")}
        if residual is not None:
            found["residual"], exact["residual"] = added.grad, gradient
        for name, tensor in found.items():
            scale = max(1, np.abs(exact[name]).max(), np.abs(scales.get(name, 0)).max())
            np.testing.assert_allclose(
                tensor.numpy(), exact[name], atol=1e-5 * scale, rtol=0, err_msg=f"{mode}: {name}"
            )


@needs_fused
@settings(max_examples=60)
@given(BATCH, CHANNELS, SIDE, SIDE, st.booleans(), ACTIVATIONS, st.booleans())
def test_batch_norm(
    batch: int,
    channels: int,
    height: int,
    width: int,
    added: bool,
    activation: Callable | None,
    frozen: bool,
):
    x = 2 * noise(batch, channels, height, width)
    if not frozen and batch * height * width == 1:
        return  # see below
    residual = noise(width, height, channels, batch).T if added else None
    assert_batch_norm_is_exact(x, residual, activation, frozen)


@needs_fused
@settings(max_examples=25)
@given(st.integers(1, 40), CHANNELS, st.integers(1, 5), st.sampled_from([-1e3, 1e3, 1e4]), st.booleans())
def test_batch_norm_of_values_far_from_zero(batch: int, channels: int, side: int, mean: float, first: bool):
    """The variance is no difference of large numbers, also if one image differs from all others."""
    x = noise(batch + 1, channels, side, side)
    x[: 1 if first else None] += mean
    assert_batch_norm_is_exact(x, None, F.relu, modes=("on",))


@needs_fused
def test_batch_norm_of_planes_larger_than_one_stretch_of_a_thread():
    for shape in ([2, 3, 150, 150], [3, 1, 50, 70]):  # the second has fewer channels than there are threads
        assert_batch_norm_is_exact(noise(*shape), noise(*shape[::-1]).T, F.relu6)


@needs_fused
@pytest.mark.slow
def test_batch_norm_is_exact_at_real_sizes():
    for channels, side in ((8, 112), (256, 7)):
        x = 3 * noise(32, channels, side, side) + 100
        assert_batch_norm_is_exact(x, noise(*x.shape), F.relu, modes=("on",))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("use_global_stats", [None, False, True])
@pytest.mark.parametrize("shape", [[2, 8, 5, 6], [6, 8, 1, 1], [1, 8, 1, 1]], ids=str)
def test_batch_norm_uses_and_updates_the_statistics_that_paddle_does(
    training: bool, use_global_stats: bool | None, shape: list[int]
):
    found = {}
    for mode in ("auto", "off"):
        bn = BatchNorm2D(8, momentum=0.7, use_global_stats=use_global_stats)
        bn.training = training
        x = paddle.to_tensor(noise(*shape), stop_gradient=False)
        with ops.using(mode):
            y = batch_norm(bn, x, activation=F.relu)
        y.backward(paddle.to_tensor(noise(*shape[::-1]).T.copy()))
        found[mode] = [y, x.grad, *bn.parameters(), bn.weight.grad, bn.bias.grad]
        assert bn._mean.stop_gradient and bn._variance.stop_gradient
    for fused, reference in zip(found["auto"], found["off"], strict=True):
        np.testing.assert_allclose(fused.numpy(), reference.numpy(), rtol=1e-5, atol=2e-5)


UNSUPPORTED = {  # the layer, the type and shape of x
    "no weight": (lambda: nn.BatchNorm2D(8, weight_attr=False), "float32", [2, 8, 5, 6]),
    "no bias": (lambda: nn.BatchNorm2D(8, bias_attr=False), "float32", [2, 8, 5, 6]),
    "channels last": (lambda: nn.BatchNorm2D(8, data_format="NHWC"), "float32", [2, 5, 6, 8]),
    "channels last of a square": (lambda: nn.BatchNorm2D(8, data_format="NHWC"), "float32", [8, 8, 8, 8]),
    "float64": (lambda: nn.BatchNorm2D(8).to(dtype="float64"), "float64", [2, 8, 5, 6]),
    "another norm": (lambda: nn.GroupNorm(2, 8), "float32", [2, 8, 5, 6]),
    "a map without height": (lambda: nn.BatchNorm1D(8), "float32", [2, 8, 5]),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_other_batch_norms_use_the_reference_form(name: str):
    make, dtype, shape = UNSUPPORTED[name]
    x = paddle.to_tensor(noise(*shape).astype(dtype))
    with ops.using("on" if ops.available("simam") else "auto"):
        y = batch_norm(make(), x, x, F.relu)
    np.testing.assert_array_equal(y.numpy(), F.relu(make()(x) + x).numpy())


def test_the_wrong_number_of_channels_is_paddles_error():
    with pytest.raises(ValueError, match="the shape of scale"):
        batch_norm(BatchNorm2D(8), paddle.ones([2, 7, 4, 4]), activation=F.relu)


def test_a_residual_is_broadcast_as_in_paddle():
    x, residual = paddle.to_tensor(noise(2, 8, 4, 4)), paddle.ones([1, 8, 1, 1])
    y = batch_norm(BatchNorm2D(8), x, residual)
    np.testing.assert_allclose(y.numpy(), (nn.BatchNorm2D(8)(x) + 1).numpy(), atol=1e-5)


@pytest.mark.parametrize("layer", ["bn", "relu"])
def test_hooks_see_the_output_of_their_layer(layer: str):
    bn, relu, seen = BatchNorm2D(8), nn.ReLU(), []
    x = paddle.to_tensor(noise(2, 8, 4, 4))
    hooked = {"bn": bn, "relu": relu}[layer]
    handle = hooked.register_forward_post_hook(lambda _, inputs, output: seen.append(output) or 2 * output)
    y = batch_norm(bn, x, activation=relu)
    assert len(seen) == 1 and (float(seen[0].min()) < 0) == (layer == "bn")
    handle.remove()
    np.testing.assert_allclose(y.numpy(), 2 * batch_norm(bn, x, activation=relu).numpy(), atol=1e-5)
    assert len(seen) == 1


@needs_fused
def test_the_fused_batch_norm_does_not_save_the_residual():
    x, residual = (paddle.to_tensor(noise(8, 16, 64, 64), stop_gradient=False) for _ in range(2))
    allocated = lambda: paddle.base.core.host_memory_stat_current_value("Allocated", 0)  # noqa: E731
    with ops.using("on"):
        bn = BatchNorm2D(16)
        batch_norm(bn, x, residual, F.relu)
        before = allocated()
        y = batch_norm(bn, x, residual + 1, F.relu)
        saved = (allocated() - before) / (x.numel().item() * 4) - 1  # besides y, in multiples of x
    assert saved < 0.01, y.shape


@needs_fused
@pytest.mark.parametrize(
    ("model", "tolerance"),
    # rounding decides a few slopes of ReLU in the small maps of the last one, in either form
    [("cifar_resnet20", 1e-4), ("cifar_preresnet20", 1e-4), ("cifar_mobilenetv2", 0.05)],
)
def test_networks_train_the_same_in_both_forms(model: str, tolerance: float):
    # in a start of about four, rounding decides the slope of a ReLU and with it a hundredth of a gradient
    differences = sorted(difference_of_gradients(model, seed) for seed in range(5))
    assert differences[1] < tolerance, differences


def difference_of_gradients(model: str, seed: int) -> float:
    """The largest difference between both forms, in parts of the largest gradient. Logits and running
    statistics have to agree."""
    paddle.seed(seed)
    net, images = create_model(model, num_classes=4), noise(4, 3, 32, 32, seed=seed)
    start, found = {key: value.numpy() for key, value in net.state_dict().items()}, {}
    for mode in ("on", "off"):
        net.set_state_dict({key: paddle.to_tensor(value) for key, value in start.items()})
        net.clear_gradients()
        with ops.using(mode):
            logits = net(paddle.to_tensor(images))
            F.cross_entropy(logits, paddle.arange(4)).backward()
        trained = {name: parameter for name, parameter in net.named_parameters() if parameter.trainable}
        running = {name: value.numpy() for name, value in net.state_dict().items() if name not in trained}
        gradients = {name: parameter.grad.numpy() for name, parameter in trained.items()}
        found[mode] = logits.numpy(), running, gradients
    logits, running, gradients = found["on"]
    # each form of cifar_mobilenetv2 is up to 6e-6 from float64
    np.testing.assert_allclose(logits, found["off"][0], atol=3e-5 * np.abs(logits).max())
    for name, value in running.items():
        np.testing.assert_allclose(value, found["off"][1][name], rtol=1e-5, atol=1e-6, err_msg=name)
    largest = max(np.abs(gradient).max() for gradient in gradients.values())
    return max(np.abs(gradients[name] - found["off"][2][name]).max() for name in gradients) / largest


@needs_fused
def test_the_first_of_equal_maxima_gets_the_gradient_as_in_paddle():
    x = np.zeros([1, 1, 4, 4], "float32")
    gradients = {}
    for mode in ("on", "off"):
        with ops.using(mode):
            gradients[mode] = results(MaxPool2D(2, 2), x, "float32")[1]
    np.testing.assert_array_equal(gradients["on"], gradients["off"])


# ---- NaN and Inf

VALUES = st.sampled_from([np.nan, np.inf, -np.inf, -1.0, 0.0, 1.0, 2.0, 3.0])
WINDOW = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 5))  # kernel, stride, padding


@needs_fused
@settings(max_examples=200)
@given(st.data(), st.integers(1, 5), st.integers(1, 5), WINDOW)
def test_the_max_pool_equals_paddles_in_every_bit(
    data: st.DataObject, height: int, width: int, window: tuple[int, int, int]
):
    """Any values and windows, also on the common path, beyond the border and wholly in the padding."""
    kernel, stride, padding = data.draw(st.sampled_from([(2, 2, 0), window]))
    values = data.draw(st.lists(VALUES, min_size=height * width, max_size=height * width))
    x = np.array(values, "float32").reshape(1, 1, height, width)
    layer, found = MaxPool2D(kernel, stride, padding), {}
    if min(height, width) + 2 * padding < kernel:
        return
    for mode in ("on", "off"):
        with ops.using(mode):
            found[mode] = results(layer, x, "float32")
    np.testing.assert_array_equal(found["on"][0], found["off"][0])
    np.testing.assert_array_equal(found["on"][1], found["off"][1])


@needs_fused
@settings(max_examples=50)
@given(st.lists(VALUES, min_size=12, max_size=12))
def test_strips_have_paddles_maximum_and_its_gradient(values: list[float]):
    x, found = np.array(values, "float32").reshape(1, 1, 3, 4), {}
    for mode in ("on", "off"):
        with ops.using(mode):
            found[mode] = results(Function(strip_maxima), x, "float32")
    np.testing.assert_array_equal(found["on"][0], found["off"][0])
    np.testing.assert_allclose(found["on"][1], found["off"][1], rtol=1e-6)


@needs_fused
@settings(max_examples=50)
@given(st.lists(VALUES, min_size=12, max_size=12))
def test_channel_pooling_has_paddles_maximum_and_its_gradient(values: list[float]):
    x, found = np.array(values, "float32").reshape(1, 3, 2, 2), {}
    for mode in ("on", "off"):
        with ops.using(mode):
            found[mode] = results(Function(max_and_mean), x, "float32")
    np.testing.assert_array_equal(found["on"][0][:, 0], found["off"][0][:, 0])
    np.testing.assert_allclose(found["on"][0][:, 1], found["off"][0][:, 1], rtol=1e-6)
    np.testing.assert_allclose(found["on"][1], found["off"][1], rtol=1e-6)


def special(x: np.ndarray) -> np.ndarray:
    """x without its finite values: 0 where finite, else NaN or the Inf."""
    return np.where(np.isfinite(x), 0, x)


LAYERS = {  # for x [1, 8, 5, 6]; without gct, because Paddle's square root of Inf is NaN in some lanes
    "simam": lambda: create_attention("simam", 8),
    "sge": lambda: create_attention("sge", 8, groups=2),
    "scale": lambda: Gated(1, 8, 1, 1),
    "scale by place": lambda: Gated(1, 1, 5, 6),
    "mean": lambda: Function(global_mean),
    "strip_mean": lambda: Function(strip_means),
    "strip_max": lambda: Function(strip_maxima),
    "strip_scale": lambda: Strips(scale_strips, 1, 8, 5, 6),
    "strip_scale by sums": lambda: Strips(scale_by_strip_sums, 1, 8, 5, 6),
    "sigmoid_gate": lambda: GatedByAnother(8),
    "channel_pool": lambda: Function(max_and_mean),
    "se": lambda: create_attention("se", 8, reduction=2),
    "cbam": lambda: create_attention("cbam", 8, reduction=2),
    "depthwise": lambda: Conv2D(8, 8, 3, padding=1, groups=8, bias_attr=False),
    "depthwise by 2": lambda: Conv2D(8, 8, 3, 2, padding=1, groups=8, bias_attr=False),
    "conv3x3": lambda: Conv2D(8, 17, 3, padding=1, bias_attr=False),
    "conv3x3_bias": lambda: Conv2D(8, 2, 3, padding=1),
    "direct": lambda: Direct(8, 2, side=3, stride=1),
    "direct by 2": lambda: Direct(8, 2, side=5, stride=2),
    "direct 1x1 by 2": lambda: Direct(8, 9, side=1, stride=2),
    "onednn": lambda: Direct(8, 2, 5, 1, "onednn_conv"),
    "onednn by 2": lambda: Direct(8, 2, 5, 2, "onednn_conv"),
    "onednn 1x1": lambda: Direct(8, 9, 1, 1, "onednn_conv"),
    "onednn 1x1 by 2": lambda: Direct(8, 9, 1, 2, "onednn_conv"),
    "relu": lambda: ReLU(),
    "max_pool": lambda: MaxPool2D(3, 2, 1),
    "batch_norm": lambda: Function(lambda x: batch_norm(BatchNorm2D(8), x)),
    "batch_norm and relu": lambda: Function(lambda x: batch_norm(BatchNorm2D(8), x, None, F.relu)),
    "batch_norm and relu6": lambda: Function(lambda x: batch_norm(BatchNorm2D(8), x, None, F.relu6)),
    "batch_norm_add": lambda: Function(lambda x: batch_norm(BatchNorm2D(8), x, x * x)),
    "batch_norm_add and relu": lambda: Function(lambda x: batch_norm(BatchNorm2D(8), x, x * x, F.relu)),
    "batch_norm_add and relu6": lambda: Function(lambda x: batch_norm(BatchNorm2D(8), x, x * x, F.relu6)),
    "frozen batch_norm": lambda: Function(
        lambda x: batch_norm(BatchNorm2D(8, use_global_stats=True), x, None, F.relu)
    ),
}


@needs_fused
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", LAYERS)
def test_nan_and_inf_propagate_as_in_the_reference_form(name: str, value: float):
    layer, found = LAYERS[name](), {}
    for parameter in trained(layer):
        parameter.set_value(noise(*parameter.shape))
    x = noise(1, 8, 5, 6)
    x[0, 2, 2, 3] = value
    for mode in ("on", "off"):
        with ops.using(mode):
            found[mode] = results(layer, x, "float32")
    if not name.startswith("conv3x3"):
        np.testing.assert_array_equal(special(found["on"][0]), special(found["off"][0]))
    else:  # the same places; NaN where Paddle gives Inf
        np.testing.assert_array_equal(np.isfinite(found["on"][0]), np.isfinite(found["off"][0]))
        assert np.isnan(found["on"][0][np.isnan(found["off"][0])]).all()
    for fused, reference in zip(found["on"][1:], found["off"][1:], strict=True):
        assert not np.isfinite(fused[~np.isfinite(reference)]).any()  # none is hidden


@needs_fused
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("bias", [False, True])
def test_nan_and_inf_reach_what_they_reach_in_the_reference_form_and_at_most_their_tiles_of_4x4(
    bias: bool, value: float
):
    layer = Conv2D(8, 9, 3, padding=1, bias_attr=None if bias else False)
    for row, column in ((0, 0), (5, 6), (7, 11), (8, 3), (12, 12)):
        x = noise(3, 8, 13, 14)
        x[1, 2, row, column] = value
        with ops.using("on"):
            found = results(layer, x, "float32")
        reached = np.zeros([16, 16], bool)
        for i in range(max(row - 1, 0) // 4, (row + 1) // 4 + 1):
            for j in range(max(column - 1, 0) // 4, (column + 1) // 4 + 1):
                reached[4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = True
        assert np.isfinite(found[0][[0, 2]]).all()
        assert np.isfinite(found[0][1])[:, ~reached[:13, :14]].all()
        with ops.using("off"):
            expected = results(layer, x, "float32")
        for fused, reference in zip(found, expected, strict=True):
            assert not np.isfinite(fused[~np.isfinite(reference)]).any()


# ---- wrong tensors


def loaded(name: str) -> ops.Fused:
    """The fused form for any input: without the lookup, which refuses some."""
    assert ops.available(name)
    return ops.TABLE[name]["cpu"]


ONES = paddle.ones


def batch_norm_arguments(channels: int) -> tuple:
    """Scale, bias, running mean and variance, activation, frozen, momentum, epsilon."""
    return *(paddle.ones([channels]) for _ in range(4)), 0, False, 0.9, 1e-5


def changed(index: int, argument: object) -> tuple:
    """The arguments of batch norm for 8 channels, one of them changed."""
    arguments = batch_norm_arguments(8)
    return *arguments[:index], argument, *arguments[index + 1 :]


def perceptron(index: int, shape: list[int]) -> tuple:
    """The weights and biases of a perceptron 8, 2, 8; one of them has another shape."""
    return tuple(ONES(shape if k == index else right) for k, right in enumerate(([8, 2], [2], [2, 8], [8])))


WRONG = {  # what is wrong: operator, x, the other arguments, the message
    "channels of sge": ("sge", [2, 7, 6, 6], (ONES([1, 2, 1, 1]), ONES([1, 2, 1, 1])), "divide the channels"),
    "no groups": ("sge", [2, 8, 6, 6], (ONES([1, 0, 1, 1]), ONES([1, 0, 1, 1])), "divide the channels"),
    "weight of sge": ("sge", [2, 8, 6, 6], (ONES([2]), ONES([1, 2, 1, 1])), "a weight of the shape"),
    "bias of sge": ("sge", [2, 8, 6, 6], (ONES([1, 2, 1, 1]), ONES([1, 1, 1, 1])), "a bias of the shape"),
    "dtype": ("sge", [2, 8, 6, 6], (ONES([1, 2, 1, 1], "float64"), ONES([1, 2, 1, 1])), "float32 tensors"),
    "gate's channels": ("scale", [2, 8, 6, 6], (ONES([2, 4, 1, 1]),), "a gate"),
    "gate's batch": ("scale", [2, 8, 6, 6], (ONES([1, 8, 1, 1]),), "a gate"),
    "gate's rank": ("scale", [2, 8, 6, 6], (ONES([8]),), "a gate"),
    "gate's map": ("scale", [2, 8, 6, 6], (ONES([2, 1, 6, 5]),), "a gate"),
    "gate's other map": (
        "sigmoid_gate",
        [2, 8, 6, 5],
        (ONES([2, 8, 5, 6]), ONES([8]), ONES([8])),
        "a map for the gate",
    ),
    "gate's factor": ("sigmoid_gate", [2, 8, 6, 5], (ONES([2, 8, 6, 5]), ONES([7]), ONES([8])), "a factor"),
    "gate's shift": ("sigmoid_gate", [2, 8, 6, 5], (ONES([2, 8, 6, 5]), ONES([8]), ONES([7])), "a shift"),
    "gct's alpha": ("gct", [2, 8, 6, 5], (ONES([1, 7, 1, 1]), *[ONES([1, 8, 1, 1])] * 2, 1e-5), "alpha"),
    "strip's places": ("strip_scale", [2, 8, 6, 5], (ONES([2, 8, 12, 1]), False), "a strip of the shape"),
    "rank": ("simam", [3, 4], (1e-4,), "a map"),
    "rank of a gated map": ("se", [3, 4], (ONES([4, 2]), ONES([2, 4])), "a map"),
    "no hidden unit": ("se", [2, 8, 6, 6], (ONES([8, 0]), ONES([0, 8])), "a first weight"),
    "first weight": ("se", [2, 8, 6, 6], (ONES([7, 2]), ONES([2, 8])), "a first weight of the shape"),
    "second weight": ("se", [2, 8, 6, 6], (ONES([8, 2]), ONES([8, 2])), "a second weight of the shape"),
    "first bias": ("cbam", [2, 8, 6, 6], perceptron(1, [3]), "a first bias of the shape"),
    "second bias": ("cbam", [2, 8, 6, 6], perceptron(3, [7]), "a second bias of the shape"),
    "empty": ("mean", [2, 8, 0, 4], (), "not empty"),
    "empty batch": ("conv3x3", [0, 8, 4, 4], (ONES([2, 8, 3, 3]),), "not empty"),
    "rank of a pooled map": ("max_pool", [3, 4], (2, 2, 0), "a map"),
    "kernel": ("max_pool", [2, 8, 6, 6], (0, 1, 0), "a positive kernel and stride"),
    "stride": ("max_pool", [2, 8, 6, 6], (2, 0, 0), "a positive kernel and stride"),
    "padding": ("max_pool", [2, 8, 6, 6], (2, 2, -1), "a padding that is not negative"),
    "window": ("max_pool", [2, 8, 6, 6], (9, 1, 0), "as large as the window"),
    "depthwise weight": ("depthwise", [2, 8, 6, 6], (ONES([7, 1, 3, 3]), 1), "a weight of the shape"),
    "depthwise stride": ("depthwise", [2, 8, 6, 6], (ONES([8, 1, 3, 3]), 3), "a stride of 1 or 2"),
    "weight": ("conv3x3", [2, 8, 6, 6], (ONES([2, 7, 3, 3]),), "a weight of the shape"),
    "no filters": ("conv3x3", [2, 8, 6, 6], (ONES([0, 8, 3, 3]),), "a weight"),
    "direct weight": ("conv_direct", [2, 8, 6, 6], (ONES([2, 7, 3, 3]), 1, True), "a weight of the shape"),
    "oblong kernel": ("conv_direct", [2, 8, 6, 6], (ONES([2, 8, 3, 5]), 1, True), "a weight of the shape"),
    "even kernel": ("conv_direct", [2, 8, 6, 6], (ONES([2, 8, 4, 4]), 1, True), "k = 1, 3, 5 or 7"),
    "large kernel": ("conv_direct", [2, 8, 6, 6], (ONES([2, 8, 9, 9]), 1, True), "k = 1, 3, 5 or 7"),
    "oneDNN's weight": (
        "onednn_conv",
        [2, 8, 6, 6],
        (ONES([2, 7, 3, 3]), 1, 1, True),
        "a weight of the shape",
    ),
    "oneDNN's kernel": ("onednn_conv", [2, 8, 6, 6], (ONES([2, 8, 3, 4]), 1, 1, True), "odd h and w"),
    "oneDNN's groups": ("onednn_conv", [2, 8, 6, 6], (ONES([6, 2, 3, 3]), 1, 1, True), "divides the filters"),
    "oneDNN's stride": ("onednn_conv", [2, 8, 6, 6], (ONES([2, 8, 3, 3]), 3, 1, True), "a stride of 1 or 2"),
    "oneDNN's dilation": (
        "onednn_conv",
        [2, 8, 6, 6],
        (ONES([2, 8, 3, 3]), 1, 0, True),
        "a positive dilation",
    ),
    "direct stride": ("conv_direct", [2, 8, 6, 6], (ONES([2, 8, 3, 3]), 3, True), "a stride of 1 or 2"),
    "scale": ("batch_norm", [2, 8, 6, 6], changed(0, ONES([7])), "a scale of the shape"),
    "bias of batch norm": ("batch_norm", [2, 8, 6, 6], changed(1, ONES([7])), "a bias of the shape"),
    "running mean": ("batch_norm", [2, 8, 6, 6], changed(2, ONES([9])), "a running mean of the shape"),
    "variance": ("batch_norm", [2, 8, 6, 6], changed(3, ONES([8, 1])), "a running variance of the shape"),
    "dtype of the mean": ("batch_norm", [2, 8, 6, 6], changed(2, ONES([8], "float64")), "float32 tensors"),
    "activation": ("batch_norm", [2, 8, 6, 6], changed(4, 3), "an activation of 0, 1 or 2"),
    "one value": ("batch_norm", [1, 8, 1, 1], batch_norm_arguments(8), "more than one value"),
    "residual": (
        "batch_norm_add",
        [2, 8, 6, 6],
        (ONES([2, 8, 6, 1]), *batch_norm_arguments(8)),
        "a residual",
    ),
    "bias": ("conv3x3_bias", [2, 8, 6, 6], (ONES([2, 8, 3, 3]), ONES([1])), "a bias of the shape"),
}


@needs_fused
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_input_is_refused(wrong: str):
    name, shape, arguments, message = WRONG[wrong]
    with pytest.raises(OSError, match=f"paddle_attn: expected .*{message}.*found"):
        loaded(name)(paddle.ones(shape), *arguments)


ONE, TWO = [paddle.ones([3])], [paddle.ones([3]), paddle.ones([2, 2])]
POWERS = [paddle.full([1], 0.9), paddle.full([1], 0.9)]
WRONG_UPDATES = {  # what is wrong: operator, its arguments, the message
    "a gradient is missing": (
        "momentum",
        (TWO, ONE, TWO, [0.1] * 2, [0.0] * 2, 0.9, 0.0),
        "2 tensors, each a gradient",
    ),
    "gradient": (
        "momentum",
        (TWO, TWO[::-1], TWO, [0.1] * 2, [0.0] * 2, 0.9, 0.0),
        "a gradient of the shape",
    ),
    "velocity": ("momentum", (TWO, TWO, POWERS, [0.1] * 2, [0.0] * 2, 0.9, 0.0), "a velocity of the shape"),
    "rates": ("momentum", (TWO, TWO, TWO, [0.1], [0.0] * 2, 0.9, 0.0), "2 rates"),
    "decays": ("momentum", (TWO, TWO, TWO, [0.1] * 2, [0.0], 0.9, 0.0), "2 decays"),
    "dtype": (
        "momentum",
        (ONE, [paddle.ones([3], "float64")], ONE, [0.1], [0.0], 0.9, 0.0),
        "float32 tensors",
    ),
    "power": (
        "adam",
        (TWO, TWO, TWO, TWO, POWERS, TWO, *[[0.1] * 2] * 3, 0.9, 0.9, 1e-8, 0.0),
        "a power of beta 2 of the shape",
    ),
    "shrinks": (
        "adam",
        (TWO, TWO, TWO, TWO, POWERS, POWERS, [0.1] * 2, [0.1] * 2, [], 0.9, 0.9, 1e-8, 0.0),
        "2 shrinks",
    ),
}


@needs_fused
@pytest.mark.parametrize("wrong", WRONG_UPDATES)
def test_a_wrong_update_is_refused_and_changes_nothing(wrong: str):
    name, arguments, message = WRONG_UPDATES[wrong]
    with pytest.raises(OSError, match=f"paddle_attn: expected {message}.*found"):
        loaded(name)(*arguments)
    assert all(float(tensor.min()) == 1 for tensor in TWO) and float(POWERS[0]) == np.float32(0.9)


@needs_fused
@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_an_update_takes_parameters_of_any_shape(name: str):
    with ops.using("on"):
        for shape in ([], [5], [2, 3], [1, 1, 1, 1]):
            assert ops.find(name, paddle.zeros(shape)) is not None
        assert ops.find(name, paddle.zeros([0])) is ops.find(name, paddle.zeros([2], "float64")) is None


@needs_fused
@pytest.mark.parametrize("shape", [[1], [1, 8, 4, 5], [1, 9, 4, 4], [2, 8, 4, 4]])
@pytest.mark.parametrize("name", MAP_OPERATORS)
def test_a_gradient_of_another_shape_is_refused(name: str, shape: list[int]):
    x = paddle.to_tensor(noise(1, 8, 4, 4), stop_gradient=False)
    y = loaded(name)(x, *ARGUMENTS[name]())
    y.register_hook(lambda gradient: paddle.ones(shape))
    with pytest.raises(OSError, match=r"paddle_attn: expected a gradient of the shape .*, found"):
        y.sum().backward()


@needs_fused
@pytest.mark.parametrize("name", MAP_OPERATORS)
def test_a_gradient_that_is_not_contiguous(name: str):
    x, gradients = paddle.to_tensor(noise(1, 8, 4, 4), stop_gradient=False), []
    for contiguous in (True, False):
        y = loaded(name)(x, *ARGUMENTS[name]())
        gradient = paddle.to_tensor(noise(*y.shape[::-1])).transpose([3, 2, 1, 0])
        y.backward(gradient.contiguous() if contiguous else gradient)
        gradients.append(x.grad.numpy())
        x.clear_grad()
    np.testing.assert_array_equal(*gradients)


@needs_fused
def test_a_gate_by_place_over_one_channel():
    x = paddle.to_tensor(noise(2, 1, 4, 5), stop_gradient=False)
    gate = paddle.to_tensor(noise(2, 1, 5, 4).reshape(2, 1, 4, 5), stop_gradient=False)
    y = loaded("scale")(x, gate)
    y.sum().backward()
    np.testing.assert_array_equal(y.numpy(), x.numpy() * gate.numpy())
    np.testing.assert_array_equal(x.grad.numpy(), gate.numpy())
    np.testing.assert_array_equal(gate.grad.numpy(), x.numpy())


MEMORY = """
import resource
import paddle
from paddle_attn import ops

weight, wide = paddle.ones([8, 8, 3, 3]), paddle.ones([1, 8, 2, 200_000])
with ops.using("on"):
    convolution = ops.find("conv3x3", wide)
convolution(wide[:, :, :, :4], weight)  # starts the threads
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (64 << 20), -1))
convolution(wide, weight)  # 13 MB for the output, 100 MB of scratch for each thread
"""


@needs_fused
def test_memory_that_is_missing_is_an_error_and_not_the_end_of_the_process():
    process = start(cache_folder(), MEMORY, PADDLE_ATTN_TUNE="0")
    _, stderr = process.communicate(timeout=HANG)
    assert process.returncode == 1 and "OSError" in stderr and "out of memory" in stderr, stderr


@needs_fused
def test_a_view_that_is_not_contiguous():
    x = paddle.to_tensor(noise(2, 5, 6, 8)).transpose([0, 2, 3, 1])
    assert not x.is_contiguous()
    simam = create_attention("simam", 6)
    np.testing.assert_array_equal(simam(x).numpy(), simam(x.contiguous()).numpy())


@needs_fused
def test_the_fused_simam_saves_only_its_input_for_backward():
    x = paddle.to_tensor(noise(8, 16, 64, 64), stop_gradient=False)
    allocated = lambda: paddle.base.core.host_memory_stat_current_value("Allocated", 0)  # noqa: E731
    saved = {}  # besides the output, in multiples of x
    for mode in ("on", "off"):
        with ops.using(mode):
            simam = create_attention("simam", 16)
            simam(x)
            before = allocated()
            y = simam(x)
            saved[mode] = (allocated() - before) / (x.numel().item() * 4) - 1
            del y
    assert saved["on"] < 0.01 < 1 < saved["off"]


@needs_fused
@pytest.mark.parametrize(
    "model", ["towernet", "mobilenet_v2", "resnet18", "cifar_preresnet20", "cifar_mobilenetv2"]
)
def test_networks_give_the_same_logits_in_both_forms(model: str):
    net = create_model(model, "simam", num_classes=4)
    x = paddle.to_tensor(noise(2, 3, 128, 128))
    if model == "cifar_mobilenetv2":  # with its first statistics it returns the bias of its last layer
        for layer in net.sublayers():
            if isinstance(layer, nn.BatchNorm2D):
                layer._momentum = 0.0
        net(x)
    net.eval()
    logits = {}
    for mode in ("on", "off"):
        with ops.using(mode):
            logits[mode] = net(x).numpy()
    np.testing.assert_allclose(logits["on"], logits["off"], atol=1e-5 * np.abs(logits["off"]).max())
    assert not np.array_equal(logits["on"], logits["off"]), "the fused operators were not used"


@needs_fused
def test_training_twice_gives_the_same_bits():
    def train() -> np.ndarray:
        paddle.seed(0)
        net = create_model("cifar_resnet20", "simam", num_classes=4)
        optimizer = paddle.optimizer.Momentum(0.1, 0.9, net.parameters())
        for _ in range(3):
            net(paddle.to_tensor(noise(4, 3, 32, 32))).square().mean().backward()
            optimizer.step()
            optimizer.clear_grad()
        return np.concatenate([parameter.numpy().ravel() for parameter in net.parameters()])

    np.testing.assert_array_equal(train(), train())


@needs_fused
@pytest.mark.parametrize("name", ["simam", "nam", "cbam", "coordatt"])
def test_under_no_grad_nothing_is_recorded(name: str):
    """Paddle records a custom operator there, which keeps its inputs in memory."""
    attn, x = create_attention(name, 64), paddle.to_tensor(noise(2, 64, 5, 6))
    with paddle.no_grad():
        y = attn(x)
    assert y.stop_gradient and y.grad_fn is None
    assert not attn(paddle.to_tensor(x, stop_gradient=False)).stop_gradient


# ---- second derivatives


def gradient_penalty(function: Callable[[paddle.Tensor], paddle.Tensor], x: paddle.Tensor) -> None:
    """Backward through the gradient of a function."""
    gradient = paddle.grad(function(x).square().sum(), x, create_graph=True)[0]
    gradient.square().sum().backward()


ARGUMENTS = {  # after x [1, 8, 4, 4]
    "simam": lambda: (1e-4,),
    "sge": lambda: (paddle.ones([1, 2, 1, 1]), paddle.ones([1, 2, 1, 1])),
    "scale": lambda: (paddle.ones([1, 8, 1, 1]),),
    "mean": lambda: (),
    "channel_pool": lambda: (),
    "gct": lambda: (*(paddle.ones([1, 8, 1, 1]) for _ in range(3)), 1e-5),
    "strip_mean": lambda: (),
    "strip_max": lambda: (),
    "strip_scale": lambda: (paddle.ones([1, 8, 8, 1]), False),
    "sigmoid_gate": lambda: (paddle.ones([1, 8, 4, 4]), paddle.ones([8]), paddle.ones([8])),
    "se": lambda: (paddle.ones([8, 2]), paddle.ones([2, 8])),
    "cbam": lambda: (paddle.ones([8, 2]), paddle.ones([2]), paddle.ones([2, 8]), paddle.ones([8])),
    "depthwise": lambda: (paddle.ones([8, 1, 3, 3]), 1),
    "conv3x3": lambda: (paddle.ones([2, 8, 3, 3]),),
    "conv3x3_bias": lambda: (paddle.ones([2, 8, 3, 3]), paddle.ones([2])),
    "conv_direct": lambda: (paddle.ones([2, 8, 3, 3]), 1, True),
    "onednn_conv": lambda: (paddle.ones([2, 8, 3, 3]), 1, 1, True),
    "onednn_conv_bias": lambda: (paddle.ones([2, 8, 3, 3]), paddle.ones([2]), 1, 1, True),
    "relu": lambda: (),
    "bfloat16_conv": lambda: (paddle.ones([2, 8, 3, 3]), 1, True),
    "bfloat16_conv_bias": lambda: (paddle.ones([2, 8, 3, 3]), paddle.ones([2]), 1, True),
    "max_pool": lambda: (2, 2, 0),
    "batch_norm": lambda: batch_norm_arguments(8),
    "batch_norm_add": lambda: (paddle.ones([1, 8, 4, 4]), *batch_norm_arguments(8)),
}


@needs_fused
@pytest.mark.parametrize("name", MAP_OPERATORS)
def test_a_fused_operator_raises_for_a_second_derivative(name: str):
    x = paddle.to_tensor(noise(1, 8, 4, 4), stop_gradient=False)
    with ops.using("on"):
        fused, arguments = ops.find(name, x), ARGUMENTS[name]()
    with pytest.raises(OSError, match="no second derivative; set PADDLE_ATTN_OPS=off"):
        gradient_penalty(lambda x: fused(x, *arguments), x)


REFERENCE = {  # Paddle lacks the second derivatives of the other reference forms
    "simam": lambda: create_attention("simam", 8),
    "sge": lambda: create_attention("sge", 8, groups=2),
    "conv3x3": lambda: Conv2D(8, 17, 3, padding=1, bias_attr=False),
    "conv3x3_bias": lambda: Conv2D(8, 2, 3, padding=1),
    "direct": lambda: Direct(8, 2, side=3, stride=1),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_a_reference_form_has_a_second_derivative(name: str):
    x = paddle.to_tensor(noise(1, 8, 4, 4), stop_gradient=False)
    with ops.using("off"):
        gradient_penalty(REFERENCE[name](), x)
    assert float(x.grad.abs().max()) > 0


# ---- the lookup


@pytest.mark.parametrize("name", MAP_OPERATORS)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [([2, 3, 1, 1], "float32"), ([0, 3, 4, 4], "float32"), ([2, 3, 4, 4], "float64"), ([3, 4], "float32")],
)
def test_other_tensors_use_the_reference_form(name: str, shape: list[int], dtype: str):
    if shape[2:] == [1, 1] and ops.TABLE[name]["cpu"].min_places == 1:
        return
    with ops.using("on"):
        assert ops.find(name, paddle.zeros(shape, dtype)) is None


def test_an_exported_network_contains_no_fused_operator(tmp_path: Path):
    net = create_model("cifar_mobilenetv2", "simam", num_classes=4)
    net.eval()
    with ops.using("on" if ops.available("simam") else "auto"):
        paddle.jit.save(
            net, str(tmp_path / "net"), input_spec=[paddle.static.InputSpec([None, 3, 32, 32], "float32")]
        )
        assert "paddle_attn_" not in (tmp_path / "net.json").read_text()
        x = paddle.to_tensor(noise(2, 3, 32, 32))
        np.testing.assert_allclose(
            paddle.jit.load(str(tmp_path / "net"))(x).numpy(), net(x).numpy(), rtol=1e-4, atol=1e-5
        )


def test_a_mode_ends_with_its_block():
    x = paddle.zeros([1, 1, 2, 2])
    with ops.using("off"):
        assert ops.find("simam", x) is None and not ops.available("simam") and ops.mode() == "off"
        with ops.using(None):
            assert ops.mode() == "off"
    assert ops.mode() == (os.environ.get("PADDLE_ATTN_OPS") or "auto")
    with pytest.raises(UserError, match="unknown mode of the fused operators 'of'"), ops.using("of"):
        pass


SQUARE = """
#include "cpu/common.h"

namespace paddle_attn {

std::vector<Tensor> square(const Tensor& x) {
  Tensor y = paddle::empty_like(x);
  for (Index i = 0; i < x.numel(); ++i) y.data<float>()[i] = x.data<float>()[i] * x.data<float>()[i];
  return {y};
}

std::vector<Tensor> square_backward(const Tensor& x, const Tensor& grad) {
  Tensor dx = paddle::empty_like(x);
  for (Index i = 0; i < x.numel(); ++i) dx.data<float>()[i] = 2 * x.data<float>()[i] * grad.data<float>()[i];
  return {dx};
}

}  // namespace paddle_attn

FUSED_OPERATOR(paddle_attn_square, square, square_backward, paddle_attn::shape_of_first_input, {"X"});
"""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A copy of the user's cache, without what killed compilations left."""
    return shutil.copytree(cache_folder(), tmp_path / "cache", ignore=shutil.ignore_patterns("*.tmp"))


@needs_fused
def test_a_fused_form_is_added_by_one_file_and_one_entry(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "square.cc").write_text(SQUARE)
    form = ops.Fused(str(tmp_path / "square.cc"), "paddle_attn_square")
    monkeypatch.setenv("PADDLE_ATTN_CACHE", str(cache))
    x = paddle.to_tensor(noise(1, 2, 3, 3), stop_gradient=False)
    with ops.using("on"):
        monkeypatch.setitem(ops.TABLE, "square", {"gpu": form})
        assert ops.find("square", x) is None  # x is on the CPU
        monkeypatch.setitem(ops.TABLE, "square", {"cpu": form})
        y = ops.find("square", x)(x)
    y.sum().backward()
    np.testing.assert_array_equal(y.numpy(), x.numpy() ** 2)
    np.testing.assert_array_equal(x.grad.numpy(), 2 * x.numpy())


# ---- compiling, in new processes

PROGRAM = """
import paddle
from paddle_attn import create_attention, ops
print(*(name for name in ops.TABLE if ops.available(name)))
print(create_attention("simam", 2)(paddle.ones([1, 2, 2, 2])).sum().item())
"""
COMPILING = "compiling fused operators"


def start(
    cache: Path, program: str = PROGRAM, prefix: tuple[str, ...] = (), **environment: str
) -> subprocess.Popen:
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PADDLE_ATTN_OPS": "auto", "PADDLE_ATTN_CACHE": str(cache)} | environment,
    )


def finish(process: subprocess.Popen) -> tuple[int, list[str], str]:
    """The exit code; the names of the available operators; stderr. Checks SimAM's output."""
    stdout, stderr = process.communicate(timeout=HANG)
    names, *output = stdout.splitlines() or [""]
    if process.returncode == 0:
        assert float(output[0]) == pytest.approx(8 / (1 + np.exp(-0.5)), rel=1e-5)
    return process.returncode, names.split(), stderr


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("no-such-compiler", "no C++ compiler, expected no-such-compiler on the PATH"),
        ("false", "false failed"),
    ],
)
def test_without_a_compiler_auto_uses_the_reference_forms_and_on_raises(
    tmp_path: Path, compiler: str, reason: str
):
    code, names, stderr = finish(start(tmp_path, CXX=compiler))
    assert code == 0 and names == [] and COMPILING not in stderr
    code, _, stderr = finish(start(tmp_path, CXX=compiler, PADDLE_ATTN_OPS="on"))
    assert code == 1
    assert "the fused operator 'simam' is required and not available" in stderr and reason in stderr


def test_an_unknown_mode_is_an_error(tmp_path: Path):
    code, _, stderr = finish(start(tmp_path, PADDLE_ATTN_OPS="yes"))
    assert code == 1 and "unknown value of PADDLE_ATTN_OPS 'yes'" in stderr


@needs_fused
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_a_source_that_does_not_compile_leaves_the_other_operators_fused(
    tmp_path: Path, cache: Path, mode: str
):
    (tmp_path / "broken.cc").write_text('#error "this source is broken"')
    entry = f'ops.TABLE["simam"]["cpu"] = ops.Fused({str(tmp_path / "broken.cc")!r}, "paddle_attn_simam")'
    program = PROGRAM.replace("import create_attention, ops\n", f"import create_attention, ops\n{entry}\n")
    code, names, stderr = finish(start(cache, program, PADDLE_ATTN_OPS=mode))
    assert names == [name for name in FORMS if name != "simam"]
    assert code == (0 if mode == "auto" else 1)
    if mode == "on":
        assert "the fused operator 'simam' is required and not available" in stderr
        assert "this source is broken" in stderr


@needs_fused
def test_compiling_announces_itself_once_and_removes_libraries_that_nobody_used_for_a_month(cache: Path):
    for library in [*cache.glob("simam-*"), *cache.glob("gate-*")]:
        library.unlink()
    now, day = time.time(), 24 * 3600
    ages = {"simam-old-0.so": 31, "simam-new-0.so": 29, "simam-notes.txt": 31, "sge-old-0.so": 31}
    for name in ages:
        (cache / name).touch()
    for file in cache.iterdir():
        os.utime(file, (now, now - ages.get(file.name, 20) * day))
    code, names, stderr = finish(start(cache))
    assert code == 0 and names == list(FORMS) and stderr.count(COMPILING) == 1
    # nothing of sge was compiled
    assert {name for name in ages if (cache / name).exists()} == ages.keys() - {"simam-old-0.so"}
    used = {file.name.partition("-")[0] for file in cache.iterdir() if file.stat().st_mtime > now - day}
    assert used == {Path(form.source).stem for form in FORMS.values()}


@needs_fused
def test_a_clone_in_another_folder_compiles_the_same_libraries(tmp_path: Path, cache: Path):
    shutil.copytree(
        ROOT / "paddle_attn", tmp_path / "paddle_attn", ignore=shutil.ignore_patterns("__pycache__")
    )
    program = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n{PROGRAM}"
    before = {library.name for library in cache.glob("simam-*")}
    for library in cache.glob("simam-*"):
        library.unlink()
    code, names, stderr = finish(start(cache, program))
    assert code == 0 and names == list(FORMS) and COMPILING in stderr
    assert {library.name for library in cache.glob("simam-*")} <= before


@needs_fused
def test_two_processes_that_compile_at_once_leave_whole_libraries(cache: Path):
    before = {library.name for library in cache.iterdir()}
    for library in cache.glob("simam-*"):
        library.unlink()
    first, second = start(cache), start(cache)
    for code, names, _ in (finish(first), finish(second)):
        assert code == 0 and names == list(FORMS)
    assert {library.name for library in cache.iterdir()} <= before  # no temporary files
    code, names, stderr = finish(start(cache))
    assert code == 0 and names == list(FORMS) and COMPILING not in stderr


def assert_the_reference_forms(reason: str, cache: Path, *arguments: object, **environment: str) -> None:
    """Assert that `auto` uses the reference forms without a word, and that `on` gives the reason."""
    code, names, stderr = finish(start(cache, *arguments, **environment))
    assert code == 0 and names == [] and COMPILING not in stderr
    code, _, stderr = finish(start(cache, *arguments, PADDLE_ATTN_OPS="on", **environment))
    assert code == 1 and "is required and not available" in stderr and reason in stderr


def test_a_cache_that_is_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    assert_the_reference_forms("File exists", tmp_path / "file")


@pytest.mark.parametrize("mode", [0o777, 0o775], ids=oct)
def test_a_cache_that_other_users_can_write_is_not_used(cache: Path, mode: int):
    cache.chmod(mode)
    assert_the_reference_forms(f"other users can write into {cache}", cache)


@pytest.fixture
def nobody() -> tuple[str, ...]:
    """The start of a command that runs as a user without a name and without root's rights."""
    prefix = ("unshare", "--user", "--map-user=54321")
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("needs user namespaces")
    return prefix


def test_neither_a_home_folder_nor_a_user_name(nobody: tuple[str, ...]):
    environment = ("env", "--unset=HOME", "--unset=XDG_CACHE_HOME", "--unset=PADDLE_ATTN_CACHE")
    reason = "the user has no home folder; set PADDLE_ATTN_CACHE to a folder"
    assert_the_reference_forms(reason, Path(), PROGRAM, (*environment, *nobody))


@pytest.mark.parametrize("mode", [0o500, 0o000], ids=oct)
def test_an_empty_cache_that_cannot_be_written(tmp_path: Path, nobody: tuple[str, ...], mode: int):
    (tmp_path / "cache").mkdir(mode=mode)
    assert_the_reference_forms("cache cannot be written", tmp_path / "cache", PROGRAM, nobody)


@needs_fused
def test_a_full_cache_needs_no_right_to_write(cache: Path, nobody: tuple[str, ...]):
    cache.chmod(0o500)
    code, names, stderr = finish(start(cache, PROGRAM, nobody))
    assert code == 0 and names == list(FORMS) and COMPILING not in stderr


@pytest.fixture
def open_umask() -> Iterator[None]:
    """New files are writable for everybody unless their program prevents it."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_a_new_cache_is_private(tmp_path: Path):
    finish(start(tmp_path / "above" / "cache", CXX="false"))
    assert (tmp_path / "above" / "cache").stat().st_mode & 0o777 == 0o700


def replace_by_link(library: Path) -> None:
    copy = library.with_name("copy")
    library.rename(copy)
    library.symlink_to(copy)


# by library: some that compile quickly; the first two end a process that loads them with a bus error
DAMAGE = {
    "simam": lambda library: os.truncate(library, library.stat().st_size // 2),
    "sge": lambda library: library.write_bytes(bytes(library.stat().st_size)),
    "gate": lambda library: library.write_bytes(b""),
    "channel_gate": replace_by_link,
    "maxpool": lambda library: library.chmod(0o777),
    "optimizer": lambda library: os.chown(library, os.geteuid() or 54321, -1),
    "relu": lambda library: library.write_bytes(library.read_bytes()[1:] + b"\0"),
    "sigmoid_gate": lambda library: library.write_bytes(library.read_bytes()[:-8]),
    "gct": lambda library: library.unlink(),
}


@needs_fused
@pytest.mark.usefixtures("open_umask")
def test_libraries_that_are_damaged_or_not_ones_own_are_compiled_again(cache: Path):
    assert set(DAMAGE) < {Path(form.source).stem for form in FORMS.values()}
    for stem, damage in DAMAGE.items():
        for library in cache.glob(f"{stem}-*"):
            damage(library)
    code, names, stderr = finish(start(cache))
    assert code == 0 and names == list(FORMS) and COMPILING in stderr
    for stem in DAMAGE:
        newest = max(cache.glob(f"{stem}-*"), key=lambda path: path.lstat().st_mtime)
        assert newest.is_file() and not newest.is_symlink() and newest.stat().st_size > 10_000
        assert newest.stat().st_uid == os.geteuid() and newest.stat().st_mode & 0o777 == 0o700
    code, names, stderr = finish(start(cache))
    assert code == 0 and names == list(FORMS) and COMPILING not in stderr


# ---- the sources


@needs_fused
@pytest.mark.slow
def test_the_sources_compile_without_a_warning(tmp_path: Path):
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\nexec c++ -Werror "$@"\n')
    compiler.chmod(0o700)
    code, names, stderr = finish(start(tmp_path / "cache", CXX=str(compiler), PADDLE_ATTN_OPS="on"))
    assert code == 0 and names == list(FORMS), stderr


@needs_fused
@pytest.mark.parametrize(
    "change", [{"_stride": [1, 1]}, {"_dilation": [2, 2]}, {"_updated_padding": [2, 2]}], ids=str
)
def test_a_convolution_that_was_changed_after_its_start_is_the_changed_one(change: dict):
    layer, found = Conv2D(16, 16, 3, 2, 1), []
    vars(layer).update(change)
    for mode in ("on", "off"):
        with ops.using(mode):
            found.append(layer(paddle.ones([1, 16, 8, 8])).numpy())
    np.testing.assert_array_equal(*found)


# ---- tracing


@needs_fused
@pytest.mark.parametrize("attn", list_attention())
def test_every_attention_runs_under_to_static(attn: str):
    module, x = create_attention(attn, 32, **smaller_kwargs(attn)), paddle.randn([2, 32, 8, 9])
    module.eval()
    with ops.using("on"):
        expected = module(x).numpy()
        traced = paddle.jit.to_static(module)(x).numpy()  # bytecode is traced
    np.testing.assert_allclose(traced, expected, rtol=1e-4, atol=1e-5)


@needs_fused
@pytest.mark.parametrize("full_graph", [False, True])  # False is the default: bytecode is traced
@pytest.mark.parametrize("attn", ["simam", "cbam"])
def test_a_network_trains_under_to_static(full_graph: bool, attn: str):
    paddle.seed(0)
    x, found = paddle.to_tensor(noise(2, 3, 32, 32)), []
    net = create_model("cifar_resnet20", attn, num_classes=4)
    traced = paddle.jit.to_static(create_model("cifar_resnet20", attn, num_classes=4), full_graph=full_graph)
    traced.set_state_dict(net.state_dict())
    with ops.using("on"):
        for form in (net, traced):
            logits = form(x)
            logits.square().mean().backward()
            gradients = [
                parameter.grad.numpy() for parameter in form.parameters() if not parameter.stop_gradient
            ]
            # rounding can give the gradient of one of CBAM's maxima to another place
            found.append([logits.numpy(), *([] if attn == "cbam" else gradients)])
    for eager, static in zip(*found, strict=True):
        np.testing.assert_allclose(static, eager, rtol=1e-3, atol=1e-4 * max(1, np.abs(eager).max()))


def test_an_image_of_other_channels_is_paddles_error():
    with pytest.raises(ValueError, match="channel"):
        Conv2D(3, 64, 7, stride=2, padding=3, bias_attr=False)(paddle.zeros([1, 1, 32, 32]))
