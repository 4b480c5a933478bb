"""Whether a variant is better than the baseline, from the paired predictions of their runs.

A run of a variant and the baseline's run with the same fold and seed are a pair: they saw the same images in
the same order and are tested on the same images. Folds are tested on different images, so they are the
independent observations; the seeds of a fold are not, as they share its images. The 95 % interval is
Student's t interval over the folds' mean differences. A bootstrap over five folds covers too rarely.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

LEVEL = 0.95  # of the intervals
POWER = 0.84  # the standard normal quantile of 80 %: so often the advised number of runs finds the difference
MAX_MORE = 1000  # runs; a larger need is reported as more than this many
EQUAL = 1e-12  # differences that are closer than this are the same
MAX_DF = 1000  # degrees of freedom; beyond them Student's t is the normal distribution to three digits


@dataclass(frozen=True)
class Pair:
    """The runs of a variant and of the baseline with the same fold and seed."""

    fold: int
    seed: int
    # [images]: the variant's value minus the baseline's, such as 1 where only the variant is right
    gains: np.ndarray

    @property
    def difference(self) -> float:
        """The variant's mean minus the baseline's."""
        return float(self.gains.mean())


@dataclass(frozen=True)
class Comparison:
    """A variant's difference from the baseline, such as in top-1 as a fraction of 1."""

    difference: float  # the mean over folds of the mean over seeds
    error: float  # standard error; not a number with a single pair
    df: int  # degrees of freedom
    pairs: int
    spread: Spread

    @property
    def margin(self) -> float:
        """Half the width of the 95 % interval."""
        return t_quantile((1 + LEVEL) / 2, self.df) * self.error if self.df else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        return self.difference - self.margin, self.difference + self.margin

    @property
    def p(self) -> float:
        """The two-sided probability of a difference at least as large when there is none."""
        if not self.df or math.isnan(self.difference):
            return math.nan
        if not self.error:
            return 1.0 if not self.difference else 0.0
        return t_probability(abs(self.difference) / self.error, self.df)

    def more_runs(self, alpha: float = 1 - LEVEL, max_folds: int = 1) -> float:
        """How many more runs of each variant would show a difference as large as the observed one.

        In four of five studies, at significance `alpha`. Infinite when no number of seeds would, because the
        folds differ too much; not a number with a single pair.

        Args:
            max_folds: a study of several folds may grow to this many, and then by seeds.
        """
        if not self.df:
            return math.nan
        spread = self.spread
        folds = max(spread.folds, max_folds) if spread.folds > 1 else 1
        df = folds - 1 if folds > 1 else self.df
        wanted = abs(self.difference) / (t_quantile(1 - alpha / 2, df) + POWER)
        free = wanted**2 - spread.between / folds  # the variance that is left for the seeds
        if free <= 0:
            return math.inf
        seeds = math.ceil(spread.within / folds / free)
        return max(folds * seeds, self.pairs + 1) - self.pairs


class Spread(NamedTuple):
    """The variance of a pair's difference: between folds, and between the seeds of a fold."""

    folds: int
    between: float
    within: float


def compare(pairs: Sequence[Pair]) -> Comparison:
    """The paired difference of a variant from the baseline, and how far to trust it.

    Args:
        pairs: at least one; the gains of the same fold have the same images in the same order.
    """
    folds = [[pair for pair in pairs if pair.fold == fold] for fold in sorted({pair.fold for pair in pairs})]
    if len(folds) > 1:
        return _over_folds(folds)
    return _over_seeds(folds[0])


def _over_folds(folds: list[list[Pair]]) -> Comparison:
    """Student's t over the folds' means."""
    count, pairs = len(folds), [pair for fold in folds for pair in fold]
    means = [np.mean([pair.difference for pair in fold]) for fold in folds]
    variance, df = float(np.var(means, ddof=1)) / count, count - 1
    seeds = len(pairs) / count
    within = _mean([np.var([pair.difference for pair in fold], ddof=1) for fold in folds if len(fold) > 1])
    if math.isnan(within):  # one seed: nothing separates the two, so more seeds may help less than it seems
        spread = Spread(count, 0.0, variance * count)
    else:
        spread = Spread(count, max(0.0, variance * count - within / seeds), within)
    if np.ptp(means) < EQUAL:
        variance, df = _over_images(pairs)
    return Comparison(float(np.mean(means)), math.sqrt(variance), min(df, MAX_DF), len(pairs), spread)


def _over_seeds(pairs: Sequence[Pair]) -> Comparison:
    """One fold: the spread of the seeds, and that of the images which all of them share.

    The second is the covariance of two seeds over the images. Satterthwaite's degrees of freedom.
    """
    count, images = len(pairs), len(pairs[0].gains)
    differences = [pair.difference for pair in pairs]
    if count == 1:
        return Comparison(differences[0], math.nan, 0, 1, Spread(1, math.nan, math.nan))
    within = float(np.var(differences, ddof=1))
    covariance = np.cov(np.stack([pair.gains for pair in pairs]))
    shared = max(0.0, float(covariance.sum() - covariance.trace()) / (count * (count - 1)) / images)
    if np.ptp(differences) < EQUAL:
        variance, df = _over_images(pairs)
    else:
        variance = within / count + shared
        df = variance**2 / ((within / count) ** 2 / (count - 1) + shared**2 / max(images - 1, 1))
    spread = Spread(1, shared, within)
    return Comparison(
        float(np.mean(differences)), math.sqrt(variance), min(max(1, int(df)), MAX_DF), count, spread
    )


def _over_images(pairs: Sequence[Pair]) -> tuple[float, int]:
    """The variance of the mean, and its degrees of freedom, when only the images vary.

    For runs that agree to the last image, which happens by chance when the images are few.
    """
    folds = sorted({pair.fold for pair in pairs})
    by_image = [np.mean([pair.gains for pair in pairs if pair.fold == fold], axis=0) for fold in folds]
    gains = np.concatenate(by_image)
    return float(np.var(gains)) / len(gains), len(gains) - 1


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


@dataclass(frozen=True)
class Judged:
    """A comparison with the baseline among several; `comparison` is None without pairs."""

    comparison: Comparison | None
    p: float  # after Holm's correction; not a number without an interval
    compared: int  # the number of variants with an interval

    @property
    def verdict(self) -> str:
        """'better', 'worse', 'not told apart', 'one pair' or 'no pair'."""
        if self.comparison is None:
            return "no pair"
        if math.isnan(self.p):
            return "one pair"
        if self.p >= 1 - LEVEL:
            return "not told apart"
        return "better" if self.comparison.difference > 0 else "worse"


def judge(pairs: Mapping[str, Sequence[Pair]]) -> dict[str, Judged]:
    """Compare each variant with the baseline, with Holm's correction over those that have an interval.

    Args:
        pairs: of each variant by its name; a variant may have none.
    """
    comparisons = {name: compare(each) for name, each in pairs.items() if each}
    corrected = dict(zip(comparisons, holm([each.p for each in comparisons.values()]), strict=True))
    compared = sum(not math.isnan(p) for p in corrected.values())
    return {name: Judged(comparisons.get(name), corrected.get(name, math.nan), compared) for name in pairs}


def holm(probabilities: Sequence[float]) -> list[float]:
    """Holm's correction of the p-values of several comparisons, which bounds the chance of any false alarm.

    Those that are not a number stay so, and do not count.
    """
    order = sorted(
        (index for index, p in enumerate(probabilities) if not math.isnan(p)), key=probabilities.__getitem__
    )
    corrected, largest = [math.nan] * len(probabilities), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * probabilities[index]))
        corrected[index] = largest
    return corrected


# ---- Student's t, in closed form for whole degrees of freedom: scipy has 35 MB for these two functions


def t_probability(t: float, df: int) -> float:
    """The probability of Student's t outside ±t, for t >= 0 (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan2(t, math.sqrt(df))
    cosine, total, term = math.cos(angle), 0.0, 1.0
    if df % 2:
        term = math.cos(angle)
        for k in range(1, df - 1, 2):
            total += term
            term *= cosine * cosine * (k + 1) / (k + 2)
        return max(0.0, 1 - 2 / math.pi * (angle + math.sin(angle) * total))
    for k in range(0, df, 2):
        total += term
        term *= cosine * cosine * (k + 1) / (k + 2)
    return max(0.0, 1 - math.sin(angle) * total)


@functools.cache
def t_quantile(probability: float, df: int) -> float:
    """The value that Student's t exceeds with 1 - `probability`, which is at least 0.5."""
    low, high = 0.0, 1.0
    while t_probability(high, df) > 2 * (1 - probability):
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, df) > 2 * (1 - probability) else (low, middle)
    return high
