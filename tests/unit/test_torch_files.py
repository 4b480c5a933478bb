"""PyTorch's checkpoints: both formats read without PyTorch, hostile files refused, the authors' converted."""

from __future__ import annotations

import collections
import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import GOLDEN, HANG, assert_one_sentence, golden_file, tool

from paddle_attn import create_model, load_weights
from paddle_attn.errors import UserError
from paddle_attn.weights import read_weights
from paddle_attn.weights.torch_files import LEGACY_MAGIC


class Global:
    """Is pickled as a bare name, as PyTorch's classes and functions are, which are not installed here."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name


class Call:
    """Is pickled as a call of a function."""

    def __init__(self, function: Global, *arguments):
        self.function, self.arguments = function, arguments


class Storage:
    """Is pickled as a persistent id; its bytes are written separately."""

    def __init__(self, kind: str, key: str, raw: bytes, count: int):
        self.kind, self.key, self.raw, self.count = kind, key, raw, count


class TorchPickler(pickle._Pickler):
    """Writes what torch.save writes: names without importing them, storages as persistent ids."""

    def __init__(self, file, legacy: bool):
        super().__init__(file, protocol=2)
        self.legacy = legacy

    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            return (
                "storage",
                Global("torch", obj.kind),
                obj.key,
                "cpu",
                obj.count,
                *([None] if self.legacy else []),
            )
        return None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


def tensor(storage: Storage, shape: tuple, strides: tuple, offset: int = 0) -> Call:
    return Call(
        Global("torch._utils", "_rebuild_tensor_v2"),
        storage,
        offset,
        shape,
        strides,
        False,
        Call(Global("collections", "OrderedDict")),
    )


def pickled(tree, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    TorchPickler(buffer, legacy).dump(tree)
    return buffer.getvalue()


def write(path: Path, tree, storages: list[Storage], legacy: bool = False) -> Path:
    if legacy:
        parts = [
            pickle.dumps(LEGACY_MAGIC, 2),
            pickle.dumps(1001, 2),
            pickle.dumps({"little_endian": True}, 2),
            pickled(tree, True),
        ]
        parts.append(pickle.dumps([storage.key for storage in storages], 2))
        path.write_bytes(b"".join(parts) + b"".join(struct.pack("<q", s.count) + s.raw for s in storages))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", pickled(tree))
            archive.writestr("x/byteorder", "little")
            for storage in storages:
                archive.writestr(f"x/data/{storage.key}", storage.raw)
    return path


VALUES = np.arange(12, dtype="f4") / 8


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_tensors_views_and_parameters_come_back(tmp_path: Path, legacy: bool):
    storage = Storage("FloatStorage", "0", VALUES.tobytes(), 12)
    whole, part = tensor(storage, (3, 4), (4, 1)), tensor(storage, (2, 3), (1, 4), offset=2)
    tree = {
        "epoch": 7,
        "arch": "x",
        "best_acc1": 0.5,
        "state_dict": {
            "module.a": whole,
            "b": part,
            "c": Call(Global("torch._utils", "_rebuild_parameter"), whole, True, {}),
        },
    }
    state = read_weights(write(tmp_path / "x.pth.tar", tree, [storage], legacy))
    assert set(state) == {"module.a", "b", "c"}
    np.testing.assert_array_equal(state["module.a"], VALUES.reshape(3, 4))
    np.testing.assert_array_equal(state["b"], VALUES.reshape(3, 4).T[2:4])
    np.testing.assert_array_equal(state["c"], state["module.a"])


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        ("HalfStorage", VALUES.astype("<f2").tobytes()),
        ("BFloat16Storage", (VALUES.view("<u4") >> 16).astype("<u2").tobytes()),
        ("DoubleStorage", VALUES.astype("<f8").tobytes()),
    ],
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_other_precisions_load(tmp_path: Path, kind: str, raw: bytes, legacy: bool):
    storage = Storage(kind, "0", raw, 12)
    state = read_weights(write(tmp_path / "x.pt", {"a": tensor(storage, (12,), (1,))}, [storage], legacy))
    np.testing.assert_array_equal(state["a"].astype("f4"), VALUES)


STORAGE = Storage("FloatStorage", "0", VALUES.tobytes(), 12)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        ("posix", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_device_tensor_from_numpy"),
    ],
)
def test_hostile_names_are_refused_and_not_run(
    tmp_path: Path, legacy: bool, nested: bool, name: tuple[str, str]
):
    marker = tmp_path / "executed"
    hostile = Call(Global(*name), f"touch {marker}")
    tree = {
        "state_dict": {"a": tensor(STORAGE, (12,), (1,)), "b": {"deep": [hostile]} if nested else hostile}
    }
    path = write(tmp_path / "x.pth", tree, [STORAGE], legacy)
    with pytest.raises(
        UserError, match=rf"is refused: it contains {'.'.join(name)}, .* nothing in it was run"
    ):
        read_weights(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "found"),
    [
        ((13,), (1,), 0, r"a tensor of shape \(13,\) outside its 12 stored values"),
        ((12,), (2,), 0, r"a tensor of shape \(12,\) outside its 12 stored values"),
        ((12,), (1,), 1, r"a tensor of shape \(12,\) outside its 12 stored values"),
        ((2,), (-1,), 5, r"a tensor of shape \(2,\) with strides \(-1,\)"),
        (("a",), (1,), 0, r"a tensor of shape \('a',\) with strides \(1,\)"),
        ((1,), (1, 1), 0, "a malformed tensor"),
        ((13,), (0,), 0, r"a tensor of shape \(13,\) outside its 12 stored values"),
        ((10**9, 10**9), (0, 0), 0, "views of many times more values than it stores"),
    ],
)
def test_tensors_that_leave_or_repeat_their_storage_are_refused(
    tmp_path: Path, shape: tuple, strides: tuple, offset: int, found: str
):
    path = write(tmp_path / "x.pth", {"a": tensor(STORAGE, shape, strides, offset)}, [STORAGE])
    with pytest.raises(UserError, match=f"is refused: it contains {found}"):
        read_weights(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_damaged_files_are_an_error(tmp_path: Path, legacy: bool, damage: str):
    path = write(tmp_path / "x.pth", {"a": tensor(STORAGE, (12,), (1,))}, [STORAGE], legacy)
    whole = path.read_bytes()
    content = {
        "truncated": whole[: len(whole) - 30],
        "flipped": bytes([whole[0] ^ 255]) + whole[1:],
        "empty": b"",
        "text": b"no weights",
    }[damage]
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"x\.pth is damaged or not a weights file: expected a whole \.pth file"
    ):
        read_weights(path)


def test_many_views_of_one_storage_are_bounded(tmp_path: Path):
    storage = Storage("FloatStorage", "0", bytes(1 << 20), 1 << 18)
    tree = {f"a{index}": tensor(storage, (1 << 18,), (1,)) for index in range(40)}
    with pytest.raises(UserError, match="views of many times more values than it stores"):
        read_weights(write(tmp_path / "x.pth", tree, [storage]))


READ_WITHIN_LIMITS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))  # seconds, most of them for importing Paddle
from paddle_attn.cli import prepare_paddle; prepare_paddle()
from paddle_attn.errors import UserError
from paddle_attn.weights import read_weights
try:
    print("read", list(read_weights(sys.argv[1])))
except UserError as error:
    print(error)
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2e6  # kB
"""


def read_within_limits(path: Path) -> str:
    """The error of reading a file, from a process with a minute of CPU time and 2 GB of memory."""
    command = [sys.executable, "-c", READ_WITHIN_LIMITS, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=HANG)
    assert result.returncode == 0, f"{result.returncode} {result.stderr}"
    return result.stdout


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def write_pickle(path: Path, content: bytes) -> None:
    """A checkpoint with a pickle of raw opcodes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", content)
        archive.writestr("x/data/0", VALUES.tobytes())


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


# a dtype whose fields are objects, over bytes that the file chooses: numpy would use them as addresses
FORGED_DTYPE = opcodes(
    b"cnumpy.core.multiarray\nscalar\n",
    b"cnumpy\ndtype\n" + text("V16") + b"K\x00K\x01\x87R",
    b"(K\x03"
    + text("|")
    + b"N("
    + text("f")
    + b"t}"
    + text("f")
    + b"cnumpy\ndtype\n"
    + text("O")
    + b"K\x00K\x01\x87RK\x00\x86s",
    b"K\x10K\x01K\x00tb",
    b"U\x10" + b"A" * 16 + b"\x86R",
)
# a change to a storage, which would let its bytes and its size disagree
FORGED_STORAGE = opcodes(
    b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x0ctQ",
    b"}" + text("data") + b"K\x07sb",
)
LAUGHS = opcodes(b"]q\x00", b"".join(b"](h%ch%ceq%c" % (level, level, level + 1) for level in range(60)))
WIDE_MEMO = opcodes(b"}r" + struct.pack("<I", 2**31 - 1))
HUGE_ARRAY = opcodes(b"cnumpy\nndarray\nJ\x00\xca\x9a;\x85" + text("f8") + b"\x86R")


@pytest.mark.parametrize("suffix", [".pdparams", ".pth"])
@pytest.mark.parametrize(
    ("content", "found"),
    [
        (FORGED_DTYPE, "is refused: it contains an array of the unsupported type 'V16'"),
        (LAUGHS, "holds no weights: expected tensors by name, found a list"),
        (WIDE_MEMO, "is refused: it contains a memo index larger than any weights file needs"),
        (HUGE_ARRAY, "is refused: it contains a call of numpy.ndarray"),
    ],
    ids=["dtype", "laughs", "memo", "array"],
)
def test_files_that_would_crash_the_reader_or_fill_the_memory_are_refused(
    tmp_path: Path, suffix: str, content: bytes, found: str
):
    path = tmp_path / f"x{suffix}"
    if suffix == ".pdparams":
        path.write_bytes(content)
    else:
        write_pickle(path, content)
    assert f"x{suffix} {found}" in read_within_limits(path)


def test_a_change_to_a_storage_is_refused(tmp_path: Path):
    write_pickle(tmp_path / "x.pth", FORGED_STORAGE)
    assert "x.pth is refused: it contains a change to an object" in read_within_limits(tmp_path / "x.pth")


def test_a_compressed_zip_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", pickled({}))
    with pytest.raises(UserError, match="compressed members"):
        read_weights(tmp_path / "x.pth")


# ---- the authors' checkpoints


@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
@pytest.mark.parametrize(
    ("attn", "kwargs"), [("simam", {}), ("se", {"reduction": 4}), ("cbam", {"reduction": 4})]
)
def test_the_authors_checkpoints_convert_and_give_the_authors_logits(
    tmp_path: Path, attn: str, kwargs: dict, suffix: str
):
    checkpoint = golden_file(f"networks/cifar-preresnet20-{attn}.pth.tar")
    expected = json.loads((GOLDEN / "networks" / "networks.json").read_text())[f"cifar/preresnet20/{attn}"]
    out = tmp_path / f"x{suffix}"
    options = ["--arch", "cifar_preresnet20", "--attn", attn, "--attn-kwargs", json.dumps(kwargs)]
    result = tool("convert", checkpoint, *options, "--out", out)
    assert result.returncode == 0 and "tensors of" in result.stdout, result.stderr
    net = create_model("cifar_preresnet20", attn, kwargs, num_classes=10)
    load_weights(net, out)
    net.eval()
    x = np.random.default_rng(expected["input_seed"]).standard_normal(expected["input"]).astype("float32")
    with paddle.no_grad():
        difference = np.abs(net(paddle.to_tensor(x)).numpy() - expected["logits"]).max()
    assert difference <= 1e-3 * np.abs(expected["logits"]).max()


def test_convert_writes_pdparams_beside_the_checkpoint_by_default(tmp_path: Path):
    checkpoint = golden_file("networks/cifar-preresnet20-simam.pth.tar")
    copied = tmp_path / "x.pth.tar"
    copied.write_bytes(checkpoint.read_bytes())
    result = tool("convert", copied, "--arch", "cifar_preresnet20", "--attn", "simam")
    assert result.returncode == 0 and (tmp_path / "x.pdparams").exists(), result.stderr


def test_convert_names_the_classifier_that_it_expects(tmp_path: Path):
    checkpoint = golden_file("networks/cifar-preresnet20-simam.pth.tar")
    result = tool("convert", checkpoint, "--arch", "towernet", "--out", tmp_path / "x.pdparams")
    assert_one_sentence(result, "does not hold this network: expected its classifier 'b6.bias', found 0")
    assert not (tmp_path / "x.pdparams").exists()


def test_the_checkpoint_of_another_network_is_an_error_that_lists_its_keys(tmp_path: Path):
    checkpoint = golden_file("networks/cifar-preresnet20-se.pth.tar")
    with pytest.raises(
        UserError,
        match=r"does not fit the network: expected its \d+ keys, found \d+ unexpected \(layer1\.0\.attn",
    ):
        load_weights(create_model("cifar_preresnet20"), checkpoint)
    report = load_weights(create_model("cifar_preresnet20"), checkpoint, strict=False)
    assert len(report.unexpected) == 18 and not report.missing and not report.mismatched
    with pytest.raises(UserError, match="classifier of 10 classes, expected 7"):
        load_weights(create_model("cifar_preresnet20", "se", {"reduction": 4}, num_classes=7), checkpoint)


def test_a_name_that_the_network_has_is_kept(tmp_path: Path):
    class Net(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.block = paddle.nn.LayerDict({"se": paddle.nn.Linear(2, 3)})

    storage = Storage("FloatStorage", "0", VALUES.tobytes(), 12)
    tree = {
        "module.block.se.weight": tensor(storage, (3, 2), (2, 1)),
        "module.block.se.bias": tensor(storage, (3,), (1,)),
    }
    net = Net()
    load_weights(net, write(tmp_path / "x.pth", tree, [storage]))
    np.testing.assert_array_equal(net.block["se"].weight.numpy(), VALUES[:6].reshape(3, 2).T)
    with pytest.raises(UserError, match=r"two of the file's tensors are named 'block\.se\.bias' here"):
        load_weights(
            net, write(tmp_path / "x.pth", tree | {"block.se.bias": tensor(storage, (3,), (1,))}, [storage])
        )


def test_names_that_are_not_texts_are_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="expected tensors by name, found the name 7"):
        read_weights(write(tmp_path / "x.pth", {7: tensor(STORAGE, (12,), (1,))}, [STORAGE]))


def test_a_checkpoint_without_batch_norm_is_transposed_too(tmp_path: Path):
    """Its names could be Paddle's; the file's ending decides."""
    net = paddle.nn.Sequential(paddle.nn.Linear(3, 3))
    values = np.arange(12, dtype="f4")
    storage = Storage("FloatStorage", "0", values.tobytes(), 12)
    load_weights(
        net,
        write(
            tmp_path / "x.pth",
            {"0.weight": tensor(storage, (3, 3), (3, 1)), "0.bias": tensor(storage, (3,), (1,))},
            [storage],
        ),
    )
    np.testing.assert_array_equal(net[0].weight.numpy(), values[:9].reshape(3, 3).T)


def test_a_square_linear_layer_is_transposed_by_name_not_by_shape(tmp_path: Path):
    class Net(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.fc = paddle.nn.Linear(3, 3)
            self.table = self.create_parameter([3, 3])

    values = np.arange(9, dtype="f4").reshape(3, 3)
    storage = Storage("FloatStorage", "0", values.tobytes(), 9)
    square, bias = tensor(storage, (3, 3), (3, 1)), tensor(storage, (3,), (1,))
    path = write(
        tmp_path / "x.pth",
        collections.OrderedDict({"module.fc.weight": square, "module.fc.bias": bias, "module.table": square}),
        [storage],
    )
    net = Net()
    load_weights(net, path)
    np.testing.assert_array_equal(net.fc.weight.numpy(), values.T)
    np.testing.assert_array_equal(net.table.numpy(), values)
