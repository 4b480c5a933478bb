"""Backward from a given gradient, for both baselines in Paddle. `y.backward(gradient)` copies it first."""

from __future__ import annotations

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer, PyLayerContext


class Given(PyLayer):
    """A number whose gradient for y is the given tensor."""

    @staticmethod
    def forward(ctx: PyLayerContext, y: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return paddle.zeros([1])

    @staticmethod
    def backward(ctx: PyLayerContext, one: Tensor) -> tuple[Tensor, None]:
        return ctx.gradient, None


def backward(y: Tensor, gradient: Tensor) -> None:
    """Compute the gradients of what y was computed from, with `gradient` as that of y."""
    Given.apply(y, gradient).backward()
