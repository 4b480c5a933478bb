"""EMA, efficient multi-scale attention: in every group, a gate for every position from two branches.

It has nothing to do with the moving average of weights (`train/ema.py`, the option `optim.ema_decay`).

Ouyang et al., "Efficient Multi-Scale Attention Module with Cross-Spatial Learning", ICASSP 2023,
arxiv.org/abs/2305.13563
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from .base import (
    HALF,
    Attention,
    global_mean,
    in_float32,
    keep_float32,
    norm_maps,
    scale,
    scale_strips,
    sides,
    strip_means,
)
from .layers import conv2d


class EfficientMultiScaleAttention(Attention):
    """`x * sigmoid(sum_C(a1 * x2) + sum_C(a2 * x1))` in every group of channels.

    x1 is the group times a gate for every row and every column, standardised; x2 is its 3x3 convolution. a1
    and a2 are the softmax over the channels of the means of x1 and x2. All groups share the parameters.

    Args:
        channels: of the input, a multiple of factor.
        factor: the number of groups.

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W; a 1x1 map standardises to 0. `gate(x)` is
    `[N, C, H, W]`, the same in all channels of a group. Half-precision maps are computed in float32.

    Known difference: x1 is standardised, so its mean is the norm's bias, and a1 never depends on the input.
    The authors' code computes that mean from x1; here it is the bias. With one channel in a group both
    softmaxes are 1. For channels that factor does not divide, the authors' code fails while it runs.

    Raises: ValueError when factor does not divide channels.
    """

    needs = "channels in multiples of `factor` (32)"
    torch_names = ((r"\.ema\.", ".attn."),)
    flow = """
    g = x -> 32 groups [C/32, H, W]
    h = g -> mean over W [C/32, H, 1]
    w = g -> mean over H [C/32, 1, W]
    s = h, w -> join [C/32, H+W, 1] -> conv 1×1 @conv1x1 [C/32, H+W, 1] -> sigmoid
    p = s -> first H [C/32, H, 1]
    q = s -> last W [C/32, 1, W]
    u = p, q, g -> × [C/32, H, W] -> norm over H, W @gn [C/32, H, W]
    v = g -> conv 3×3 @conv3x3 [C/32, H, W]
    a = u -> mean over H, W [C/32, 1, 1] -> softmax over C/32
    b = v -> mean over H, W [C/32, 1, 1] -> softmax over C/32
    m = a, v -> sum of products [1, H, W]
    n = b, u -> sum of products [1, H, W]
    t = m, n -> + [1, H, W] -> sigmoid
    y = g, t -> × [C/32, H, W] -> join the groups [C, H, W]
    """

    def __init__(self, channels: int, *, factor: int = 32):
        super().__init__(channels)
        if factor < 1 or channels % factor:
            raise ValueError(
                f"factor must divide channels: expected a divisor of {channels} channels, found {factor}"
            )
        self.factor = factor
        width = channels // factor
        self.gn = nn.GroupNorm(width, width)
        self.conv1x1 = conv2d(width, width)
        self.conv3x3 = conv2d(width, width, 3, padding=1)
        keep_float32(self)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype in HALF:
            return in_float32(self.forward, x)
        grouped = self._grouped(x)
        return scale(grouped, self._gate(grouped)).reshape([-1, self.channels, 0, 0])

    def gate(self, x: Tensor) -> Tensor:
        if x.dtype in HALF:
            return in_float32(self.gate, x)
        grouped = self._grouped(x)
        return (self._gate(grouped) + paddle.zeros_like(grouped)).reshape([-1, self.channels, 0, 0])

    def _grouped(self, x: Tensor) -> Tensor:
        return x.reshape([-1, self.channels // self.factor, 0, 0])  # [N * factor, C / factor, H, W]

    def _gate(self, x: Tensor) -> Tensor:
        """`[N * factor, 1, H, W]`."""
        strip = F.sigmoid(self.conv1x1(strip_means(x)))
        x1 = norm_maps(scale_strips(x, strip), self.gn)
        x2 = self.conv3x3(x)
        a1 = F.softmax(self.gn.bias.unsqueeze([0, 1]), axis=2)  # [1, 1, C / factor]
        a2 = F.softmax(global_mean(x2).unsqueeze(1), axis=2)  # [N * factor, 1, C / factor]
        score = paddle.matmul(a1, x2.flatten(2)) + paddle.matmul(a2, x1.flatten(2))
        return F.sigmoid(score).reshape([-1, 1, *sides(x)])

    def macs(self, height: int, width: int) -> int:
        channels, area = self.channels, height * width
        # two means, two products; norm: mean, difference, square, sum, scale and shift; mean of x2; two
        # products, two sums; product. Per group: sum, sigmoid. The strip's sigmoid; two softmaxes
        elements = 15 * channels * area + 2 * self.factor * area
        return elements + channels * (height + width) + channels + channels // self.factor

    def extra_repr(self) -> str:
        return f"channels={self.channels}, factor={self.factor}"
