"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..errors import UserError, import_package


class Engine:
    """Runs a network of the ONNX format with the given number of threads."""

    def __init__(self, path: Path, threads: int, precision: str):
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        try:
            self._session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            reason = str(error).splitlines()[0]
            raise UserError(
                f"ONNX Runtime cannot load {path}: {reason}; export with --format paddle"
            ) from None
        self._input = self._session.get_inputs()[0].name

    def run(self, images: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._input: images})[0]


def import_onnxruntime():
    """The package, with its telemetry off: from 1.29 on, its wheels report their use to Microsoft.

    The variable counts only before the first import; the function serves Windows.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    runtime = import_package("onnxruntime")
    runtime.disable_telemetry_events()
    return runtime
