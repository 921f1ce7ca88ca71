"""Predictions without a network: an atlas, a copied day, and grey value with slice position.

A network has learnt something only if it scores higher. The guesses work on the tallies of `measures`: scans of one
size with a `case`, `small` (masks, (D, H, W, organs)) and `grey` (slices in steps of 1/200 of the 99th percentile).
"""

from collections.abc import Iterable

import numpy as np

from kitlib.contest import ORGANS
from kitlib.scoring import host

THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35)
BIN = 4  # grey steps in a bin of the histogram


def host_scores(tallies: list) -> dict[str, float]:
    """Return the host score of each guess; NaN without enough cases."""
    return {
        "host score of an atlas of other cases": mean_of_other_cases(tallies),
        "host score of another day copied": copied_day(tallies),
        "host score of grey value and slice position": grey_and_position(tallies),
    }


def mean_of_other_cases(tallies: list) -> float:
    """Score the mean mask of the other cases, with equal weights, at the threshold that is best over all scans.

    Cost: 7 MB per case in addition to the tallies.
    """
    cases = sorted({scan.case for scan in tallies})
    if len(cases) < 2:
        return float("nan")
    days = {case: [scan.small for scan in tallies if scan.case == case] for case in cases}
    counts = {case: np.sum(masks, axis=0, dtype=np.uint8) for case, masks in days.items()}

    def mean(case):
        return counts[case] / np.float32(len(days[case]))

    def others(case):
        return (total - mean(case)) / (len(cases) - 1)

    total = sum(map(mean, cases))
    return max(host_score((scan.small, others(scan.case) > cut) for scan in tallies) for cut in THRESHOLDS)


def copied_day(tallies: list) -> float:
    """Score the masks of the case's first other day, over all cases with several days."""
    pairs = []
    for scan in tallies:
        days = [other for other in tallies if other.case == scan.case and other is not scan]
        pairs += [(scan.small, days[0].small)] if days else []
    return host_score(pairs) if pairs else float("nan")


def grey_and_position(tallies: list) -> float:
    """Score all pixels in a range of grey values, on the slices where the organ lies in the other cases.

    The range of an organ is the one with the best pooled Dice over the other cases. The slices are those between their
    median first and last slice. One scan per case is scored.
    """
    first = {
        scan.case: scan for scan in reversed(tallies) if scan.grey is not None and scan.small.any(axis=(0, 1, 2)).all()
    }
    scans = list(first.values())
    if len(scans) < 2:
        return float("nan")
    counts = [[_counts(scan, channel) for channel in range(len(ORGANS))] for scan in scans]
    pairs = []
    for index, scan in enumerate(scans):
        guess = np.zeros_like(scan.small)
        for channel in range(len(ORGANS)):
            known = [rows[channel] for other, rows in enumerate(counts) if other != index]
            start, stop = (int(np.median([row[side] for row in known])) for side in (0, 1))
            low, high = _best_range(sum(row[2] for row in known), sum(row[3] for row in known))
            part = scan.grey[start : stop + 1]
            guess[start : stop + 1, ..., channel] = (part >= BIN * low) & (part < BIN * high)
        pairs.append((scan.small, guess))
    return host_score(pairs)


def _counts(scan, channel: int) -> tuple[int, int, np.ndarray, np.ndarray]:
    """Return first and last slice of an organ, and histograms of grey there: in the organ, and of all pixels."""
    mask = scan.small[..., channel]
    rows = np.flatnonzero(mask.any(axis=(1, 2)))
    here = slice(rows[0], rows[-1] + 1)
    size = 256 // BIN
    inside = np.bincount(scan.grey[here][mask[here]] // BIN, minlength=size)
    return int(rows[0]), int(rows[-1]), inside, np.bincount(scan.grey[here].ravel() // BIN, minlength=size)


def _best_range(inside: np.ndarray, everything: np.ndarray) -> tuple[int, int]:
    """Return the range of bins [low, high) whose pixels have the best Dice with the organ."""
    hits, taken = (np.r_[0, np.cumsum(part)] for part in (inside, everything))
    dice = 2 * (hits[None, :] - hits[:, None]) / np.maximum(taken[None, :] - taken[:, None] + hits[-1], 1)
    low, high = np.unravel_index(np.triu(dice, 1).argmax(), dice.shape)
    return int(low), int(high)


def host_score(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return the host score of (truth, prediction) pairs, each (D, H, W, organs) bool."""
    organs = range(len(ORGANS))
    return float(host.value(sum(host.totals(truth[..., k], guess[..., k]) for truth, guess in pairs for k in organs)))
