"""From PyTorch to Paddle: the names of a state dict, and the layouts of its values."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

import numpy as np
from paddle import nn

from ..errors import UserError
from .torch_files import SUFFIXES
from .torch_keys import is_torch_style, paddle_keys


def has_torch_names(path: str | os.PathLike, keys: Collection[str]) -> bool:
    """Whether a file's names are PyTorch's: decided by the file's ending, else by the names."""
    return str(path).endswith(SUFFIXES) or is_torch_style(keys)


def translated(net: nn.Layer, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A PyTorch state dict with the network's names and Paddle's layouts.

    A linear layer's weight is transposed (PyTorch stores [out, in], Paddle [in, out]); a 1x1 convolution's
    becomes a matrix when the network has a linear layer there; a layer norm's parameters are flattened.

    Raises: UserError when two tensors get the same name.
    """
    linear = {f"{name}.weight" for name, layer in net.named_sublayers() if isinstance(layer, nn.Linear)}
    flat = {
        f"{name}.{part}"
        for name, layer in net.named_sublayers()
        if isinstance(layer, nn.LayerNorm)
        for part in ("weight", "bias")
    }
    result: dict[str, np.ndarray] = {}
    for theirs, ours in paddle_keys(state, net).items():
        if ours in result:
            raise UserError(
                f"two of the file's tensors are named '{ours}' here, expected one; one of them is '{theirs}'"
            )
        value = state[theirs]
        if ours in linear and value.ndim in (2, 4) and value.size == value.shape[0] * value.shape[1]:
            value = value.reshape(value.shape[:2]).T
        result[ours] = value.ravel() if ours in flat else value
    return result
