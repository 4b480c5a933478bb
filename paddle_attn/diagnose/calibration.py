"""Calibration: whether a network is right as often as its probabilities say, and temperature scaling.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arxiv.org/abs/1706.04599.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..train.intervals import wilson

BINS = 15  # of equal width, as in the paper
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
SIMULATIONS = 200  # of a perfectly calibrated network, for `Calibration.by_chance`


@dataclass(frozen=True)
class Bin:
    """The images whose highest probability is in a range."""

    confidence: float  # mean of the highest probability
    accuracy: float
    interval: tuple[float, float]  # of the accuracy, 95 %
    images: int


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy are apart."""

    error: float  # expected calibration error: the mean distance, weighted by the images of the bins
    by_chance: float  # the error that a perfectly calibrated network would have on as many images, on average
    loss: float  # mean cross entropy
    confidence: float  # mean of the highest probability
    accuracy: float
    bins: list[Bin]


def calibration(
    logits: np.ndarray, labels: np.ndarray, temperatures: np.ndarray | float = 1.0
) -> Calibration:
    """The calibration of logits `[N, classes]` divided by temperatures, one or one for each image."""
    scores = log_softmax(logits / np.reshape(temperatures, [-1, 1]))
    confidence, right = np.exp(scores.max(1)), scores.argmax(1) == labels
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = []
    for place in np.unique(places):
        inside = places == place
        hits, images = int(right[inside].sum()), int(inside.sum())
        bins.append(Bin(float(confidence[inside].mean()), hits / images, wilson(hits, images), images))
    rng = np.random.default_rng(0)
    draws = [_error(places, confidence, rng.random(len(labels)) < confidence) for _ in range(SIMULATIONS)]
    return Calibration(
        error=_error(places, confidence, right),
        by_chance=float(np.mean(draws)),
        loss=float(-scores[np.arange(len(labels)), labels].mean()),
        confidence=float(confidence.mean()),
        accuracy=float(right.mean()),
        bins=bins,
    )


def _error(places: np.ndarray, confidence: np.ndarray, right: np.ndarray) -> float:
    gaps = np.bincount(places, confidence - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(right))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """The logarithms of the probabilities, as float64 `[N, classes]`."""
    logits = logits.astype("float64")
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the lowest cross entropy, between 0.05 and 20.

    The cross entropy is convex in the inverse temperature b. Its slope, the mean over the images of the
    expected logit minus the logit of the true class, is halved in on.
    """
    logits = logits.astype("float64")
    true = logits[np.arange(len(labels)), labels]
    low, high = np.log(1 / MAX_TEMPERATURE), np.log(1 / MIN_TEMPERATURE)
    for _ in range(30):
        middle = (low + high) / 2
        powers = np.exp(log_softmax(logits * np.exp(middle)))
        slope = float(((powers * logits).sum(1) - true).mean())
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def cross_fitted_temperatures(
    logits: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, tuple[float, float]]:
    """For each image the temperature fitted on the half that does not hold it, and the two temperatures.

    Every second image of each class is in the second half.
    """
    order = np.argsort(labels, kind="stable")
    half = np.empty(len(labels), dtype=int)
    half[order] = np.arange(len(labels)) % 2
    fitted = [fit_temperature(logits[half == part], labels[half == part]) for part in (0, 1)]
    return np.where(half == 0, fitted[1], fitted[0]), (fitted[0], fitted[1])
