"""Train with factors rounded to bfloat16, on any processor: python -m benchmarks.rounded -c CONFIG [-o ...]

For the accuracy of `train.amp=O1` without AVX512-BF16, not for its speed. The product of two
bfloat16 numbers is exact in float32, so only the order of sums differs from the operators of `ops.autocast`.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from paddle_attn import ops
from paddle_attn.ops import layers


def rounded(x: Tensor) -> Tensor:
    return x.astype("bfloat16").astype("float32")


class RoundedFactor(PyLayer):
    """A factor of a product. Its gradient is not rounded."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return rounded(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


def with_rounded_gradient(y: Tensor) -> Tensor:
    """A product whose gradient is a factor of two further products."""
    if not y.stop_gradient:
        y.register_hook(rounded)
    return y


def convolution(conv: layers.Conv2D, x: Tensor) -> Tensor | None:
    """In the place of `ops.layers._bfloat16_conv`; None for what stays float32 there."""
    name = "onednn_conv" if conv.bias is None else "onednn_conv_bias"
    fused = conv.bfloat16 and ops.find(name, x)
    if not fused or x.shape[1] != conv._in_channels or conv._geometry() != conv._made_with:
        return None
    tensors = [RoundedFactor.apply(x), RoundedFactor.apply(conv.weight)]
    if conv.bias is not None:
        tensors.append(conv.bias)
    return with_rounded_gradient(fused(*tensors, conv.stride, conv.dilation, not x.stop_gradient))


def linear(layer: layers.Linear, x: Tensor) -> Tensor:
    """In the place of `Linear.forward`."""
    if not ops.casts() or x.ndim != 2:
        return F.linear(x, layer.weight, layer.bias)
    y = F.linear(RoundedFactor.apply(x), RoundedFactor.apply(layer.weight))
    y = with_rounded_gradient(y)
    return y if layer.bias is None else y + layer.bias


def use() -> None:
    """Let `ops.autocast` round in this process."""
    layers._bfloat16_conv = convolution
    layers.Linear.forward = linear
    ops.bfloat16_problem = lambda machine=None: ""


if __name__ == "__main__":
    use()
    runpy.run_path(str(Path(__file__).resolve().parent.parent / "tools" / "train.py"), run_name="__main__")
