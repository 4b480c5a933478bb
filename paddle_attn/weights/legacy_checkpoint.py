"""Pickled training checkpoints. Deprecated: `train` moves to safetensors and JSON, then this file goes."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import paddle

from ..files import atomic_write
from . import safe_pickle
from .files import read_pickle, read_safely

CHECKED = b"paddle_attn checkpoint, SHA-256 "  # version 0.1.0 wrote checkpoints without this line


def read_checkpoint(path: str | os.PathLike) -> Any:
    """Read what `save_checkpoint` wrote; run nothing in it. Raises UserError when its checksum is wrong."""
    return read_safely(Path(path), _read_checked)


def save_checkpoint(state: Any, path: str | os.PathLike) -> None:
    """Write a tree of tensors, numbers and texts; a failed write keeps the older file."""
    arrays = paddle.utils.map_structure(
        lambda leaf: leaf.numpy() if isinstance(leaf, paddle.Tensor) else leaf, state
    )
    content = pickle.dumps(arrays, protocol=4)
    header = CHECKED + hashlib.sha256(content).hexdigest().encode() + b"\n"
    atomic_write(Path(path), lambda aside: aside.write_bytes(header + content))


def _read_checked(path: Path) -> Any:
    with open(path, "rb") as file:
        header = file.readline(len(CHECKED) + 66)
        if not header.startswith(CHECKED):
            return read_pickle(path)
        content = file.read()
    if hashlib.sha256(content).hexdigest().encode() != header[len(CHECKED) :].strip():
        raise ValueError("its checksum is wrong")
    return safe_pickle.plain(safe_pickle.load(io.BytesIO(content)))
