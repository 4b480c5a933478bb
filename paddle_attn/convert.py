"""Conversion: an author's PyTorch checkpoint in, weights for the same network in Paddle out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import UserError
from .models import create_model
from .torch_keys import is_torch_style, our_keys
from .weights import LoadReport, load_weights, read_weights, save_weights


def convert(source: str | Path, out: str | Path, arch: str, attn: str | None = None, attn_kwargs: dict[str, Any] | None = None) -> LoadReport:
    """Convert a checkpoint; the number of classes is the file's.

    Args:
        source: a `.pth`, `.pth.tar`, `.pt`, `.safetensors` or `.pdparams`.
        out: a `.pdparams` or `.safetensors` to write.
        arch: one of `list_models()`.
        attn, attn_kwargs: the attention that the checkpoint was trained with.

    Returns: what was loaded. Raises: UserError when the file does not hold this network, key by key.
    """
    state = read_weights(source)
    names = our_keys(state) if is_torch_style(state) else {key: key for key in state}
    prefix = create_model(arch, num_classes=1).classifier_prefix
    biases = [state[theirs] for theirs, ours in names.items() if ours.startswith(prefix) and ours.endswith(".bias")]
    if len(biases) != 1:
        raise UserError(f"{source} does not hold {arch}: expected its classifier '{prefix}bias', found {len(biases)} such keys")
    net = create_model(arch, attn, attn_kwargs, num_classes=len(biases[0]))
    report = load_weights(net, source)
    save_weights(net, out)
    return report
