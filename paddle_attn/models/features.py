"""A backbone without its classifier, for feature pyramids: detection and segmentation."""

from __future__ import annotations

from typing import ClassVar

from paddle import Tensor, nn


class FeatureMaps(nn.Layer):
    """The maps of a backbone at strides 4, 8, 16 and 32.

    Shape: `[N, 3, H, W] -> [[N, channels[i], H/strides[i], W/strides[i]], …]`, four maps.

    Args:
        net: a network of this zoo for ImageNet's image sizes; its weights are `net.*`.

    Attributes: `channels` and `strides`, lists of four numbers.
    """

    STRIDES: ClassVar[tuple[int, ...]] = (4, 8, 16, 32)

    def __init__(self, net: nn.Layer):
        super().__init__()
        self.net = net
        self.channels: list[int] = list(net.feature_channels)
        self.strides: list[int] = list(self.STRIDES)

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.net.forward_features(x)
