"""Paddle's convolution and max-pool, in their fused form (`ops`) when supported."""

from __future__ import annotations

from typing import Any

import paddle.nn.functional as F
from paddle import Tensor, nn

from .. import ops


class Conv2D(nn.Conv2D):
    """`nn.Conv2D` with a square kernel and zero padding.

    The fused form is for 3x3 and padding 1: dense with stride 1, depthwise with stride 1 or 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        **kwargs: Any,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, groups=groups, **kwargs)
        self.stride = stride
        same = kernel_size == 3 and padding == 1
        # An image's three channels gain little, and Paddle's convolution omits the gradient that they do not
        # need. A bias costs more than that.
        self.dense = same and stride == 1 and groups == 1 and (in_channels >= 8 or self.bias is not None)
        self.depthwise = (
            same and stride <= 2 and in_channels == out_channels == groups > 1 and self.bias is None
        )

    def forward(self, x: Tensor) -> Tensor:
        fused = ops.find(self._fused_name(), x) if self.dense or self.depthwise else None
        if fused is None:
            return super().forward(x)
        if self.depthwise:
            return fused(x, self.weight, self.stride)
        return fused(x, self.weight) if self.bias is None else fused(x, self.weight, self.bias)

    def _fused_name(self) -> str:
        if self.depthwise:
            return "depthwise"
        return "conv3x3" if self.bias is None else "conv3x3_bias"


class MaxPool2D(nn.Layer):
    """`nn.MaxPool2D`."""

    def __init__(self, kernel_size: int, stride: int, padding: int = 0):
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return max_pool2d(x, self.kernel_size, self.stride, self.padding)


def max_pool2d(x: Tensor, kernel_size: int, stride: int, padding: int = 0) -> Tensor:
    """`F.max_pool2d` of `[N, C, H, W]`."""
    form = ops.find("max_pool", x) or F.max_pool2d
    return form(x, kernel_size, stride, padding)
