"""Convolutions and linear layers that start as in PyTorch, whose default most authors rely on.

PyTorch draws weights and biases from the uniform distribution within ±1/sqrt(fan in). Paddle's own default is
a normal distribution of deviation sqrt(2 / fan in) with biases 0.
"""

from __future__ import annotations

from paddle import ParamAttr, nn


def uniform(fan_in: int) -> ParamAttr:
    """PyTorch's initial distribution of a weight and of a bias."""
    bound = fan_in**-0.5
    return ParamAttr(initializer=nn.initializer.Uniform(-bound, bound))


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
) -> nn.Conv2D:
    """A convolution of stride 1."""
    height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    initial = uniform(in_channels // groups * height * width)
    return nn.Conv2D(
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
