"""LSK: every position chooses between a small and a large receptive field.

Li et al., "Large Selective Kernel Network for Remote Sensing Object Detection", ICCV 2023,
arxiv.org/abs/2303.09030
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from .base import Attention, scale
from .cbam import max_and_mean
from .layers import conv2d
from .lska import depthwise


class LargeSelectiveKernel(Attention):
    """`x * conv(a * gate_a + b * gate_b)`: a gate without sigmoid, of any sign and size.

    a sees 5x5 positions of x, b sees 23x23: a depthwise 7x7 convolution with dilation 3 behind the 5x5 one.
    The two gates are maps, from the mean and the maximum over the channels of a and b together.

    Args:
        channels: of the input, at least 2. a and b have `channels // 2`.

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W; the gate is `[N, C, H, W]`.

    Raises: ValueError for one channel.
    """

    needs = "at least 2 channels"
    flow = """
    u = x -> depthwise 5×5 @conv0 [C, H, W]
    v = u -> depthwise 7×7, dilation 3 @conv_spatial [C, H, W]
    a = u -> conv 1×1 @conv1 [C/2, H, W]
    b = v -> conv 1×1 @conv2 [C/2, H, W]
    s = a, b -> join [C, H, W] -> mean, max over C [2, H, W]
        -> conv 7×7 @conv_squeeze [2, H, W] -> sigmoid
    p = a, s -> × first map [C/2, H, W]
    q = b, s -> × second map [C/2, H, W]
    g = p, q -> + [C/2, H, W] -> conv 1×1 @conv [C, H, W]
    y = x, g -> × [C, H, W]
    """

    def __init__(self, channels: int):
        super().__init__(channels)
        half = channels // 2
        if not half:
            raise ValueError(f"channels must be at least 2, found {channels}")
        self.conv0 = depthwise(channels, (5, 5))
        self.conv_spatial = depthwise(channels, (7, 7), dilation=3)
        self.conv1 = conv2d(channels, half)
        self.conv2 = conv2d(channels, half)
        self.conv_squeeze = conv2d(2, 2, 7, padding=3)
        self.conv = conv2d(half, channels)

    def gate(self, x: Tensor) -> Tensor:
        near = self.conv0(x)
        far = self.conv2(self.conv_spatial(near))
        near = self.conv1(near)
        most, mean = max_and_mean(paddle.concat([near, far], axis=1)).split(2, axis=1)
        gates = F.sigmoid(self.conv_squeeze(paddle.concat([mean, most], axis=1)))  # [N, 2, H, W]
        return self.conv(scale(near, gates[:, :1]) + scale(far, gates[:, 1:]))

    def macs(self, height: int, width: int) -> int:
        area, half = height * width, self.channels // 2
        # mean and maximum of both, sigmoids; two products and their sum; the product
        return (4 * half + 2 + 3 * half + self.channels) * area
