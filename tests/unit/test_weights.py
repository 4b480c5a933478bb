"""Reading and writing weights: completely or not at all, strictly, and without running anything in a file."""

from __future__ import annotations

import json
import os
import pickle
import socket
import struct
from pathlib import Path

import numpy as np
import paddle
import pytest
import safetensors.numpy
from helpers import disk_of

import paddle_attn
from paddle_attn import create_model, load_weights, model_spec, save_weights
from paddle_attn.data.images import check_class_name
from paddle_attn.errors import UserError
from paddle_attn.models import MODELS
from paddle_attn.weights import class_names, load_pretrained, non_finite, read_weights
from paddle_attn.weights.convert import convert


def small(num_classes: int = 5) -> paddle.nn.Layer:
    return create_model("towernet", "se", num_classes=num_classes)


def same(one: paddle.nn.Layer, two: paddle.nn.Layer) -> bool:
    theirs = two.state_dict()
    return all(np.array_equal(value.numpy(), theirs[key].numpy()) for key, value in one.state_dict().items())


@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
def test_saved_weights_load_again(tmp_path: Path, suffix: str):
    net, other = small(), small()
    assert not same(net, other)
    save_weights(net, tmp_path / f"w{suffix}")
    report = load_weights(other, tmp_path / f"w{suffix}")
    assert same(net, other)
    assert set(report.loaded) == set(net.state_dict()) and not report.missing
    assert not report.folded and not report.not_finite
    assert [file.name for file in tmp_path.iterdir()] == [f"w{suffix}"]


def test_safetensors_keep_the_names_of_the_classes_also_through_a_conversion(tmp_path: Path):
    names = ["猫", "dog", "ant", "bee", "cow"]
    save_weights(small(), tmp_path / "named.safetensors", names)
    assert class_names(tmp_path / "named.safetensors") == names
    convert(tmp_path / "named.safetensors", tmp_path / "again.safetensors", small)
    assert class_names(tmp_path / "again.safetensors") == names
    save_weights(small(), tmp_path / "unnamed.safetensors")
    assert class_names(tmp_path / "unnamed.safetensors") is None


def test_the_names_in_weights_and_in_the_list_beside_them_must_agree(tmp_path: Path):
    save_weights(small(), tmp_path / "w.safetensors", ["a", "b", "c", "d", "e"])
    (tmp_path / "classes.txt").write_text("a\nc\nb\nd\ne\n")
    with pytest.raises(UserError, match=r"w\.safetensors and .*classes\.txt state different classes"):
        class_names(tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["café\u00a0noir", "一\u3000二", "می\u200cخواهم", "👩\u200d🚀"])
def test_a_class_name_that_a_folder_may_have_is_read_back(tmp_path: Path, name: str):
    check_class_name(name, tmp_path)
    (tmp_path / "classes.txt").write_text(f"{name}\nother\n", encoding="utf-8")
    assert class_names(tmp_path / "best.pdparams") == [name, "other"]


@pytest.mark.parametrize("header", ['"abc"', "[1, null]", "{}", "[]", "not JSON"])
def test_a_header_without_a_list_of_names_states_no_classes(tmp_path: Path, header: str):
    tensors = {"x": np.zeros(1, "float32")}
    safetensors.numpy.save_file(tensors, tmp_path / "w.safetensors", metadata={"classes": header})
    assert class_names(tmp_path / "w.safetensors") is None


def test_paddles_files_load_here_and_ours_in_paddle(tmp_path: Path):
    net, other = small(), small()
    paddle.save(net.state_dict(), str(tmp_path / "theirs.pdparams"))
    load_weights(other, tmp_path / "theirs.pdparams")
    assert same(net, other)
    save_weights(net, tmp_path / "ours.pdparams")
    assert set(paddle.load(str(tmp_path / "ours.pdparams"))) == set(net.state_dict())


def test_void_biases_are_folded_and_change_nothing(tmp_path: Path):
    """The notebook's TowerNet has biases before its batch norms; a checkpoint of it loads into ours."""
    net = small()
    net.eval()
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    rng = np.random.default_rng(0)
    for bias, mean in net.void_biases.items():
        state[bias] = rng.standard_normal(state[mean].shape).astype("float32")
        state[mean] = state[mean] + state[bias]  # the running mean behind a convolution with this bias
    paddle.save({key: paddle.to_tensor(value) for key, value in state.items()}, str(tmp_path / "w.pdparams"))
    other = small()
    other.eval()
    report = load_weights(other, tmp_path / "w.pdparams")
    assert set(report.folded) == set(net.void_biases)
    x = paddle.randn([2, 3, 128, 128])
    np.testing.assert_allclose(other(x).numpy(), net(x).numpy(), rtol=1e-5, atol=1e-5)


def test_strict_lists_what_does_not_fit_and_changes_nothing(tmp_path: Path):
    net = create_model("towernet", num_classes=5)
    before = {key: value.numpy().copy() for key, value in net.state_dict().items()}
    save_weights(small(), tmp_path / "w.pdparams")
    with pytest.raises(
        UserError,
        match=r"does not fit the network: expected its \d+ keys, found 8 unexpected \(attn\.0\.fc\.0\.weight",
    ):
        load_weights(net, tmp_path / "w.pdparams")
    assert all(np.array_equal(value.numpy(), before[key]) for key, value in net.state_dict().items())
    report = load_weights(net, tmp_path / "w.pdparams", strict=False)
    assert len(report.unexpected) == 8 and not report.missing


def test_another_number_of_classes_is_an_error_unless_a_new_classifier_is_allowed(tmp_path: Path):
    save_weights(small(16), tmp_path / "w.pdparams")
    net = small(10)
    with pytest.raises(UserError, match="classifier of 16 classes, expected 10"):
        load_weights(net, tmp_path / "w.pdparams")
    kept = net.b6.weight.numpy().copy()
    report = load_weights(net, tmp_path / "w.pdparams", new_classifier=True)
    assert [line.split(":")[0] for line in report.mismatched] == ["b6.weight", "b6.bias"]
    assert np.array_equal(net.b6.weight.numpy(), kept)


@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "flipped"])
def test_damaged_files_are_an_error_that_names_them(tmp_path: Path, suffix: str, damage: str):
    path = tmp_path / f"w{suffix}"
    save_weights(small(), path)
    whole = path.read_bytes()
    flipped = bytes([255 - whole[0]]) + whole[1:]
    path.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "empty": b"",
            "text": b"not weights at all",
            "flipped": flipped,
        }[damage]
    )
    with pytest.raises(UserError, match=f"w{suffix}.*expected a whole {suffix} file"):
        read_weights(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_nan_and_inf_in_weights_are_reported(tmp_path: Path, value: float):
    """A float64 of 1e300 is Inf in a network of float32."""
    state = {key: array.numpy() for key, array in small().state_dict().items()}
    state["b6.bias"] = np.full(state["b6.bias"].shape, value)
    with open(tmp_path / "w.pdparams", "wb") as file:
        pickle.dump(state, file, protocol=4)
    net = small()
    with pytest.warns(
        UserWarning, match=rf"w\.pdparams contains NaN or Inf in 1 of its {len(state)} tensors: b6\.bias"
    ):
        report = load_weights(net, tmp_path / "w.pdparams")
    assert report.not_finite == ("b6.bias",) and len(report.loaded) == len(state)
    assert non_finite(net.state_dict()) == ["b6.bias"] and non_finite(small().state_dict()) == []


class Hostile:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_hostile_pickle_is_refused_by_name_and_not_run(tmp_path: Path, nested: bool, protocol: int):
    marker = tmp_path / "executed"
    hostile = Hostile(marker)
    path = tmp_path / "w.pdparams"
    path.write_bytes(
        pickle.dumps({"b6.bias": [{"deep": (hostile,)}] if nested else hostile}, protocol=protocol)
    )
    with pytest.raises(UserError, match=f"w.pdparams is refused: it contains the name '{os.name}.system'"):
        read_weights(path)
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
def test_a_full_disk_is_one_sentence_and_keeps_the_older_file(tmp_path: Path, suffix: str):
    path = tmp_path / f"w{suffix}"
    save_weights(small(), path)
    before, net = path.read_bytes(), small()
    message = rf"cannot write weights to .*/w\{suffix}: .*File too large"
    with disk_of(len(before) // 2), pytest.raises(UserError, match=message):
        save_weights(net, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["w.onnx", "w"])
def test_another_kind_of_file_is_an_error(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"expected a file that ends in \.pdparams, \.safetensors, \.pth"):
        read_weights(tmp_path / name)


VALUES = np.array([[0, 0.5, 1], [1.5, 2, 3]], "f4")  # every type below holds them exactly
BFLOAT16 = (VALUES.view("<u4") >> 16).astype("<u2")
FLOAT8_E4M3 = np.array([0, 0x30, 0x38, 0x3C, 0x40, 0x44], "u1")


@pytest.mark.parametrize(
    ("dtype", "raw"),
    [
        ("F64", VALUES.astype("<f8").tobytes()),
        ("F32", VALUES.tobytes()),
        ("F16", VALUES.astype("<f2").tobytes()),
        ("BF16", BFLOAT16.tobytes()),
        ("F8_E4M3", FLOAT8_E4M3.tobytes()),
    ],
)
def test_every_float_type_of_safetensors_loads(tmp_path: Path, dtype: str, raw: bytes):
    header = json.dumps({"a": {"dtype": dtype, "shape": [2, 3], "data_offsets": [0, len(raw)]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + raw)
    np.testing.assert_array_equal(read_weights(tmp_path / "x.safetensors")["a"], VALUES)


# ---- Paddle's own ImageNet weights, from Paddle's own cache


# ---- float16


@pytest.mark.parametrize("ending", ["pdparams", "safetensors"])
def test_half_precision_takes_half_the_space_and_keeps_the_function(tmp_path: Path, ending: str):
    net, copy = (create_model("cifar_resnet20", "se") for _ in range(2))
    whole, half = tmp_path / f"whole.{ending}", tmp_path / f"half.{ending}"
    save_weights(net, whole)
    save_weights(net, half, half=True)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    load_weights(copy, half)
    for key, value in copy.state_dict().items():
        original = net.state_dict()[key]
        assert value.dtype == original.dtype
        assert np.allclose(value.numpy(), original.numpy(), rtol=2**-11, atol=2**-24)  # float16's rounding


def test_half_precision_refuses_a_value_that_it_cannot_hold(tmp_path: Path):
    net = create_model("cifar_resnet20")
    net.fc.bias.set_value(np.full(10, 7e4, "float32"))
    with pytest.raises(UserError, match=r"fc\.bias has a value of 70000, expected at most 65504"):
        save_weights(net, tmp_path / "x.safetensors", half=True)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from paddle.utils import download

    monkeypatch.setattr(download, "WEIGHTS_HOME", str(tmp_path))
    return tmp_path


def test_pretrained_weights_load_into_every_attention(cache: Path):
    source = paddle.vision.models.resnet18()
    paddle.save(source.state_dict(), str(cache / "resnet18.pdparams"))
    url = model_spec("resnet18").pretrained[0]
    for attn, classes in [(None, 1000), ("simam", 1000), ("cbam", 16)]:
        net = create_model("resnet18", attn, num_classes=classes)
        report = load_pretrained(net, "resnet18", (url, None))
        assert np.array_equal(net.layer4[1].conv2.weight.numpy(), source.layer4[1].conv2.weight.numpy())
        assert np.array_equal(net.fc.bias.numpy(), source.fc.bias.numpy()) == (classes == 1000)
        assert all("attn." in key for key in report.missing)


PACKAGED = [(name, attn) for name, spec in MODELS.items() for attn in spec.packaged]


@pytest.mark.parametrize(("name", "attn"), PACKAGED)
def test_the_package_holds_small_float16_weights_that_name_their_classes(name: str, attn: str | None):
    path = Path(paddle_attn.weights.__file__).with_name(MODELS[name].packaged[attn])
    assert path.stat().st_size < 3_000_000
    assert {value.dtype.name for value in read_weights(path).values()} == {"float16"}
    assert len(class_names(path)) == len(set(class_names(path))) == 69


@pytest.mark.parametrize(("name", "attn"), [*PACKAGED, ("towernet", "se")])
def test_a_network_starts_from_the_weights_in_the_package(
    name: str, attn: str | None, monkeypatch: pytest.MonkeyPatch
):
    """Those of its attention, else those of the network without attention; never from the internet."""
    monkeypatch.setattr(socket, "socket", None)
    packaged = MODELS[name].packaged
    path = Path(paddle_attn.weights.__file__).with_name(packaged.get(attn, packaged[None]))
    weights = read_weights(path)
    for num_classes in (69, 16):
        net = create_model(name, attn, num_classes=num_classes, pretrained=True)
        state = {key: value.numpy() for key, value in net.state_dict().items() if "attn." not in key}
        differ = [key for key, value in state.items() if not np.array_equal(value, weights[key])]
        is_new = [key.startswith(net.classifier_name) for key in state]
        assert len(differ) == (sum(is_new) if num_classes == 16 else 0)
        assert all(key.startswith(net.classifier_name) for key in differ)
    paddle.seed(0)
    one = create_model(name, attn, num_classes=16, pretrained=True)
    paddle.seed(0)
    assert same(one, create_model(name, attn, num_classes=16, pretrained=True))


def test_pretrained_weights_of_another_network_are_an_error(cache: Path):
    paddle.save(paddle.vision.models.mobilenet_v2().state_dict(), str(cache / "resnet18.pdparams"))
    with pytest.raises(UserError, match="does not hold resnet18"):
        load_pretrained(create_model("resnet18"), "resnet18", (model_spec("resnet18").pretrained[0], None))


def test_without_internet_the_error_says_where_to_put_the_file(cache: Path):
    with pytest.raises(UserError, match="could not fetch resnet18's ImageNet weights") as error:
        load_pretrained(
            create_model("resnet18"), "resnet18", ("http://127.0.0.1:9/models/resnet18.pdparams", "0" * 32)
        )
    assert str(cache / "resnet18.pdparams") in str(error.value) and "\n" not in str(error.value)
