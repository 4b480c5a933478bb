"""What every attention module here has in common."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from .. import ops

HALF = (paddle.float16, paddle.bfloat16)  # what a GPU trains in under AMP


class Attention(nn.Layer):
    """A multiplicative attention: `[N, C, H, W] -> [N, C, H, W]`, the input times `gate(x)`.

    A subclass takes `channels` first, the rest by keyword, and says what its gate is and what it costs.
    """

    def __init__(self, channels: int):
        super().__init__()
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(f"channels must be a positive whole number, found {channels!r}")
        self.channels = channels

    def gate(self, x: Tensor) -> Tensor:
        """The weights that multiply `x` [N, C, H, W]: a tensor that broadcasts to it."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return scale(x, self.gate(x))

    def macs(self, height: int, width: int) -> int:
        """Multiply-accumulates for one image of this height and width, beside those of convolutions and linear layers inside.

        An elementwise multiplication, addition or function over a map counts one for each element.
        """
        raise NotImplementedError


def scale(x: Tensor, gate: Tensor) -> Tensor:
    """`x * gate`, where the gate `[N, C, 1, 1]`, `[N, 1, H, W]` or `[N, C, H, W]` broadcasts to `x`."""
    fused = ops.kernels(x)
    if fused is None:
        return x * gate
    batch, channels, height, width = x.shape
    by_channel, by_place = (
        gate.shape == [batch, channels, 1, 1],
        gate.shape == [batch, 1, height, width] and channels > 1,
    )
    return fused.scale(x, gate) if by_channel or by_place else x * gate


def global_mean(x: Tensor) -> Tensor:
    """`[N, C, H, W] -> [N, C]`. A pooling, because the gradient of Paddle's `mean` is forty times slower on a CPU."""
    fused = ops.kernels(x)
    return (fused.mean(x) if fused else F.adaptive_avg_pool2d(x, 1)).flatten(1)


def spatial_size(x: Tensor) -> int | Tensor:
    """H * W of `[N, C, H, W]`: a number where it is known, a tensor in a graph whose height or width is dynamic."""
    if is_static(x):
        return x.shape[2] * x.shape[3]
    shape = paddle.shape(x)
    return shape[2] * shape[3]


def is_static(x: Tensor) -> bool:
    """Whether all of a map's channels, height and width are known: always, but in a graph that is exported with dynamic ones."""
    return all(isinstance(side, int) and side > 0 for side in x.shape[1:])


def at_least_one(count: int | Tensor) -> int | Tensor:
    """`max(count, 1)`, so that the variance of a 1x1 map is 0 / 1 and not 0 / 0; a float32 tensor where count is a tensor."""
    if isinstance(count, int):
        return max(count, 1)
    return paddle.clip(count.astype("float32"), min=1.0)
