"""Training and evaluation: the rooms that know the config."""

from ..builders import load_trained, make_loader, make_network, make_preprocess, set_device
from .evaluate import Evaluation, evaluate, evaluate_config
from .fit import fit
from .history import Row

__all__ = [
    "Evaluation",
    "Row",
    "evaluate",
    "evaluate_config",
    "fit",
    "load_trained",
    "make_loader",
    "make_network",
    "make_preprocess",
    "set_device",
]
