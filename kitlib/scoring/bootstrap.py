"""How sure a score is: cases drawn again with replacement, because slices of one patient are not independent.

Everything rests on totals per case, (cases, 4): sum and number of the Dice values that count, sum and number of the
distances that count. The score of any set of cases follows from the sum of its rows. Percentile intervals of a few
cases are too narrow; they are expanded after Hesterberg, "What Teachers Should Know About the Bootstrap", The American
Statistician 69 (2015), section 4.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from kitlib import contest


class Interval(NamedTuple):
    """A value with the ends of its confidence interval; `low` and `high` are NaN for fewer than two cases."""

    value: float
    low: float
    high: float


def value(totals: np.ndarray) -> np.ndarray:
    """Score totals (..., 4): 0.4 * mean Dice + 0.6 * (1 - mean distance); NaN where nothing counts.

    >>> float(value(np.array([1.5, 2, 0.2, 1])))
    0.78
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        dice, distance = totals[..., 0] / totals[..., 1], totals[..., 2] / totals[..., 3]
    return contest.DICE_WEIGHT * dice + contest.HAUSDORFF_WEIGHT * (1 - distance)


def interval(totals: np.ndarray, confidence: float = 0.95, samples: int = 5000, seed: int = 0) -> Interval:
    """Give the score of all cases and its percentile interval.

    Args:
        totals: (cases, 4).
        confidence: share of the resampled scores inside the interval.
    """
    drawn = _draw(len(totals), samples, seed)
    return _interval(value(totals.sum(axis=0)), value(drawn @ totals), len(totals), confidence)


def gain(
    before: np.ndarray, after: np.ndarray, confidence: float = 0.95, samples: int = 5000, seed: int = 0
) -> Interval:
    """Give the difference of two scores on the same cases, paired: both are drawn together.

    Args:
        before, after: (cases, 4) in the same order.
    """
    if before.shape != after.shape:
        raise ValueError(f"expected totals of the same cases, got {before.shape} and {after.shape}")
    drawn = _draw(len(before), samples, seed)
    difference = value(after.sum(axis=0)) - value(before.sum(axis=0))
    return _interval(difference, value(drawn @ after) - value(drawn @ before), len(before), confidence)


def _draw(cases: int, samples: int, seed: int) -> np.ndarray:
    """Count how often each case is drawn in each sample: (samples, cases)."""
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
