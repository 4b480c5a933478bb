"""BAM: one gate from a channel branch and a spatial branch, at the ends of a network's stages.

Park et al., "BAM: Bottleneck Attention Module", BMVC 2018, arxiv.org/abs/1807.06514
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ..ops.layers import BatchNorm2D, Conv2D
from .base import Attention, global_mean, sides
from .layers import pytorch_default
from .se import hidden_width

MAX_DILATION = 64  # the paper tries 1 to 6


class BAM(Attention):
    """`x * (1 + sigmoid(channel(x) * spatial(x)))`.

    The paper adds the two branches; the authors' code multiplies them, as here.

    Args:
        channels: of the input.
        reduction: both branches have `channels // reduction` hidden channels.
        dilation: of the spatial branch's two 3x3 convolutions, at most `MAX_DILATION`.

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W (the authors' code needs H = W).
    The gate lies in [1, 2].

    Raises: ValueError when reduction leaves no channel, or dilation is below 1 or too large.
    """

    paper_slot = "stage"
    needs = "at least `reduction` (16) channels"
    torch_names = (
        (r"^bam(\d)\.", r"attn.\1."),
        (r"\bchannel_att\.gate_c\.gate_c_fc_0\.", "channel_gate.0."),
        (r"\bchannel_att\.gate_c\.gate_c_bn_1\.", "channel_gate.1."),
        (r"\bchannel_att\.gate_c\.gate_c_fc_final\.", "channel_gate.3."),
        (r"\bspatial_att\.gate_s\.gate_s_conv_reduce0\.", "spatial_gate.0."),
        (r"\bspatial_att\.gate_s\.gate_s_bn_reduce0\.", "spatial_gate.1."),
        (r"\bspatial_att\.gate_s\.gate_s_conv_di_0\.", "spatial_gate.3."),
        (r"\bspatial_att\.gate_s\.gate_s_bn_di_0\.", "spatial_gate.4."),
        (r"\bspatial_att\.gate_s\.gate_s_conv_di_1\.", "spatial_gate.6."),
        (r"\bspatial_att\.gate_s\.gate_s_bn_di_1\.", "spatial_gate.7."),
        (r"\bspatial_att\.gate_s\.gate_s_conv_final\.", "spatial_gate.9."),
    )
    flow = """
    c = x -> mean over H, W [C] -> linear @channel_gate.0 [C/16] -> batch norm @channel_gate.1 [C/16]
        -> ReLU -> linear @channel_gate.3 [C]
    s = x -> conv 1×1 @spatial_gate.0 [C/16, H, W] -> batch norm, ReLU @spatial_gate.1 [C/16, H, W]
        -> conv 3×3, dilation 4 @spatial_gate.3 [C/16, H, W] -> batch norm, ReLU @spatial_gate.4 [C/16, H, W]
        -> conv 3×3, dilation 4 @spatial_gate.6 [C/16, H, W] -> batch norm, ReLU @spatial_gate.7 [C/16, H, W]
        -> conv 1×1 @spatial_gate.9 [1, H, W]
    g = c, s -> × [C, H, W] -> 1 + sigmoid
    y = x, g -> × [C, H, W]
    """

    def __init__(self, channels: int, *, reduction: int = 16, dilation: int = 4):
        super().__init__(channels)
        hidden = hidden_width(channels, reduction)
        if not 1 <= dilation <= MAX_DILATION:
            raise ValueError(f"dilation must be from 1 to {MAX_DILATION}, found {dilation}")
        self.channel_gate = nn.Sequential(
            nn.Linear(channels, hidden), nn.BatchNorm1D(hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )
        self.spatial_gate = nn.Sequential(
            Conv2D(channels, hidden, 1),
            BatchNorm2D(hidden),
            nn.ReLU(),
            Conv2D(hidden, hidden, 3, padding=dilation, dilation=dilation),
            BatchNorm2D(hidden),
            nn.ReLU(),
            Conv2D(hidden, hidden, 3, padding=dilation, dilation=dilation),
            BatchNorm2D(hidden),
            nn.ReLU(),
            Conv2D(hidden, 1, 1),
        )
        pytorch_default(self)

    def gate(self, x: Tensor) -> Tensor:
        channel, spatial = self.channel_gate(global_mean(x)), self.spatial_gate(x)  # [N, C], [N, 1, H, W]
        products = paddle.matmul(channel.unsqueeze(2), spatial.flatten(2))  # faster than one that broadcasts
        return 1 + F.sigmoid(products.reshape([-1, self.channels, *sides(x)]))

    def macs(self, height: int, width: int) -> int:
        area, hidden = height * width, self.spatial_gate[0].weight.shape[0]
        # mean, product of the branches, sigmoid, addition of 1, product; three norms and ReLUs
        return 5 * self.channels * area + 6 * hidden * area
