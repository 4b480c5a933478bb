"""How far a fraction of images can be trusted."""

from __future__ import annotations

import math

NORMAL_95 = 1.959964  # the standard normal distribution is within ± this with 95 %


def wilson(hits: float, count: float) -> tuple[float, float]:
    """The 95 % confidence interval of a fraction, `hits / count`; (0, 1) without observations.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927. Unlike the
    fraction ± two standard errors, it stays within 0..1 and holds for few observations, and for 0 or 100 %.
    """
    if not count:
        return 0.0, 1.0
    fraction, square = hits / count, NORMAL_95**2 / count
    middle = fraction + square / 2
    margin = math.sqrt(square * (fraction * (1 - fraction) + square / 4))
    low, high = ((middle + sign * margin) / (1 + square) for sign in (-1, 1))
    return max(0.0, low) if hits else 0.0, min(1.0, high) if hits < count else 1.0
