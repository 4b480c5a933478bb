"""Reading PyTorch's checkpoints without PyTorch, and without running anything that a file says.

A `.pth` is a pickle and the raw bytes of its tensors, in a zip (PyTorch 1.6 and later) or one after the other (before). The
reader admits tensors, numbers, texts and containers, and refuses every other name by name.
"""

from __future__ import annotations

import collections
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

SUFFIXES = (".pth", ".pth.tar", ".pt")
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file before PyTorch 1.6

STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}


class Refused(Exception):
    """The file asks for something that no weights need."""


@dataclass
class _Storage:
    """The bytes of one or more tensors; in the old format they come after the pickle that names them."""

    dtype: str
    count: int
    data: np.ndarray | None = None


@dataclass
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        """A copy of the tensor's values; a shape that leaves the storage is refused."""
        integers = (self.offset, *self.shape, *self.strides)
        if not all(isinstance(value, int) and value >= 0 for value in integers) or len(self.shape) != len(self.strides):
            raise Refused(f"a tensor of shape {self.shape} with strides {self.strides}")
        if 0 in self.shape:
            return np.zeros(self.shape, self.storage.data.dtype)
        last = self.offset + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
        if last >= len(self.storage.data):
            raise Refused(f"a tensor of shape {self.shape} that does not lie in its {len(self.storage.data)} stored values")
        data = self.storage.data[self.offset :]
        strides = [stride * data.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(data, self.shape, strides, writeable=False).copy()


def decode(raw: bytes, dtype: str) -> np.ndarray:
    """Little-endian values as an array; bfloat16, which numpy has not, becomes float32."""
    if dtype == "bfloat16":
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(raw, dtype)


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote, with arrays for tensors. Raises Refused, or what a damaged file makes the readers raise."""
    tree = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    return _with_arrays(tree)


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise Refused("compressed members, which PyTorch does not write")
        (pickled,) = (name for name in names if name.endswith("/data.pkl"))
        root = pickled.removesuffix("data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise Refused("big-endian values, expected little-endian")
        storages: dict[str, _Storage] = {}

        def load(dtype: str, key: str, count: int) -> _Storage:
            if key not in storages:
                storages[key] = _Storage(dtype, count, decode(archive.read(f"{root}data/{key}"), dtype))
            return storages[key]

        return _Unpickler(io.BytesIO(archive.read(pickled)), load).load()


def _read_legacy(path: Path) -> Any:
    storages: dict[str, _Storage] = {}
    with open(path, "rb") as file:
        if _Unpickler(file, None).load() != LEGACY_MAGIC:
            raise Refused("something else than a PyTorch checkpoint")
        _Unpickler(file, None).load()  # the protocol's version
        if not _Unpickler(file, None).load().get("little_endian", True):
            raise Refused("big-endian values, expected little-endian")
        tree = _Unpickler(file, lambda dtype, key, count: storages.setdefault(key, _Storage(dtype, count))).load()
        for key in _Unpickler(file, None).load():
            (count,) = struct.unpack("<q", file.read(8))
            storage = storages[key]
            width = 2 if storage.dtype == "bfloat16" else np.dtype(storage.dtype).itemsize
            if count != storage.count:
                raise Refused(f"a storage of {count} values where {storage.count} were announced")
            storage.data = decode(_exactly(file, count * width), storage.dtype)
    return tree


def _exactly(file: IO[bytes], size: int) -> bytes:
    raw = file.read(size)
    if len(raw) != size:
        raise EOFError
    return raw


class _Unpickler(pickle.Unpickler):
    """`load` gives the storage of a persistent id; without it the pickle may have none."""

    def __init__(self, file: IO[bytes], load: Callable[[str, str, int], _Storage] | None):
        super().__init__(file, encoding="latin1")
        self._load_storage = load

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) in ADMITTED:
            return ADMITTED[module, name]
        raise Refused(f"{module}.{name}, which no weights file needs; nothing of it was run")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _device, count, *view = pid
        if kind != "storage" or self._load_storage is None or dtype not in STORAGES.values() or any(view):
            raise Refused("an unknown kind of tensor")
        return self._load_storage(dtype, str(key), count)


def _rebuild_tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise Refused("a tensor without values")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise Refused(f"an encoding '{encoding}'")
    return text.encode("latin1")


# what a pickle of tensors may name; all of it builds arrays and containers. numpy 2 renamed numpy.core to numpy._core
_reconstruct, _scalar = np.zeros(1).__reduce__()[0], np.float32(0).__reduce__()[0]
NUMPY_ONLY = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _latin1,
}
ADMITTED = NUMPY_ONLY | {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): tuple,
}


def _with_arrays(tree: Any) -> Any:
    if isinstance(tree, _Tensor):
        return tree.array()
    if isinstance(tree, dict):
        return {key: _with_arrays(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_with_arrays(value) for value in tree)
    return tree
