"""Reads PyTorch's checkpoints without PyTorch, and without running anything in them.

A `.pth` is a pickle and the raw bytes of its tensors, in a zip (PyTorch 1.6 and later) or one after the
other (before). The reader allows tensors, numbers, texts and containers (`safe_pickle`), and refuses every
other name.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from . import safe_pickle
from .safe_pickle import NUMPY_NAMES, AllowedCall, Immutable, RefusedFile

SUFFIXES = (".pth", ".pth.tar", ".pt")
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file before PyTorch 1.6
MAX_COPIES = 4  # views of one storage may make this many times the file's size

STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}


class _Storage(Immutable):
    """Names the bytes of one or more tensors; the old format stores them after the pickle."""

    __slots__ = ("count", "dtype", "key")

    def __init__(self, dtype: str, key: str, count: int):
        self.dtype, self.key, self.count = dtype, key, count


class _Tensor(Immutable):
    """A view of a storage."""

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any):
        if (
            not isinstance(storage, _Storage)
            or not isinstance(shape, tuple)
            or not isinstance(strides, tuple)
            or len(shape) != len(strides)
        ):
            raise RefusedFile("a malformed tensor")
        if not all(type(value) is int and value >= 0 for value in (offset, *shape, *strides)):
            raise RefusedFile(f"a tensor of shape {shape} with strides {strides}")
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides


def decode(raw: bytes, dtype: str) -> np.ndarray:
    """Little-endian values as an array; bfloat16, which numpy lacks, becomes float32."""
    if dtype == "bfloat16":
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(raw, dtype)


def read_torch(path: Path) -> Any:
    """Read what `torch.save` wrote, with arrays for tensors.

    Raises: RefusedFile, or any error that a damaged file causes.
    """
    with open(path, "rb") as file:
        tree, bytes_of = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(file)
        values: dict[str, np.ndarray] = {}
        bytes_left = MAX_COPIES * path.stat().st_size + (1 << 20)

        def array(leaf: Any) -> Any:
            nonlocal bytes_left
            if not isinstance(leaf, _Tensor):
                return leaf
            storage = leaf.storage
            if storage.key not in values:
                values[storage.key] = decode(bytes_of(storage), storage.dtype)
            bytes_left -= math.prod(leaf.shape) * values[storage.key].itemsize
            if bytes_left < 0:
                raise RefusedFile("views of many times more values than it stores")
            return _view(leaf, values[storage.key])

        return safe_pickle.plain(tree, array)


def _view(tensor: _Tensor, data: np.ndarray) -> np.ndarray:
    """A copy of the tensor's values. Raises RefusedFile when its shape leaves the storage or repeats it."""
    size = math.prod(tensor.shape)
    last = tensor.offset + sum(
        (side - 1) * stride for side, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    if size and (last >= data.size or size > data.size):
        raise RefusedFile(f"a tensor of shape {tensor.shape} outside its {data.size} stored values")
    if not size:
        return np.zeros(tensor.shape, data.dtype)
    strides = [stride * data.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(
        data[tensor.offset :], tensor.shape, strides, writeable=False
    ).copy()


def _read_zip(path: Path) -> tuple[Any, Callable[[_Storage], bytes]]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise RefusedFile("compressed members, expected stored ones as PyTorch writes them")
        (pickled,) = (name for name in names if name.endswith("/data.pkl"))
        root = pickled.removesuffix("data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise RefusedFile("big-endian values, expected little-endian")
        tree = safe_pickle.load(io.BytesIO(archive.read(pickled)), TORCH_NAMES, _storage)

    def bytes_of(storage: _Storage) -> bytes:
        with zipfile.ZipFile(path) as archive:
            return archive.read(f"{root}data/{storage.key}")

    return tree, bytes_of


def _read_legacy(file: IO[bytes]) -> tuple[Any, Callable[[_Storage], bytes]]:
    if safe_pickle.load(file, {}) != LEGACY_MAGIC:
        raise RefusedFile("no PyTorch checkpoint")
    safe_pickle.load(file, {})  # the protocol's version
    system = safe_pickle.load(file, {})
    if not isinstance(system, dict) or not system.get("little_endian", True):
        raise RefusedFile("big-endian values, expected little-endian")
    storages: dict[str, _Storage] = {}
    tree = safe_pickle.load(file, TORCH_NAMES, lambda pid: storages.setdefault(str(pid[2]), _storage(pid)))
    content: dict[str, bytes] = {}
    for key in safe_pickle.load(file, {}):
        (count,) = struct.unpack("<q", file.read(8))
        storage = storages[key]
        if count != storage.count:
            raise RefusedFile(f"a storage of {count} values, expected {storage.count}")
        size = count * (2 if storage.dtype == "bfloat16" else np.dtype(storage.dtype).itemsize)
        content[key] = file.read(size)
        if len(content[key]) != size:
            raise EOFError
    return tree, lambda storage: content[storage.key]


def _storage(pid: Any) -> _Storage:
    if not isinstance(pid, tuple) or len(pid) < 5:
        raise RefusedFile("a storage of an unknown kind")
    kind, dtype, key, _device, count, *view = pid
    if kind != "storage" or dtype not in STORAGES.values() or type(count) is not int or any(view):
        raise RefusedFile("a storage of an unknown kind")
    return _Storage(dtype, str(key), count)


def _parameter(tensor: Any, *_: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise RefusedFile("a malformed parameter")
    return tensor


def _size(sides: Any) -> tuple:
    if not isinstance(sides, (list, tuple)):
        raise RefusedFile("a malformed size")
    return tuple(sides)


TORCH_NAMES: dict[tuple[str, str], Any] = (
    NUMPY_NAMES
    | {("torch", name): dtype for name, dtype in STORAGES.items()}
    | {
        ("torch._utils", "_rebuild_tensor_v2"): AllowedCall(_Tensor),
        ("torch._utils", "_rebuild_parameter"): AllowedCall(_parameter),
        ("torch", "Size"): AllowedCall(_size),
    }
)
