"""The attention modules: agreement with the authors' tensors, edge cases, export."""

from __future__ import annotations

import importlib
import math
import pkgutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from helpers import EXPECTED, golden_file, smaller_kwargs
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn
from paddle.static import InputSpec

from paddle_attn import attention, create_attention, list_attention, ops
from paddle_attn.attention import ATTENTION, Attention, SqueezeExcite, build
from paddle_attn.attention.base import adaptive_mean
from paddle_attn.errors import UserError
from reference.compare import Case, is_statistic, module_cases, module_differences, tolerance
from reference.initialisation import has_distribution

FLUSHED = 2**-13  # Paddle's conversion to float16 makes 0 of smaller numbers
# modules whose sums would overflow in half precision
IN_FLOAT32 = ["simam", "sge", "srm", *(name for name in EXPECTED if EXPECTED[name].get("half_in_float32"))]
CASES = [(case, shape) for case in module_cases() for shape in case.maps]


def sigmoid(value: float) -> float:
    return 1 / (1 + np.exp(-value))


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(
    ("case", "shape", "form"),
    [
        pytest.param(case, shape, form, id=f"{case.name}-{shape}-{form}")
        for case, shape in CASES
        for form in ("off", "auto")
    ],
)
def test_agrees_with_the_authors_code(case: Case, shape: str, form: str, mode: str):
    file = golden_file(case.file(shape))
    with ops.using(form):
        found = module_differences(file, case, mode)
    attn = case.create(channels=int(shape.split("x")[1]))
    statistics = [key for key in attn.state_dict() if is_statistic(key)]
    compared = statistics if mode == "train" and case.of_largest else []
    assert len(found) == 2 + sum(not parameter.stop_gradient for parameter in attn.parameters()) + len(
        compared
    )
    batch_norm = bool(statistics)
    for what, difference in found.items():
        assert difference <= tolerance(case, mode, what, batch_norm), what


def make(name: str, channels: int = 32, **kwargs) -> paddle.nn.Layer:
    """A module with random weights, the same on every call."""
    attn = create_attention(name, channels, **smaller_kwargs(name) | kwargs)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for parameter in attn.parameters():
        if not parameter.stop_gradient:
            parameter.set_value(rng.normal(0, 0.5, parameter.shape).astype("float32"))
    return attn


@pytest.mark.parametrize(
    ("name", "kwargs"), [*((name, {}) for name in list_attention()), ("gc", {"fusion": "mul"})]
)
def test_output_is_the_input_times_the_gate(name: str, kwargs: dict):
    attn = make(name, **kwargs)
    attn.eval()
    x = paddle.to_tensor(np.random.default_rng(0).standard_normal([3, 32, 6, 5]).astype("float32"))
    try:
        gate = attn.gate(x)
    except ValueError as error:
        pytest.skip(str(error))  # an additive module has no gate
    assert paddle.broadcast_shape(gate.shape, x.shape) == x.shape
    product = x * gate
    if EXPECTED.get(name, {}).get("interleaves_halves"):
        product = F.channel_shuffle(product, 2)
    np.testing.assert_allclose(product.numpy(), attn(x).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [
        ("bam", 1, 2),
        ("cbam", 0, 1),
        ("eca", 0, 1),
        ("se", 0, 1),
        ("sge", 0, 1),
        ("simam", sigmoid(0.5) - 1e-6, 1),
        ("srm", 0, 1),
        *((name, *expected["gate"]) for name, expected in EXPECTED.items() if "gate" in expected),
    ],
)
def test_the_gate_lies_in_the_papers_range(name: str, lowest: float, highest: float):
    attn = make(name)
    attn.eval()
    gate = attn.gate(paddle.randn([4, 32, 9, 9]) * 50)
    assert lowest <= float(gate.min()) < float(gate.max()) <= highest


@pytest.mark.parametrize("name", list_attention())
@settings(max_examples=15)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 1e3]),
)
def test_any_size_and_scale_is_finite(name: str, batch: int, height: int, width: int, scale: float):
    attn = make(name)
    values = (
        np.random.default_rng(height * 10 + width)
        .standard_normal([batch, 32, height, width])
        .astype("float32")
        * scale
    )
    x = paddle.to_tensor(values, stop_gradient=False)
    y = attn(x)
    y.sum().backward()
    assert y.shape == x.shape
    assert np.isfinite(y.numpy()).all() and np.isfinite(x.grad.numpy()).all()
    for parameter in attn.parameters():
        assert parameter.stop_gradient or np.isfinite(parameter.grad.numpy()).all()


@pytest.mark.parametrize(
    ("lacking", "use"),
    [("gate", lambda attn: attn(paddle.ones([1, 4, 2, 2]))), ("macs", lambda attn: attn.macs(2, 2))],
)
def test_a_new_module_reports_what_it_must_define(lacking: str, use):
    class New(Attention):
        pass

    with pytest.raises(NotImplementedError, match=f"New lacks {lacking}"):
        use(New(4))


def test_a_1x1_map_has_the_gate_of_an_average_neuron():
    x = paddle.randn([2, 64, 1, 1])
    np.testing.assert_allclose(create_attention("simam", 64).gate(x).numpy(), sigmoid(0.5), rtol=1e-6)
    sge = create_attention("sge", 64, groups=8)
    sge.weight.set_value(np.full([1, 8, 1, 1], 3.0, "float32"))
    np.testing.assert_allclose(sge.gate(x).numpy(), sigmoid(1.0), rtol=1e-6)


def test_a_config_cannot_set_the_channels():
    with pytest.raises(UserError, match="unknown argument of attention 'se' 'channels'"):
        build("se", SqueezeExcite, 32, {"channels": 3})


def test_ecas_kernel_is_the_papers_formula():
    found = [create_attention("eca", channels).k_size for channels in (8, 64, 128, 256, 512, 2048)]
    assert found == [3, 3, 5, 5, 5, 7]


def test_gc_starts_as_the_identity_and_has_no_gate_when_it_adds():
    x = paddle.randn([2, 32, 5, 4])
    gc = create_attention("gc", 32)
    np.testing.assert_array_equal(gc(x).numpy(), x.numpy())
    with pytest.raises(ValueError, match="has no gate"):
        gc.gate(x)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", IN_FLOAT32)
def test_half_precision_is_computed_in_float32(name: str, dtype: str):
    attn = make(name)
    x = (paddle.randn([2, 32, 9, 9]) * 200).astype(dtype)  # the sum of squares overflows float16
    y = attn(x)
    assert str(y.dtype) == f"paddle.{dtype}" == str(attn.gate(x).dtype).replace("Type.", "")
    exact = attn(x.astype("float32")).numpy()
    np.testing.assert_allclose(y.astype("float32").numpy(), exact, rtol=2e-2, atol=FLUSHED)
    np.testing.assert_allclose(
        attn.gate(x).astype("float32").numpy(),
        attn.gate(x.astype("float32")).numpy(),
        rtol=1e-2,
        atol=FLUSHED,
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kwargs", [{}, {"mode": "dot_product"}, {"sub_sample": False}], ids=str)
def test_the_weights_of_the_nonlocal_block_are_computed_in_float32(kwargs: dict, dtype: str):
    """Paddle has no half-precision convolution for a CPU, so the test begins behind those."""
    block = create_attention("nonlocal", 32, **kwargs)
    # scores up to 10^6; small values, so that the result fits
    half = [(paddle.randn([2, 16, 6, 5]) * size).astype(dtype) for size in (200, 200, 0.01)]
    found = block._gather(*half)
    exact = block._gather(*(map_.astype("float32") for map_ in half)).numpy()
    assert str(found.dtype) == f"paddle.{dtype}"
    np.testing.assert_allclose(
        found.astype("float32").numpy(), exact, rtol=1e-2, atol=1e-2 * np.abs(exact).max()
    )


@pytest.mark.parametrize("name", IN_FLOAT32)
def test_amp_leaves_the_parameters_in_float32_where_the_sums_are(name: str):
    """What `paddle.amp.decorate` calls on a GPU for level O2; on a CPU it returns before that."""
    attn = make(name)
    sys.modules["paddle.amp.auto_cast"].amp_initialize([attn], "float16", None)
    assert {parameter.dtype for parameter in attn.parameters()} <= {paddle.float32}


def test_initial_gates_are_those_of_the_authors():
    x = paddle.randn([2, 64, 5, 5])
    np.testing.assert_allclose(create_attention("sge", 64).gate(x).numpy(), sigmoid(1.0), rtol=1e-6)
    cbam = create_attention("cbam", 64)
    np.testing.assert_allclose(cbam.spatial_gate(x).numpy(), 0.5)


@pytest.mark.parametrize("name", ["bam", "cbam", "eca", "se"])
def test_a_module_alone_starts_as_in_pytorch(name: str):
    paddle.seed(0)
    for layer in create_attention(name, 256).sublayers():
        if isinstance(layer, (nn.Conv1D, nn.Conv2D, nn.Linear)):
            shape = layer.weight.shape
            fan_in = shape[0] if isinstance(layer, nn.Linear) else math.prod(shape[1:])
            for parameter in layer.parameters():
                assert has_distribution(parameter.numpy(), {"uniform": fan_in**-0.5})


@pytest.mark.parametrize("name", list_attention())
def test_exported_with_dynamic_batch_height_and_width(name: str, tmp_path: Path):
    attn = make(name)
    attn.eval()
    spec = [InputSpec([None, 32, None, None], "float32", "x")]
    paddle.jit.save(paddle.jit.to_static(attn, input_spec=spec, full_graph=True), str(tmp_path / "attn"))
    loaded = paddle.jit.load(str(tmp_path / "attn"))
    plain = make(name)
    plain.eval()
    for shape in ([2, 32, 7, 7], [1, 32, 5, 9], [3, 32, 1, 1], [1, 32, 2, 1]):
        x = paddle.randn(shape)
        expected = plain(x).numpy()
        largest = max(1, np.abs(expected).max())  # of LSK: up to a hundred
        np.testing.assert_allclose(loaded(x).numpy(), expected, atol=1e-5 * largest)


@pytest.mark.parametrize("name", ["ema", "shuffle"])
@pytest.mark.parametrize(
    "norm", [lambda c: nn.GroupNorm(1, c), nn.BatchNorm2D, lambda c: nn.GroupNorm(c, c, epsilon=0.5)]
)
def test_a_replaced_norm_is_the_one_that_runs(name: str, norm: Callable[[int], nn.Layer]):
    attn = create_attention(name, 128)
    attn.gn = norm(attn.gn.weight.shape[0])
    for parameter in attn.parameters():
        parameter.set_value(paddle.randn(parameter.shape))
    calls = []
    x = paddle.randn([2, 128, 5, 6])
    found = attn(x)
    attn.gn.register_forward_post_hook(lambda layer, inputs, output: calls.append(1))
    np.testing.assert_allclose(found.numpy(), attn(x).numpy(), rtol=1e-4, atol=1e-4)
    assert calls == [1]


@pytest.mark.parametrize("name", ["ema", "shuffle"])
def test_another_default_type_does_not_change_a_module(name: str):
    attn, x = create_attention(name, 128), paddle.randn([2, 128, 5, 6])
    expected = attn(x).numpy()
    paddle.set_default_dtype("float64")
    try:
        np.testing.assert_array_equal(attn(x).numpy(), expected)
    finally:
        paddle.set_default_dtype("float32")


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(1, 45))
@settings(max_examples=30)
def test_adaptive_means_are_paddles(height: int, width: int, rows: int, columns: int):
    x = paddle.randn([2, 3, height, width]).astype("float64")
    expected = F.adaptive_avg_pool2d(x, [rows, columns]).numpy()
    np.testing.assert_allclose(adaptive_mean(x, rows, columns).numpy(), expected, atol=1e-12)
    found = adaptive_mean(x.astype("float32"), rows, columns)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    assert adaptive_mean(x[:, :, :0], 5, 5).shape == F.adaptive_avg_pool2d(x[:, :, :0], 5).shape


# elementwise operations for one image of 4 x 6 px: 32 channels make 768 elements of a map; else in EXPECTED
MACS = {
    "bam": 5 * 768 + 6 * 2 * 24,  # three norms and ReLUs on 2 hidden channels
    "cbam": 3 * 768 + 2 * 32 + 3 * 768 + 2 * 24,
    "eca": 2 * 768 + 3 * 32 + 32,  # the kernel covers 3 channels
    "gc": 2 * 768 + 2 * 24,
    "se": 2 * 768 + 32,
    "sge": 4 * 768 + 7 * 8 * 24,  # 8 groups
    "simam": 7 * 768,
    "srm": 5 * 768 + 5 * 32,
}


@pytest.mark.parametrize("name", MACS)
def test_elementwise_work_is_the_count_by_hand(name: str):
    kwargs = {"groups": 8} if name == "sge" else {}
    assert create_attention(name, 32, **kwargs).macs(4, 6) == MACS[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_elementwise_work_is_the_expected_count(name: str):
    assert make(name).macs(4, 6) == sum(EXPECTED[name]["macs_of_32x4x6"].values())


@pytest.mark.parametrize("name", list_attention())
def test_elementwise_work_is_at_least_one_operation_per_element(name: str):
    assert make(name).macs(4, 6) >= 32 * 4 * 6


def test_every_module_of_the_package_is_registered():
    modules = {
        value
        for info in pkgutil.iter_modules(attention.__path__)
        for value in vars(importlib.import_module(f"{attention.__name__}.{info.name}")).values()
        if isinstance(value, type) and issubclass(value, Attention) and value is not Attention
    }
    assert modules == set(ATTENTION.values())


def test_list_attention_takes_a_pattern():
    assert list_attention("sim*") == ["simam"]


@pytest.mark.parametrize(
    ("name", "channels", "kwargs", "words"),
    [
        (
            "siman",
            8,
            {},
            ["unknown attention 'siman'", ", ".join(list_attention()), "did you mean 'simam'?"],
        ),
        ("sge", 24, {}, ["groups must divide channels", "24 channels", "64"]),
        ("se", 8, {"reduction": 16}, ["reduction", "channels (8)", "16"]),
        ("simam", 8, {"e_lambda": 0}, ["e_lambda must be positive", "0"]),
        ("simam", 0, {}, ["channels must be a whole number from 1 to 65536", "0"]),
        ("cbam", 32, {"kernel_size": 4}, ["kernel_size must be odd", "4"]),
        ("cbam", 32, {"kernel_size": 100001}, ["kernel_size must be odd, from 1 to 31", "100001"]),
        ("se", 32, {"lambda_": 1}, ["unknown argument of attention 'se' 'lambda_'", "bias, reduction"]),
        ("se", 32, {"reduction": 16.0}, ["reduction must be of type int, found 16.0"]),
        ("se", 32, {"bias": "no"}, ["bias must be of type bool, found 'no'"]),
        ("eca", 32, {"k_size": 4}, ["k_size must be odd", "4"]),
        ("eca", 32, {"k_size": 10**9 + 1}, ["k_size must be odd, from 1 to 63", "1000000001"]),
        ("eca", 32, {"k_size": -1}, ["k_size must be odd, from 1 to 63", "-1"]),
        ("eca", 32, {"k_size": True}, ["k_size must be of type"]),
        ("gc", 8, {}, ["ratio must be from 1 / channels (1/8) to 1"]),
        ("gc", 32, {"fusion": "plus"}, ["'add' or 'mul'", "plus"]),
        ("bam", 8, {}, ["reduction", "channels (8)"]),
        ("bam", 32, {"dilation": 0}, ["dilation must be from 1 to 64"]),
        ("bam", 32, {"dilation": 2**40}, ["dilation must be from 1 to 64", str(2**40)]),
        ("se", 2**40, {}, ["channels must be a whole number from 1 to 65536"]),
        ("gc", 32, {"ratio": float("inf")}, ["ratio must be from"]),
        *((name, *error) for name, expected in EXPECTED.items() for error in expected.get("errors", [])),
    ],
)
def test_errors_state_what_was_expected_and_found(name: str, channels: int, kwargs: dict, words: list[str]):
    with pytest.raises(ValueError) as error:
        create_attention(name, channels, **kwargs)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("name", list_attention())
@pytest.mark.parametrize("shape", [[64, 8, 8], [2, 64, 8], [2, 64], [1, 2, 64, 8, 8]])
def test_a_tensor_of_other_than_four_dimensions_is_one_sentence(name: str, shape: list[int]):
    with pytest.raises(UserError) as error:
        create_attention(name, 128)(paddle.zeros(shape))
    assert f"takes a tensor [N, 128, H, W], found the shape {shape}" in str(error.value)


@pytest.mark.parametrize("mode", ["auto", "off"])
@pytest.mark.parametrize("channels", [64, 256])
@pytest.mark.parametrize("name", list_attention())
def test_another_number_of_channels_is_one_sentence(name: str, channels: int, mode: str):
    attention = create_attention(name, 128)
    with ops.using(mode), pytest.raises(UserError, match=rf"\[N, 128, H, W\], found .*{channels}, 8, 8"):
        attention(paddle.zeros([2, channels, 8, 8]))


@pytest.mark.parametrize(
    ("name", "channels", "proposed"),
    [
        ("sge", 30, "groups=30"),
        ("sge", 100, "groups=50"),
        ("sk", 30, "groups=30"),
        ("shuffle", 30, "groups=15"),
    ],
)
def test_an_error_about_groups_proposes_some_that_fit(name: str, channels: int, proposed: str):
    with pytest.raises(UserError, match=proposed):
        create_attention(name, channels)
    create_attention(name, channels, groups=int(proposed.partition("=")[2]))
