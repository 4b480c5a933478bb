"""Training and evaluation of the network that a config describes."""

from .evaluate import Evaluation, evaluate, evaluate_config
from .loop import fit
from .state import EpochMetrics, TrainState

__all__ = ["EpochMetrics", "Evaluation", "TrainState", "evaluate", "evaluate_config", "fit"]
