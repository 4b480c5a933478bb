"""Fused operators: compiled forms of operators whose reference forms are in `attention` and `models`.

A caller asks for the fused form of an operator, and uses the reference form when there is none:

    fused = ops.find("simam", x)
    return fused(x, e_lambda) if fused else reference(x, e_lambda)

`table.py` lists the fused forms by operator and device, `build.py` compiles them on first use.

`PADDLE_ATTN_OPS` sets the mode, and `with using(mode):` overrides it: `auto` (the default) uses the available
fused forms, `on` requires them, `off` uses none.

`with autocast():` lets convolutions and linear layers multiply in bfloat16 on processors with AVX512-BF16.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from contextvars import ContextVar

import paddle
from paddle import Tensor, nn
from paddle.base.dygraph.base import in_sot_simulation_mode

from .. import runtime
from ..errors import UserError, unknown_name
from . import build
from .table import TABLE, Fused
from .table import all_outputs as all_outputs

MODES = ("auto", "on", "off")
_mode: ContextVar[str | None] = ContextVar("mode", default=None)
_autocast: ContextVar[bool] = ContextVar("autocast", default=False)


@contextlib.contextmanager
def using(mode: str | None) -> Iterator[None]:
    """Set the mode of the fused operators within the block; None keeps it."""
    if mode is not None and mode not in MODES:
        raise unknown_name("mode of the fused operators", mode, MODES)
    token = _mode.set(mode or _mode.get())
    try:
        yield
    finally:
        _mode.reset(token)


def mode() -> str:
    """The mode set by `using`, else by `PADDLE_ATTN_OPS`, else 'auto'."""
    value = _mode.get() or os.environ.get("PADDLE_ATTN_OPS") or "auto"
    if value not in MODES:
        raise unknown_name("value of PADDLE_ATTN_OPS", value, MODES)
    return value


@contextlib.contextmanager
def autocast(enabled: bool = True) -> Iterator[None]:
    """Let the convolutions and linear layers of `ops.layers` multiply in bfloat16 within the block, on a CPU.

    Sums, weights, activations and gradients stay float32. A backward computes as its forward did, also after
    the block. Nothing changes where `bfloat16_problem` states a reason, and in exported programs.
    """
    token = _autocast.set(enabled)
    try:
        yield
    finally:
        _autocast.reset(token)


def casts() -> bool:
    """Whether `autocast` is on here."""
    return _autocast.get()


def bfloat16_problem(machine: runtime.Machine | None = None) -> str:
    """Why a machine, by default this one, cannot multiply in bfloat16, or "".

    Compiles the operators if necessary, when the machine is this one.
    """
    name = "bfloat16_conv"
    fused = TABLE[name]["cpu"]
    if not fused.runs_on(machine or runtime.this_machine()):
        return f"this processor lacks AVX512-BF16 (the flag {fused.processor})"
    if machine is not None:
        return ""
    if mode() == "off":
        return "the compiled operators are off (train.ops, PADDLE_ATTN_OPS)"
    return _problem("cpu", fused.source)


def find(name: str, x: Tensor) -> Fused | None:
    """The fused form of an operator for its first input x, or None: then the caller uses the reference form.

    It is None in a graph, in mode `off`, and when the table has no form that supports x on its device.
    In mode `auto` it is also None when that form cannot be compiled or loaded.

    Raises: UserError in mode `on` when the form cannot be compiled or loaded.
    """
    if in_sot_simulation_mode() or not paddle.in_dynamic_mode():  # SOT: the default of `paddle.jit.to_static`
        return None
    wanted = mode()
    if wanted == "off":
        return None
    device = _device(x)
    fused = TABLE[name].get(device)
    if fused is None or not fused.supports(x) or not fused.runs_on(_machine()):
        return None
    problem = _problem(device, fused.source)
    if not problem:
        return fused
    if wanted == "on":
        raise UserError(
            f"the fused operator '{name}' is required and not available: {problem}; "
            "PADDLE_ATTN_OPS=auto uses the reference form"
        )
    return None


def is_plain(layer: nn.Layer) -> bool:
    """Whether a layer does what its class does, without hooks and without a `forward` of its own.

    A fused form of several layers must not replace others.
    """
    return not (layer._forward_pre_hooks or layer._forward_post_hooks or "forward" in vars(layer))


def available(name: str, device: str = "cpu") -> bool:
    """Whether the fused form of an operator works here and is not turned off. Compiles it if necessary."""
    fused = TABLE[name].get(device)
    if fused is None or mode() == "off" or not fused.runs_on(_machine()):
        return False
    return not _problem(device, fused.source)


_machine = functools.cache(runtime.this_machine)


def _device(x: Tensor) -> str:
    place = x.place
    if place.is_cpu_place():
        return "cpu"
    if place.is_gpu_place():
        return "gpu"
    return place.custom_device_type() if place.is_custom_place() else str(place)


@functools.cache
def _problem(device: str, source: str) -> str:
    """Why a source's operators are unavailable, or "". The first call compiles all sources for the device."""
    found = [forms[device] for forms in TABLE.values() if device in forms]
    sources = {fused.source for fused in found if fused.runs_on(_machine())}
    return build.load(source, tuple(sorted(sources)))
