"""Deployment: export a trained network, and predict with the exported one. It never imports `train`."""

from .export import export_model
from .export_config import export_config
from .predictor import Predictor

__all__ = ["Predictor", "export_config", "export_model"]
