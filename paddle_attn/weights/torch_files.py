"""Reads PyTorch's checkpoints without PyTorch, and without running anything in them.

A `.pth` is a pickle and the raw bytes of its tensors, in a zip (PyTorch 1.6 and later) or one after the
other (before). The reader allows tensors, numbers, texts and containers (`safe_pickle`), and refuses every
other name.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..files import open_regular
from . import safe_pickle
from .safe_pickle import MAX_NAME, NUMPY_NAMES, RefusedFile, is_shape

SUFFIXES = (".pth", ".pth.tar", ".pt")
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file before PyTorch 1.6
ZIP_START = b"PK\x03\x04"
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


class _Storage:
    """Names the bytes of one or more tensors; the old format stores them after the pickle."""

    __slots__ = ("count", "dtype", "key")

    def __init__(self, dtype: str, key: str, count: int):
        self.dtype, self.key, self.count = dtype, key, count


class _Tensor:
    """A view of a storage."""

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any):
        valid = isinstance(storage, _Storage) and all(map(is_shape, ((offset,), shape, strides)))
        if not valid or len(shape) != len(strides):
            raise RefusedFile("a malformed tensor")
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
    with open_regular(path) as file:
        tree, bytes_of = _read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file)
        values: dict[str, np.ndarray] = {}
        bytes_left = MAX_COPIES * file.seek(0, os.SEEK_END) + (1 << 20)

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


def _read_zip(file: IO[bytes]) -> tuple[Any, Callable[[_Storage], bytes]]:
    archive = zipfile.ZipFile(file)
    names, members = archive.namelist(), archive.infolist()
    if any(info.compress_type != zipfile.ZIP_STORED for info in members):
        raise RefusedFile("compressed members, expected stored ones as PyTorch writes them")
    if sum(info.file_size for info in members) > file.seek(0, os.SEEK_END):
        raise RefusedFile("members that overlap")
    (pickled,) = (name for name in names if name.endswith("/data.pkl"))
    root = pickled.removesuffix("data.pkl")
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise RefusedFile("big-endian values, expected little-endian")
    tree = safe_pickle.load(io.BytesIO(archive.read(pickled)), TORCH_NAMES, _storage)
    return tree, lambda storage: archive.read(f"{root}data/{storage.key}")


def _read_legacy(file: IO[bytes]) -> tuple[Any, Callable[[_Storage], bytes]]:
    file.seek(0)
    if file.read(len(ZIP_START)) == ZIP_START:  # else "P" would be read as a pickle's instruction
        raise zipfile.BadZipFile("no directory of members, expected one at the end")
    file.seek(0)
    if safe_pickle.load(file, {}) != LEGACY_MAGIC:
        raise RefusedFile("no PyTorch checkpoint")
    safe_pickle.load(file, {})  # the protocol's version
    system = safe_pickle.load(file, {})
    if not isinstance(system, dict) or not system.get("little_endian", True):
        raise RefusedFile("big-endian values, expected little-endian")
    storages: dict[str, _Storage] = {}

    def shared_storage(pid: Any) -> _Storage:
        storage = _storage(pid)
        return storages.setdefault(storage.key, storage)

    tree = safe_pickle.load(file, TORCH_NAMES, shared_storage)
    keys = safe_pickle.load(file, {})
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise RefusedFile("a malformed list of storages")
    content: dict[str, bytes] = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        storage = storages[key]
        if count != storage.count:
            raise RefusedFile(f"a storage of {count} values, expected {storage.count}")
        size = count * (2 if storage.dtype == "bfloat16" else np.dtype(storage.dtype).itemsize)
        if size > _bytes_left(file):  # before `read` takes memory for it
            raise EOFError
        content[key] = file.read(size)
    return tree, lambda storage: content[storage.key]


def _bytes_left(file: IO[bytes]) -> int:
    position = file.tell()
    left = file.seek(0, os.SEEK_END) - position
    file.seek(position)
    return left


def _storage(pid: Any) -> _Storage:
    if not isinstance(pid, tuple) or len(pid) not in (5, 6):
        raise RefusedFile("a storage of an unknown kind")
    kind, dtype, key, _device, count, *view = pid
    if (
        kind != "storage"
        or dtype not in STORAGES.values()
        or not isinstance(key, str)
        or len(key) > MAX_NAME
        or not is_shape((count,))
        or any(view)
    ):
        raise RefusedFile("a storage of an unknown kind")
    return _Storage(dtype, key, count)


def _parameter(tensor: Any, *_: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise RefusedFile("a malformed parameter")
    return tensor


def _size(sides: Any) -> tuple:
    shape = tuple(sides) if isinstance(sides, (list, tuple)) else None
    if not is_shape(shape):
        raise RefusedFile("a malformed size")
    return shape


TORCH_NAMES: dict[tuple[str, str], Any] = (
    NUMPY_NAMES
    | {("torch", name): dtype for name, dtype in STORAGES.items()}
    | {
        ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch", "Size"): _size,
    }
)
