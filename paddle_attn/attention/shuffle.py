"""Shuffle attention (SA-Net): in every group, half of the channels gets a channel gate, half a spatial one.

Zhang and Yang, "SA-Net: Shuffle Attention for Deep Convolutional Neural Networks", ICASSP 2021,
arxiv.org/abs/2102.00240
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from .base import (
    HALF,
    Attention,
    global_mean,
    in_float32,
    keep_float32,
    largest_divisor,
    norm_maps,
    scale,
    sides,
    sigmoid_gate,
)


class ShuffleAttention(Attention):
    """Per group with the halves a and b: `a * sigmoid(w mean_HW(a) + b)`, `b * sigmoid(w norm(b) + b)`.

    The norm standardises each map, with a weight and a bias. After the gates, the channels of the first and
    of the second half of the whole map alternate.

    Args:
        channels: of the input, a multiple of `2 * groups`.
        groups: they share `3 * channels / groups` parameters.

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W. The normalised map of 1x1 px is 0. `gate(x)` is
    `[N, C, H, W]`, in the order of the input's channels: `forward` permutes the product. Both gates start at
    sigmoid(1). Half-precision maps are computed in float32.

    Known difference: with other multiples the authors' code fails, or silently applies one weight to several
    channels (192 channels in 64 groups); this one reports an error.

    Raises: ValueError when channels is not a multiple of `2 * groups`.
    """

    needs = "channels in multiples of 2 * `groups` (128)"
    torch_names = ((r"\.sa\.", ".attn."),)
    flow = """
    g = x -> G groups [C/G, H, W]
    a = g -> first half [C/2G, H, W]
    b = g -> second half [C/2G, H, W]
    p = a -> mean over H, W [C/2G, 1, 1] -> × @cweight -> + @cbias -> sigmoid
    q = b -> norm over H, W @gn [C/2G, H, W] -> × @sweight -> + @sbias -> sigmoid
    u = a, p -> × [C/2G, H, W]
    v = b, q -> × [C/2G, H, W]
    y = u, v -> join all [C, H, W] -> alternate the halves
    """

    def __init__(self, channels: int, *, groups: int = 64):
        super().__init__(channels)
        if groups < 1 or channels % (2 * groups):
            fitting = f", or groups={largest_divisor(channels // 2, groups)}" if channels % 2 == 0 else ""
            raise ValueError(
                f"channels must be a multiple of 2 * groups: "
                f"expected a multiple of {2 * groups} with {groups} groups{fitting}, found {channels}"
            )
        self.groups = groups
        half = channels // (2 * groups)
        zero, one = nn.initializer.Constant(0.0), nn.initializer.Constant(1.0)
        self.cweight = self.create_parameter([1, half, 1, 1], default_initializer=zero)
        self.cbias = self.create_parameter([1, half, 1, 1], default_initializer=one)
        self.sweight = self.create_parameter([1, half, 1, 1], default_initializer=zero)
        self.sbias = self.create_parameter([1, half, 1, 1], default_initializer=one)
        self.gn = nn.GroupNorm(half, half)
        keep_float32(self)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype in HALF:
            return in_float32(self.forward, x)
        a, b = self._halves(x)
        gated_b = sigmoid_gate(b, norm_maps(b, self.gn), self.sweight.flatten(), self.sbias.flatten())
        gated = paddle.concat([scale(a, self._channel_gate(a)), gated_b], axis=1)
        return alternate_halves(gated.reshape([-1, self.channels, 0, 0]))

    def gate(self, x: Tensor) -> Tensor:
        if x.dtype in HALF:
            return in_float32(self.gate, x)
        a, b = self._halves(x)
        channel_gate = self._channel_gate(a) + paddle.zeros_like(a)
        gates = paddle.concat([channel_gate, self._spatial_gate(b)], axis=1)
        return gates.reshape([-1, self.channels, 0, 0])

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Two tensors `[N * groups, C / (2 * groups), H, W]`."""
        return paddle.split(x.reshape([-1, self.channels // self.groups, 0, 0]), 2, axis=1)

    def _channel_gate(self, a: Tensor) -> Tensor:
        return F.sigmoid(self.cweight * global_mean(a).unsqueeze([2, 3]) + self.cbias)

    def _spatial_gate(self, b: Tensor) -> Tensor:
        return F.sigmoid(scale(norm_maps(b, self.gn), self.sweight) + self.sbias)

    def macs(self, height: int, width: int) -> int:
        # a: mean, product; b: mean, difference, square, sum, two scales and shifts, sigmoid, product;
        # the channel gate's scale and shift, sigmoid
        return (2 + 8) * self.channels * height * width // 2 + 2 * self.channels // 2

    def extra_repr(self) -> str:
        return f"channels={self.channels}, groups={self.groups}"


def alternate_halves(x: Tensor) -> Tensor:
    """Channels 0, C/2, 1, C/2 + 1, … of `[N, C, H, W]`. ONNX has no operator for it."""
    if paddle.in_dynamic_mode():
        return F.channel_shuffle(x, 2)
    channels = x.shape[1]
    pairs = x.reshape([0, 2, channels // 2, -1]).transpose([0, 2, 1, 3])
    return pairs.reshape([-1, channels, *sides(x)])
