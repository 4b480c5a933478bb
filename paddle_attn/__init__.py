"""Attention modules for convolutional networks in PaddlePaddle, each one held against its authors' code.

`import paddle_attn` alone does not import Paddle: the first public name that needs it does (PEP 562), so that
`paddle_attn.runtime.tune()` can be called before.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_HOMES = {  # public name: the module that defines it
    "create_attention": "attention",
    "list_attention": "attention",
    "create_model": "models",
    "list_models": "models",
    "model_spec": "models",
    "insert_attention": "models.insertion",
    "load_weights": "weights",
    "save_weights": "weights",
    "profile": "models.complexity",
    "Predictor": "deploy",
    "load_config": "config",
}
_ROOMS = (
    "attention",
    "cli",
    "config",
    "data",
    "errors",
    "deploy",
    "models",
    "ops",
    "runtime",
    "train",
    "weights",
)

__all__ = [*_HOMES, *_ROOMS, "__version__"]


def __getattr__(name: str):
    if name not in _HOMES and name not in _ROOMS:
        raise AttributeError(f"module 'paddle_attn' has no attribute '{name}'")
    from .errors import missing_package

    try:
        module = importlib.import_module(f".{_HOMES.get(name, name)}", __name__)
    except ModuleNotFoundError as error:
        raise missing_package(error) from None
    return getattr(module, name) if name in _HOMES else module


def __dir__() -> list[str]:
    return sorted(__all__)
