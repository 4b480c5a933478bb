"""The attention modules: held against the authors' tensors, at their edges, and after export."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import golden_file
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle.static import InputSpec

from paddle_attn import create_attention, list_attention, ops
from paddle_attn.attention import ATTENTION, SqueezeExcite, build
from paddle_attn.errors import UserError
from reference.fidelity import MODULES, module_differences

# the reference's files: our module and its arguments
CASES = {file: (name, kwargs) for name, files in MODULES.items() for file, kwargs in files.items()} | {
    "sge_g64": ("sge", {"groups": 64})
}
SHAPES = ("2x32x7x7", "2x64x5x9", "2x64x8x8", "2x128x6x6")
ABSENT = {
    ("sge_g64", "2x32x7x7"),
    ("bam", "2x64x5x9"),
}  # 64 groups need 64 channels; the authors' BAM needs H = W
FILES = [f"{case}-{shape}.npz" for case in CASES for shape in SHAPES if (case, shape) not in ABSENT]
# arguments that suit 32 channels
SMALL = {"sge": {"groups": 8}}


FUSED = ("simam", "sge")  # have a compiled form too


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(
    ("file", "form"),
    [(file, form) for file in FILES for form in ("off", "auto") if form == "off" or file.startswith(FUSED)],
)
def test_agrees_with_the_authors_code(file: str, form: str, mode: str):
    name, kwargs = CASES[file.rpartition("-")[0]]
    with ops.using(form):
        found = module_differences(golden_file(f"attention/{file}"), name, kwargs, mode)
    attn = create_attention(name, 64, **kwargs)
    assert len(found) == 2 + sum(not parameter.stop_gradient for parameter in attn.parameters())
    looser = 10 if mode == "train" and any(key.endswith("_mean") for key in attn.state_dict()) else 1
    for what, difference in found.items():
        # SRM's norm over two samples amplifies rounding: in float64 the authors' formula is 1.9e-3 off their own float32 gradient
        touchy = 2 if (name, mode, what) == ("srm", "train", "cfc") else 1
        assert difference <= (1e-5 if what == "output" else 1e-4) * looser * touchy, what


def make(name: str, channels: int = 32, **kwargs) -> paddle.nn.Layer:
    """A module with weights that are neither zero nor one, the same for each name."""
    attn = create_attention(name, channels, **SMALL.get(name, {}) | kwargs)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for parameter in attn.parameters():
        if not parameter.stop_gradient:
            parameter.set_value(rng.normal(0, 0.5, parameter.shape).astype("float32"))
    return attn


@pytest.mark.parametrize("name", list_attention())
def test_output_is_the_input_times_the_gate(name: str):
    attn = make(name, **({"fusion": "mul"} if name == "gc" else {}))  # added, GC has no gate
    attn.eval()
    x = paddle.to_tensor(np.random.default_rng(0).standard_normal([3, 32, 6, 5]).astype("float32"))
    gate = attn.gate(x)
    assert paddle.broadcast_shape(gate.shape, x.shape) == x.shape
    np.testing.assert_allclose((x * gate).numpy(), attn(x).numpy(), rtol=1e-5, atol=1e-6)
    assert float(gate.min()) >= 0 and float(gate.max()) <= (
        2 if name == "bam" else 1
    )  # BAM's is 1 + a sigmoid


@pytest.mark.parametrize("name", list_attention())
@settings(max_examples=15, deadline=None)
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


def sigmoid(value: float) -> float:
    return 1 / (1 + np.exp(-value))


def test_a_1x1_map_has_the_gate_of_a_neuron_like_all_others():
    x = paddle.randn([2, 64, 1, 1])
    np.testing.assert_allclose(create_attention("simam", 64).gate(x).numpy(), sigmoid(0.5), rtol=1e-6)
    sge = create_attention("sge", 64, groups=8)
    sge.weight.set_value(np.full([1, 8, 1, 1], 3.0, "float32"))
    np.testing.assert_allclose(sge.gate(x).numpy(), sigmoid(1.0), rtol=1e-6)


def test_the_channels_are_no_argument_by_name_in_a_config():
    with pytest.raises(UserError, match="unknown argument of attention 'se' 'channels'"):
        build("se", SqueezeExcite, 32, {"channels": 3})


def test_ecas_kernel_is_the_papers_formula():
    assert [create_attention("eca", channels).k_size for channels in (8, 64, 128, 256, 512, 2048)] == [
        3,
        3,
        5,
        5,
        5,
        7,
    ]


def test_gc_starts_as_the_identity_and_added_it_has_no_gate():
    x = paddle.randn([2, 32, 5, 4])
    gc = create_attention("gc", 32)
    np.testing.assert_array_equal(gc(x).numpy(), x.numpy())
    with pytest.raises(ValueError, match="has no gate"):
        gc.gate(x)


def test_simams_gate_lies_where_the_paper_says():
    gate = create_attention("simam", 8).gate(paddle.randn([4, 8, 9, 9]) * 50)
    assert float(gate.min()) >= sigmoid(0.5) - 1e-6 and float(gate.max()) < 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["simam", "sge"])
def test_half_precision_is_computed_in_float32_inside(name: str, dtype: str):
    attn = make(name)
    x = (paddle.randn([2, 32, 9, 9]) * 200).astype(
        dtype
    )  # squares of which sum to more than float16 can hold
    y = attn(x)
    assert str(y.dtype) == f"paddle.{dtype}" == str(attn.gate(x).dtype).replace("Type.", "")
    exact = attn(x.astype("float32")).numpy()
    np.testing.assert_allclose(y.astype("float32").numpy(), exact, rtol=2e-2)
    np.testing.assert_allclose(
        attn.gate(x).astype("float32").numpy(), attn.gate(x.astype("float32")).numpy(), rtol=1e-2
    )


def test_starts_as_the_authors_start():
    x = paddle.randn([2, 64, 5, 5])
    np.testing.assert_allclose(create_attention("sge", 64).gate(x).numpy(), sigmoid(1.0), rtol=1e-6)
    cbam = create_attention("cbam", 64)
    np.testing.assert_allclose(cbam.spatial_gate(x).numpy(), 0.5)


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
        np.testing.assert_allclose(loaded(x).numpy(), plain(x).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", list_attention())
def test_costs_grow_with_the_map_and_the_channels(name: str):
    small, large = make(name, 32), make(name, 64)
    assert 0 < small.macs(4, 4) < small.macs(8, 4) < large.macs(8, 4)


def test_registry_is_listed_sorted_and_by_pattern():
    assert list_attention() == sorted(ATTENTION)
    assert {"cbam", "se", "sge", "simam"} <= set(list_attention())
    assert list_attention("s*e") == ["se", "sge"]


@pytest.mark.parametrize(
    ("name", "channels", "kwargs", "words"),
    [
        (
            "siman",
            8,
            {},
            ["unknown attention 'siman'", "cbam, eca, gc, se, sge, simam, srm", "did you mean 'simam'?"],
        ),
        ("sge", 24, {}, ["groups must divide channels", "24 channels", "64"]),
        ("se", 8, {"reduction": 16}, ["reduction", "channels (8)", "16"]),
        ("simam", 8, {"e_lambda": 0}, ["e_lambda must be positive", "0"]),
        ("simam", 0, {}, ["channels must be a positive whole number"]),
        ("cbam", 32, {"kernel_size": 4}, ["kernel_size must be odd", "4"]),
        ("se", 32, {"lambda_": 1}, ["unknown argument of attention 'se' 'lambda_'", "bias, reduction"]),
        ("se", 32, {"reduction": 16.0}, ["reduction must be of type int, found 16.0"]),
        ("se", 32, {"bias": "no"}, ["bias must be of type bool, found 'no'"]),
        ("eca", 32, {"k_size": 4}, ["k_size must be odd", "4"]),
        ("eca", 32, {"k_size": True}, ["k_size must be of type"]),
        ("gc", 8, {}, ["ratio must be from 1 / channels (1/8) to 1"]),
        ("gc", 32, {"fusion": "plus"}, ["'add' or 'mul'", "plus"]),
        ("bam", 8, {}, ["reduction", "channels (8)"]),
        ("bam", 32, {"dilation": 0}, ["dilation must be at least 1"]),
        ("gc", 32, {"ratio": float("inf")}, ["ratio must be from"]),
    ],
)
def test_errors_say_what_was_expected_and_found(name, channels, kwargs, words):
    with pytest.raises(ValueError) as error:
        create_attention(name, channels, **kwargs)
    for word in words:
        assert word in str(error.value)
