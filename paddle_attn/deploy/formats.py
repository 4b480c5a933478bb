"""The formats of an exported network, and the engines that run them.

A new format is one file beside this one, and one entry in `FORMATS`; a new engine, one entry in its format.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from paddle import nn

from ..errors import UserError, unknown_name
from . import onnx_format, onnx_runtime, openvino_runtime, paddle_inference

PRECISIONS = ("fp32", "bf16", "int8")


class Engine(Protocol):
    """Runs an exported network."""

    def run(self, images: np.ndarray) -> np.ndarray:
        """Contiguous float32 images `[N, 3, H, W]` to probabilities `[N, num_classes]`."""
        ...


@dataclass(frozen=True)
class EngineKind:
    """An engine of a format."""

    create: Callable[[Path, int, str], Engine]  # the path of the network's first file, threads, precision
    package: str | None = None  # that it needs beside Paddle
    precisions: tuple[str, ...] = ("fp32",)

    @property
    def is_installed(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None


@dataclass(frozen=True)
class Format:
    """What the file of a format provides."""

    files: tuple[str, ...]  # the names of what `write` makes
    # (network, folder, image size or None for any, texts for readers of the file)
    write: Callable[[nn.Layer, Path, int | None, Mapping[str, str]], None]
    engines: Mapping[str, EngineKind]  # the fastest first
    int8_file: str | None = None  # the name of what `quantise` makes
    # (folder with the files, batches of preprocessed images to calibrate with)
    quantise: Callable[[Path, Iterable[np.ndarray]], None] | None = None

    @property
    def all_files(self) -> tuple[str, ...]:
        """The names of all files that this format can have in a folder."""
        return self.files if self.int8_file is None else (*self.files, self.int8_file)


FORMATS = {
    "paddle": Format(
        paddle_inference.FILES,
        paddle_inference.write,
        {"paddle": EngineKind(paddle_inference.Engine)},
    ),
    "onnx": Format(
        onnx_format.FILES,
        onnx_format.write,
        {
            "openvino": EngineKind(openvino_runtime.Engine, "openvino", ("fp32", "bf16", "int8")),
            "onnxruntime": EngineKind(onnx_runtime.Engine, "onnxruntime", ("fp32", "int8")),
        },
        onnx_format.INT8_FILE,
        onnx_format.quantise,
    ),
}


def choose_engine(format: str, engine: str = "auto", precision: str = "fp32") -> str:
    """The name of an engine that runs a format in a precision; 'auto' is the fastest that is installed.

    Raises: UserError for an unknown name, or when the format or the engine lacks the precision;
    ModuleNotFoundError, with the command that installs it, when the package of the engine is missing.
    """
    names = {"auto", *(name for other in FORMATS.values() for name in other.engines)}
    if engine not in names:
        raise unknown_name("engine", engine, names)
    engines = FORMATS[format].engines
    if engine not in engines and engine != "auto":
        others = [name for name, other in FORMATS.items() if engine in other.engines]
        raise UserError(
            f"the engine '{engine}' does not run the format '{format}': expected "
            f"{' or '.join(engines)}, or export with --format {others[0]}"
        )
    able = check_precision(format, precision)
    if engine == "auto":
        return next((name for name in able if engines[name].is_installed), able[-1])
    if engine not in able:
        raise UserError(f"the engine '{engine}' lacks {precision}: expected {' or '.join(able)}")
    return engine


def check_precision(format: str, precision: str) -> list[str]:
    """The engines that run a format in a precision. Raises UserError when there is none."""
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    able = [name for name, kind in FORMATS[format].engines.items() if precision in kind.precisions]
    if not able:
        raise UserError(
            f"the format '{format}' runs in fp32 only, found the precision '{precision}': "
            "export with --format onnx"
        )
    return able


def installed_engines(format: str) -> list[str]:
    """The engines of a format that are installed, the fastest first; if none is, the one to install."""
    engines = FORMATS[format].engines
    return [name for name, kind in engines.items() if kind.is_installed] or [choose_engine(format)]
