"""Paddle's convolution, linear layer, batch norm, ReLU and max-pool, fused (`ops`) when supported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle.nn.functional as F
from paddle import Tensor, nn

from .. import ops


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """Of the height and the width; a number is for both."""
    return (value, value) if isinstance(value, int) else tuple(value)


class Conv2D(nn.Conv2D):
    """`nn.Conv2D` with zero padding.

    `self.fused` names its fused form, `self.bfloat16` the one that multiplies in bfloat16 (`ops.autocast`).
    Each can be None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
        groups: int = 1,
        dilation: int = 1,
        weight_attr: Any = None,
        bias_attr: Any = None,
    ):
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            groups=groups,
            dilation=dilation,
            weight_attr=weight_attr,
            bias_attr=bias_attr,
        )
        self.stride, self.dilation = stride, dilation
        sides = pair(kernel_size)
        same = pair(padding) == tuple(dilation * (side // 2) for side in sides)
        supported = same and stride <= 2 and all(side % 2 for side in sides)
        self.fused = self._fused_name(sides) if supported else None
        self.bfloat16 = self._bfloat16_name() if supported else None
        self._made_with = self._geometry()

    def _geometry(self) -> list[int]:
        """What a network may change after its start, to dilate its convolutions for example."""
        return [*self._stride, *self._dilation, *pair(self._updated_padding)]

    def _fused_name(self, sides: tuple[int, int]) -> str | None:
        """The fastest form for the channels, the kernel and the stride. `fused_form` makes an exception.

        Forward and backward in float32, in ms, on two cores of an Intel with AVX-512 (Sapphire Rapids);
        Winograd's form in tiles of 2x2 outputs. An image with three channels needs no gradient:

            x              out  kernel  stride   Paddle  direct  Winograd  oneDNN
            8x64x56x56      64     3       1        66      24      18       24
            8x128x28x28    128     3       1        46      27      17       23
            8x256x14x14    256     3       1        36      32      18       21
            8x512x7x7      512     3       1        39      48      28       23
            8x512x16x16    512     3       1       127     139      92       98
            128x16x32x32    16     3       1        66    10.2    10.2     12.4
            128x32x16x16    32     3       1        38     8.8     6.9      7.8
            8x3x256x256     32     3       1        38      28      60       32
            8x64x56x56     128     3       2        25    13.6             13.6
            8x256x14x14    512     3       2        22      25               13
            128x16x32x32    32     3       2        25     6.2              6.6
            8x3x224x224     64     7       2        41      23               21
            8x256x56x56    128     1       1        25      25               22
            8x512x7x7     2048     1       1        16      23               11
            8x144x56x56     24     1       1       3.4     3.9              4.8
            8x256x56x56    512     1       2        38      32               26
        """
        channels, end = self._in_channels, "" if self.bias is None else "_bias"
        if self.dilation == 1 and sides == (3, 3) and channels == self._out_channels == self._groups > 1:
            return "onednn_conv_bias" if end else "depthwise"
        if self.dilation == self._groups == self.stride == 1:
            few = 4 if end else 8
            if sides == (3, 3) and channels >= few:
                return "conv3x3" + end
            if sides in ((3, 3), (5, 5), (7, 7)) and channels < 8 and not end:
                return "conv_direct"
        return "onednn_conv" + end

    def _bfloat16_name(self) -> str | None:
        """An image's few channels would fill half of a vector: they stay float32, as do groups."""
        if self._groups > 1 or self._in_channels < 8:
            return None
        return "bfloat16_conv" if self.bias is None else "bfloat16_conv_bias"

    def forward(self, x: Tensor) -> Tensor:
        y = _fused_conv(self, x)
        return super().forward(x) if y is None else y


# functions and not methods: `paddle.jit.to_static` translates a method again for each layer


def _fused_conv(conv: Conv2D, x: Tensor) -> Tensor | None:
    """None when no fused form supports x; Paddle's operator has the better error for wrong channels."""
    if ops.casts() and (y := _bfloat16_conv(conv, x)) is not None:
        return y
    found = fused_form(conv, x)
    if found is None or x.shape[1] != conv._in_channels:
        return None
    name, fused = found
    tensors = [x, conv.weight] if conv.bias is None else [x, conv.weight, conv.bias]
    if name.startswith("conv3x3"):
        return fused(*tensors)
    if name == "depthwise":
        return fused(*tensors, conv.stride)
    if name == "conv_direct":
        return fused(*tensors, conv.stride, not x.stop_gradient)
    return fused(*tensors, conv.stride, conv.dilation, not x.stop_gradient)


def fused_form(conv: Conv2D, x: Tensor) -> tuple[str, ops.Fused] | None:
    """`conv.fused` and its form for x; oneDNN's for a tiny map, where Winograd transforms many filters.

    None when no form supports x, and in a graph, where the size of a map is not known.
    """
    fused = conv.fused and ops.find(conv.fused, x)
    if not fused or conv._geometry() != conv._made_with:
        return None
    if "conv3x3" in conv.fused and conv._in_channels >= 512 and x.shape[2] * x.shape[3] <= 64:
        name = conv.fused.replace("conv3x3", "onednn_conv")
        if other := ops.find(name, x):
            return name, other
    return conv.fused, fused


def _bfloat16_conv(conv: Conv2D, x: Tensor) -> Tensor | None:
    fused = conv.bfloat16 and ops.find(conv.bfloat16, x)
    if not fused or x.shape[1] != conv._in_channels or conv._geometry() != conv._made_with:
        return None
    tensors = [x, conv.weight] if conv.bias is None else [x, conv.weight, conv.bias]
    return fused(*tensors, conv.stride, conv.dilation, not x.stop_gradient)


class Linear(nn.Linear):
    """`nn.Linear`, which multiplies in bfloat16 within `ops.autocast`."""

    def forward(self, x: Tensor) -> Tensor:
        if not ops.casts() or x.ndim != 2 or x.shape[1] != self.weight.shape[0]:
            return super().forward(x)
        inputs, outputs = self.weight.shape
        # a 1x1 convolution with exchanged roles: the weight is the map, each row of x is a filter
        weight = self.weight.reshape([1, inputs, 1, outputs])
        fused = ops.find("bfloat16_conv", weight)
        if fused is None or 0 in x.shape or x.dtype != weight.dtype:
            return super().forward(x)
        y = fused(weight, x.reshape([-1, inputs, 1, 1]), 1, 1, True).reshape([-1, outputs])
        return y if self.bias is None else y + self.bias


class BatchNorm2D(nn.BatchNorm2D):
    """`nn.BatchNorm2D`."""

    def forward(self, x: Tensor) -> Tensor:
        y = _fused_batch_norm(self, x, None, 0)
        return super().forward(x) if y is None else y


Activation = Callable[[Tensor], Tensor]
# the numbers of the fused form; of functions and of the classes of layers
ACTIVATIONS = {None: 0, F.relu: 1, nn.ReLU: 1, F.relu6: 2, nn.ReLU6: 2}


def batch_norm(
    bn: nn.Layer, x: Tensor, residual: Tensor | None = None, activation: Activation | None = None
) -> Tensor:
    """`activation(bn(x) + residual)`, in one pass over memory when the fused form is supported.

    Args:
        bn: a batch norm, or a layer that replaced it. Its hooks see its own output.
        x: `[N, C, H, W]`.
        residual: of the same shape, or None.
        activation: a function such as `F.relu`, a layer such as `nn.ReLU()`, or None.
    """
    is_layer = isinstance(activation, nn.Layer)
    number = ACTIVATIONS.get(type(activation) if is_layer else activation)
    if number is not None and ops.is_plain(bn) and (not is_layer or ops.is_plain(activation)):
        y = _fused_batch_norm(bn, x, residual, number)
        if y is not None:
            return y
    y = bn(x)
    if residual is not None:
        y = y + residual
    return y if activation is None else activation(y)


def _fused_batch_norm(bn: nn.Layer, x: Tensor, residual: Tensor | None, activation: int) -> Tensor | None:
    """None when it is not supported, also for SyncBatchNorm, other number types and without a weight."""
    if type(bn) not in (BatchNorm2D, nn.BatchNorm2D) or bn._data_format != "NCHW":
        return None
    if bn.weight is None or bn.bias is None or bn.weight.dtype != x.dtype:
        return None
    maps = (x,) if residual is None else (x, residual)
    fused = ops.find("batch_norm" if residual is None else "batch_norm_add", x)
    if fused is None or x.shape[1] != bn._num_features:  # Paddle's operator has the better error
        return None
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        return None
    frozen = not bn.training or bool(bn._use_global_stats)
    if not bn.training and bn._use_global_stats is False:  # Paddle's gradient is that of other statistics
        return None
    if not frozen and x.size == x.shape[1]:  # one value for each channel: Paddle's result is x
        return None
    statistics = bn._mean, bn._variance
    return fused(*maps, bn.weight, bn.bias, *statistics, activation, frozen, bn._momentum, bn._epsilon)


class ReLU(nn.ReLU):
    """`nn.ReLU`."""

    def forward(self, x: Tensor) -> Tensor:
        return relu(x)


def relu(x: Tensor) -> Tensor:
    """`F.relu` of `[N, C, H, W]`."""
    return (ops.find("relu", x) or F.relu)(x)


class MaxPool2D(nn.Layer):
    """`nn.MaxPool2D`."""

    def __init__(self, kernel_size: int, stride: int, padding: int = 0):
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return max_pool2d(x, self.kernel_size, self.stride, self.padding)


def max_pool2d(x: Tensor, kernel_size: int, stride: int, padding: int = 0) -> Tensor:
    """`F.max_pool2d` of `[N, C, H, W]`."""
    form = ops.find("max_pool", x) or F.max_pool2d
    return form(x, kernel_size, stride, padding)
