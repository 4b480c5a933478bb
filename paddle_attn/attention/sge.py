"""SGE: in every group of channels, a gate for every position from its similarity to the group's average.

Li, Hu and Yang, "Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional Networks",
2019, arxiv.org/abs/1905.09646
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from .. import ops
from .base import (
    HALF,
    Attention,
    at_least_one,
    in_float32,
    keep_float32,
    largest_divisor,
    spatial_size,
)


class SpatialGroupEnhance(Attention):
    """Per group: `s = sum_C(x * mean_HW(x))`, normalised over the map; then `x * sigmoid(s * weight + bias)`.

    Args:
        channels: of the input, a multiple of groups.
        groups: 64 in the paper; 8 for MobileNetV2 and CIFAR's widths.

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W. The normalised score of a 1x1 map is 0. `weight`
    starts at 0 and `bias` at 1, both `[1, groups, 1, 1]`, as the authors confirm. Half-precision maps are
    computed in float32.

    Raises: ValueError when groups does not divide channels.
    """

    needs = "channels in multiples of `groups` (64)"
    torch_names = ((r"\.sge\.", ".attn."),)
    EPS = 1e-5  # added to the standard deviation, after the root
    flow = """
    g = x -> 64 groups [G, C/G, HW]
    m = g -> mean over HW [G, C/G, 1]
    s = m, g -> dot product over C/G [G, 1, HW] -> minus mean, by deviation -> × @weight -> + @bias -> sigmoid
    y = g, s -> × [G, C/G, HW] -> join the groups [C, H, W]
    """

    def __init__(self, channels: int, *, groups: int = 64):
        super().__init__(channels)
        if groups < 1 or channels % groups:
            raise ValueError(
                f"groups must divide channels: expected a divisor of {channels} channels, "
                f"such as groups={largest_divisor(channels, groups)}, found {groups}"
            )
        self.groups = groups
        self.weight = self.create_parameter(
            [1, groups, 1, 1], default_initializer=nn.initializer.Constant(0.0)
        )
        self.bias = self.create_parameter([1, groups, 1, 1], default_initializer=nn.initializer.Constant(1.0))
        keep_float32(self)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype in HALF:
            return in_float32(self.forward, x)
        fused = ops.find("sge", x)
        if fused and self.weight.dtype == x.dtype:
            return fused(x, self.weight, self.bias)
        grouped = self._grouped(x)
        return (grouped * self._gate(grouped, spatial_size(x))).reshape(paddle.shape(x))

    def gate(self, x: Tensor) -> Tensor:
        if x.dtype in HALF:
            return in_float32(self.gate, x)
        gate = self._gate(self._grouped(x), spatial_size(x))
        gate = gate.expand([-1, -1, self.channels // self.groups, -1])
        return gate.reshape(paddle.shape(x))

    def _grouped(self, x: Tensor) -> Tensor:
        return x.reshape([0, self.groups, self.channels // self.groups, -1])  # [N, G, C/G, H*W]

    def _gate(self, grouped: Tensor, size: int | Tensor) -> Tensor:
        score = (grouped * grouped.mean(3, keepdim=True)).sum(2, keepdim=True)  # [N, G, 1, H*W]
        score = score - score.mean(3, keepdim=True)
        variance = (score * score).sum(3, keepdim=True) / at_least_one(size - 1)
        # a constant map has variance 0, where the root has no finite gradient: the clip passes none back
        deviation = paddle.sqrt(paddle.clip(variance, min=1e-30))
        return F.sigmoid(
            score / (deviation + self.EPS) * self.weight.astype(score.dtype) + self.bias.astype(score.dtype)
        )

    def macs(self, height: int, width: int) -> int:
        area = height * width
        # mean, product, sum, product with the gate; the score's mean, difference, square, sum, quotient,
        # scale and shift, sigmoid
        return 4 * self.channels * area + 7 * self.groups * area

    def extra_repr(self) -> str:
        return f"channels={self.channels}, groups={self.groups}"
