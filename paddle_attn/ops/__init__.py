"""Compiled CPU operators, each the fused form of something in `attention` or `models` that stays the reference for what it does.

`kernels(x)` gives them where they serve, else None, and the caller goes on with plain Paddle operators. They are compiled at first
use (`build.py`). `PADDLE_ATTN_OPS` says `auto` (the default), `on` or `off`; `with using("off"):` says it for a part of a program.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from contextvars import ContextVar

import paddle
from paddle import Tensor, _C_ops

from ..errors import UserError, unknown_name
from .build import BuildError, load

MODES = ("auto", "on", "off")
_mode: ContextVar[str | None] = ContextVar("mode", default=None)


@contextlib.contextmanager
def using(mode: str | None) -> Iterator[None]:
    """Within it `auto` takes the operators where they serve, `on` takes them or says why not, `off` leaves them; None changes nothing."""
    if mode is not None and mode not in MODES:
        raise unknown_name("mode of the compiled operators", mode, MODES)
    token = _mode.set(mode or _mode.get())
    try:
        yield
    finally:
        _mode.reset(token)


def mode() -> str:
    """What is said: by `using`, else by `PADDLE_ATTN_OPS`, else 'auto'."""
    said = _mode.get() or os.environ.get("PADDLE_ATTN_OPS") or "auto"
    if said not in MODES:
        raise unknown_name("value of PADDLE_ATTN_OPS", said, MODES)
    return said


class Kernels:
    """The operators as functions, with gradients. float32 on the CPU, in dygraph."""

    def simam(self, x: Tensor, e_lambda: float) -> Tensor:
        """`attention.SimAM` of `[N, C, H, W]`."""
        return _C_ops._run_custom_op("paddle_attn_simam", x, e_lambda)[0]

    def sge(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """`attention.SpatialGroupEnhance` of `[N, C, H, W]`, with as many groups as weight and bias have elements."""
        return _C_ops._run_custom_op("paddle_attn_sge", x, weight, bias)[0]

    def scale(self, x: Tensor, gate: Tensor) -> Tensor:
        """`x * gate`: `[N, C, H, W]` with `[N, C, 1, 1]` or `[N, 1, H, W]`."""
        return _C_ops._run_custom_op("paddle_attn_scale", x, gate)[0]

    def mean(self, x: Tensor) -> Tensor:
        """The mean of every plane: `[N, C, H, W] -> [N, C, 1, 1]`."""
        return _C_ops._run_custom_op("paddle_attn_mean", x)[0]

    def channel_pool(self, x: Tensor) -> Tensor:
        """The maximum and the mean over the channels: `[N, C, H, W] -> [N, 2, H, W]`."""
        return _C_ops._run_custom_op("paddle_attn_channel_pool", x)[0]

    def depthwise(self, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        """A 3x3 depthwise convolution with padding 1 and stride 1 or 2: `[N, C, H, W] -> [N, C, ceil(H/stride), ceil(W/stride)]`."""
        return _C_ops._run_custom_op("paddle_attn_depthwise", x, weight, stride)[0]

    def conv3x3(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """A 3x3 convolution with padding 1 and stride 1: `[N, C, H, W] -> [N, K, H, W]`, weight `[K, C, 3, 3]`, bias `[K]`."""
        if bias is None:
            return _C_ops._run_custom_op("paddle_attn_conv3x3", x, weight)[0]
        return _C_ops._run_custom_op("paddle_attn_conv3x3_bias", x, weight, bias)[0]

    def max_pool(self, x: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
        """Max pooling of `[N, C, H, W]`, as `F.max_pool2d`."""
        return _C_ops._run_custom_op("paddle_attn_max_pool", x, kernel_size, stride, padding)[0]


def kernels(x: Tensor) -> Kernels | None:
    """The operators, if they serve this map `[N, C, H, W]`: float32 on the CPU, larger than 1x1, and not within a graph.

    Raises: UserError when the mode is `on` and they cannot be built.
    """
    if not paddle.in_dynamic_mode() or mode() == "off":
        return None
    if (
        x.dtype != paddle.float32
        or not x.place.is_cpu_place()
        or x.ndim != 4
        or x.shape[2] * x.shape[3] < 2
        or 0 in x.shape
    ):
        return None
    found, why_not = _load()
    if found is None and mode() == "on":
        raise UserError(
            f"the compiled operators were asked for and are not there: {why_not}; PADDLE_ATTN_OPS=auto goes on without them"
        )
    return found


@functools.cache
def _load() -> tuple[Kernels | None, str]:
    """Once a process: the operators, or why there are none."""
    try:
        load()
    except BuildError as error:
        return None, str(error)
    return Kernels(), ""
