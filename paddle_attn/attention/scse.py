"""scSE: a gate for every channel and a gate for every position; the larger product wins.

Roy, Navab and Wachinger, "Recalibrating Fully Convolutional Networks with Spatial and Channel 'Squeeze &
Excitation' Blocks", IEEE TMI 2019, arxiv.org/abs/1808.08127
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from .base import Attention, global_mean, scale
from .layers import conv2d, linear
from .se import hidden_width


class SpatialChannelSE(Attention):
    """`maximum(x * channel_gate, x * spatial_gate)`.

    The channel gate is SE with biases, the spatial gate the sigmoid of a 1x1 convolution. The MICCAI paper
    and many copies add the two products; the authors' code takes the maximum, a variant of the journal paper.
    For a negative x the maximum keeps the smaller gate.

    Args:
        channels: of the input.
        reduction: the channel gate's hidden layer has `channels // reduction` units: 2, not SE's 16.

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W; the gate is `[N, C, H, W]`.

    Raises: ValueError when reduction leaves no hidden unit.
    """

    torch_names = (
        (r"\bcSE\.fc1\.", "channel_gate.0."),
        (r"\bcSE\.fc2\.", "channel_gate.2."),
        (r"\bsSE\.conv\.", "spatial_gate."),
    )
    needs = "at least `reduction` (2) channels"
    flow = """
    c = x -> mean over H, W [C] -> linear @channel_gate.0 [C/2] -> ReLU
        -> linear @channel_gate.2 [C] -> sigmoid
    s = x -> conv 1×1 @spatial_gate [1, H, W] -> sigmoid
    p = c, x -> × [C, H, W]
    q = s, x -> × [C, H, W]
    y = p, q -> maximum [C, H, W]
    """

    def __init__(self, channels: int, *, reduction: int = 2):
        super().__init__(channels)
        hidden = hidden_width(channels, reduction)
        self.channel_gate = nn.Sequential(
            linear(channels, hidden),
            nn.ReLU(),
            linear(hidden, channels),
            nn.Sigmoid(),
        )
        self.spatial_gate = conv2d(channels, 1)

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[N, C, 1, 1]` and `[N, 1, H, W]`."""
        return self.channel_gate(global_mean(x)).unsqueeze([2, 3]), F.sigmoid(self.spatial_gate(x))

    def forward(self, x: Tensor) -> Tensor:
        channel, spatial = self._gates(x)
        return paddle.maximum(scale(x, channel), scale(x, spatial))

    def gate(self, x: Tensor) -> Tensor:
        channel, spatial = self._gates(x)
        return paddle.where(x >= 0, paddle.maximum(channel, spatial), paddle.minimum(channel, spatial))

    def macs(self, height: int, width: int) -> int:
        area = height * width
        return 4 * self.channels * area + self.channels + area  # mean, products, maximum; sigmoids
