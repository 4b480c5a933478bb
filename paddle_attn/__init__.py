"""Attention modules for convolutional networks in PaddlePaddle, each one tested against its authors' code.

`import paddle_attn` alone does not import Paddle; the first public name that needs Paddle does (PEP 562). So
`paddle_attn.runtime.tune()` can be called before.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the names of _NAMES, for type checkers and editors
    from .attention import create_attention as create_attention
    from .attention import list_attention as list_attention
    from .config import load_config as load_config
    from .deploy import Predictor as Predictor
    from .models import create_model as create_model
    from .models import list_models as list_models
    from .models import model_spec as model_spec
    from .models.complexity import profile as profile
    from .models.insertion import insert_attention as insert_attention
    from .weights import load_weights as load_weights
    from .weights import save_weights as save_weights

__version__ = "0.1.0"

# Paddle warns when it is imported. Its compiler cache is not used here.
warnings.filterwarnings("ignore", message="No ccache found")

_NAMES = {  # public name: the module that defines it
    "Predictor": "deploy",
    "create_attention": "attention",
    "create_model": "models",
    "insert_attention": "models.insertion",
    "list_attention": "attention",
    "list_models": "models",
    "load_config": "config",
    "load_weights": "weights",
    "model_spec": "models",
    "profile": "models.complexity",
    "save_weights": "weights",
}
_ROOMS = (
    "attention",
    "builders",
    "cli",
    "config",
    "data",
    "deploy",
    "diagnose",
    "errors",
    "explain",
    "files",
    "models",
    "ops",
    "plotting",
    "runtime",
    "study",
    "train",
    "weights",
)

__all__ = [*_NAMES, *_ROOMS, "__version__"]


def __getattr__(name: str):
    if name not in _NAMES and name not in _ROOMS:
        raise AttributeError(f"module 'paddle_attn' has no attribute '{name}'")
    from .errors import missing_package

    try:
        module = importlib.import_module(f".{_NAMES.get(name, name)}", __name__)
    except ModuleNotFoundError as error:
        raise missing_package(error) from None
    return getattr(module, name) if name in _NAMES else module


def __dir__() -> list[str]:
    return sorted(__all__)
