"""Where a trained network errs: a page about its predictions, and the comparison of two runs."""

from .comparison import compare_runs
from .report import diagnose

__all__ = ["compare_runs", "diagnose"]
