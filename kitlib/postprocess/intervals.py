"""One run of slices per organ, found exactly: annotators outline an organ without a gap, and both bowels end together.

With l = logit(presence) - offset and prefix sums S, the run of slices a..b is worth S[b + 1] - S[a], and an absent
organ 0. The best start for every end b is where S was lowest before; bowels that are present share the end with the
largest sum of both. This takes O(slices) steps.

An earlier day of the case predicts the common end: `line_bonus` is the logarithm of a Laplace distribution around it,
so that the decoder still maximises one sum of evidence.
"""

from __future__ import annotations

import numpy as np

from kitlib import contest

BOWELS = tuple(map(contest.ORGANS.index, contest.BOWELS))
PIXELS = 12  # a slice holds an organ if this many of its pixels reach the threshold
LIMIT = 12.0  # of |l|, so that one certain slice cannot outweigh all others


def presence(probabilities: np.ndarray, pixels: int = PIXELS) -> np.ndarray:
    """Measure how surely each organ is on each slice: the `pixels`-th largest of its probabilities there.

    "presence >= t" says exactly that at least `pixels` pixels reach t, for every threshold t at once. The competition's
    first place ruled slices out this way, with 12 pixels.

    Shapes: probabilities (D, h, w, organs), result (D, organs), of one dtype.

    Args:
        probabilities: on the network's own grid; resized to the files, the same organ has more or fewer pixels.
        pixels: from 1 on; a slice with fewer pixels gives its smallest probability.

    Raises:
        ValueError: probabilities of another shape or without a pixel, and pixels below 1.

    >>> slices = np.zeros((2, 4, 4, 3))
    >>> slices[1, :3, :, 0] = 0.9
    >>> presence(slices).tolist()
    [[0.0, 0.0, 0.0], [0.9, 0.0, 0.0]]
    """
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 4 or not all(probabilities.shape[1:3]):
        raise ValueError(f"probabilities have shape {probabilities.shape}; expected (slices, height, width, organs)")
    if pixels < 1:
        raise ValueError(f"pixels={pixels}: must be at least 1")
    slices, height, width, organs = probabilities.shape
    flat, place = probabilities.reshape(slices, height * width, organs), max(height * width - pixels, 0)
    return np.partition(flat, place, axis=1)[:, place]


def runs(presence: np.ndarray, offset: np.ndarray, bonus: np.ndarray | None = None) -> np.ndarray:
    """Decode the runs as `decode` does, but leave no organ absent that has evidence on a slice.

    A missing organ costs the whole Hausdorff distance. A bowel that `decode` leaves out for the common end, although l
    exceeds 0 somewhere, gets its own best run, which ends apart from the other bowel.

    Args, shapes and errors: as `decode`.

    >>> presence = np.full((6, 3), 0.01)
    >>> presence[0, 0], presence[3:, 1] = 0.9, 0.9
    >>> decode(presence, np.zeros(3)).tolist()
    [[-1, -1], [3, 5], [-1, -1]]
    >>> runs(presence, np.zeros(3)).tolist()
    [[0, 0], [3, 5], [-1, -1]]
    """
    found = decode(presence, offset, bonus)
    for organ, evidence in enumerate(_evidence(presence, offset).T):
        if found[organ, 0] < 0 and (evidence > 0).any():
            values, starts = _best_runs(evidence)
            end = int(np.argmax(values))
            found[organ] = starts[end], end
    return found


def decode(presence: np.ndarray, offset: np.ndarray, bonus: np.ndarray | None = None) -> np.ndarray:
    """Find the first and last slice of each organ that maximise the evidence.

    The sum of l over the slices inside is as large as it can be, where l is clipped to +-12, an absent organ counts 0,
    and bowels that are present end on the same slice. On equal values an organ is rather absent.

    Shapes: presence (D, organs), offset (organs,), bonus (D,); result (organs, 2) int, first and last slice, -1 and -1
        for an absent organ. Organs in the order of contest.ORGANS.

    Args:
        presence: probability of each organ on each slice, in [0, 1].
        offset: logit of the presence that counts as neutral; larger makes runs shorter.
        bonus: value of the bowels' common end on each slice, counted once and only if a bowel is present, such as
            `line_bonus`. None is 0.

    Raises:
        ValueError: presence that is no table of probabilities, or another number of offsets or bonuses.

    >>> decode([[0.1, 0.0, 0.0], [0.9, 0.0, 0.0], [0.8, 0.1, 0.0]], [0, 0, 0]).tolist()
    [[1, 2], [-1, -1], [-1, -1]]
    """
    presence, offset = np.asarray(presence, float), np.asarray(offset, float)
    bonus = np.zeros(len(presence)) if bonus is None else np.asarray(bonus, float)
    _check(presence, offset, bonus)
    found = np.full((len(contest.ORGANS), 2), -1)
    if not len(presence):
        return found
    values, starts = zip(*map(_best_runs, _evidence(presence, offset).T), strict=True)
    for organ in set(range(len(found))) - set(BOWELS):
        end = int(np.argmax(values[organ]))
        if values[organ][end] > 0:
            found[organ] = starts[organ][end], end
    bowels = np.stack([values[organ] for organ in BOWELS])
    # A bowel joins where it adds something; the better one always may, since alone it can still earn the bonus.
    joins = bowels > 0
    joins[bowels.argmax(0), np.arange(len(presence))] = True
    total = np.where(joins, bowels, 0).sum(0) + bonus
    end = int(np.argmax(total))
    for organ, joined in zip(BOWELS, joins[:, end], strict=True):
        if joined and total[end] > 0:
            found[organ] = starts[organ][end], end
    return found


def line_bonus(slices: int, line: int, weight: float) -> np.ndarray:
    """Return the bonus -weight * |b - line| of each slice b: (slices,).

    Args:
        slices: of the scan.
        line: the slice on which the bowels are expected to end, from 0; may lie outside the scan.
        weight: logits per slice; 1 / weight is the mean error in slices that the line is expected to have.

    >>> line_bonus(5, line=3, weight=0.5).tolist()
    [-1.5, -1.0, -0.5, -0.0, -0.5]
    """
    return -weight * np.abs(np.arange(slices) - line)


def _evidence(presence: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return l, the clipped logits of the presence above the offset: (D, organs)."""
    presence = np.asarray(presence, float)
    with np.errstate(divide="ignore"):
        return np.clip(np.log(presence) - np.log1p(-presence) - np.asarray(offset, float), -LIMIT, LIMIT)


def _best_runs(evidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find, for each end, the value of the best run and its start."""
    sums = np.concatenate([[0.0], np.cumsum(evidence)])
    lowest = np.minimum.accumulate(sums[:-1])
    fresh = np.concatenate([[True], sums[1:-1] < lowest[:-1]])
    starts = np.maximum.accumulate(np.where(fresh, np.arange(len(evidence)), 0))
    return sums[1:] - lowest, starts


def _check(presence, offset, bonus):
    organs = len(contest.ORGANS)
    if presence.ndim != 2 or presence.shape[1] != organs:
        raise ValueError(f"presence has shape {presence.shape}; expected (slices, {organs})")
    if not ((presence >= 0) & (presence <= 1)).all():
        raise ValueError(f"presence ranges from {presence.min()} to {presence.max()}; expected probabilities in [0, 1]")
    if offset.shape != (organs,) or not np.isfinite(offset).all():
        raise ValueError(f"offset is {offset.tolist()}; expected {organs} numbers, one per organ")
    if bonus.shape != (len(presence),) or np.isnan(bonus).any():
        raise ValueError(
            f"bonus has shape {bonus.shape} or contains NaN; expected a number for each of {len(presence)} slices"
        )
