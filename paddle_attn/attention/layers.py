"""Convolutions and linear layers that start as in PyTorch, whose default most authors rely on.

PyTorch draws weights and biases from the uniform distribution within ±1/sqrt(fan in). Paddle's own default is
a normal distribution of deviation sqrt(2 / fan in) with biases 0.

What `conv2d` and `linear` make starts so in every network. A module that calls `pytorch_default` follows the
rule of the network that contains it, as it does in its authors' networks.
"""

from __future__ import annotations

import math

from paddle import ParamAttr, nn
from paddle.nn.initializer import Initializer, Uniform

from ..ops.layers import Conv2D, pair


def uniform(fan_in: int) -> ParamAttr:
    """PyTorch's initial distribution of a weight and of a bias."""
    bound = fan_in**-0.5
    return ParamAttr(initializer=Uniform(-bound, bound))


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
) -> Conv2D:
    """A convolution of stride 1."""
    initial = uniform(in_channels // groups * math.prod(pair(kernel_size)))
    return Conv2D(
        in_channels,
        out_channels,
        kernel_size,
        padding=padding,
        dilation=dilation,
        groups=groups,
        weight_attr=initial,
        bias_attr=initial if bias else False,
    )


def linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    """A linear layer."""
    initial = uniform(in_features)
    return nn.Linear(in_features, out_features, weight_attr=initial, bias_attr=initial if bias else False)


def pytorch_default(module: nn.Layer) -> None:
    """Start each convolution and linear layer of a module as in PyTorch.

    A parameter with an attribute of its own (`weight_attr`, `bias_attr`) keeps its start.
    """
    for layer in module.sublayers(include_self=True):
        if isinstance(layer, (nn.Conv1D, nn.Conv2D, nn.Linear)):
            shape = layer.weight.shape
            fan_in = shape[0] if isinstance(layer, nn.Linear) else math.prod(shape[1:])
            initial = uniform(fan_in).initializer
            initialise(layer, initial, initial)


def initialise(layer: nn.Layer, weight: Initializer, bias: Initializer | None = None) -> None:
    """Start a convolution or a linear layer; a parameter with an attribute of its own keeps its start."""
    weight_attr = layer._weight_attr if isinstance(layer, nn.Linear) else layer._param_attr
    if weight_attr is None:
        weight(layer.weight)
    if bias is not None and layer.bias is not None and layer._bias_attr is None:
        bias(layer.bias)
