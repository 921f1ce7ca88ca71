"""The host score of masks, in one place: everything that scores anything calls this module.

    score = 0.4 * mean Dice + 0.6 * (1 - mean distance)

Dice is averaged over rows (slice, organ), the Hausdorff distance over volumes (scan, organ); rows and volumes whose
truth and prediction are both empty do not count. The score of any set of volumes follows from four totals, which add
up: the sum of the Dice values, their number, the sum of the distances, their number. This is the kit's estimate of the
leaderboard's score; `conventions` has the other readings of the rules.
"""

import numpy as np

from kitlib import contest
from kitlib.scoring import distances

_UNIT = 3**0.5  # the diagonal of the unit cube, so that distances lie in [0, 1]


def dice(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Return 2 |P and G| / (|P| + |G|) of two bool arrays of one shape; NaN when both are empty.

    >>> dice(np.array([True, True]), np.array([True, False])) == 2 / 3
    True
    """
    _check_masks(truth, prediction)
    return float(dice_of_areas(*(np.count_nonzero(mask) for mask in (truth, prediction, truth & prediction))))


def dice_of_areas(truth: np.ndarray, predicted: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """Return the Dice values of many rows from their areas in pixels; NaN where truth and prediction are empty."""
    with np.errstate(invalid="ignore"):
        return 2 * np.asarray(overlap) / (np.asarray(truth) + np.asarray(predicted))


def hausdorff(
    truth: np.ndarray,
    prediction: np.ndarray,
    directed: bool = False,
    steps: distances.Steps | None = None,
    size: tuple[int, int, int] | None = None,
) -> float:
    """Return the largest distance from one mask to the other, as sets of voxels.

    Args:
        truth, prediction: (D, H, W) bool.
        directed: only from the prediction to the truth; otherwise the larger of both directions.
        steps: distance between neighbouring voxels along z, y and x, for example (3.0, 1.5, 1.5) in mm. None is the
            score's own form: voxel centres at (z/D, y/H, x/W), the distance divided by sqrt(3), so that it lies in
            [0, 1].
        size: D, H and W of the whole volume, when the masks are cut out of it.

    Returns:
        NaN when both masks are empty; when exactly one is, 1.0, or infinity if `steps` are given.

    >>> truth, prediction = np.zeros((2, 2, 2, 4), bool)
    >>> truth[0, 0, 0] = prediction[0, 0, 3] = True
    >>> hausdorff(truth, prediction, steps=(3.0, 1.5, 1.5))
    4.5
    """
    _check_masks(truth, prediction)
    if truth.ndim != 3 or (steps is not None and (len(steps) != 3 or min(steps) <= 0)):
        raise ValueError(
            f"masks have shape {truth.shape} and steps are {steps}; expected (D, H, W) and three steps above 0"
        )
    filled = bool(truth.any()), bool(prediction.any())
    if not all(filled):
        return (1.0 if steps is None else float("inf")) if any(filled) else float("nan")
    if steps is None:
        return farthest(truth, prediction, directed, size).distance
    return _search(truth, prediction, directed, steps).distance


def farthest(
    truth: np.ndarray, prediction: np.ndarray, directed: bool = False, size: tuple[int, int, int] | None = None
) -> distances.Pair:
    """Find the two voxels that make the score's Hausdorff distance; neither mask may be empty.

    Args: as `hausdorff`. `forward` of the pair tells that its source lies in the truth.
    """
    pair = _search(truth, prediction, directed, distances.unit_steps(size or truth.shape))
    return pair._replace(distance=pair.distance / _UNIT)


def totals(truth: np.ndarray, prediction: np.ndarray, size: tuple[int, int, int] | None = None) -> np.ndarray:
    """Measure one organ of one scan, (D, H, W) bool.

    Returns:
        (4,) float: sum of the Dice values that count, their number, the distance, and 1 if it counts.
    """
    areas = np.array([[np.count_nonzero(part) for part in mask] for mask in (truth, prediction, truth & prediction)])
    values, distance = dice_of_areas(*areas), hausdorff(truth, prediction, size=size)
    return np.array([np.nansum(values), np.count_nonzero(areas[0] + areas[1]), np.nan_to_num(distance), distance >= 0])


def means(totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean Dice and mean distance of totals (..., 4); NaN where nothing counts."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return totals[..., 0] / totals[..., 1], totals[..., 2] / totals[..., 3]


def value(totals: np.ndarray) -> np.ndarray:
    """Return the score of totals (..., 4); NaN where nothing counts.

    >>> float(value(np.array([1.5, 2, 0.2, 1])))
    0.78
    """
    return weighted(*means(totals))


def gains(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Split the gain of the score from one prediction to another among the volumes, by Dice and by distance.

    With the loss l of a volume (the sum of 1 - Dice, or the distance), its number n of values that count, their sums
    L and N over all volumes, and primes for the state after, a volume gains

        weight * (l - l' + L / N * (n' - n)) / N'

    so that a volume that is the same in both has no part in it, although N may change.

    Args:
        before, after: totals of the same volumes, (volumes, ..., 4).

    Returns:
        (volumes, ..., 2); the sum over volumes and terms is the gain, where a score of nothing is taken as 1.
    """
    parts = []
    for weight, term in ((contest.DICE_WEIGHT, 0), (contest.HAUSDORFF_WEIGHT, 2)):
        (loss, number), (loss_after, number_after) = (
            ((part[..., 1] - part[..., 0] if term == 0 else part[..., 2]), part[..., term + 1])
            for part in (before, after)
        )
        total, total_after = number.sum(axis=0), number_after.sum(axis=0)
        mean = loss.sum(axis=0) / np.maximum(total, 1)
        change = (loss - loss_after + mean * (number_after - number)) / np.maximum(total_after, 1)
        parts.append(weight * np.where(total_after > 0, change, loss / np.maximum(total, 1)))
    return np.stack(parts, axis=-1)


def weighted(dice, distance):
    """Weigh mean Dice and mean distance."""
    return contest.DICE_WEIGHT * dice + contest.HAUSDORFF_WEIGHT * (1 - distance)


def _search(truth: np.ndarray, prediction: np.ndarray, directed: bool, steps: distances.Steps) -> distances.Pair:
    if not directed:
        return distances.symmetric(truth, prediction, steps)
    return distances.directed(prediction, truth, steps)._replace(forward=False)


def _check_masks(truth: np.ndarray, prediction: np.ndarray) -> None:
    if truth.shape != prediction.shape or truth.dtype != bool or prediction.dtype != bool:
        raise ValueError(
            f"truth is {truth.shape} {truth.dtype} and prediction {prediction.shape} {prediction.dtype}; "
            "expected two bool masks of one shape"
        )
