"""GCT: a gate for every channel from its norm, compared with the norms of the other channels.

Yang et al., "Gated Channel Transformation for Visual Recognition", CVPR 2020, arxiv.org/abs/1909.11519
"""

from __future__ import annotations

import paddle
from paddle import ParamAttr, Tensor, nn

from .. import ops
from .base import HALF, NO_DECAY, Attention, global_mean, in_float32, keep_float32, spatial_size

MODES = ("l2", "l1")


class GatedChannelTransformation(Attention):
    """`x * (1 + tanh(gamma * e / d + beta))`, with `e = alpha * norm_HW(x)` and the root mean square d of e.

    alpha starts at 1, gamma and beta at 0, so the module starts as the identity. beta has no weight decay, as
    in the authors' training. Their networks have one module before every convolution, also before the stem.

    Args:
        channels: of the input.
        mode: of the norm. 'l2' is the root of the sum of squares; 'l1' the sum of the absolute values, and d
            their mean.
        epsilon: is added inside both roots; with 'l1' to d.
        after_relu: the input is never negative: 'l1' sums it without the absolute value.

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W; the gate is `[N, C, 1, 1]`, from 0 to 2. The norm is a
    sum, not a mean, so the gate depends on the size of the map. Half-precision maps are computed in float32.

    Raises: ValueError for another mode, or when epsilon is not positive.
    """

    paper_slot = "pre_conv"
    flow = """
    e = x -> norm over H, W [C, 1, 1] -> × @alpha
    d = e -> root mean square over C [1, 1, 1]
    g = e, d -> ÷ [C, 1, 1] -> × @gamma -> + @beta -> 1 + tanh
    y = x, g -> × [C, H, W]
    """

    def __init__(self, channels: int, *, mode: str = "l2", epsilon: float = 1e-5, after_relu: bool = False):
        super().__init__(channels)
        if mode not in MODES:
            raise ValueError(f"mode must be 'l2' or 'l1', found '{mode}'")
        if not epsilon > 0:
            raise ValueError(f"epsilon must be positive, found {epsilon}")
        self.mode, self.epsilon, self.after_relu = mode, float(epsilon), after_relu
        shape, one, zero = [1, channels, 1, 1], nn.initializer.Constant(1.0), nn.initializer.Constant(0.0)
        self.alpha = self.create_parameter(shape, default_initializer=one)
        self.gamma = self.create_parameter(shape, default_initializer=zero)
        self.beta = self.create_parameter(shape, attr=ParamAttr(initializer=zero, regularizer=NO_DECAY))
        keep_float32(self)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype in HALF:  # a sum of squares would overflow
            return in_float32(self.forward, x)
        fused = ops.find("gct", x) if self.mode == "l2" else None
        if fused and x.shape[1] == self.channels:
            return fused(x, self.alpha, self.gamma, self.beta, self.epsilon)
        return super().forward(x)

    def gate(self, x: Tensor) -> Tensor:
        if x.dtype in HALF:
            return in_float32(self.gate, x)
        alpha, gamma, beta = (value.astype(x.dtype) for value in (self.alpha, self.gamma, self.beta))
        if self.mode == "l2":
            places = spatial_size(x)
            places = places if isinstance(places, int) else places.astype(x.dtype)
            squares = places * global_mean(x.square()).unsqueeze([2, 3])
            e = alpha * paddle.sqrt(squares + self.epsilon)
            d = paddle.sqrt((e * e).mean(1, keepdim=True) + self.epsilon)
        else:
            e = alpha * (x if self.after_relu else x.abs()).sum([2, 3], keepdim=True)
            d = e.abs().mean(1, keepdim=True) + self.epsilon
        return 1 + paddle.tanh(e * (gamma / d) + beta)

    def macs(self, height: int, width: int) -> int:
        # square, sum, product; root, alpha, square, mean, quotient, gamma, beta, tanh, addition of 1
        return 3 * self.channels * height * width + 9 * self.channels

    def extra_repr(self) -> str:
        return f"channels={self.channels}, mode={self.mode}"
