"""The format of Paddle Inference, which PaddleX and PaddleClas read too."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
from paddle import inference, nn
from paddle.static import InputSpec

FILES = GRAPH, PARAMETERS = "inference.json", "inference.pdiparams"


def write(net: nn.Layer, folder: Path, size: int | None) -> None:
    """Trace the network for images `[N, 3, size, size]` of any N (None: of any size too), and save it."""
    spec = InputSpec([None, 3, size, size], "float32", "x")
    traced = paddle.jit.to_static(net, input_spec=[spec], full_graph=True)
    paddle.jit.save(traced, str(folder / Path(GRAPH).stem))


class Engine:
    """Paddle Inference on the CPU, with the given number of threads."""

    def __init__(self, folder: Path, threads: int):
        config = inference.Config(str(folder / GRAPH), str(folder / PARAMETERS))
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(threads)
        config.enable_new_ir()
        config.enable_new_executor()
        config.disable_glog_info()
        self._predictor = inference.create_predictor(config)
        self._has_run = False

    def run(self, images: np.ndarray) -> np.ndarray:
        (name,) = self._predictor.get_input_names()
        self._predictor.get_input_handle(name).copy_from_cpu(images)
        with contextlib.nullcontext() if self._has_run else _native_stdout_hidden():
            self._predictor.run()
        self._has_run = True
        (name,) = self._predictor.get_output_names()
        return self._predictor.get_output_handle(name).copy_to_cpu()


@contextlib.contextmanager
def _native_stdout_hidden() -> Iterator[None]:
    """Hide what C++ prints: Paddle 3.3 prints a debug line for each mean in the graph at the first run."""
    sys.stdout.flush()
    stdout, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 1)
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(null)
