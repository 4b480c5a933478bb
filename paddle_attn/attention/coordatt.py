"""Coordinate attention: a gate for every row and one for every column, from averages along the other axis.

Hou, Zhou and Feng, "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021,
arxiv.org/abs/2103.02907
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ..ops.layers import BatchNorm2D
from .base import Attention, rows_times_columns, scale_strips, sides, strip_means
from .layers import conv2d

MIN_HIDDEN = 8  # channels


class CoordinateAttention(Attention):
    """`x * sigmoid(conv_h(rows)) * sigmoid(conv_w(columns))`.

    Rows and columns are the two halves of `hardswish(bn(conv1(averages)))`. The averages are the means over
    the width and over the height, joined to one strip of H + W positions, so the batch norm sees both.

    Args:
        channels: of the input.
        reduction: the strip has `max(8, channels // reduction)` hidden channels.

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W. `gate(x)` is `[N, C, H, W]`.

    Known difference: with the reduction of 32, the hidden width is 8 for all maps below 288 channels. In
    MobileNetV2 it sits where its authors put it, before the projection of the blocks that expand their input;
    they have no ResNet.

    Raises: ValueError when reduction is below 1.
    """

    paper_slot = "pre_project"
    flow = """
    h = x -> mean over W [C, H, 1]
    w = x -> mean over H [C, 1, W]
    s = h, w -> join [C, H+W, 1] -> conv 1×1 @conv1 [M, H+W, 1] -> batch norm @bn1 [M, H+W, 1] -> hard swish
    p = s -> first H [M, H, 1] -> conv 1×1 @conv_h [C, H, 1] -> sigmoid
    q = s -> last W [M, W, 1] -> conv 1×1 @conv_w [C, W, 1] -> sigmoid [C, 1, W]
    g = p, q -> × [C, H, W]
    y = x, g -> × [C, H, W]
    """

    def __init__(self, channels: int, *, reduction: int = 32):
        super().__init__(channels)
        if reduction < 1:
            raise ValueError(f"reduction must be at least 1, found {reduction}")
        hidden = max(MIN_HIDDEN, channels // reduction)
        self.conv1 = conv2d(channels, hidden)
        self.bn1 = BatchNorm2D(hidden)
        self.conv_h = conv2d(hidden, channels)
        self.conv_w = conv2d(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return scale_strips(x, self._strip(x))

    def gate(self, x: Tensor) -> Tensor:
        return rows_times_columns(x, self._strip(x))

    def _strip(self, x: Tensor) -> Tensor:
        """The gates of the rows, then those of the columns: `[N, C, H + W, 1]`."""
        strip = F.hardswish(self.bn1(self.conv1(strip_means(x))))
        height = sides(x)[0]
        # each with its sigmoid: Paddle's engine fails at convolutions, concat and one activation
        rows = F.sigmoid(self.conv_h(strip[:, :, :height]))
        columns = F.sigmoid(self.conv_w(strip[:, :, height:]))
        return paddle.concat([rows, columns], axis=2)

    def macs(self, height: int, width: int) -> int:
        hidden = self.conv1.weight.shape[0]
        # two means, product of the gates, product; batch norm and hard swish of the strip, two sigmoids
        strip = 2 * hidden + self.channels
        return 4 * self.channels * height * width + strip * (height + width)
