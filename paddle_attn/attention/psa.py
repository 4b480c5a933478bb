"""Polarized self-attention: a gate for every channel and one for every position, each from a weighted sum.

Liu, Liu, Fan and Huang, "Polarized Self-Attention: Towards High-quality Pixel-wise Regression", 2021,
arxiv.org/abs/2107.00782
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn

from ..ops.layers import Conv2D
from .base import HALF, Attention, in_float32, keep_float32, scale
from .layers import conv2d

KINDS = {"parallel": 2, "sequential": 8}  # and the smallest number of channels


class PolarizedSelfAttention(Attention):
    """Parallel: `x * channel(x) + x * spatial(x)`; sequential: `y * spatial(y)` with `y = x * channel(x)`.

    The channel gate is the sigmoid of a transform of the map's weighted average; the weights are a softmax
    over the positions. The spatial gate is the sigmoid of a sum over the channels of a value map, weighted by
    the average of another map.

    Args:
        channels: of the input, at least 2, and 8 when sequential.
        kind: 'parallel' (the authors' PSA_p) or 'sequential' (PSA_s).

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W. `gate(x)` is `[N, C, H, W]`. The parallel gate lies
    between 0.5 and 1.74. Half-precision maps are computed in float32.

    Known difference: this is the released code, not the paper. The paper's spatial branch takes a softmax
    over the channels of the averaged query, before the product. The released parallel form takes a softmax
    over the positions after the product, so its spatial gate is nearly 0.5 on large maps; the sequential form
    applies it to the value map. Only the sequential form has a layer norm. Copies that follow the paper agree
    with neither.

    A 1x1 convolution without bias is linear, so sums over the positions or channels come first and the
    convolution works on their result: the same function with fewer operations.

    Raises: ValueError for another kind, or too few channels.
    """

    paper_slot = "inner"
    needs = "at least 2 channels, 8 when sequential"
    torch_names = ((r"\.deattn\.", ".attn."),)
    flow = """
    w = x -> conv 1×1 @conv_q_right [1, H, W] -> softmax over H, W
    c = w, x -> weighted sum over H, W [C, 1, 1] -> conv 1×1 @conv_v_right [C/2, 1, 1]
        -> conv 1×1 @conv_up [C, 1, 1] -> sigmoid
    q = x -> mean over H, W [C, 1, 1] -> conv 1×1 @conv_q_left [C/2, 1, 1]
    v = x -> conv 1×1 @conv_v_left [C/2, H, W]
    s = q, v -> sum of products [1, H, W] -> softmax over H, W -> sigmoid
    g = c, s -> + [C, H, W]
    y = x, g -> × [C, H, W]
    """

    def __init__(self, channels: int, *, kind: str = "parallel"):
        super().__init__(channels)
        if kind not in KINDS:
            raise ValueError(f"kind must be 'parallel' or 'sequential', found '{kind}'")
        if channels < KINDS[kind]:
            raise ValueError(
                f"kind='{kind}' needs channels to be at least {KINDS[kind]}, found {channels} channels"
            )
        self.kind = kind
        inner = channels // 2
        self.conv_q_right = self._conv(1)
        self.conv_v_right = self._conv(inner)
        if kind == "parallel":
            self.conv_up = conv2d(inner, channels, bias=False)
        else:
            hidden = channels // 8
            self.conv_up = nn.Sequential(
                conv2d(inner, hidden), nn.LayerNorm([hidden, 1, 1]), nn.ReLU(), conv2d(hidden, channels)
            )
        self.conv_q_left = self._conv(inner)
        self.conv_v_left = self._conv(inner)
        keep_float32(self)

    def _conv(self, out_channels: int) -> Conv2D:
        he_fan_in = ParamAttr(initializer=nn.initializer.Normal(0.0, (2 / self.channels) ** 0.5))
        return Conv2D(self.channels, out_channels, 1, weight_attr=he_fan_in, bias_attr=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype in HALF:  # the spatial score is a sum of products of two maps
            return in_float32(self.forward, x)
        if self.kind == "parallel":
            return scale(x, self.gate(x))
        y = scale(x, self._channel_gate(x))
        return scale(y, self._spatial_gate(y))

    def gate(self, x: Tensor) -> Tensor:
        if x.dtype in HALF:
            return in_float32(self.gate, x)
        channel = self._channel_gate(x)
        if self.kind == "parallel":
            return channel + self._spatial_gate(x)
        return channel * self._spatial_gate(x * channel)

    def _channel_gate(self, x: Tensor) -> Tensor:
        weights = F.softmax(self.conv_q_right(x).flatten(2), axis=2)  # [N, 1, H*W]
        average = paddle.matmul(x.flatten(2), weights, transpose_y=True).unsqueeze(3)  # [N, C, 1, 1]
        return F.sigmoid(self.conv_up(self.conv_v_right(average)))

    def _spatial_gate(self, x: Tensor) -> Tensor:
        query = self.conv_q_left(F.adaptive_avg_pool2d(x, 1)).flatten(2).transpose([0, 2, 1])  # [N, 1, C/2]
        if self.kind == "parallel":
            weights = paddle.matmul(query, self.conv_v_left.weight.flatten(1))  # [N, 1, C]
            score = F.softmax(paddle.matmul(weights, x.flatten(2)), axis=2)
        else:
            value = F.softmax(self.conv_v_left(x).flatten(2), axis=2)  # [N, C/2, H*W]
            score = paddle.matmul(query, value)
        return F.sigmoid(score).reshape(paddle.shape(x[:, :1]))

    def macs(self, height: int, width: int) -> int:
        channels, area = self.channels, height * width
        # weighted average, average, product; two softmaxes or sigmoids of a map; the channel gate's sigmoid
        macs = 3 * channels * area + 2 * area + channels
        if self.kind == "parallel":  # score, sum of the gates; softmax; the weights of the channels
            return macs + 2 * channels * area + area + channels // 2 * channels
        # second product; softmax and score of the value map; layer norm, ReLU
        return macs + channels * area + 2 * (channels // 2) * area + 2 * (channels // 8)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, kind={self.kind}"
