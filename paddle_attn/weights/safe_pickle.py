"""Reads pickles of numbers, texts, containers and numpy arrays without running anything in them.

An ordinary unpickler builds whatever a file names. This one allows a few names, calls functions of our own
for them, never numpy's or Python's types, and refuses every other name. It checks sizes before it takes
memory.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np

MAX_MEMO = 1 << 22  # the unpickler allocates a memo as large as the largest index
MAX_DEPTH = 100  # of nested containers


class RefusedFile(Exception):
    """The file contains something that no weights file needs; the message names it."""


class AllowedCall:
    """A function that a pickle may call. The pickle cannot set its attributes, unlike a plain function's."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise RefusedFile("a change to a function")


class Immutable:
    """What our functions build: a pickle can pass it on, but cannot set its attributes."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise RefusedFile("a change to an object")


class _Dict(dict):
    """Stands for an OrderedDict; ignores the attributes that PyTorch sets on a state dict."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _DType:
    """A number type: its code and byte order, and nothing else that numpy's can hold."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: Any, *_: Any):
        if not isinstance(code, str) or not re.fullmatch(
            r"b1|[fiu][1248]|bool|float(16|32|64)|u?int(8|16|32|64)", code
        ):
            raise RefusedFile(f"an array of the unsupported type {code!r}")
        self._code, self._order = code, "<"

    def __setstate__(self, state: Any) -> None:
        if (
            not isinstance(state, tuple)
            or len(state) < 5
            or state[1] not in ("<", ">", "|", "=")
            or any(part is not None for part in state[2:5])
        ):
            raise RefusedFile("an array of a structured type")
        self._order = state[1]

    def numpy(self) -> np.dtype:
        return np.dtype(self._code).newbyteorder(self._order if self._order in "<>" else "=")


class Array:
    """A numpy array as its pickle describes it; `value` is set once its bytes are read."""

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
                raise RefusedFile("a malformed array")
            self.value = np.frombuffer(raw, dtype.numpy()).reshape(shape, order="F" if fortran else "C")
        except (TypeError, ValueError) as error:
            raise RefusedFile(f"an array whose bytes do not fit its shape ({error})") from None


def _scalar(dtype: Any, raw: Any) -> int | float | bool:
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(dtype, _DType) or not isinstance(raw, bytes) or len(raw) != dtype.numpy().itemsize:
        raise RefusedFile("a malformed number")
    return np.frombuffer(raw, dtype.numpy())[0].item()


def _latin1(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise RefusedFile(f"a text in the encoding {encoding!r}")
    return text.encode("latin1")


def _ndarray(*_: Any) -> None:
    raise RefusedFile("a call of numpy.ndarray, which allocates memory of any size")


def _ordered_dict(items: Any = ()) -> _Dict:
    if not isinstance(items, (list, tuple)):
        raise RefusedFile("a malformed OrderedDict")
    return _Dict(items)


# numpy 2 renamed numpy.core to numpy._core
NUMPY_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): AllowedCall(_ndarray),  # only passed to _reconstruct, never called
    ("numpy", "dtype"): AllowedCall(_DType),
    ("numpy.core.multiarray", "_reconstruct"): AllowedCall(lambda *_: Array()),
    ("numpy._core.multiarray", "_reconstruct"): AllowedCall(lambda *_: Array()),
    ("numpy.core.multiarray", "scalar"): AllowedCall(_scalar),
    ("numpy._core.multiarray", "scalar"): AllowedCall(_scalar),
    ("collections", "OrderedDict"): AllowedCall(_ordered_dict),
    ("_codecs", "encode"): AllowedCall(_latin1),
}


class _Unpickler(pickle.Unpickler):
    def __init__(
        self,
        file: IO[bytes],
        allowed: Mapping[tuple[str, str], Any],
        persistent_load: Callable[[Any], Any] | None,
    ):
        super().__init__(file, encoding="latin1")
        self._allowed, self._persistent_load = allowed, persistent_load

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise RefusedFile(f"{module}.{name}, which no weights file needs; nothing in it was run")
        return self._allowed[module, name]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent_load is None:
            raise RefusedFile("a reference to data outside the file")
        return self._persistent_load(pid)


def load(
    file: IO[bytes],
    allowed: Mapping[tuple[str, str], Any] = NUMPY_NAMES,
    persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
    """Read one pickle from a seekable file, and leave the file at the pickle's end.

    Args:
        allowed: what stands for each `(module, name)` that the pickle may use.
        persistent_load: resolves persistent ids, as PyTorch's storages have; None refuses them.

    Raises: RefusedFile, or any error that a damaged pickle causes.
    """
    start = file.tell()
    for operation, argument, _ in pickletools.genops(file):
        if "PUT" in operation.name and int(argument or 0) > MAX_MEMO:
            raise RefusedFile("a memo index larger than any weights file needs")
        if operation.name.startswith("EXT"):
            raise RefusedFile("an extension code")
    end = file.tell()
    file.seek(start)
    return _Unpickler(io.BytesIO(file.read(end - start)), allowed, persistent_load).load()


def plain(tree: Any, convert: Callable[[Any], Any] = lambda leaf: leaf) -> Any:
    """The tree with numpy arrays for `Array`s, lists for tuples, and `convert` applied to the other leaves.

    Objects that occur several times are converted once. Raises RefusedFile for containers nested too deep.
    """
    done: dict[int, Any] = {}

    def visit(node: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise RefusedFile(f"containers nested more than {MAX_DEPTH} levels deep")
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
