"""What the finished runs of a study say: each variant's accuracy and the faithfulness of its maps, compared
with the baseline's.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import UserError
from ..train.predictions import Prediction
from .plan import Study, list_variants, plan_runs
from .results import MapScore, Results, Row
from .statistics import Comparison, Judged, Pair, compare, judge

BASELINE = Judged(None, math.nan, 0)  # it is not compared with itself


@dataclass(frozen=True)
class Compared:
    """A variant and its comparison with the baseline."""

    name: str
    judged: Judged

    @property
    def comparison(self) -> Comparison | None:
        """The difference from the baseline; None for the baseline and without pairs."""
        return self.judged.comparison

    @property
    def verdict(self) -> str:
        """See Judged."""
        return self.judged.verdict


@dataclass(frozen=True)
class VariantResult(Compared):
    """The accuracy of a variant's finished runs, compared with the baseline's."""

    rows: list[Row]

    @property
    def mean(self) -> float:
        """The mean over folds of the mean over seeds."""
        return mean_over_folds({(row.fold, row.seed): row.top1 for row in self.rows})

    @property
    def deviation(self) -> float:
        """The standard deviation of the runs; not a number for one."""
        return statistics.stdev(row.top1 for row in self.rows) if len(self.rows) > 1 else math.nan


@dataclass(frozen=True)
class MapResult(Compared):
    """How faithful the maps of a variant's runs are; what is compared with the baseline's is the gain."""

    scores: dict[tuple[int, int], list[MapScore]]  # by fold and seed

    def mean(self, value: str) -> float:
        """The mean of 'deletion', 'insertion' or 'gain', over folds of the mean over seeds."""
        by_run = {
            key: statistics.mean(getattr(each, value) for each in found) for key, found in self.scores.items()
        }
        return mean_over_folds(by_run)


def summarize(study: Study, results: Results) -> list[VariantResult]:
    """The finished runs of each variant, compared with the baseline; the baseline first.

    Raises: UserError when there are none, when they were tested on different images, or when a row and the
        predictions of its run contradict each other.
    """
    plan = plan_runs(study)
    results.check(study, plan)
    rows = results.rows()
    names = [variant.name for variant in list_variants(study)]
    finished = {
        name: [rows[run.name] for run in plan if run.variant == name and run.name in rows] for name in names
    }
    if not rows:
        raise UserError(f"{results.folder} holds no finished runs: run the study first")
    if not finished[names[0]]:
        raise UserError(
            f"{results.folder} holds no finished run of {names[0]}, with which the others are compared: "
            "run the study again"
        )
    baseline = {(row.fold, row.seed): row for row in finished[names[0]]}
    predictions = {row.run: results.predictions_of(row) for row in rows.values()}
    judged = judge(
        {
            name: [
                make_pair(row, predictions[row.run], predictions[baseline[row.fold, row.seed].run])
                for row in finished[name]
                if (row.fold, row.seed) in baseline
            ]
            for name in names[1:]
        }
    )
    return [
        VariantResult(name, judged.get(name, BASELINE), finished[name]) for name in names if finished[name]
    ]


def compare_together(study: Study, results: Results) -> Comparison | None:
    """The mean of all other variants, compared with the baseline: whether attention helps at all.

    Over the folds and seeds that every variant has finished; None without such a fold, and with a single
    other variant.
    """
    rows, names = results.rows(), [variant.name for variant in list_variants(study)]
    runs: dict[tuple[int, int], list[str]] = {}
    for run in plan_runs(study):
        if run.name in rows:
            runs.setdefault((run.fold, run.seed), []).append(run.name)
    pairs = []
    for key, found in runs.items():
        if len(found) == len(names) > 2:
            right = [[each.is_right for each in results.predictions(name)] for name in found]
            baseline, *others = np.array(right, float)  # a plan begins with the baseline in each fold
            pairs.append(Pair(*key, np.mean(others, axis=0) - baseline))
    return compare(pairs) if pairs else None


def summarize_maps(study: Study, results: Results) -> list[MapResult]:
    """How faithful the maps of each variant are, compared with the baseline; the baseline first.

    Empty when the baseline has no run with such measurements.
    """
    rows = results.rows()
    scores: dict[str, dict[tuple[int, int], list[MapScore]]] = {
        variant.name: {} for variant in list_variants(study)
    }
    for run in plan_runs(study):
        if run.name in rows and (found := results.map_scores(run.name)):
            scores[run.variant][run.fold, run.seed] = found
    baseline, *others = scores
    if not scores[baseline]:
        return []
    judged = judge(
        {
            name: [
                Pair(*key, _gains(found) - _gains(scores[baseline][key]))
                for key, found in scores[name].items()
                if key in scores[baseline]
            ]
            for name in others
        }
    )
    return [MapResult(name, judged.get(name, BASELINE), found) for name, found in scores.items() if found]


def _gains(scores: Sequence[MapScore]) -> np.ndarray:
    return np.array([each.gain for each in scores])


def mean_over_folds(values: Mapping[tuple[int, int], float]) -> float:
    """The mean over folds of the mean over seeds, of values by fold and seed."""
    folds = sorted({fold for fold, _ in values})
    return statistics.mean(
        statistics.mean(value for (other, _), value in values.items() if other == fold) for fold in folds
    )


def make_pair(row: Row, variant: Sequence[Prediction], baseline: Sequence[Prediction]) -> Pair:
    """The pair of a variant's run and the baseline's, from their predictions.

    Raises: UserError when they were tested on different images.
    """
    if [each.image for each in variant] != [each.image for each in baseline]:
        raise UserError(
            f"{row.run} and the baseline were tested on different images in fold {row.fold}: "
            "expected the same photographs for all runs of a study"
        )
    gains = [
        int(ours.is_right) - int(theirs.is_right) for ours, theirs in zip(variant, baseline, strict=True)
    ]
    return Pair(row.fold, row.seed, np.array(gains))
