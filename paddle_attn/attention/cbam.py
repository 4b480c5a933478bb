"""CBAM: a gate for every channel, then a gate for every position.

Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018, arxiv.org/abs/1807.06521
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from .. import ops
from ..ops.layers import BatchNorm2D, Conv2D
from .base import Attention, global_mean, scale
from .layers import pytorch_default
from .se import hidden_width, plain_weights

MAX_KERNEL_SIZE = 31  # the paper has 7; no published network has a larger one than 31


class ChannelGate(nn.Layer):
    """`sigmoid(mlp(mean_HW(x)) + mlp(max_HW(x)))`, one shared perceptron: `[N, C, H, W] -> [N, C, 1, 1]`."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        hidden = hidden_width(channels, reduction)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.mlp(global_mean(x)) + self.mlp(F.adaptive_max_pool2d(x, 1).flatten(1))
        return F.sigmoid(weights).unsqueeze([2, 3])


class SpatialGate(nn.Layer):
    """`sigmoid(bn(conv([max_C(x), mean_C(x)])))`: `[N, C, H, W] -> [N, 1, H, W]`. The maximum comes first.

    The batch norm's weight starts at 0, as in the authors' networks, so the gate starts at 0.5.
    """

    def __init__(self, kernel_size: int):
        super().__init__()
        self.conv = Conv2D(2, 1, kernel_size, padding=kernel_size // 2, bias_attr=False)
        self.bn = BatchNorm2D(
            1, momentum=0.99, weight_attr=paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.of_pooled(max_and_mean(x))

    def of_pooled(self, pooled: Tensor) -> Tensor:
        """The gate from the maximum and the mean over the channels: `[N, 2, H, W] -> [N, 1, H, W]`."""
        return F.sigmoid(self.bn(self.conv(pooled)))


def max_and_mean(x: Tensor) -> Tensor:
    """Maximum and mean over the channels: `[N, C, H, W] -> [N, 2, H, W]`.

    The maximum is a pooling, because the gradient of Paddle's `max` takes seconds on a CPU.
    """
    fused = ops.find("channel_pool", x)
    if fused:
        return fused(x)
    most = F.max_pool2d(x.flatten(2).unsqueeze(1), [x.shape[1], 1]).reshape(paddle.shape(x[:, :1]))
    return paddle.concat([most, x.mean(1, keepdim=True)], axis=1)


class CBAM(Attention):
    """The channel gate multiplies the input, then the spatial gate multiplies the product.

    Args:
        channels: of the input.
        reduction: the shared perceptron has `channels // reduction` hidden units.
        kernel_size: of the spatial gate's convolution, odd, at most `MAX_KERNEL_SIZE`.
        spatial: False omits the spatial gate (the authors' `no_spatial`).

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W. `gate(x)` is the product of the two gates,
    `[N, C, H, W]`.

    Raises: ValueError when reduction leaves no hidden unit, or kernel_size is even or too large.
    """

    needs = "at least `reduction` (16) channels"
    torch_names = (
        (r"\.cbam\.", ".attn."),
        (r"\bChannelGate\.mlp\.1\.", "channel_gate.mlp.0."),
        (r"\bChannelGate\.mlp\.3\.", "channel_gate.mlp.2."),
        (r"\bSpatialGate\.spatial\.", "spatial_gate."),
    )
    flow = """
    m = x -> mean over H, W [C] -> linear @channel_gate.mlp.0 [C/16] -> ReLU -> linear @channel_gate.mlp.2 [C]
    n = x -> max over H, W [C] -> the same three layers [C]
    c = m, n -> + [C] -> sigmoid [C, 1, 1]
    u = x, c -> × [C, H, W]
    p = u -> max over C [1, H, W]
    q = u -> mean over C [1, H, W]
    s = p, q -> join [2, H, W] -> conv 7×7 @spatial_gate.conv [1, H, W]
        -> batch norm @spatial_gate.bn [1, H, W] -> sigmoid
    y = u, s -> × [C, H, W]
    """

    def __init__(self, channels: int, *, reduction: int = 16, kernel_size: int = 7, spatial: bool = True):
        super().__init__(channels)
        if not 1 <= kernel_size <= MAX_KERNEL_SIZE or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, from 1 to {MAX_KERNEL_SIZE}, found {kernel_size}")
        self.channel_gate = ChannelGate(channels, reduction)
        self.spatial_gate = SpatialGate(kernel_size) if spatial else None
        pytorch_default(self)

    def forward(self, x: Tensor) -> Tensor:
        fused, weights = ops.find("cbam", x), plain_weights(self.channel_gate.mlp, x)
        gates = (self.channel_gate, self.spatial_gate)
        if fused and weights and all(gate is not None and ops.is_plain(gate) for gate in gates):
            x, pooled = ops.all_outputs(fused, x, *weights)[:2]
            return scale(x, self.spatial_gate.of_pooled(pooled))
        x = scale(x, self.channel_gate(x))
        return x if self.spatial_gate is None else scale(x, self.spatial_gate(x))

    def gate(self, x: Tensor) -> Tensor:
        channel = self.channel_gate(x)
        return channel if self.spatial_gate is None else channel * self.spatial_gate(x * channel)

    def macs(self, height: int, width: int) -> int:
        area = height * width
        macs = 3 * self.channels * area + 2 * self.channels  # mean, max, product; sum of the two, sigmoid
        if self.spatial_gate is not None:
            macs += 3 * self.channels * area + 2 * area  # max, mean, product; batch norm, sigmoid
        return macs
