"""Confidence intervals of the score: cases are resampled, because slices of one patient are not independent.

All functions work on the totals of each case, (cases, 4), as `host` defines them; the score of a resampled set follows
from the sum of its rows. Percentile intervals of a few cases are too narrow; they are expanded after Hesterberg, "What
Teachers Should Know About the Bootstrap", The American Statistician 69 (2015), section 4.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from kitlib.scoring import host


class Interval(NamedTuple):
    """A value with the ends of its confidence interval; `low` and `high` are NaN for fewer than two cases."""

    value: float
    low: float
    high: float


def interval(totals: np.ndarray, confidence: float = 0.95, samples: int = 5000, seed: int = 0) -> Interval:
    """Return the score of all cases and its percentile interval.

    Args:
        totals: (cases, 4).
        confidence: share of the resampled scores inside the interval.
    """
    drawn = _draw(len(totals), samples, seed)
    return _interval(host.value(totals.sum(axis=0)), host.value(drawn @ totals), len(totals), confidence)


def gain(
    before: np.ndarray, after: np.ndarray, confidence: float = 0.95, samples: int = 5000, seed: int = 0
) -> Interval:
    """Return the difference of two scores on the same cases; both are resampled together.

    Args:
        before, after: (cases, 4) in the same order.
    """
    if before.shape != after.shape:
        raise ValueError(f"before has shape {before.shape} and after {after.shape}; expected totals of the same cases")
    drawn = _draw(len(before), samples, seed)
    difference = host.value(after.sum(axis=0)) - host.value(before.sum(axis=0))
    return _interval(difference, host.value(drawn @ after) - host.value(drawn @ before), len(before), confidence)


def _draw(cases: int, samples: int, seed: int) -> np.ndarray:
    """Draw samples: how often each case occurs in each, (samples, cases)."""
    if not cases:
        return np.zeros((samples, 0), int)
    return np.random.default_rng(seed).multinomial(cases, np.full(cases, 1 / cases), samples)


def _interval(center: float, resampled: np.ndarray, cases: int, confidence: float) -> Interval:
    resampled = resampled[~np.isnan(resampled)]
    if cases < 2 or not resampled.size:
        return Interval(float(center), float("nan"), float("nan"))
    # The expanded percentile interval: as much wider as Student's t with few cases is wider than the normal curve.
    tail = stats.norm.sf(np.sqrt(cases / (cases - 1)) * stats.t.isf((1 - confidence) / 2, cases - 1))
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(float(center), float(low), float(high))
