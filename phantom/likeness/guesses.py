"""Predictions that look at no image, or only at its grey values: what a network must beat to have learnt anything.

They work on scans brought to one grid (D, H, W, organs), each with `case`, `grid` (its masks) and `grey` (its slices in
steps of 1/200 of the 99th percentile, or None): the tallies of `census`.
"""

from collections.abc import Iterable

import numpy as np

from kitlib.contest import DICE_WEIGHT, HAUSDORFF_WEIGHT, ORGANS
from kitlib.scoring import metric

THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35)
BIN = 4  # grey steps that the threshold does not tell apart


def scores(tallies: list) -> dict[str, float]:
    """Host scores of an atlas, of a copied day, and of grey value with slice position; NaN without enough cases."""
    return {
        "host score of an atlas of other cases": atlas(tallies),
        "host score of another day copied": copied_day(tallies),
        "host score of grey value and slice position": grey_and_position(tallies),
    }


def atlas(tallies: list) -> float:
    """The mean mask of the other cases, each case counting once, at the threshold that is best over all scans.

    Cost: a byte per voxel of the grid and case (7 MB), beside the tallies themselves.
    """
    cases = sorted({one.case for one in tallies})
    if len(cases) < 2:
        return float("nan")
    days = {case: [one.grid for one in tallies if one.case == case] for case in cases}
    counts = {case: np.sum(grids, axis=0, dtype=np.uint8) for case, grids in days.items()}

    def mean(case):
        return counts[case] / np.float32(len(days[case]))

    def others(case):
        return (total - mean(case)) / (len(cases) - 1)

    total = sum(map(mean, cases))
    return max(host((one.grid, others(one.case) > cut) for one in tallies) for cut in THRESHOLDS)


def copied_day(tallies: list) -> float:
    """The masks of the case's first other day, for each case of several days."""
    pairs = []
    for one in tallies:
        days = [other for other in tallies if other.case == one.case and other is not one]
        pairs += [(one.grid, days[0].grid)] if days else []
    return host(pairs) if pairs else float("nan")


def grey_and_position(tallies: list) -> float:
    """All pixels of a range of grey values, on the slices where the organ lies in the other cases.

    Per organ, the range is the one with the best pooled Dice over the other cases, the slices are those between their
    median first and last slice. One scan per case is scored.
    """
    first = {one.case: one for one in reversed(tallies) if one.grey is not None and one.grid.any(axis=(0, 1, 2)).all()}
    scans = list(first.values())
    if len(scans) < 2:
        return float("nan")
    counts = [[_counts(one, channel) for channel in range(len(ORGANS))] for one in scans]
    pairs = []
    for index, one in enumerate(scans):
        guess = np.zeros_like(one.grid)
        for channel in range(len(ORGANS)):
            known = [rows[channel] for other, rows in enumerate(counts) if other != index]
            start, stop = (int(np.median([row[side] for row in known])) for side in (0, 1))
            low, high = _best_range(sum(row[2] for row in known), sum(row[3] for row in known))
            part = one.grey[start : stop + 1]
            guess[start : stop + 1, ..., channel] = (part >= BIN * low) & (part < BIN * high)
        pairs.append((one.grid, guess))
    return host(pairs)


def _counts(one, channel: int) -> tuple[int, int, np.ndarray, np.ndarray]:
    """First and last slice of an organ, and how often each grey value occurs there: in the organ, and at all."""
    mask = one.grid[..., channel]
    rows = np.flatnonzero(mask.any(axis=(1, 2)))
    here = slice(rows[0], rows[-1] + 1)
    size = 256 // BIN
    inside = np.bincount(one.grey[here][mask[here]] // BIN, minlength=size)
    return int(rows[0]), int(rows[-1]), inside, np.bincount(one.grey[here].ravel() // BIN, minlength=size)


def _best_range(inside: np.ndarray, everything: np.ndarray) -> tuple[int, int]:
    """The range of bins [low, high) whose pixels have the best Dice with the organ."""
    hits, taken = (np.r_[0, np.cumsum(part)] for part in (inside, everything))
    dice = 2 * (hits[None, :] - hits[:, None]) / np.maximum(taken[None, :] - taken[:, None] + hits[-1], 1)
    low, high = np.unravel_index(np.triu(dice, 1).argmax(), dice.shape)
    return int(low), int(high)


def host(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """The host score of (truth, prediction) pairs, each (D, H, W, organs) bool."""
    dices, distances = [], []
    for truth, guess in pairs:
        total = truth.sum(axis=(1, 2)) + guess.sum(axis=(1, 2))
        dices.append(2 * (truth & guess).sum(axis=(1, 2))[total > 0] / total[total > 0])
        distances += [metric.hausdorff(truth[..., k], guess[..., k]) for k in range(len(ORGANS))]
    return float(DICE_WEIGHT * np.concatenate(dices).mean() + HAUSDORFF_WEIGHT * (1 - np.nanmean(distances)))
