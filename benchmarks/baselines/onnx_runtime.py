"""ONNX Runtime on our exported model, converted by paddle2onnx."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
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
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(converted), options, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).standard_normal([batch, 3, size, size]).astype("float32")
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: images})[0]
