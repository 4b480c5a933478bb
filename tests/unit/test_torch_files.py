"""PyTorch's checkpoints: both formats read without PyTorch, hostile files refused, the authors' converted."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import GOLDEN, HANG, assert_one_sentence, golden_file, tool

from paddle_attn import create_model, load_weights, save_weights
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
        UserError, match=rf"is refused: it contains the name '{'.'.join(name)}', .* nothing in it was run"
    ):
        read_weights(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "found"),
    [
        ((13,), (1,), 0, r"a tensor of shape \(13,\) outside its 12 stored values"),
        ((12,), (2,), 0, r"a tensor of shape \(12,\) outside its 12 stored values"),
        ((12,), (1,), 1, r"a tensor of shape \(12,\) outside its 12 stored values"),
        ((2,), (-1,), 5, "a malformed tensor"),
        (("a",), (1,), 0, "a malformed tensor"),
        ((1,) * 33, (1,) * 33, 0, "a malformed tensor"),
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


def test_a_zip_cut_short_is_no_pickle_whatever_time_of_day_it_names(tmp_path: Path):
    path = write(tmp_path / "x.pth", {"a": tensor(STORAGE, (12,), (1,))}, [STORAGE])
    whole = path.read_bytes()
    path.write_bytes(whole[:10] + b"\n" + whole[11:-30])  # "P" up to a line's end is a pickle's instruction
    with pytest.raises(UserError, match="damaged or not a weights file"):
        read_weights(path)


def test_many_views_of_one_storage_are_bounded(tmp_path: Path):
    storage = Storage("FloatStorage", "0", bytes(1 << 20), 1 << 18)
    tree = {f"a{index}": tensor(storage, (1 << 18,), (1,)) for index in range(40)}
    with pytest.raises(UserError, match="views of many times more values than it stores"):
        read_weights(write(tmp_path / "x.pth", tree, [storage]))


# ---- small files that would hang or crash the reader, or fill the memory


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + b"K\x00\x85U\x01b\x87R"
DTYPE = b"cnumpy\ndtype\n"
FLOAT = DTYPE + text("f4") + b"K\x00K\x01\x87R"
BYTE = DTYPE + text("u1") + b"K\x00K\x01\x87R"
ORDERED_DICT = b"ccollections\nOrderedDict\n"
STORAGE_ID = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x0ctQ"
DOUBLED = b")q\x00" + b"".join(b"h%c\x86q%c" % (level, level + 1) for level in range(48))  # a tuple, twice
LONG = text("A" * 2_000_000) + b"q\x01"
SHARED_BYTES = b"".join(
    text(f"a{index}") + ARRAY + b"(K\x01" + number(2_000_000) + b"\x85" + BYTE + b"\x89h\x01tbs"
    for index in range(3000)
)
COLLIDING = b"".join(
    b"\x8a\x0c" + (index * (2**61 - 1)).to_bytes(12, "little") + b"Ns" for index in range(100_000)
)

PICKLES = {  # name: (pickle, how the error continues)
    # a dtype whose fields are objects, over bytes that the file chooses: numpy would use them as addresses
    "dtype of addresses": (
        opcodes(
            b"cnumpy.core.multiarray\nscalar\n",
            DTYPE + text("V16") + b"K\x00K\x01\x87R",
            b"(K\x03" + text("|") + b"N(" + text("f") + b"t}" + text("f"),
            DTYPE + text("O") + b"K\x00K\x01\x87RK\x00\x86s",
            b"K\x10K\x01K\x00tb",
            b"U\x10" + b"A" * 16 + b"\x86R",
        ),
        "is refused: it contains an array of the unsupported type 'V16'",
    ),
    # which would let the bytes and the size of a storage disagree
    "change to an object": (
        opcodes(FLOAT, b"}" + text("_code") + text("f8") + b"sb"),
        "is refused: it contains a change to an object",
    ),
    "huge array": (
        opcodes(b"cnumpy\nndarray\nJ\x00\xca\x9a;\x85" + text("f8") + b"\x86R"),
        "is refused: it contains a call of numpy.ndarray",
    ),
    "laughs": (
        opcodes(b"]q\x00", b"".join(b"](h%ch%ceq%c" % (level, level, level + 1) for level in range(60))),
        "holds no weights: expected tensors by name, found a list",
    ),
    "wide memo": (opcodes(b"]r" + struct.pack("<I", 2**31 - 1)), "found a list"),
    "doubled key": (opcodes(b"}", DOUBLED, b"K\x01s"), "is refused: it contains a tuple as a key"),
    "doubled key of an OrderedDict": (
        opcodes(ORDERED_DICT, b"]](", DOUBLED, b"K\x01ea\x85R"),
        "is refused: it contains a malformed OrderedDict",
    ),
    "doubled dtype": (
        opcodes(DTYPE, DOUBLED, b"K\x00K\x01\x87R"),
        "is refused: it contains an array whose type is a tuple",
    ),
    "doubled shape": (
        opcodes(ARRAY, b"(K\x01", DOUBLED, FLOAT, b"\x89U\x00tb"),
        "is refused: it contains a malformed array",
    ),
    "deep key": (opcodes(b"})" + b"\x85" * 2_000_000, b"K\x01s"), "more than 1048576 pickle instructions"),
    "deep list": (opcodes(b"]" * 200_000 + b"a" * 199_999), "nested more than 100 levels deep"),
    "shared text in 3,000 arrays": (
        opcodes(b"](" + LONG + b"}" + SHARED_BYTES + b"e"),
        "is refused: it contains many copies of one value",
    ),
    "shared text in 3,000 conversions": (
        opcodes(b"](" + LONG, (b"c_codecs\nencode\nh\x01" + text("latin1") + b"\x86R") * 3000, b"e"),
        "is refused: it contains many copies of one value",
    ),
    "shared items in 20,000 dictionaries": (
        opcodes(
            b"](](" + (text("a") + b"N\x86") * 20_000 + b"eq\x01",
            (ORDERED_DICT + b"h\x01\x85R") * 20_000,
            b"e",
        ),
        "is refused: it contains many copies of one value",
    ),
    "long name": (
        opcodes(b"}" + text("a" * 2_000_000) + ARRAY + b"s"),
        "is refused: it contains a name of 2000000 characters",
    ),
    "long type": (opcodes(DTYPE + text("f" * 2_000_000) + b"K\x00K\x01\x87R"), "the unsupported type 'fff"),
    "long function": (
        b"\x80\x04" + text("m" * 2_000_000) + text("n" * 2_000_000) + b"\x93.",
        "is refused: it contains the name 'mmm",
    ),
    "colliding numbers": (
        opcodes(b"}" + COLLIDING),
        "is refused: it contains more than 10000 numbers as keys",
    ),
    "declared length": (opcodes(b"B" + struct.pack("<I", 2**32 - 1) + b"x"), "is damaged"),
    "instruction that no weights file needs": (
        opcodes(b"K\x010"),
        "is refused: it contains the pickle instruction POP",
    ),
}
TORCH_PICKLES = {
    "doubled storage": (
        opcodes(b"(" + text("storage") + b"ctorch\nFloatStorage\n", DOUBLED, text("cpu") + b"K\x0ctQ"),
        "is refused: it contains a storage of an unknown kind",
    ),
    "doubled size": (
        opcodes(b"ctorch\nSize\n", DOUBLED, b"\x85R"),
        "is refused: it contains a malformed size",
    ),
    "doubled strides": (
        opcodes(b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE_ID + b"K\x00K\x0c\x85", DOUBLED, b"tR"),
        "is refused: it contains a malformed tensor",
    ),
    "change to a storage": (
        opcodes(STORAGE_ID, b"}" + text("data") + b"K\x07sb"),
        "is refused: it contains a change to an object",
    ),
}
WEIGHTS = (".pdparams", ".safetensors", ".pth")
READ_WITHIN_LIMITS = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))  # seconds, for all files together
from paddle_attn.cli import prepare_paddle; prepare_paddle()
from paddle_attn.errors import UserError
from paddle_attn.weights import read_weights
for path in sys.argv[1:]:
    try:
        print(json.dumps([path, f"read {len(read_weights(path))}"]), flush=True)
    except UserError as error:
        print(json.dumps([path, str(error)]), flush=True)
# not getrusage: its maximum begins with the memory of the process that started this one
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
assert int(peak.split()[1]) < 1e6, peak  # kB
"""


def write_zip(path: Path, content: bytes) -> Path:
    """A checkpoint with a pickle of raw opcodes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", content)
        archive.writestr("x/data/0", VALUES.tobytes())
    return path


def overlapping_zip(path: Path, count: int = 300) -> Path:
    """A checkpoint whose storages overlap: each is the header of the next one and all that follows it."""
    keys = [f"{index}" for index in range(count)]
    tree = {key: tensor(Storage("ByteStorage", key, b"", 1), (1,), (1,)) for key in keys}
    content, directory = bytes(1 << 20), []
    for name, stored in [*((f"x/data/{key}", None) for key in keys[::-1]), ("x/data.pkl", pickled(tree))]:
        data = content if stored is None else stored
        sizes = struct.pack("<3I2H", zlib.crc32(data), len(data), len(data), len(name), 0)
        content = b"PK\3\4" + bytes(10) + sizes + name.encode() + (stored or b"") + content
        directory.append((sizes, name.encode(), len(content)))
    entries = [
        b"PK\1\2" + bytes(12) + sizes + bytes(10) + struct.pack("<I", len(content) - end) + name
        for sizes, name, end in directory
    ]
    central = b"".join(entries)
    tail = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(entries), len(entries), len(central), len(content), 0)
    path.write_bytes(content + central + tail)
    return path


@pytest.fixture(scope="module")
def errors_of_hostile_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The error for each file by its name, all read in one process with a minute of CPU time and 1 GB."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, (content, _) in PICKLES.items():
        (folder / f"{name}.pdparams").write_bytes(content)
    for name, (content, _) in TORCH_PICKLES.items():
        write_zip(folder / f"{name}.pth", content)
    doubled_keys = [pickle.dumps(LEGACY_MAGIC, 2), pickle.dumps(1001, 2), pickle.dumps({}, 2), opcodes(b"}")]
    (folder / "doubled list of storages.pt").write_bytes(
        b"".join(doubled_keys) + opcodes(b"](" + DOUBLED + b"e") + bytes(8)
    )
    overlapping_zip(folder / "overlap.pt")
    for suffix in WEIGHTS:
        os.mkfifo(folder / f"pipe{suffix}")
        (folder / f"device{suffix}").symlink_to("/dev/zero")
    command = [sys.executable, "-c", READ_WITHIN_LIMITS, *map(str, sorted(folder.iterdir()))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=HANG)
    found = dict(json.loads(line) for line in result.stdout.splitlines())
    assert result.returncode == 0, f"{result.returncode} after {list(found)[-1:]}: {result.stderr[-2000:]}"
    return {Path(path).name: error for path, error in found.items()}


@pytest.mark.parametrize("name", PICKLES)
def test_a_small_hostile_pickle_is_refused_in_one_sentence(
    errors_of_hostile_files: dict[str, str], name: str
):
    error = errors_of_hostile_files[f"{name}.pdparams"]
    assert PICKLES[name][1] in error and len(error) < 600


@pytest.mark.parametrize("name", TORCH_PICKLES)
def test_a_hostile_pytorch_checkpoint_is_refused_in_one_sentence(
    errors_of_hostile_files: dict[str, str], name: str
):
    error = errors_of_hostile_files[f"{name}.pth"]
    assert TORCH_PICKLES[name][1] in error and len(error) < 600


def test_hostile_storages_of_a_pytorch_checkpoint_are_refused(errors_of_hostile_files: dict[str, str]):
    assert "a malformed list of storages" in errors_of_hostile_files["doubled list of storages.pt"]
    assert "members that overlap" in errors_of_hostile_files["overlap.pt"]


@pytest.mark.parametrize("suffix", WEIGHTS)
@pytest.mark.parametrize("name", ["pipe", "device"])
def test_a_pipe_or_a_device_is_not_read(errors_of_hostile_files: dict[str, str], name: str, suffix: str):
    error = errors_of_hostile_files[f"{name}{suffix}"]
    assert error.startswith("cannot read ")
    assert error.endswith(f"{name}{suffix}: it is a pipe or a device, expected a regular file")


def test_an_optimisers_state_with_numbers_as_keys_is_read_past(tmp_path: Path):
    states = {index: {"step": 3, "momentum": tensor(STORAGE, (12,), (1,))} for index in range(100)}
    tree = {
        "optimizer": {"state": states, "betas": (0.9, 0.99)},
        "model": {"a": tensor(STORAGE, (12,), (1,))},
    }
    assert list(read_weights(write(tmp_path / "x.pth", tree, [STORAGE]))) == ["a"]


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


def test_convert_half_takes_half_the_space(tmp_path: Path):
    whole, half = tmp_path / "whole.pdparams", tmp_path / "half.safetensors"
    save_weights(create_model("cifar_resnet20"), whole)
    result = tool("convert", whole, "--arch", "cifar_resnet20", "--half", "--out", half)
    assert result.returncode == 0, result.stderr
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    assert {value.dtype for value in read_weights(half).values()} == {np.dtype("float16")}


def test_convert_warns_of_nan_in_one_sentence(tmp_path: Path):
    net = create_model("towernet", num_classes=3)
    net.b6.bias.set_value(np.array([0, np.nan, 1], "f4"))
    save_weights(net, tmp_path / "x.safetensors")
    result = tool("convert", tmp_path / "x.safetensors", "--arch", "towernet")
    assert result.returncode == 0, result.stderr
    assert result.stderr == f"warning: {tmp_path}/x.safetensors contains NaN or Inf in 1 of its " + (
        f"{len(net.state_dict())} tensors: b6.bias\n"
    )


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
