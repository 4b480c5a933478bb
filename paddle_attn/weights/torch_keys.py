"""PyTorch's parameter names, translated into a network's own.

A network and each attention in it know how the authors' repositories name their parameters: `torch_names`,
pairs of a regular expression and its replacement, next to the code that creates the parameters. This file
applies them.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from paddle import nn

STATISTICS = ((r"\brunning_mean$", "_mean"), (r"\brunning_var$", "_variance"))  # of a batch norm


def is_torch_style(keys: Collection[str]) -> bool:
    """Whether a state dict has PyTorch's names."""
    return any(
        key.endswith(("running_mean", "num_batches_tracked")) or key.startswith("module.") for key in keys
    )


def paddle_keys(keys: Collection[str], net: nn.Layer) -> dict[str, str]:
    """The network's name for each name in a PyTorch state dict: `{theirs: ours}`.

    Drops `num_batches_tracked`, which Paddle lacks, and names that become empty. Keeps every name that the
    network already has.

    Args:
        keys: PyTorch's names.
        net: the network that will load them. Its own `torch_names` come first, then those of its sublayers.
    """
    own = set(net.state_dict())
    rules = dict.fromkeys(
        rule for layer in net.sublayers(include_self=True) for rule in getattr(layer, "torch_names", ())
    )
    found = {}
    for theirs in keys:
        if theirs.endswith("num_batches_tracked"):
            continue
        ours = renamed(theirs.removeprefix("module."), STATISTICS)
        found[theirs] = ours if ours in own else renamed(ours, rules)
    return {theirs: ours for theirs, ours in found.items() if ours}


def renamed(key: str, rules: Collection[tuple[str, str]]) -> str:
    """A name after each `(regular expression, replacement)` in turn."""
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key
