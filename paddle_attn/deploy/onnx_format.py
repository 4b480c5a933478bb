"""The ONNX format: one file that also holds the classes and the preprocessing, and its int8 form."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from paddle import nn

from ..errors import UserError, import_package
from ..runtime import Machine, this_machine
from . import paddle_inference
from .onnx_runtime import import_onnxruntime

FILES = (FILE,) = ("inference.onnx",)
INT8_FILE = "inference.int8.onnx"
OPSET = 17
CONVERT = """
import sys
import paddle2onnx

program, parameters, path, opset = sys.argv[1:]
# its own optimiser installs packages when it is first used
paddle2onnx.export(program, parameters, path, opset_version=int(opset), optimize_tool="None")
"""


def write(net: nn.Layer, folder: Path, size: int | None, metadata: Mapping[str, str]) -> None:
    """Convert the network for images `[N, 3, size, size]` of any N (None: of any size too).

    Args:
        metadata: for the file's `metadata_props`, which other programs can read.

    Raises: ModuleNotFoundError, with the command that installs it, when a package is missing; UserError
    when the network has an operator that paddle2onnx does not convert.
    """
    onnx = import_package("onnx")
    with tempfile.TemporaryDirectory() as temporary:
        paddle_inference.write(net, Path(temporary), size, {})
        _convert(Path(temporary), folder / FILE)
    model = onnx.load(folder / FILE)
    graph = model.graph
    for value, axes in ((graph.input[0], ("batch", "", "height", "width")), (graph.output[0], ("batch",))):
        for dimension, name in zip(value.type.tensor_type.shape.dim, axes, strict=False):
            if name and not dimension.dim_value:
                dimension.dim_param = name
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)  # ONNX Runtime warns about each
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / FILE)


def _convert(program: Path, path: Path) -> None:
    """Convert a program of Paddle Inference, in a process that the converter may abort."""
    import_package("paddle2onnx")
    files = [str(program / name) for name in paddle_inference.FILES]
    result = subprocess.run(
        [sys.executable, "-c", CONVERT, *files, str(path), str(OPSET)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if result.returncode:
        reasons = [
            line.split("]")[-1] for line in result.stdout.splitlines() if "[ERROR][Paddle2ONNX]" in line
        ]
        raise UserError(
            f"paddle2onnx cannot convert this network: {' '.join(reasons) or result.stdout[-500:]} "
            "Export it without --dynamic, or with --format paddle"
        )


def quantise(folder: Path, batches: Iterable[np.ndarray]) -> None:
    """Write `INT8_FILE` beside `FILE`: convolutions and matrix products in int8, with scales per channel.

    On a processor whose sums of int8 products saturate, the weights have seven bits.

    Args:
        batches: preprocessed images `[N, 3, H, W]`, which set the ranges of the activations.
    """
    runtime = import_onnxruntime()
    runtime.set_default_logger_severity(3)  # the tool's sessions warn about every constant that they fold
    import_package("ml_dtypes")  # a part of the tool needs it
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        """Hands the batches to the tool."""

        def __init__(self):
            self.batches = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {paddle_inference.INPUT: batch}

    with tempfile.TemporaryDirectory() as temporary:
        fused = Path(temporary, FILE)
        quant_pre_process(folder / FILE, fused, skip_symbolic_shape=True)  # batch norms go into convolutions
        quantization.quantize_static(
            fused,
            folder / INT8_FILE,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=saturates(this_machine()),
            # the mean of the batches' extremes: one unusual image does not widen the steps of all
            extra_options={"CalibMovingAverage": True},
        )


def saturates(machine: Machine) -> bool:
    """Whether a processor adds two products of int8 in 16 bits: those of x86 do before VNNI."""
    return "avx2" in machine.flags and not machine.flags & {"avx512_vnni", "avx_vnni"}
