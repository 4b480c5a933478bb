"""Conversion: an author's PyTorch checkpoint in, weights for the same network in Paddle out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UserError
from ..models import create_model
from .loading import LoadReport, has_torch_names, load_state, read_weights, save_weights
from .torch_keys import our_keys


def convert(
    source: str | Path,
    out: str | Path,
    arch: str,
    attn: str | None = None,
    attn_kwargs: dict[str, Any] | None = None,
    attn_pos: str = "paper",
) -> LoadReport:
    """Convert a checkpoint; the number of classes is the file's.

    Args:
        source: a `.pth`, `.pth.tar`, `.pt`, `.safetensors` or `.pdparams`.
        out: a `.pdparams` or `.safetensors` to write.
        arch: one of `list_models()`.
        attn, attn_kwargs, attn_pos: the attention that the checkpoint was trained with.

    Returns: what was loaded. Raises: UserError when the file does not hold this network, key by key.
    """
    state = read_weights(source)
    small = create_model(arch, attn, attn_kwargs, attn_pos, num_classes=1)
    names = (
        our_keys(state, small.state_dict()) if has_torch_names(source, state) else {key: key for key in state}
    )
    prefix = small.classifier_prefix
    biases = [
        state[theirs] for theirs, ours in names.items() if ours.startswith(prefix) and ours.endswith(".bias")
    ]
    if len(biases) != 1:
        raise UserError(
            f"{source} does not hold {arch}: expected its classifier '{prefix}bias', found {len(biases)} such keys"
        )
    net = create_model(arch, attn, attn_kwargs, attn_pos, num_classes=biases[0].size)
    report = load_state(net, state, source, torch_style=has_torch_names(source, state))
    save_weights(net, out)
    return report
