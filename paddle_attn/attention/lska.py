"""LSKA: a large kernel's response at every position, from thin depthwise convolutions.

Lau, Po and Rehman, "Large Separable Kernel Attention: Rethinking the Large Kernel Attention Design in CNN",
Expert Systems with Applications 236, 2023, arxiv.org/abs/2309.01439
"""

from __future__ import annotations

from paddle import Tensor

from ..ops.layers import Conv2D
from .base import Attention
from .layers import conv2d

# k_size: taps of the first pair, taps of the second pair, its dilation
KERNELS = {7: (3, 3, 2), 11: (3, 5, 2), 23: (5, 7, 3), 35: (5, 11, 3), 41: (5, 13, 3), 53: (5, 17, 3)}


class LargeSeparableKernelAttention(Attention):
    """`x * conv1x1(dilated_v(dilated_h(v(h(x)))))`: a gate without sigmoid, of any sign and size.

    The four convolutions are depthwise, with one row or one column each, and keep the size. The parameters
    start as the authors' class alone (PyTorch's defaults); inside their VAN they start as
    `normal(0, sqrt(2 / fan out))`, with biases of 0.

    Args:
        channels: of the input.
        k_size: the side of the kernel that the four convolutions replace: 7, 11, 23, 35, 41 or 53. The
            authors' code builds others and fails when it is called.

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W; the gate is `[N, C, H, W]`.

    Raises: ValueError for another k_size.
    """

    flow = """
    g = x -> depthwise 1×3 @conv0h [C, H, W] -> depthwise 3×1 @conv0v [C, H, W]
        -> depthwise 1×3, dilation 2 @conv_spatial_h [C, H, W]
        -> depthwise 3×1, dilation 2 @conv_spatial_v [C, H, W] -> conv 1×1 @conv1 [C, H, W]
    y = x, g -> × [C, H, W]
    """

    def __init__(self, channels: int, *, k_size: int = 7):
        super().__init__(channels)
        if k_size not in KERNELS:
            raise ValueError(f"k_size must be one of {', '.join(map(str, KERNELS))}, found {k_size}")
        self.k_size = k_size
        first, second, dilation = KERNELS[k_size]
        self.conv0h = depthwise(channels, (1, first))
        self.conv0v = depthwise(channels, (first, 1))
        self.conv_spatial_h = depthwise(channels, (1, second), dilation)
        self.conv_spatial_v = depthwise(channels, (second, 1), dilation)
        self.conv1 = conv2d(channels, channels)

    def gate(self, x: Tensor) -> Tensor:
        x = self.conv0v(self.conv0h(x))
        x = self.conv_spatial_v(self.conv_spatial_h(x))
        return self.conv1(x)

    def macs(self, height: int, width: int) -> int:
        return self.channels * height * width  # product

    def extra_repr(self) -> str:
        return f"channels={self.channels}, k_size={self.k_size}"


def depthwise(channels: int, kernel: tuple[int, int], dilation: int = 1) -> Conv2D:
    """A depthwise convolution that keeps the size."""
    height, width = kernel
    padding = (dilation * (height // 2), dilation * (width // 2))
    return conv2d(channels, channels, kernel, padding, dilation, groups=channels)
