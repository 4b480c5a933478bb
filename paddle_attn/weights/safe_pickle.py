"""Pickles of numbers, texts, containers and numpy arrays, read without running anything that they say.

An ordinary unpickler builds whatever a file names. This one admits a few names, gives functions of our own for them, never
numpy's or Python's types, and refuses every other name by name. Sizes are checked before memory is taken.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np

MAX_MEMO = 1 << 22  # a memo index makes the unpickler take that much room at once
MAX_DEPTH = 100


class Refused(Exception):
    """The file asks for something that no weights need."""


class Admitted:
    """A function that a pickle may call; unlike a plain one, a pickle cannot set its attributes."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise Refused("a changed function")


class Sealed:
    """What our functions build: a pickle can hand it on, but not set anything in it."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise Refused("a changed object")


class _Dict(dict):
    """An OrderedDict's stand-in; the attributes that PyTorch keeps on a state dict are passed over."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _DType:
    """A plain number type: code and byte order, nothing else of what numpy's could be."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: Any, *_: Any):
        if not isinstance(code, str) or not re.fullmatch(
            r"b1|[fiu][1248]|bool|float(16|32|64)|u?int(8|16|32|64)", code
        ):
            raise Refused(f"an array of type {code!r}")
        self._code, self._order = code, "<"

    def __setstate__(self, state: Any) -> None:
        if (
            not isinstance(state, tuple)
            or len(state) < 5
            or state[1] not in ("<", ">", "|", "=")
            or any(part is not None for part in state[2:5])
        ):
            raise Refused("an array of a composed type")
        self._order = state[1]

    def numpy(self) -> np.dtype:
        return np.dtype(self._code).newbyteorder(self._order if self._order in "<>" else "=")


class Array:
    """A numpy array as its pickle describes it; `value` holds it once its bytes have come."""

    __slots__ = ("value",)

    def __setstate__(self, state: Any) -> None:
        try:
            _, shape, dtype, fortran, raw = state
            raw = raw.encode("latin1") if isinstance(raw, str) else raw
            if (
                not isinstance(dtype, _DType)
                or not isinstance(raw, bytes)
                or not all(type(side) is int and side >= 0 for side in shape)
            ):
                raise Refused("an array that is none")
            self.value = np.frombuffer(raw, dtype.numpy()).reshape(shape, order="F" if fortran else "C")
        except (TypeError, ValueError) as error:
            raise Refused(f"an array whose bytes do not fit its shape ({error})") from None


def _scalar(dtype: Any, raw: Any) -> int | float | bool:
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(dtype, _DType) or not isinstance(raw, bytes) or len(raw) != dtype.numpy().itemsize:
        raise Refused("a number that is none")
    return np.frombuffer(raw, dtype.numpy())[0].item()


def _latin1(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused(f"an encoding {encoding!r}")
    return text.encode("latin1")


def _ordered_dict(items: Any = ()) -> _Dict:
    if not isinstance(items, (list, tuple)):
        raise Refused("a dictionary of something else than items")
    return _Dict(items)


# numpy 2 renamed numpy.core to numpy._core
NUMPY: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): "ndarray",  # only ever an argument of _reconstruct
    ("numpy", "dtype"): Admitted(_DType),
    ("numpy.core.multiarray", "_reconstruct"): Admitted(lambda *_: Array()),
    ("numpy._core.multiarray", "_reconstruct"): Admitted(lambda *_: Array()),
    ("numpy.core.multiarray", "scalar"): Admitted(_scalar),
    ("numpy._core.multiarray", "scalar"): Admitted(_scalar),
    ("collections", "OrderedDict"): Admitted(_ordered_dict),
    ("_codecs", "encode"): Admitted(_latin1),
}


class _Unpickler(pickle.Unpickler):
    def __init__(
        self,
        file: IO[bytes],
        admitted: Mapping[tuple[str, str], Any],
        persistent: Callable[[Any], Any] | None,
    ):
        super().__init__(file, encoding="latin1")
        self._admitted, self._persistent = admitted, persistent

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._admitted:
            raise Refused(f"{module}.{name}, which no weights file needs; nothing of it was run")
        return self._admitted[module, name]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise Refused("something that lies outside it")
        return self._persistent(pid)


def load(
    file: IO[bytes],
    admitted: Mapping[tuple[str, str], Any] = NUMPY,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """One pickle from a file that can be sought; afterwards the file stands behind it. Raises Refused, or what a damaged one raises."""
    start = file.tell()
    for operation, argument, _ in pickletools.genops(file):
        if "PUT" in operation.name and int(argument or 0) > MAX_MEMO:
            raise Refused("more room than any weights need")
        if operation.name.startswith("EXT"):
            raise Refused("an extension")
    end = file.tell()
    file.seek(start)
    return _Unpickler(io.BytesIO(file.read(end - start)), admitted, persistent).load()


def plain(tree: Any, convert: Callable[[Any], Any] = lambda leaf: leaf) -> Any:
    """The tree with arrays where `Array`s stood, and `convert` applied to the other leaves; what is shared is visited once."""
    done: dict[int, Any] = {}

    def visit(node: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise Refused("containers nested without end")
        if id(node) in done:
            return done[id(node)]
        if isinstance(node, dict):
            done[id(node)] = result = {}
            result.update((key, visit(value, depth + 1)) for key, value in node.items())
        elif isinstance(node, (list, tuple)):
            result = [visit(value, depth + 1) for value in node]
        elif isinstance(node, Array):
            result = getattr(node, "value", None)
        else:
            result = convert(node)
        done[id(node)] = result
        return result

    return visit(tree, 0)
