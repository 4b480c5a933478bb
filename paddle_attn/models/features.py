"""A backbone without its classifier, for feature pyramids: detection and segmentation."""

from __future__ import annotations

from paddle import Tensor, nn


class FeatureMaps(nn.Layer):
    """The maps of a backbone at strides 4, 8, 16 and 32: `[N, 3, H, W] -> [[N, channels[i], H/strides[i], W/strides[i]], …]`.

    Args:
        net: a network of this zoo for ImageNet's image sizes; its weights are `net.*`.

    Attributes: `channels` and `strides`, lists of four numbers.
    """

    def __init__(self, net: nn.Layer):
        super().__init__()
        self.net = net
        self.channels: list[int] = list(net.feature_channels)
        self.strides: list[int] = [4, 8, 16, 32]

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.net.forward_features(x)
