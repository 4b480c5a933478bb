"""Training and evaluation: the rooms that know the config."""

from .evaluate import Evaluation, evaluate, evaluate_config
from .export import export_config
from .fit import fit
from .history import Row
from .parts import load_trained, make_loader, make_network, make_preprocess, set_device

__all__ = [
    "Evaluation",
    "Row",
    "evaluate",
    "evaluate_config",
    "export_config",
    "fit",
    "load_trained",
    "make_loader",
    "make_network",
    "make_preprocess",
    "set_device",
]
