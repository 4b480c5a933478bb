"""What loading weights may know about a network: the protocol that every backbone in `models` implements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from paddle import Tensor


@runtime_checkable
class Backbone(Protocol):
    """A classification network, `[N, 3, H, W] -> [N, num_classes]`, whose parts have these names.

    Attributes:
        classifier_name: prefix of the last layer's names in the state dict, with its dot, such as `'fc.'`.
        void_biases: biases that a checkpoint may have and the network lacks: `{bias: running mean that
            absorbs it}`.
        torch_names: PyTorch's parameter names to ours: pairs of a regular expression and its replacement,
            applied in this order.
        feature_channels: channels of the maps that `forward_features` returns.
    """

    classifier_name: str
    void_biases: Mapping[str, str]
    torch_names: Sequence[tuple[str, str]]
    feature_channels: Sequence[int]

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """`[N, 3, H, W]` -> one map per resolution, the finest first."""
        ...
