"""Converts an author's PyTorch checkpoint to weights for the same network in Paddle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from paddle import nn

from ..errors import UserError
from .class_names import class_names
from .files import read_weights, save_weights
from .loading import LoadReport, load_state
from .torch_keys import paddle_keys
from .torch_layout import has_torch_names


def convert(
    source: str | Path, out: str | Path, build: Callable[[int], nn.Layer], half: bool = False
) -> LoadReport:
    """Convert a checkpoint; the network gets the file's number of classes.

    Args:
        source: a `.pth`, `.pth.tar`, `.pt`, `.safetensors` or `.pdparams` file.
        out: the `.pdparams` or `.safetensors` file to write; the second keeps the names of the classes.
        build: makes the network, with the attention of the checkpoint, for a number of classes.
        half: store float32 tensors as float16.

    Returns: the keys that were loaded.

    Raises: UserError when the file does not hold this network; it lists the keys that differ.
    """
    state = read_weights(source)
    torch_style = has_torch_names(source, state)
    net = build(_num_classes(source, state, build(1), torch_style))
    report = load_state(net, state, source, torch_style=torch_style)
    save_weights(net, out, class_names(source), half)
    return report


def _num_classes(source: str | Path, state: dict, net: nn.Layer, torch_style: bool) -> int:
    """The number of classes of a state dict: the size of the classifier's bias, as `net` names it."""
    prefix = net.classifier_name
    names = paddle_keys(state, net) if torch_style else {key: key for key in state}
    biases = [
        state[theirs] for theirs, ours in names.items() if ours.startswith(prefix) and ours.endswith(".bias")
    ]
    if len(biases) != 1:
        raise UserError(
            f"{source} does not hold this network: "
            f"expected its classifier '{prefix}bias', found {len(biases)} such keys"
        )
    return biases[0].size
