"""Triplet attention: three gates, each from the maximum and the mean along one of the axes C, H and W.

Misra, Nalamada, Arasanipalai and Hou, "Rotate to Attend: Convolutional Triplet Attention Module", WACV 2021,
arxiv.org/abs/2010.03045
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn

from ..ops.layers import BatchNorm2D, Conv2D
from .base import (
    Attention,
    rows_plus_columns,
    scale,
    scale_by_strip_sums,
    sides,
    strip_maxima,
    strip_means,
)
from .cbam import MAX_KERNEL_SIZE, max_and_mean


class PlaneGate(nn.Layer):
    """`sigmoid(bn(conv(pooled)))`: `[N, 2, A, B] -> [N, 1, A, B]`, the maximum first, then the mean."""

    def __init__(self, kernel_size: int, start: float):
        super().__init__()
        he_fan_out = ParamAttr(initializer=nn.initializer.Normal(0.0, (2 / kernel_size**2) ** 0.5))
        self.conv = Conv2D(
            2, 1, kernel_size, padding=kernel_size // 2, weight_attr=he_fan_out, bias_attr=False
        )
        constant = ParamAttr(initializer=nn.initializer.Constant(start))
        self.bn = BatchNorm2D(1, momentum=0.99, weight_attr=constant)

    def forward(self, pooled: Tensor) -> Tensor:
        return F.sigmoid(self.bn(self.conv(pooled)))


class TripletAttention(Attention):
    """`x * mean(gate_cw, gate_hc, gate_hw)`: the gate of each plane is the same along the third axis.

    Args:
        channels: of the input. The module has 300 parameters for any number.
        kernel_size: of the three convolutions, odd, at most `MAX_KERNEL_SIZE`.
        spatial: False omits the gate of the H x W plane (the authors' `no_spatial`).

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W. `gate(x)` is `[N, C, H, W]`.

    The weights start as in the authors' networks: the convolutions with He's normal distribution, the batch
    norms at 1, but the spatial one at 0, so its gate starts at 0.5.

    Known difference: copies often keep PyTorch's batch norm momentum of 0.1; the authors have 0.01 (0.99 in
    Paddle's convention).

    Raises: ValueError when kernel_size is even or too large.
    """

    torch_names = (
        (r"\.triplet_attention\.", ".attn."),
        (r"\bChannelGateH\.", "cw."),
        (r"\bChannelGateW\.", "hc."),
        (r"\bSpatialGate\.", "hw."),
        (r"\b(cw|hc|hw)\.(?:conv|spatial)\.(conv|bn)\.", r"\1.\2."),
    )
    flow = """
    a = x -> max, mean over H [2, C, W] -> conv 7×7 @cw.conv [1, C, W] -> batch norm @cw.bn [1, C, W]
        -> sigmoid [C, 1, W]
    b = x -> max, mean over W [2, H, C] -> conv 7×7 @hc.conv [1, H, C] -> batch norm @hc.bn [1, H, C]
        -> sigmoid [C, H, 1]
    c = x -> max, mean over C [2, H, W] -> conv 7×7 @hw.conv [1, H, W] -> batch norm @hw.bn [1, H, W]
        -> sigmoid
    g = a, b, c -> mean of the three [C, H, W]
    y = x, g -> × [C, H, W]
    """

    def __init__(self, channels: int, *, kernel_size: int = 7, spatial: bool = True):
        super().__init__(channels)
        if not 1 <= kernel_size <= MAX_KERNEL_SIZE or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, from 1 to {MAX_KERNEL_SIZE}, found {kernel_size}")
        self.cw = PlaneGate(kernel_size, start=1.0)
        self.hc = PlaneGate(kernel_size, start=1.0)
        self.hw = PlaneGate(kernel_size, start=0.0) if spatial else None

    def forward(self, x: Tensor) -> Tensor:
        strip, spatial = self._gates(x)
        scaled = scale_by_strip_sums(x, strip)
        # not by the sum of the gates: it broadcasts over the channels, which takes ten times as long
        return scaled / 2 if spatial is None else (scaled + scale(x, spatial)) / 3

    def gate(self, x: Tensor) -> Tensor:
        strip, spatial = self._gates(x)
        planes = rows_plus_columns(x, strip)
        return planes / 2 if spatial is None else (planes + spatial) / 3

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Those of H x C, then of C x W, as a strip `[N, C, H + W, 1]`, and those of H x W `[N, 1, H, W]`."""
        pooled = paddle.concat([strip_maxima(x), strip_means(x)], axis=3)  # [N, C, H + W, 2]
        height = sides(x)[0]
        hc = self.hc(pooled[:, :, :height].transpose([0, 3, 2, 1])).transpose([0, 3, 2, 1])  # [N, C, H, 1]
        cw = self.cw(pooled[:, :, height:].transpose([0, 3, 1, 2])).transpose([0, 2, 3, 1])  # [N, C, W, 1]
        return paddle.concat([hc, cw], axis=2), None if self.hw is None else self.hw(max_and_mean(x))

    def macs(self, height: int, width: int) -> int:
        volume, planes = self.channels * height * width, self.channels * (height + width)
        # two planes: maxima, means, sum of the gates, quotient, product; batch norm, sigmoid
        macs = 7 * volume + 2 * planes
        if self.hw is not None:  # maximum, mean, sum of the gates; batch norm, sigmoid
            macs += 3 * volume + 2 * height * width
        return macs
