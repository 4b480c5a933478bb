"""The format of Paddle Inference, which PaddleX and PaddleClas read too."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import paddle
from paddle import inference, nn
from paddle.static import InputSpec

FILES = GRAPH, PARAMETERS = "inference.json", "inference.pdiparams"
INPUT = "x"  # the name of the program's input
DEBUG_LINE = b"ReduceMeanCheckIfOneDNNSupport\n"  # Paddle 3.3 prints it for each mean at the first run
_stdout_lock = threading.Lock()  # file descriptor 1 belongs to the process


def write(net: nn.Layer, folder: Path, size: int | None, metadata: Mapping[str, str]) -> None:
    """Trace the network for images `[N, 3, size, size]` of any N (None: of any size too), and save it."""
    spec = InputSpec([None, 3, size, size], "float32", INPUT)
    traced = paddle.jit.to_static(net, input_spec=[spec], full_graph=True)
    paddle.jit.save(traced, str(folder / Path(GRAPH).stem))


class Engine:
    """Paddle Inference on the CPU, with the given number of threads."""

    def __init__(self, path: Path, threads: int, precision: str):
        self._path, self._threads = path, threads
        self._predictor = self._create()
        self._without_placement: inference.Predictor | None = None
        self._has_run = False

    def run(self, images: np.ndarray) -> np.ndarray:
        with contextlib.nullcontext() if self._has_run else _debug_lines_hidden():
            try:
                probabilities = _run(self._predictor, images)
            except RuntimeError:
                # oneDNN cannot multiply a grouped convolution's `[N, C, H, 1]`, N > 1, by weights per channel
                if self._without_placement is None:
                    self._without_placement = self._create(without="onednn_placement_pass")
                return _run(self._without_placement, images)
        self._has_run = True
        return probabilities

    def _create(self, without: str | None = None) -> inference.Predictor:
        """The program, optimised for this machine without a certain pass."""
        config = inference.Config(str(self._path), str(self._path.with_name(PARAMETERS)))
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(self._threads)
        config.enable_new_ir()
        config.enable_new_executor()
        config.disable_glog_info()
        if without:
            config.delete_pass(without)
        return inference.create_predictor(config)


def _run(predictor: inference.Predictor, images: np.ndarray) -> np.ndarray:
    (name,) = predictor.get_input_names()
    predictor.get_input_handle(name).copy_from_cpu(images)
    predictor.run()
    (name,) = predictor.get_output_names()
    return predictor.get_output_handle(name).copy_to_cpu()


@contextlib.contextmanager
def _debug_lines_hidden() -> Iterator[None]:
    """Remove `DEBUG_LINE` from the process's stdout. What other threads print meanwhile appears later."""
    with _stdout_lock, contextlib.ExitStack() as stack:
        try:
            stdout = os.dup(1)
        except OSError:  # closed
            yield
            return
        stack.callback(os.close, stdout)
        printed = stack.enter_context(tempfile.TemporaryFile())
        os.dup2(printed.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(stdout, 1)
            printed.seek(0)
            text = printed.read().replace(DEBUG_LINE, b"")
            while text:
                text = text[os.write(stdout, text) :]
