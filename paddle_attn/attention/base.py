"""The base class of the attention modules, and the operations that they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.regularizer import L2Decay

from .. import ops
from ..errors import UserError

MAX_CHANNELS = 65_536  # the widest published maps have some thousands
HALF = (paddle.float16, paddle.bfloat16)  # the types of AMP training
NO_DECAY = L2Decay(
    0.0
)  # as a parameter's own regulariser it overrides the weight decay of every optimiser here


class Attention(nn.Layer):
    """A multiplicative attention: `[N, C, H, W] -> [N, C, H, W]`, the input times `gate(x)`.

    Raises: UserError when its input has not four dimensions.

    A subclass takes `channels` first and everything else by keyword. It defines `gate` and `macs`, and may
    set attributes:

    - `paper_slot`: where its authors put it, a slot of `models/placement.py`. `paper_stages` are the stages
      that get one, counted from 1, None for all; `paper_every` is 2 when only every second block does.
    - `needs`: what its input or its network must have, in a few words; empty when every map fits.
    - `flow`: its data flow, from which `tools/drawings.py` draws it (`plotting/flow.py` has the notation).
    - `torch_names`: the authors' names for its place and its parameters, as `(regular expression, our
      replacement)`. They are applied in order to the names in a PyTorch checkpoint; a tensor whose name
      becomes empty is dropped. In our networks, an attention is the sublayer `attn`.

    It overrides `stage_kwargs` when its authors' networks choose its arguments by the side of the maps.
    """

    paper_slot: ClassVar[str] = "post_bn"
    paper_stages: ClassVar[tuple[int, ...] | None] = None
    paper_every: ClassVar[int] = 1
    needs: ClassVar[str] = ""
    flow: ClassVar[str] = ""
    torch_names: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __init__(self, channels: int):
        super().__init__()
        if not isinstance(channels, int) or not 1 <= channels <= MAX_CHANNELS:
            raise ValueError(f"channels must be a whole number from 1 to {MAX_CHANNELS}, found {channels!r}")
        self.channels = channels

    @classmethod
    def stage_kwargs(cls, side: int) -> dict[str, Any]:
        """The arguments that the authors' networks choose for square maps of `side` px. They are defaults."""
        return {}

    def __call__(self, x: Tensor) -> Tensor:
        # a graph may not know the channels; some modules would reshape other channels into a wrong answer
        if x.ndim != 4 or x.shape[1] not in (self.channels, -1):
            name, shape = type(self).__name__, list(x.shape)
            raise UserError(f"{name} takes a tensor [N, {self.channels}, H, W], found the shape {shape}")
        return super().__call__(x)

    def gate(self, x: Tensor) -> Tensor:
        """The weights that multiply `x` [N, C, H, W]: a tensor that broadcasts to it.

        Raises: ValueError when the module adds to its input instead.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks gate(x): define it, or forward(x)")

    def forward(self, x: Tensor) -> Tensor:
        return scale(x, self.gate(x))

    def macs(self, height: int, width: int) -> int:
        """Multiply-accumulates of the elementwise work for one image of this height and width.

        Every multiplication, addition or function counts one per element. The convolutions and linear layers
        inside are counted apart (`complexity.profile`).
        """
        raise NotImplementedError(f"{type(self).__name__} lacks macs(height, width), which profile needs")


def in_float32(method: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`method(x)` for a map of half precision, computed in float32, because its sums would overflow.

    AMP casts nothing inside. A module with parameters calls `keep_float32` in `__init__`.
    """
    with paddle.amp.auto_cast(enable=False):
        return method(x.astype("float32")).astype(x.dtype)


def keep_float32(module: nn.Layer) -> None:
    """Let AMP's level O2 leave the parameters of a module in float32, as it leaves those of batch norms."""
    for layer in module.sublayers(include_self=True):
        layer._cast_to_low_precision = False  # `paddle.amp.decorate` reads it; it has no public setter


def scale(x: Tensor, gate: Tensor) -> Tensor:
    """`x * gate`, with a gate `[N, C, 1, 1]`, `[1, C, 1, 1]`, `[N, 1, H, W]` or `[N, C, H, W]`."""
    fused = ops.find("scale", x)
    if fused is None:
        return x * gate
    batch, channels, height, width = x.shape
    if gate.shape == [1, channels, 1, 1]:
        gate = gate.expand([batch, channels, 1, 1])
    supported = ([batch, channels, 1, 1], [batch, 1, height, width])
    return fused(x, gate) if gate.shape in supported else x * gate


def global_mean(x: Tensor) -> Tensor:
    """`[N, C, H, W] -> [N, C]`. Pools: the gradient of `Tensor.mean` is forty times slower on a CPU."""
    fused = ops.find("mean", x)
    return (fused(x) if fused else F.adaptive_avg_pool2d(x, 1)).flatten(1)


def strip_means(x: Tensor) -> Tensor:
    """The mean of each row, then of each column: `[N, C, H, W] -> [N, C, H + W, 1]`."""
    fused = ops.find("strip_mean", x)
    if fused:
        return fused(x)
    return paddle.concat([mean_along(x, 3), mean_along(x, 2).transpose([0, 1, 3, 2])], axis=2)


def strip_maxima(x: Tensor) -> Tensor:
    """The maximum of each row, then of each column: `[N, C, H, W] -> [N, C, H + W, 1]`."""
    fused = ops.find("strip_max", x)
    if fused:
        return fused(x)
    return paddle.concat([max_along(x, 3), max_along(x, 2).transpose([0, 1, 3, 2])], axis=2)


def scale_strips(x: Tensor, strip: Tensor) -> Tensor:
    """x times the factor of its row and that of its column, in a strip as that of `strip_means`."""
    fused = ops.find("strip_scale", x)
    return fused(x, strip, False) if fused else x * rows_times_columns(x, strip)


def scale_by_strip_sums(x: Tensor, strip: Tensor) -> Tensor:
    """x times the sum of the number of its row and that of its column, in a strip."""
    fused = ops.find("strip_scale", x)
    return fused(x, strip, True) if fused else x * rows_plus_columns(x, strip)


def rows_plus_columns(x: Tensor, strip: Tensor) -> Tensor:
    """The sums for each place of x `[N, C, H, W]`, by matrix products: faster than a sum that broadcasts."""
    height = sides(x)[0]
    rows, columns = strip[:, :, :height], strip[:, :, height:].transpose([0, 1, 3, 2])
    return paddle.matmul(rows, paddle.ones_like(columns)) + paddle.matmul(paddle.ones_like(rows), columns)


def rows_times_columns(x: Tensor, strip: Tensor) -> Tensor:
    """The factors of each place of x `[N, C, H, W]`. A matrix product: faster than one that broadcasts."""
    height = sides(x)[0]
    return paddle.matmul(strip[:, :, :height], strip[:, :, height:].transpose([0, 1, 3, 2]))


def sigmoid_gate(x: Tensor, z: Tensor, factor: Tensor, shift: Tensor | None = None) -> Tensor:
    """`x * sigmoid(z * factor + shift)`, with maps `[N, C, H, W]` and numbers `[C]`."""
    fused = ops.find("sigmoid_gate", x)
    if fused:
        return fused(x, z, factor, paddle.zeros_like(factor) if shift is None else shift)
    z = scale(z, factor.reshape([1, -1, 1, 1]))
    return x * F.sigmoid(z if shift is None else z + shift.reshape([1, -1, 1, 1]))


def mean_along(x: Tensor, axis: int) -> Tensor:
    """The mean of `[N, C, H, W]` over the height (axis 2) or the width (axis 3), whose side becomes 1."""
    return F.avg_pool2d(x, _strip(x, axis)) if is_static(x) else x.mean(axis, keepdim=True)


def max_along(x: Tensor, axis: int) -> Tensor:
    """The maximum of `[N, C, H, W]` over the height (axis 2) or the width (axis 3), whose side becomes 1."""
    return F.max_pool2d(x, _strip(x, axis)) if is_static(x) else x.max(axis, keepdim=True)


def _strip(x: Tensor, axis: int) -> list[int]:
    return [x.shape[2], 1] if axis == 2 else [1, x.shape[3]]


def spatial_size(x: Tensor) -> int | Tensor:
    """H * W of `[N, C, H, W]`: an int when known, a tensor in a graph with a dynamic height or width."""
    if is_static(x):
        return x.shape[2] * x.shape[3]
    shape = paddle.shape(x)
    return shape[2] * shape[3]


def is_static(x: Tensor) -> bool:
    """Whether channels, height and width are known. In an exported graph they can be dynamic."""
    return all(isinstance(side, int) and side > 0 for side in x.shape[1:])


def largest_divisor(number: int, at_most: int) -> int:
    """The largest divisor of a number that is at most `at_most`, and at least 1."""
    return next((count for count in range(min(number, at_most), 1, -1) if number % count == 0), 1)


def at_least_one(count: int | Tensor) -> int | Tensor:
    """`max(count, 1)`, so that the variance of a 1x1 map is 0 / 1 and not 0 / 0. A tensor becomes float32."""
    if isinstance(count, int):
        return max(count, 1)
    return paddle.clip(count.astype("float32"), min=1.0)


def norm_maps(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """A group norm with one channel in each group.

    A graph has it as an instance norm: paddle2onnx 2.1 gives a group norm a random epsilon.
    """
    if not paddle.in_dynamic_mode():
        return F.instance_norm(x, weight=norm.weight, bias=norm.bias, eps=norm._epsilon)
    fused = ops.find("batch_norm", x)
    replaced = type(norm) is not nn.GroupNorm or not ops.is_plain(norm) or norm._num_groups != x.shape[1]
    if fused is None or replaced or x.shape[2] * x.shape[3] == 1:
        return norm(x)
    if any(number is None or number.dtype != x.dtype for number in (norm.weight, norm.bias)):
        return norm(x)
    # the batch norm of one image that has every map as a channel; its running statistics are not used
    batch, maps = x.shape[0], x.shape[0] * x.shape[1]
    weight, bias = norm.weight.tile([batch]), norm.bias.tile([batch])
    statistics = paddle.zeros([2, maps], x.dtype)
    y = fused(x.reshape([1, maps, *x.shape[2:]]), weight, bias, *statistics, 0, False, 0.0, norm._epsilon)
    return y.reshape(x.shape)


def adaptive_mean(x: Tensor, height: int | Tensor, width: int | Tensor) -> Tensor:
    """`F.adaptive_avg_pool2d`, also upwards: `[N, C, h, w] -> [N, C, height, width]`.

    Two products with matrices of means: ONNX has no such pooling, and Paddle's takes two to ten times as long
    on a CPU. NaN and Inf reach all means of their map. In a graph a side may be unknown; an unknown one of
    the result is a tensor of one whole number.
    """
    if paddle.in_dynamic_mode() and 0 in x.shape:
        return F.adaptive_avg_pool2d(x, [height, width])
    rows, columns = _means(sides(x)[0], height, 0, x.dtype), _means(sides(x)[1], width, 1, x.dtype)
    # Paddle's engine is wrong for four dimensions in oneDNN's layout, and for a transposed matrix of one row
    products = paddle.matmul(paddle.matmul(rows, x.flatten(0, 1)), columns)
    return products.reshape([-1, x.shape[1], height, width])


def sides(x: Tensor) -> list[int | Tensor]:
    """The height and the width of `[N, C, H, W]`: ints where known, tensors of one whole number elsewhere."""
    return [x.shape[axis] if x.shape[axis] > 0 else paddle.shape(x)[axis] for axis in (2, 3)]


def _means(size: int | Tensor, count: int | Tensor, axis: int, dtype: paddle.dtype) -> Tensor:
    """The means over `count` adaptive regions of a side: `[count, size]` for axis 0, else `[size, count]`."""
    region, pixel = _numbers(count).unsqueeze(1 - axis), _numbers(size).unsqueeze(axis)
    size, count = _number(size), _number(count)
    # region * size // count, and its end rounded up; the halves keep a rounded quotient off the whole numbers
    first = paddle.floor((region * size + 0.5) / count)
    end = paddle.floor(((region + 1) * size - 0.5) / count) + 1
    inside, places = paddle.logical_and(pixel >= first, pixel < end).astype(dtype), end - first
    return inside / (places if dtype == paddle.float32 else places.astype(dtype))


def _numbers(count: int | Tensor) -> Tensor:
    """0 to `count - 1` in float32."""
    return paddle.arange(count).astype("float32")


def _number(side: int | Tensor) -> int | Tensor:
    return side if isinstance(side, int) else side.astype("float32")
