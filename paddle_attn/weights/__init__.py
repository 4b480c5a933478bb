"""Reads and writes weights: strictly, and without running anything in a file."""

from .class_names import class_names
from .files import read_weights, save_weights
from .loading import LoadReport, load_state, load_weights, non_finite
from .pretrained import load_pretrained
from .torch_layout import translated

__all__ = [
    "LoadReport",
    "class_names",
    "load_pretrained",
    "load_state",
    "load_weights",
    "non_finite",
    "read_weights",
    "save_weights",
    "translated",
]
