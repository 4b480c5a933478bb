"""Reading and writing weights: strictly, and without running anything that a file says."""

from .loading import (
    LoadReport,
    load_pretrained,
    load_state,
    load_weights,
    read_checkpoint,
    read_weights,
    save_checkpoint,
    save_weights,
    translated,
)

__all__ = [
    "LoadReport",
    "load_pretrained",
    "load_state",
    "load_weights",
    "read_checkpoint",
    "read_weights",
    "save_checkpoint",
    "save_weights",
    "translated",
]
