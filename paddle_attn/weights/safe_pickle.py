"""Reads pickles of numbers, texts, containers and numpy arrays without running anything in them.

A pickle is a program for a small stack machine. This one executes the instructions that weights files
consist of, calls functions of our own for the few names that they need, and refuses every other instruction
and name. It bounds what an instruction can repeat, and checks lengths before it takes memory, so that time
and memory grow with the size of the file.
"""

from __future__ import annotations

import os
import pickletools
import re
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np

from ..errors import quote

MAX_INSTRUCTIONS = 1 << 20  # a tensor takes about forty
MAX_DEPTH = 100  # of nested containers
MAX_NAME = 500  # characters of a key
MAX_NUMBER_KEYS = 10_000  # a file can choose numbers that collide in a dictionary
MAX_COPIES = 4  # calls may copy this many times the file's size
MAX_DIMENSIONS = 32  # of an array


class RefusedFile(Exception):
    """The file contains something that no weights file needs; the message names it."""


class _Dict(dict):
    """Stands for an OrderedDict, on which PyTorch sets attributes."""

    __slots__ = ()


class _DType:
    """A number type: its code and byte order, and nothing else that numpy's can hold."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: Any, *_: Any):
        if not isinstance(code, str):
            raise RefusedFile(f"an array whose type is a {type(code).__name__}")
        if not re.fullmatch(r"b1|[fiu][1248]|bool|float(16|32|64)|u?int(8|16|32|64)", code):
            raise RefusedFile(f"an array of the unsupported type {quote(code)}")
        self._code, self._order = code, "<"

    def build(self, state: tuple) -> None:
        if (
            len(state) < 5
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

    def build(self, state: tuple) -> None:
        if len(state) != 5:
            raise RefusedFile("a malformed array")
        _, shape, dtype, fortran, raw = state
        if not is_shape(shape) or not isinstance(dtype, _DType) or not isinstance(raw, (str, bytes)):
            raise RefusedFile("a malformed array")
        try:
            raw = raw.encode("latin1") if isinstance(raw, str) else raw
            self.value = np.frombuffer(raw, dtype.numpy()).reshape(shape, order="F" if fortran else "C")
        except ValueError as error:
            raise RefusedFile(f"an array whose bytes do not fit its shape ({error})") from None


def is_shape(sides: Any) -> bool:
    """Whether it is a tuple of sizes that an array can have."""
    return (
        isinstance(sides, tuple)
        and len(sides) <= MAX_DIMENSIONS
        and all(type(side) is int and 0 <= side < 1 << 63 for side in sides)
    )


def _scalar(dtype: Any, raw: Any) -> int | float | bool:
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(dtype, _DType) or not isinstance(raw, bytes) or len(raw) != dtype.numpy().itemsize:
        raise RefusedFile("a malformed number")
    return np.frombuffer(raw, dtype.numpy())[0].item()


def _latin1(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise RefusedFile("a text in another encoding than latin1")
    return text.encode("latin1")


def _ndarray(*_: Any) -> None:
    raise RefusedFile("a call of numpy.ndarray, which allocates memory of any size")


def _ordered_dict(items: Any = ()) -> _Dict:
    if not isinstance(items, (list, tuple)) or not all(
        isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[0], str) for item in items
    ):
        raise RefusedFile("a malformed OrderedDict")
    for key, _ in items:
        check_name(key)
    return _Dict(items)


def check_name(key: str) -> None:
    """Raises: RefusedFile for a key that is too long."""
    if len(key) > MAX_NAME:
        raise RefusedFile(f"a name of {len(key)} characters, expected at most {MAX_NAME}")


# numpy 2 renamed numpy.core to numpy._core
NUMPY_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ndarray,  # only passed to _reconstruct, never called
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: Array(),
    ("numpy._core.multiarray", "_reconstruct"): lambda *_: Array(),
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("collections", "OrderedDict"): _ordered_dict,
    ("_codecs", "encode"): _latin1,
}


class _BoundedFile:
    """A file from its position on; it never reads more than it has."""

    def __init__(self, file: IO[bytes]):
        start = file.tell()
        self._file, self.left = file, file.seek(0, os.SEEK_END) - start
        file.seek(start)

    def read(self, size: int) -> bytes:
        if size > self.left:  # before `read` takes memory for it
            raise EOFError
        self.left -= size
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline(MAX_NAME)
        self.left -= len(line)
        return line


class _Machine:
    """The stack machine of one pickle: `execute` its instructions, then take `pop()` as the result."""

    def __init__(
        self,
        size: int,
        allowed: Mapping[tuple[str, str], Any],
        persistent_load: Callable[[Any], Any] | None,
    ):
        self._allowed, self._persistent_load = allowed, persistent_load
        self._stack: list[Any] = []
        self._marks: list[int] = []  # heights of the stack
        self._memo: dict[int, Any] = {}
        self._copies_left = MAX_COPIES * size + (1 << 20)
        self._number_keys = 0

    def execute(self, name: str, argument: Any) -> None:
        """Execute one instruction of `pickletools`. Raises: RefusedFile, IndexError, KeyError, TypeError."""
        push, pop = self._stack.append, self._stack.pop
        match name:
            case "BINGET" | "LONG_BINGET":
                push(self._memo[argument])
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                push(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "BINSTRING" | "SHORT_BINSTRING":
                push(argument)
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                push(argument)
            case "NONE":
                push(None)
            case "NEWTRUE" | "NEWFALSE":
                push(name == "NEWTRUE")
            case "MARK":
                self._marks.append(len(self._stack))
            case "EMPTY_TUPLE":
                push(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple([pop() for _ in range(int(name[-1]))][::-1]))
            case "TUPLE":
                push(tuple(self._pop_to_mark()))
            case "EMPTY_LIST":
                push([])
            case "APPEND":
                self._extend([pop()])
            case "APPENDS":
                self._extend(self._pop_to_mark())
            case "EMPTY_DICT":
                push({})
            case "SETITEM":
                value, key = pop(), pop()
                self._update([key, value])
            case "SETITEMS":
                self._update(self._pop_to_mark())
            case "GLOBAL":
                module, _, name = argument.partition(" ")
                push(self._find(module, name))
            case "STACK_GLOBAL":
                name, module = pop(), pop()
                push(self._find(module, name))
            case "REDUCE":
                arguments, function = pop(), pop()
                push(self._call(function, arguments))
            case "BUILD":
                state = pop()
                self._build(self._stack[-1], state)
            case "BINPERSID":
                push(self._persistent(pop()))
            case "PROTO" | "FRAME":
                pass
            case _:
                raise RefusedFile(f"the pickle instruction {name}")

    def pop(self) -> Any:
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _extend(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise RefusedFile("items of what is not a list")
        self._stack[-1].extend(items)

    def _update(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], dict):
            raise RefusedFile("keys of what is not a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is int:  # the states of an optimiser
                self._number_keys += 1
                if self._number_keys > MAX_NUMBER_KEYS:
                    raise RefusedFile(f"more than {MAX_NUMBER_KEYS} numbers as keys")
            elif type(key) is str:
                check_name(key)
            else:
                raise RefusedFile(f"a {type(key).__name__} as a key, expected a text or a number")
            self._stack[-1][key] = value

    def _find(self, module: Any, name: Any) -> Any:
        if not isinstance(module, str) or not isinstance(name, str):
            raise RefusedFile("a name that is not a text")
        if (module, name) not in self._allowed:
            raise RefusedFile(
                f"the name {quote(f'{module}.{name}')}, which no weights file needs; nothing in it was run"
            )
        return self._allowed[module, name]

    def _call(self, function: Any, arguments: Any) -> Any:
        if not callable(function) or not isinstance(arguments, tuple):
            raise RefusedFile("a call of what is not a function")
        self._count_copies(arguments)
        return function(*arguments)

    def _build(self, target: Any, state: Any) -> None:
        if isinstance(target, _Dict):
            return  # attributes that PyTorch sets on a state dict
        if not isinstance(target, (_DType, Array)) or not isinstance(state, tuple):
            raise RefusedFile("a change to an object")
        self._count_copies(state)
        target.build(state)

    def _persistent(self, pid: Any) -> Any:
        if self._persistent_load is None:
            raise RefusedFile("a reference to data outside the file")
        return self._persistent_load(pid)

    def _count_copies(self, arguments: tuple) -> None:
        """Bound what calls copy: a file can pass the same long text to thousands of them."""
        self._copies_left -= len(arguments)
        self._copies_left -= sum(
            len(value) for value in arguments if isinstance(value, (str, bytes, list, tuple))
        )
        if self._copies_left < 0:
            raise RefusedFile("many copies of one value")


def load(
    file: IO[bytes],
    allowed: Mapping[tuple[str, str], Any] = NUMPY_NAMES,
    persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
    """Read one pickle from a seekable file, and leave the file at the pickle's end.

    Args:
        allowed: the replacement of each `(module, name)` that the pickle may use.
        persistent_load: resolves persistent ids, as PyTorch's storages have; None refuses them.

    Raises: RefusedFile, or any error that a damaged pickle causes.
    """
    bounded = _BoundedFile(file)
    machine = _Machine(bounded.left, allowed, persistent_load)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(bounded)):
        if count == MAX_INSTRUCTIONS:
            raise RefusedFile(f"more than {MAX_INSTRUCTIONS} pickle instructions")
        if opcode.name != "STOP":  # the last one
            machine.execute(opcode.name, argument)
    return machine.pop()


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
