"""Wilson's interval of a fraction: known values, its bounds, and that it covers the truth."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddle_attn.train.intervals import wilson


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        (0, 0, 0.0, 1.0),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (302, 370, 0.7736, 0.8524),
    ],
)
def test_known_intervals(hits: int, count: int, low: float, high: float):
    assert wilson(hits, count) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@given(st.integers(1, 10**6), st.data())
def test_an_interval_holds_its_fraction_and_is_mirrored_for_the_misses(count: int, data: st.DataObject):
    hits = data.draw(st.integers(0, count))
    low, high = wilson(hits, count)
    assert 0 <= low <= hits / count <= high <= 1
    assert wilson(count - hits, count) == (pytest.approx(1 - high), pytest.approx(1 - low))


@pytest.mark.parametrize("truth", [0.5, 0.8, 0.95])
def test_95_percent_of_the_intervals_hold_the_truth(truth: float):
    """Exactly, from the binomial distribution: 370 images, as many as the notebook's."""
    count, covered = 370, 0.0
    for hits in range(count + 1):
        low, high = wilson(hits, count)
        if low <= truth <= high:
            log = math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1)
            covered += math.exp(log + hits * math.log(truth) + (count - hits) * math.log(1 - truth))
    assert 0.935 < covered < 0.965
