"""Non-local block: every position receives a weighted sum over all positions.

Wang et al., "Non-local Neural Networks", CVPR 2018, arxiv.org/abs/1711.07971
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn

from ..errors import UserError
from ..ops.layers import BatchNorm2D, Conv2D
from .base import HALF, Attention, is_static, spatial_size
from .se import hidden_width

MODES = ("embedded_gaussian", "dot_product")


class NonLocal(Attention):
    """`x + bn(out(weights @ g(x)))`, with `weights = softmax(theta(x)^T phi(x) / sqrt(C / 2))`.

    theta, phi, g and out are 1x1 convolutions. Weights start with a deviation of 0.01 and the batch norm's
    scale at 0 (without the norm: out's weights), so the module starts as the identity.

    GCNet's widely copied class multiplies the scores by sqrt(C / 2), because it divides by a negative power;
    here they are divided, as in the paper's code and in later mmcv. mmcv pools behind phi and g, the paper's
    code before them: another function.

    Args:
        channels: of the input.
        mode: 'embedded_gaussian' as above. 'dot_product' divides the scores by their number: no softmax.
        reduction: theta, phi and g have `channels // reduction` channels.
        sub_sample: phi and g see half the height and width, by a 2x2 max-pool with stride 2.
        pool_input: the pool comes before phi and g (the paper's code), or behind them (mmcv).
        norm: a batch norm behind out, which then has no bias.
        use_scale: False omits the division by the root, for GCNet's checkpoints without it.

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W. The weights are `[N, H*W, H*W]`, a quarter of it with
    sub_sample: 630 MB for one map of 112x112 in float32. The pool omits an odd last row or column and keeps a
    side of 1. The weights of half-precision maps are computed in float32.

    Raises: ValueError when reduction leaves no channel, or for another mode.
    """

    paper_slot = "post_relu"
    paper_stages = (2, 3)  # large maps need too much memory
    paper_every = 2
    torch_names = (
        (r"\b(theta|phi|g)\.(?:0\.)?conv\.", r"\1."),
        (r"\bconv_out\.conv\.", "out."),
        (r"\bconv_out\.bn\.", "bn."),
    )
    needs = "at least `reduction` (2) channels; memory for H·W × H·W / 4 weights"
    flow = """
    s = x -> max-pool 2×2 [C, H/2, W/2]
    t = x -> conv 1×1 @theta [C/2, H, W]
    p = s -> conv 1×1 @phi [C/2, H/2, W/2]
    v = s -> conv 1×1 @g [C/2, H/2, W/2]
    w = t, p -> θᵀφ / √(C/2) [HW, HW/4] -> softmax over φ's positions
    z = w, v -> matrix product [C/2, H, W] -> conv 1×1 @out [C, H, W] -> batch norm @bn
    y = x, z -> + [C, H, W]
    """

    def __init__(
        self,
        channels: int,
        *,
        mode: str = "embedded_gaussian",
        reduction: int = 2,
        sub_sample: bool = True,
        pool_input: bool = True,
        norm: bool = True,
        use_scale: bool = True,
    ):
        super().__init__(channels)
        if mode not in MODES:
            raise ValueError(f"mode must be 'embedded_gaussian' or 'dot_product', found '{mode}'")
        self.hidden = hidden_width(channels, reduction)
        self.mode, self.use_scale = mode, use_scale
        self.sub_sample, self.pool_input = sub_sample, pool_input
        small = ParamAttr(initializer=nn.initializer.Normal(0.0, 0.01))
        zero = ParamAttr(initializer=nn.initializer.Constant(0.0))
        self.theta = Conv2D(channels, self.hidden, 1, weight_attr=small)
        self.phi = Conv2D(channels, self.hidden, 1, weight_attr=small)
        self.g = Conv2D(channels, self.hidden, 1, weight_attr=small)
        self.out = Conv2D(
            self.hidden, channels, 1, weight_attr=small if norm else zero, bias_attr=False if norm else None
        )
        self.bn = BatchNorm2D(channels, weight_attr=zero) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        pooled = half_size(x) if self.sub_sample and self.pool_input else x
        theta, phi, g = self.theta(x), self.phi(pooled), self.g(pooled)
        if self.sub_sample and not self.pool_input:
            phi, g = half_size(phi), half_size(g)
        z = self.out(self._gather(theta, phi, g))
        return x + (z if self.bn is None else self.bn(z))

    def _gather(self, theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        """For each position of theta the weighted sum over g: `[N, C/2, H, W]`."""
        if theta.dtype in HALF:  # the scores are sums of products of two maps
            with paddle.amp.auto_cast(enable=False):
                return self._gather(*(map_.astype("float32") for map_ in (theta, phi, g))).astype(theta.dtype)
        if self.mode == "dot_product":
            count = spatial_size(g)
            phi = phi / (count if isinstance(count, int) else count.astype(phi.dtype))
        elif self.use_scale:
            theta = theta / self.hidden**0.5
        weights = paddle.matmul(theta.flatten(2), phi.flatten(2), transpose_x=True)  # [N, H*W, positions]
        if self.mode == "embedded_gaussian":
            weights = F.softmax(weights, axis=2)
        if paddle.in_dynamic_mode():
            z = paddle.matmul(g.flatten(2), weights, transpose_y=True)
        else:  # Paddle's engine is wrong for a transposed matrix of one row, which a map of 3x3 px gives
            z = paddle.matmul(g.flatten(2), weights.transpose([0, 2, 1]))
        return z.reshape(paddle.shape(theta))

    def gate(self, x: Tensor) -> Tensor:
        raise UserError("the non-local block adds to its input: expected an attention that has a gate")

    def macs(self, height: int, width: int) -> int:
        area = height * width
        positions = max(height // 2, 1) * max(width // 2, 1) if self.sub_sample else area
        # two matrix products, the scores' function (softmax: exponential and quotient); pools, norm, addition
        pools = (self.channels if self.pool_input else 2 * self.hidden) * area if self.sub_sample else 0
        return (2 * self.hidden + 2) * area * positions + pools + (2 if self.bn else 1) * self.channels * area


def half_size(x: Tensor) -> Tensor:
    """A 2x2 max-pool with stride 2: omits an odd last row or column, but keeps a side of 1."""
    if is_static(x):
        sides = [min(side, 2) for side in x.shape[2:]]
        return F.max_pool2d(x, sides, sides)
    height, width = (paddle.clip(side // 2, min=1) for side in paddle.shape(x)[2:])
    # padded below and right: OpenVINO refuses a window larger than the map
    return F.max_pool2d(x, 2, 2, [0, 1, 0, 1])[:, :, :height, :width]
