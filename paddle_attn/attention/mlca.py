"""MLCA: a gate for every channel in each of 5x5 regions, from the regions and from the whole map.

Wan et al., "Mixed local channel attention for object detection", Engineering Applications of Artificial
Intelligence 123, 2023, doi.org/10.1016/j.engappai.2023.106442
"""

from __future__ import annotations

import math

import paddle.nn.functional as F
from paddle import Tensor, nn

from .base import Attention, adaptive_mean, sides
from .layers import uniform

MAX_LOCAL_SIZE = 64  # the paper has 5


class MixedLocalChannelAttention(Attention):
    """`x * spread(local_weight * local + (1 - local_weight) * global)`.

    The map is averaged to 5x5 regions. global is ECA on the mean of the 25; local is ECA on the 25 C values
    as one sequence, region by region, so its kernel also joins the last channel of a region with the first
    of the next, as in the authors' code. spread averages the 5x5 gates to the map's size (adaptive pooling);
    it does not interpolate. The regions overlap where 5 does not divide the size; then the mean of the 25 is
    not the map's.

    Args:
        channels: of the input.
        local_size: regions along each side, at most `MAX_LOCAL_SIZE`.
        gamma, b: the kernels' size is the whole part of `|log2(C) + b| / gamma`, plus 1 if it is even.
        local_weight: of the local gate, from 0 to 1.

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W, also below 5; the gate is `[N, C, H, W]`, from 0 to 1.

    Raises: ValueError when an argument is out of its range.
    """

    flow = """
    r = x -> adaptive mean pool [C, 5, 5]
    m = r -> mean of the 25 [1, C] -> conv along C @conv [1, C] -> sigmoid [C, 1, 1]
    n = r -> one sequence [1, 25C] -> conv along it @conv_local [1, 25C] -> sigmoid [C, 5, 5]
    w = m, n -> mean of both [C, 5, 5] -> adaptive mean pool [C, H, W]
    y = x, w -> × [C, H, W]
    """

    def __init__(
        self,
        channels: int,
        *,
        local_size: int = 5,
        gamma: float = 2,
        b: float = 1,
        local_weight: float = 0.5,
    ):
        super().__init__(channels)
        if not 1 <= local_size <= MAX_LOCAL_SIZE:
            raise ValueError(f"local_size must be from 1 to {MAX_LOCAL_SIZE}, found {local_size}")
        if not 0 <= local_weight <= 1:
            raise ValueError(f"local_weight must be from 0 to 1, found {local_weight}")
        if not gamma > 0:
            raise ValueError(f"gamma must be positive, found {gamma}")
        self.local_size, self.local_weight = local_size, float(local_weight)
        k_size = int(abs(math.log2(channels) + b) / gamma)
        self.k_size = k_size if k_size % 2 else k_size + 1
        if self.k_size > 2 * channels - 1:
            raise ValueError(
                f"gamma and b must give a kernel of at most {2 * channels - 1}, found one of {self.k_size}"
            )
        self.conv = self._conv()
        self.conv_local = self._conv()

    def _conv(self) -> nn.Conv1D:
        initial = uniform(self.k_size)
        return nn.Conv1D(1, 1, self.k_size, padding=self.k_size // 2, weight_attr=initial, bias_attr=False)

    def gate(self, x: Tensor) -> Tensor:
        side = self.local_size
        regions = adaptive_mean(x, side, side).flatten(2).transpose([0, 2, 1])  # [N, 25, C]
        sequence = regions.reshape([0, 1, side * side * self.channels])
        local = F.sigmoid(self.conv_local(sequence)).reshape([0, side * side, self.channels])
        overall = F.sigmoid(self.conv(regions.mean(1, keepdim=True)))  # [N, 1, C]
        mixed = self.local_weight * local + (1 - self.local_weight) * overall
        gates = mixed.transpose([0, 2, 1]).reshape([0, self.channels, side, side])
        return adaptive_mean(gates, *sides(x))

    def macs(self, height: int, width: int) -> int:
        regions = self.local_size**2 * self.channels
        # mean, spread, product; of the regions: mean, sigmoid, product, sum; sigmoid and product
        return 3 * self.channels * height * width + 4 * regions + 2 * self.channels

    def extra_repr(self) -> str:
        return f"channels={self.channels}, local_size={self.local_size}, k_size={self.k_size}"
