"""OpenVINO on the CPU."""

from __future__ import annotations

import collections
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import UserError, import_package

MAX_SHAPES = 4  # compiled networks to keep; a new shape takes about a second

Shape = tuple[int, ...]  # of the images


class Engine:
    """Runs a network of the ONNX format with the given number of threads.

    Compiles it for each shape of the images, which is faster than one network for all shapes.

    Raises: UserError for precision bf16 on a CPU without it.
    """

    def __init__(self, path: Path, threads: int, precision: str):
        self._core = import_openvino().Core()
        if precision == "bf16" and not supports_bf16(self._core):
            raise UserError(
                "this CPU does not compute in bf16 (AVX512-BF16, AMX): expected precision fp32 or int8"
            )
        self._path = path
        self._config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",  # its own default varies
        }
        self._requests: collections.OrderedDict[Shape, Any] = (
            collections.OrderedDict()
        )  # the last used is last
        self._padded: Shape | None = None  # the last shape that ran in a larger batch

    def run(self, images: np.ndarray) -> np.ndarray:
        shape = images.shape
        larger = [known for known in self._requests if known[1:] == shape[1:] and known[0] > shape[0]]
        if shape not in self._requests and shape != self._padded and larger:
            self._padded = shape  # maybe the rest of a folder's images: not worth a compilation
            rest = np.zeros([min(larger)[0] - shape[0], *shape[1:]], "float32")
            return self.run(np.concatenate([images, rest]))[: shape[0]]
        request = self._requests.pop(shape, None) or self._compile(shape)
        self._requests[shape] = request
        if len(self._requests) > MAX_SHAPES:
            self._requests.popitem(last=False)
        return request.infer([images])[0]

    def _compile(self, shape: Shape) -> Any:
        model = self._core.read_model(self._path)
        model.reshape(list(shape))
        return self._core.compile_model(model, "CPU", self._config).create_infer_request()


def import_openvino() -> ModuleType:
    """The package, without its telemetry, which reports to Google Analytics that it was imported.

    OpenVINO works without the package that sends the reports, so that is hidden meanwhile.
    """
    telemetry = sys.modules.pop("openvino_telemetry", None)
    sys.modules["openvino_telemetry"] = None
    try:
        return import_package("openvino")
    finally:
        del sys.modules["openvino_telemetry"]
        if telemetry is not None:
            sys.modules["openvino_telemetry"] = telemetry


def supports_bf16(core: Any) -> bool:
    """Whether OpenVINO computes in bf16 on this CPU."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
