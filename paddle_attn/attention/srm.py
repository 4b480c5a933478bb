"""SRM: a gate for every channel from its style, the mean and the standard deviation of its map.

Lee, Kim and Nam, "SRM: A Style-Based Recalibration Module for Convolutional Neural Networks", ICCV 2019,
arxiv.org/abs/1903.10829
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn

from ..ops.layers import BatchNorm2D
from .base import (
    HALF,
    NO_DECAY,
    Attention,
    at_least_one,
    global_mean,
    in_float32,
    keep_float32,
    spatial_size,
)


class SRM(Attention):
    """`x * sigmoid(bn(w_c . [mean_HW(x), std_HW(x)]))`, with a pair of weights `w_c` for every channel.

    The weights start at 0. No parameter has weight decay, as in the authors' training.

    Args:
        channels: of the input.

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W (a 1x1 map has variance 0); the gate is `[N, C, 1, 1]`.
    Half-precision maps are computed in float32.
    """

    torch_names = ((r"\.rclb\.", ".attn."),)
    EPS = 1e-5  # added to the unbiased variance, under the root
    flow = """
    m = x -> mean over H, W [C, 1, 1]
    d = x -> deviation over H, W [C, 1, 1]
    s = m, d -> join [C, 1, 2] -> weighted sum @cfc [C, 1, 1] -> batch norm @bn [C, 1, 1] -> sigmoid
    y = x, s -> × [C, H, W]
    """

    def __init__(self, channels: int):
        super().__init__(channels)
        zero = nn.initializer.Constant(0.0)
        self.cfc = self.create_parameter(
            [channels, 2], attr=ParamAttr(initializer=zero, regularizer=NO_DECAY)
        )
        self.bn = BatchNorm2D(
            channels, weight_attr=ParamAttr(regularizer=NO_DECAY), bias_attr=ParamAttr(regularizer=NO_DECAY)
        )
        keep_float32(self)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype in HALF:  # a sum of squares would overflow
            return in_float32(self.forward, x)
        return super().forward(x)

    def gate(self, x: Tensor) -> Tensor:
        if x.dtype in HALF:
            return in_float32(self.gate, x)
        mean = global_mean(x).unsqueeze([2, 3])
        centred = x - mean
        variance = (centred * centred).sum([2, 3], keepdim=True) / at_least_one(spatial_size(x) - 1)
        style = paddle.concat([mean, paddle.sqrt(variance + self.EPS)], axis=3)  # [N, C, 1, 2]
        return F.sigmoid(self.bn((style * self.cfc.unsqueeze([0, 2])).sum(3, keepdim=True)))

    def macs(self, height: int, width: int) -> int:
        # mean, difference, square, sum, product; the style's two products, their sum, batch norm, sigmoid
        return 5 * self.channels * height * width + 5 * self.channels
