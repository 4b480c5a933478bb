"""ONNX Runtime on our exported model, converted by paddle2onnx."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the first import
import onnxruntime


def infer_step(model: str, attn: str | None, size: int, batch: int, folder: str) -> Callable[[], object]:
    converted = Path(folder) / "model.onnx"
    if not converted.exists():
        import paddle2onnx

        exported = Path(folder) / "inference"
        paddle2onnx.export(
            f"{exported}.json",
            f"{exported}.pdiparams",
            str(converted),
            opset_version=17,
            optimize_tool="None",
        )
    return _step(converted, size, batch)


def engine_step(size: int, batch: int, folder: str) -> Callable[[], object]:
    """Our export to ONNX, in fp32. Waits until our side, which starts at the same time, has exported it."""
    path = Path(folder) / "inference.onnx"
    while not path.exists():
        time.sleep(0.2)
    return _step(path, size, batch)


def _step(path: Path, size: int, batch: int) -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).standard_normal([batch, 3, size, size]).astype("float32")
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: images})[0]
