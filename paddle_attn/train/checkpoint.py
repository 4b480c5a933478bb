"""A checkpoint: a tree of tensors, numbers and strings in one safetensors file, the tree itself as JSON in
its header.

Reading it runs nothing, and a checksum over all of its content finds every damage.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import safetensors
import safetensors.numpy

from ..errors import UserError
from ..files import atomic_write, open_regular

FORMAT = "paddle_attn checkpoint 2"  # version 1 was a pickle
TENSOR = "$tensor"  # the key of a tensor's name in the tree


def write_checkpoint(tree: Any, path: Path) -> None:
    """Write a tree of dicts, lists, tensors, numbers and strings. An older file is replaced only by a whole
    new one.
    """
    tensors: dict[str, np.ndarray] = {}
    text = json.dumps(_split(tree, "", tensors))
    header = {"format": FORMAT, "tree": text, "sha256": _digest(text, tensors)}
    try:
        atomic_write(path, lambda part: safetensors.numpy.save_file(tensors, part, metadata=header))
    except OSError as error:
        raise UserError(f"cannot write the checkpoint {path}: {error.strerror or error}") from None
    except safetensors.SafetensorError as error:  # a full disk
        raise UserError(f"cannot write the checkpoint {path}: {error}") from None


def read_checkpoint(path: Path) -> Any:
    """What `write_checkpoint` wrote, with arrays for tensors.

    Raises: UserError when the file cannot be read, has another format or is damaged.
    """
    try:
        with open_regular(path), safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}: {error.strerror or error}") from None
    except Exception as error:  # safetensors raises its own error, and others on damaged headers
        raise _damaged(path, type(error).__name__) from None
    if header.get("format") != FORMAT:
        raise _damaged(path, "another format")
    if header.get("sha256") != _digest(header.get("tree", ""), tensors):
        raise _damaged(path, "a wrong checksum")
    try:
        return _join(json.loads(header["tree"]), tensors)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, type(error).__name__) from None


def _damaged(path: Path, found: str) -> UserError:
    return UserError(
        f"{path} is damaged or not a checkpoint of this version: "
        f"expected one that paddle-attn train wrote, found {found}; "
        "train without --resume to move this run aside"
    )


def _digest(text: str, tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape} ".encode())
        digest.update(tensors[name].reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _split(tree: Any, name: str, tensors: dict[str, np.ndarray]) -> Any:
    """The tree with a reference for each tensor, which goes into `tensors`."""
    if isinstance(tree, dict):
        return {key: _split(value, f"{name}/{key}", tensors) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_split(value, f"{name}/{index}", tensors) for index, value in enumerate(tree)]
    if isinstance(tree, (paddle.Tensor, np.ndarray)):
        tensors[name] = np.array(tree.numpy() if isinstance(tree, paddle.Tensor) else tree, order="C")
        return {TENSOR: name}
    return tree


def _join(tree: Any, tensors: dict[str, np.ndarray]) -> Any:
    if isinstance(tree, dict):
        if tree.keys() == {TENSOR}:
            return tensors[tree[TENSOR]]
        return {key: _join(value, tensors) for key, value in tree.items()}
    return [_join(value, tensors) for value in tree] if isinstance(tree, list) else tree
