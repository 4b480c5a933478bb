"""ECA: a gate for every channel from the global averages of neighbouring channels.

Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", CVPR 2020,
arxiv.org/abs/1910.03151
"""

from __future__ import annotations

import math

import paddle.nn.functional as F
from paddle import Tensor, nn

from .base import Attention, global_mean
from .layers import pytorch_default


def adaptive_kernel_size(channels: int) -> int:
    """The paper's formula: the whole part of `|log2(C) / 2 + 1 / 2|`, plus 1 if it is even."""
    size = int(abs(math.log2(channels) / 2 + 0.5))
    return size if size % 2 else size + 1


class ECA(Attention):
    """`x * sigmoid(conv1d(mean_HW(x)))`, with one kernel that slides along the channels.

    Args:
        channels: of the input.
        k_size: of the kernel, odd, at most `2 * channels - 1`: a larger one only sees more padding. None is
            the paper's formula. The released checkpoints have one value per stage.

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W; the gate is `[N, C, 1, 1]`.

    Raises: ValueError when k_size is even, below 1 or too large.
    """

    torch_names = ((r"\.eca\.", ".attn."),)
    flow = """
    s = x -> mean over H, W [1, C] -> conv along C @conv [1, C] -> sigmoid [C, 1, 1]
    y = x, s -> × [C, H, W]
    """

    def __init__(self, channels: int, *, k_size: int | None = None):
        super().__init__(channels)
        k_size = adaptive_kernel_size(channels) if k_size is None else k_size
        if not 1 <= k_size <= 2 * channels - 1 or k_size % 2 == 0:
            raise ValueError(f"k_size must be odd, from 1 to {2 * channels - 1}, found {k_size}")
        self.k_size = k_size
        self.conv = nn.Conv1D(1, 1, k_size, padding=(k_size - 1) // 2, bias_attr=False)
        pytorch_default(self)

    def gate(self, x: Tensor) -> Tensor:
        averages = global_mean(x).unsqueeze(1)  # [N, 1, C]
        return F.sigmoid(self.conv(averages)).transpose([0, 2, 1]).unsqueeze(3)

    def macs(self, height: int, width: int) -> int:
        # mean, product; kernel, sigmoid
        return 2 * self.channels * height * width + (self.k_size + 1) * self.channels

    def extra_repr(self) -> str:
        return f"channels={self.channels}, k_size={self.k_size}"
