"""Studies: a grid of training runs over folds and seeds, and whether a difference is more than noise."""

from .map_scores import measure_maps
from .plan import Study, list_variants, load_study, plan_runs
from .report import write_report
from .runner import run_study
from .statistics import compare, holm

__all__ = [
    "Study",
    "compare",
    "holm",
    "list_variants",
    "load_study",
    "measure_maps",
    "plan_runs",
    "run_study",
    "write_report",
]
