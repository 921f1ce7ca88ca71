"""The definitions of the score that are in use, side by side: the competition's own scorer is private, and they differ.

A convention says what a row (slice, organ) counts whose masks are empty, and how far apart two volumes are:

    host        rows with both empty left out; symmetric distance in the unit cube over sqrt(3), both empty left out
    page        rows with both empty count 0; directed distance, prediction to truth, in the unit cube, cut at 1
    ones        rows with both empty count 1; distance as host
    slicewise   rows with both empty count 1, with an empty truth alone left out; distance per slice, prediction to
                truth, over the diagonal of the slice, both empty 0
    union       rows as host; the organs are merged into one mask before the distance is taken

Everywhere a distance is 1 where exactly one mask is empty, in `page` and `slicewise` too, and Dice is 0 there unless
the row is left out. `host` is this kit's estimate, from what the hosts have said: the page defines Dice of empty masks
as 0, their forum answer leaves such rows out, and a comment in their code normalises distances into [0, 1]. `page` is
the letter of the competition page and of Xu Li's paper (section V.A).

Where the sources are silent, this is how they are read here. `page`: "normalized by image size" is the unit cube, with
the number of slices as its depth, without the division by sqrt(3); volumes with both masks empty are left out, as no
distance is defined for them. `slicewise`: slices with both masks empty are at distance 0 and count in the mean of the
distances, those with an empty truth alone at distance 1, though their Dice is left out. `union`: one distance per scan.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kitlib.scoring import distances as hausdorff

NAN = float("nan")


@dataclass(frozen=True)
class Convention:
    """One definition of the score.

    Attributes:
        both_empty: Dice of a row whose truth and prediction are empty; NaN leaves the row out.
        truth_empty: Dice of a row whose truth alone is empty; NaN leaves the row out.
        distances: from truth and prediction, (organs, d, H, W) bool, and the depth D of the scan, of which all slices
            but these d are empty in both, to (organs, n) distances that are averaged.
        seen_in: who scores like this.
    """

    name: str
    both_empty: float
    truth_empty: float
    distances: Callable[[np.ndarray, np.ndarray, int], np.ndarray]
    seen_in: str

    def dice(self, truth: np.ndarray, predicted: np.ndarray, overlap: np.ndarray) -> np.ndarray:
        """Dice of many rows from their areas in pixels; NaN where a row does not count."""
        total = np.asarray(truth) + np.asarray(predicted)
        values = 2 * np.asarray(overlap) / np.where(total > 0, total, 1)
        values = np.where((truth == 0) & (total > 0), self.truth_empty, values)
        return np.where(total == 0, self.both_empty, values)


def unit_steps(depth: int, shape: tuple[int, int]) -> tuple[float, float, float]:
    """Give the distance of neighbouring voxels in the unit cube: (1/D, 1/H, 1/W)."""
    return 1 / depth, 1 / shape[0], 1 / shape[1]


def symmetric(truth: np.ndarray, prediction: np.ndarray, depth: int) -> np.ndarray:
    """Measure each organ's symmetric distance in the unit cube over sqrt(3)."""
    return _each(truth, prediction, depth, lambda *masks: hausdorff.symmetric(*masks).distance / 3**0.5)


def directed(truth: np.ndarray, prediction: np.ndarray, depth: int) -> np.ndarray:
    """Measure each organ's distance from prediction to truth in the unit cube, cut at 1."""
    return _each(truth, prediction, depth, lambda *masks: min(1.0, hausdorff.directed(*masks).distance))


def merged(truth: np.ndarray, prediction: np.ndarray, depth: int) -> np.ndarray:
    """Measure the symmetric distance of all organs in one mask, and give it to each."""
    one = symmetric(truth.any(axis=0)[None], prediction.any(axis=0)[None], depth)
    return np.repeat(one, len(truth), axis=0)


def slicewise(truth: np.ndarray, prediction: np.ndarray, depth: int) -> np.ndarray:
    """Measure every slice alone, prediction to truth, in pixels over the diagonal."""
    diagonal = np.hypot(*truth.shape[2:])
    values = np.zeros((len(truth), depth))
    for organ, z in np.ndindex(truth.shape[:2]):
        one, other = truth[organ, z : z + 1], prediction[organ, z : z + 1]
        distance = _distance(one, other, (1.0, 1.0, 1.0), lambda *masks: hausdorff.directed(*masks).distance / diagonal)
        values[organ, z] = 0.0 if np.isnan(distance) else distance
    return values


def _each(truth: np.ndarray, prediction: np.ndarray, depth: int, measure: Callable) -> np.ndarray:
    """Measure one distance per organ, prediction first."""
    steps = unit_steps(depth, truth.shape[2:])
    pairs = zip(truth, prediction, strict=True)
    return np.array([[_distance(one, other, steps, measure)] for one, other in pairs])


def _distance(truth: np.ndarray, prediction: np.ndarray, steps: tuple, measure: Callable) -> float:
    """Measure where neither mask is empty; NaN where both are, 1 where one is."""
    filled = bool(truth.any()), bool(prediction.any())
    if all(filled):
        return measure(prediction, truth, steps)
    return 1.0 if any(filled) else NAN


CONVENTIONS = {
    convention.name: convention
    for convention in (
        Convention("host", NAN, 0.0, symmetric, "our estimate of the leaderboard"),
        Convention("page", 0.0, 0.0, directed, "the competition page and the paper, to the letter"),
        Convention("ones", 1.0, 0.0, symmetric, "many public notebooks"),
        Convention("slicewise", 1.0, NAN, slicewise, "pipelines built on MONAI"),
        Convention("union", NAN, 0.0, merged, "MLE-bench"),
    )
}


def named(name: str) -> Convention:
    """Look a convention up.

    Raises:
        ValueError: lists the names when it is none of them.
    """
    if name not in CONVENTIONS:
        raise ValueError(f"unknown convention {name!r}; choose one of {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]
