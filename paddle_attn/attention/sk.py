"""SK: a convolution with two receptive fields, and for every channel a choice between them.

Li et al., "Selective Kernel Networks", CVPR 2019, arxiv.org/abs/1903.06586; in the form of the PytorchInsight repository, which
is behind the published figures of the SGE paper's comparison.
"""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor, nn

from .se import hidden_width


class SelectiveKernel(nn.Layer):
    """Replaces a bottleneck's 3x3 convolution, its batch norm and its ReLU: `[N, C, H, W] -> [N, C, H/stride, W/stride]`.

    A dense and a grouped 3x3 convolution, each with batch norm and ReLU; the global average of their sum goes through two 1x1
    convolutions, whose softmax over the branches weighs them channel by channel.

    Args:
        channels: in and out.
        stride: of both convolutions.
        groups: of the second; it must divide channels.
        reduction: the choice is made from `channels // reduction` hidden channels.

    Raises: ValueError when groups does not divide channels, or reduction leaves no hidden channel.
    """

    def __init__(self, channels: int, *, stride: int = 1, groups: int = 32, reduction: int = 16):
        super().__init__()
        if groups < 1 or channels % groups:
            raise ValueError(
                f"groups must divide channels: {channels} channels do not make {groups} equal groups"
            )
        hidden = hidden_width(channels, reduction)
        self.channels, self.stride = channels, stride
        self.conv = nn.Conv2D(channels, channels, 3, stride, 1, bias_attr=False)
        self.bn = nn.BatchNorm2D(channels)
        self.conv_grouped = nn.Conv2D(channels, channels, 3, stride, 1, groups=groups, bias_attr=False)
        self.bn_grouped = nn.BatchNorm2D(channels)
        self.squeeze = nn.Conv2D(channels, hidden, 1, bias_attr=False)
        self.squeeze_bn = nn.BatchNorm2D(hidden)
        self.select = nn.Conv2D(hidden, 2 * channels, 1, bias_attr=False)

    def forward(self, x: Tensor) -> Tensor:
        dense = F.relu(self.bn(self.conv(x)))
        grouped = F.relu(self.bn_grouped(self.conv_grouped(x)))
        summary = F.adaptive_avg_pool2d(dense + grouped, 1)
        scores = self.select(F.relu(self.squeeze_bn(self.squeeze(summary))))
        weights = F.softmax(scores.reshape([0, 2, -1, 1, 1]), axis=1)
        return dense * weights[:, 0] + grouped * weights[:, 1]

    def macs(self, height: int, width: int) -> int:
        """Elementwise work for one image, beside the convolutions; height and width are the input's."""
        area = -(-height // self.stride) * -(-width // self.stride)
        return (
            6 * self.channels * area
        )  # sum of the branches, mean, two products, sum; softmax on one value of a channel
