"""Reads `.pdparams`, `.safetensors` and PyTorch's files as arrays by name, and writes the first two.

`paddle.load` unpickles, and a crafted pickle can run any program. The readers here run nothing
(`safe_pickle`).
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import safetensors
import safetensors.paddle
from paddle import Tensor, nn

from ..errors import UserError, quote
from ..files import atomic_write, open_regular, read_regular
from . import safe_pickle, torch_files
from .safe_pickle import MAX_NAME, RefusedFile

WRITTEN = (".pdparams", ".safetensors")
READ = (*WRITTEN, *torch_files.SUFFIXES)
LARGEST_HALF = 65504.0  # the largest number of float16
READ_AS_FLOAT32 = (paddle.bfloat16, paddle.float8_e4m3fn, paddle.float8_e5m2)  # numpy lacks these types


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read the tensors of a weights file by the file's own keys; run nothing in it.

    Raises: UserError when the file cannot be read, is damaged, or holds anything but tensors.
    """
    path = Path(path)
    if path.name.endswith(torch_files.SUFFIXES):
        state = _find_state_dict(_read(path, torch_files.read_torch))
    elif path.suffix == ".safetensors":
        state = _read(path, _read_safetensors)
    elif path.suffix == ".pdparams":
        state = _read(path, _read_pickle)
    else:
        raise UserError(f"cannot read weights from {path}: expected a file that ends in {', '.join(READ)}")
    if not isinstance(state, dict):
        raise UserError(f"{path} holds no weights: expected tensors by name, found a {type(state).__name__}")
    state.pop("StructuredToParameterName@@", None)  # paddle.save's own list of names
    for key, value in state.items():
        if not isinstance(key, str) or len(key) > MAX_NAME:
            raise UserError(f"{path} holds no weights: expected tensors by name, found the name {quote(key)}")
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
            raise UserError(
                f"{path} holds no weights: expected a tensor as {quote(key)}, found a {type(value).__name__}"
            )
    return state


def save_weights(
    net: nn.Layer, path: str | os.PathLike, classes: Sequence[str] | None = None, half: bool = False
) -> None:
    """Write a network's weights as `.pdparams` or `.safetensors`; a failed write keeps the older file.

    Args:
        classes: the names of the classes, in the network's order, for the header of a `.safetensors` file.
            A `.pdparams` file has no place for them: training writes `classes.txt` beside it.
        half: store float32 tensors as float16, in half the space; `load_weights` reads them.

    Raises: UserError when the file cannot be written, or when float16 cannot hold a value.
    """
    path = Path(path)
    if path.suffix not in WRITTEN:
        raise UserError(
            f"cannot write weights to {path}: expected a name that ends in {' or '.join(WRITTEN)}"
        )
    save: Callable[[dict[str, Tensor], str], Any] = paddle.save
    if path.suffix == ".safetensors":
        header = None if classes is None else {"classes": json.dumps(list(classes), ensure_ascii=False)}
        save = functools.partial(safetensors.paddle.save_file, metadata=header)
    state = net.state_dict()
    if half:
        state = {key: _as_half(key, value) for key, value in state.items()}
    try:
        atomic_write(path, lambda aside: save(state, str(aside)))
    except OSError as error:
        raise UserError(f"cannot write weights to {path}: {error.strerror or error}") from None
    except safetensors.SafetensorError as error:  # a full disk
        raise UserError(f"cannot write weights to {path}: {error}") from None


def _as_half(key: str, value: Tensor) -> Tensor:
    if value.dtype != paddle.float32 or not value.size:
        return value
    if (largest := float(value.abs().max())) > LARGEST_HALF:
        raise UserError(f"{key} has a value of {largest:g}, expected at most {LARGEST_HALF:g} for float16")
    return value.astype("float16")


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    """Call `reader(path)`; raise UserError when the file cannot be read, is refused or is damaged."""
    try:
        return reader(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except RefusedFile as error:
        raise UserError(f"{path} is refused: it contains {error}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(
            f"{path} is damaged or not a weights file: "
            f"expected a whole {path.suffix} file, found {type(error).__name__} while reading it"
        ) from None


def _read_pickle(path: Path) -> Any:
    """Read a pickle of numbers, texts, containers and arrays. Raises RefusedFile for anything else."""
    with open_regular(path) as file:
        return safe_pickle.plain(safe_pickle.load(file))


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    tensors = safetensors.paddle.load(read_regular(path))
    return {
        key: (tensor.astype("float32") if tensor.dtype in READ_AS_FLOAT32 else tensor).numpy()
        for key, tensor in tensors.items()
    }


def _find_state_dict(tree: Any) -> Any:
    """The state dict inside what a training script saved."""
    for key in ("state_dict", "model", "net"):
        if isinstance(tree, dict) and isinstance(tree.get(key), dict):
            return tree[key]
    return tree
