"""Time of a training step by operator: python -m benchmarks.breakdown MODEL SIZE BATCH STEPS

Prints a JSON object: milliseconds of a step with and without the profiler, this machine's peaks, and for
each kind of operator its calls, milliseconds, floating-point operations and bytes in a step.

Paddle's profiler measures the operators. It knows neither shapes nor the fused operators of forward, so
`Recorder` marks each call of an operator, and notes to which call each node of backward belongs.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
import statistics
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

if __name__ == "__main__":  # the answer is the only output: libraries may print
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from paddle_attn.cli import prepare_paddle

    prepare_paddle()

import numpy as np
import paddle
from paddle import Tensor, _C_ops, profiler

from paddle_attn import runtime
from paddle_attn.attention import ATTENTION

from .baselines.ours import Training
from .lines import OTHER, SHARES

KINDS = {  # pattern of an operator's name: kind; the first match counts. Convolutions differ by shape
    r"momentum|adam|sgd": "optimiser",
    r"batch_norm": "batch norm",
    r"simam|sge|attn_(scale|mean|channel_pool|se|cbam)": "attention",
    r"relu": "ReLU",
    r"pool": "pool",
    r"matmul|linear": "linear",
    r"cross_entropy|mean_all": "loss",
    r"^add_?$": "addition",
}
MARK = "benchmark call "
GIGA = 1e9


@dataclass
class Call:
    """A call of an operator in forward, or of a layer with its operators, and its node in backward.

    `flops` and `bytes` are of forward and backward: multiplications and additions, and each tensor that must
    be read or written, once.
    """

    kind: str
    flops: tuple[int, int] = (0, 0)
    bytes: tuple[int, int] = (0, 0)


class Recorder:
    """Marks the calls of operators for the profiler while `recording`, and attributes its events to them."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.backward: dict[str, deque[Call]] = defaultdict(deque)  # by node, in the order of execution
        self.outer: Call | None = None  # the marked layer or function that runs

    @contextlib.contextmanager
    def recording(self, training: Training) -> Iterator[None]:
        """Mark every operator; as a whole, attention layers and the optimiser."""
        whole = {"step": training.optimizer.step, "clear_grad": training.optimizer.clear_grad}
        attention = tuple(ATTENTION.values())
        layers = [layer for layer in training.net.sublayers() if isinstance(layer, attention)]
        operators = {
            name: function
            for name, function in vars(_C_ops).items()
            if callable(function) and not name.startswith("__")
        }
        add = Tensor.__add__
        try:
            for name, function in operators.items():
                setattr(_C_ops, name, self._operator(name, function))
            Tensor.__add__ = self._operator("add", add)
            for name, function in whole.items():
                setattr(training.optimizer, name, self._whole("optimiser", function))
            for layer in layers:
                layer.forward = self._whole("attention", layer.forward)
            yield
        finally:
            for name, function in operators.items():
                setattr(_C_ops, name, function)
            Tensor.__add__ = add
            for name in whole:
                delattr(training.optimizer, name)
            for layer in layers:
                del layer.forward

    def _whole(self, kind: str, function: Callable) -> Callable:
        """The function as one marked call; the operators in it add their work to this call."""

        @functools.wraps(function)
        def marked(*args: Any, **kwargs: Any) -> Any:
            with self._marked(Call(kind)) as self.outer:
                try:
                    return function(*args, **kwargs)
                finally:
                    self.outer = None

        return marked

    def _operator(self, name: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def marked(*args: Any, **kwargs: Any) -> Any:
            operator = args[0] if name == "_run_custom_op" else name
            inputs = list(tensors(args))
            call = Call(kind_of(operator, inputs)) if self.outer is None else self.outer
            with self._marked(call) if self.outer is None else contextlib.nullcontext():
                returned = function(*args, **kwargs)
            outputs = list(tensors([returned]))
            call.flops = add_pairs(call.flops, flops(call.kind, inputs, outputs))
            call.bytes = add_pairs(call.bytes, traffic(operator, inputs, outputs))
            if outputs and not outputs[0].stop_gradient and not outputs[0].is_leaf:
                queue = self.backward[outputs[0].grad_fn.name()]
                outputs[0].register_hook(lambda gradient: queue.append(call))  # runs just before the node
            return returned

        return marked

    @contextlib.contextmanager
    def _marked(self, call: Call) -> Iterator[Call]:
        self.calls.append(call)
        with profiler.RecordEvent(f"{MARK}{len(self.calls) - 1}"):
            yield call

    def attribute(self, events: Sequence[Any]) -> Iterator[tuple[Call, bool, float]]:
        """The call, whether it is in backward, and the milliseconds of each event of the profiler."""
        for event in events:
            milliseconds, node = (event.end_ns - event.start_ns) / 1e6, event.name.removeprefix("Global_")
            if event.name.startswith(MARK):
                yield self.calls[int(event.name.removeprefix(MARK))], False, milliseconds
            elif event.type != profiler.TracerEventType.Operator:
                yield from self.attribute(event.children_node)
            elif self.backward[node]:
                yield self.backward[node].popleft(), True, milliseconds
            else:
                yield Call(kind_of(operator_of(event.name), [])), node != event.name, milliseconds


def kind_of(operator: str, inputs: Sequence[Tensor]) -> str:
    """A key of `SHARES`, from an operator's name and its inputs: of a convolution the map and the weight."""
    if "conv" in operator or "depthwise" in operator:
        return convolution(*inputs[:2]) if len(inputs) > 1 else OTHER
    return next((kind for pattern, kind in KINDS.items() if re.search(pattern, operator)), OTHER)


def convolution(x: Tensor, weight: Tensor) -> str:
    _, channels, height, width = weight.shape
    if x.stop_gradient:
        return "first convolution"
    if channels == 1 and x.shape[1] > 1:
        return "depthwise convolution"
    name = f"{height}×{width} convolution"
    return name if name in SHARES else "other convolution"


def operator_of(event: str) -> str:
    """The operator's name: 'Global_BatchNormGradNode' -> 'batch_norm', 'add dygraph' -> 'add'."""
    name = event.removeprefix("Global_").removeprefix("CustomOpGradNode: ").removesuffix(" dygraph")
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return re.sub(r"_grad(_node.*)?$", "", snake)


def tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            if value._is_initialized():
                yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors(value)


def flops(kind: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> tuple[int, int]:
    """Of forward and backward, where convolutions and matrix products count, in their direct form."""
    if "convolution" in kind:
        forward = 2 * math.prod(outputs[0].shape) * math.prod(inputs[1].shape[1:])
        return forward, forward if inputs[0].stop_gradient else 2 * forward
    if kind == "linear" and len(inputs) > 1:
        forward = 2 * math.prod(outputs[0].shape) * inputs[0].shape[-1]
        return forward, 2 * forward
    return 0, 0


def traffic(operator: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> tuple[int, int]:
    """Bytes of forward and backward. Backward reads the inputs again, except an addition's."""
    read, written = sum(map(bytes_of, inputs)), sum(map(bytes_of, outputs))
    if not outputs or outputs[0].stop_gradient:
        return read + written, 0
    gradients = sum(bytes_of(x) for x in inputs if not x.stop_gradient)
    saved = 0 if operator.startswith("add") else read
    return read + written, saved + written + gradients


def bytes_of(x: Tensor) -> int:
    return math.prod(x.shape) * x.element_size()  # x.size is an operator, and slow


def add_pairs(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] + other[0], one[1] + other[1]


def breakdown(model: str, size: int, batch: int, steps: int) -> dict[str, Any]:
    """Milliseconds of a training step with SimAM, and of its operators.

    Returns: `step_ms` without the profiler, a median; `profiled_ms` with it, a mean; and `rows`, for each
        kind [kind, calls, forward ms, backward ms, GFLOP, GB] of a step.
    """
    training, recorder = Training(model, "simam", size, batch), Recorder()
    for _ in range(2):
        training.step(*training.batch)
    plain = [seconds(lambda: training.step(*training.batch)) for _ in range(steps)]
    with recorder.recording(training):
        profile = profiler.Profiler(targets=[profiler.ProfilerTarget.CPU], on_trace_ready=lambda _: None)
        profile.start()
        profiled = [seconds(lambda: training.step(*training.batch)) for _ in range(steps)]
        profile.stop()
    plain += [seconds(lambda: training.step(*training.batch)) for _ in range(steps)]
    rows = {kind: [0.0] * 5 for kind in SHARES}  # calls, forward ms, backward ms, GFLOP, GB
    for root in profile.profiler_result.get_data().values():
        for call, in_backward, milliseconds in recorder.attribute([root]):
            row = rows[call.kind]
            row[0] += not in_backward
            row[1 + in_backward] += milliseconds
    for call in recorder.calls:
        rows[call.kind][3] += sum(call.flops) / GIGA
        rows[call.kind][4] += sum(call.bytes) / GIGA
    return {
        "size": size,
        "batch": batch,
        "step_ms": 1000 * statistics.median(plain),
        "profiled_ms": 1000 * statistics.mean(profiled),
        "rows": [[kind, *(value / steps for value in row)] for kind, row in rows.items() if any(row)],
    }


def seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def matrix_product_peak(size: int = 2048, turns: int = 7) -> float:
    """GFLOP/s of Paddle's float32 matrix product: the best of some."""
    one, other = paddle.randn([size, size]), paddle.randn([size, size])
    return 2 * size**3 / min(seconds(lambda: paddle.matmul(one, other)) for _ in range(turns)) / GIGA


def copy_peak(megabytes: int = 256, turns: int = 7) -> float:
    """GB/s, read and written, of copying memory larger than the caches on all cores: the best of some."""
    threads = runtime.default_threads(runtime.this_machine(), os.environ)
    source = np.ones([threads, megabytes * 2**20 // 4 // threads], "float32")
    target = np.empty_like(source)
    with ThreadPoolExecutor(threads) as pool:
        best = min(seconds(lambda: list(pool.map(np.copyto, target, source))) for _ in range(turns + 1))
    return 2 * source.nbytes / best / GIGA


def main() -> None:
    model, (size, batch, steps) = sys.argv[1], map(int, sys.argv[2:])
    found = breakdown(model, size, batch, steps)
    peaks = {"peak_gflops": matrix_product_peak(), "peak_gbs": copy_peak()}
    print(json.dumps(found | peaks), file=answers, flush=True)


if __name__ == "__main__":
    main()
