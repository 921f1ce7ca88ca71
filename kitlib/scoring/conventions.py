"""Definitions of the score that are in use: the competition's own scorer is private, and public ones disagree.

A convention defines the Dice of a row (slice, organ) with empty masks, and the distance of two volumes:

    host        rows with both empty are left out; symmetric distance in the unit cube over sqrt(3), volumes with both
                empty are left out (module `host`)
    page        rows with both empty count 0; directed distance, prediction to truth, in the unit cube, cut at 1
    ones        rows with both empty count 1; distance as host
    slicewise   rows with both empty count 1, rows with only the truth empty are left out; distance per slice,
                prediction to truth, over the diagonal of the slice, both empty 0
    union       rows as host; the organs are merged into one mask before the distance is measured

In all of them the distance is 1 where exactly one mask is empty, and Dice is 0 there unless the row is left out.
`host` is this kit's estimate from the hosts' statements: the page defines Dice of empty masks as 0, their forum answer
leaves such rows out, and a comment in their code normalises distances into [0, 1]. `page` is the letter of the
competition page and of Xu Li's paper (section V.A).

Where the sources say nothing, this is how they are read here. `page`: "normalized by image size" is the unit cube with
the number of slices as its depth, without the division by sqrt(3); volumes with both masks empty are left out, because
no distance is defined for them. `slicewise`: slices with both masks empty have distance 0 and count in the mean of the
distances; slices with only the truth empty have distance 1, though their Dice is left out. `union`: one distance per
scan.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kitlib.scoring import distances, host

NAN = float("nan")


@dataclass(frozen=True)
class Convention:
    """One definition of the score.

    Attributes:
        both_empty: Dice of a row whose truth and prediction are empty; NaN leaves the row out.
        truth_empty: Dice of a row whose truth alone is empty; NaN leaves the row out.
        distances: function of truth and prediction, (d, H, W, organs) bool, and the depth D of the scan, whose other
            slices are empty in both; returns the distances to average, (n, organs).
        seen_in: who scores like this.
    """

    name: str
    both_empty: float
    truth_empty: float
    distances: Callable[[np.ndarray, np.ndarray, int], np.ndarray]
    seen_in: str

    def dice(self, truth: np.ndarray, predicted: np.ndarray, overlap: np.ndarray) -> np.ndarray:
        """Return the Dice values of many rows from their areas in pixels; NaN where a row does not count."""
        values = host.dice_of_areas(truth, predicted, overlap)
        values = np.where((truth == 0) & (predicted > 0), self.truth_empty, values)
        return np.where((truth == 0) & (predicted == 0), self.both_empty, values)


def _symmetric(truth: np.ndarray, prediction: np.ndarray, depth: int) -> np.ndarray:
    """Measure each organ's distance of the host score: (1, organs)."""
    size = depth, *truth.shape[1:3]
    return np.array([[host.hausdorff(*pair, size=size) for pair in _organs(truth, prediction)]])


def _directed(truth: np.ndarray, prediction: np.ndarray, depth: int) -> np.ndarray:
    """Measure each organ's distance from prediction to truth in the unit cube, cut at 1: (1, organs)."""
    steps = distances.unit_steps((depth, *truth.shape[1:3]))
    values = [host.hausdorff(*pair, directed=True, steps=steps) for pair in _organs(truth, prediction)]
    return np.minimum([values], 1.0)


def _merged(truth: np.ndarray, prediction: np.ndarray, depth: int) -> np.ndarray:
    """Measure the host distance of all organs in one mask, and repeat it for each: (1, organs)."""
    whole = (masks.any(axis=-1, keepdims=True) for masks in (truth, prediction))
    return np.repeat(_symmetric(*whole, depth), truth.shape[-1], axis=1)


def _slicewise(truth: np.ndarray, prediction: np.ndarray, depth: int) -> np.ndarray:
    """Measure every slice alone, prediction to truth, in pixels over the diagonal: (D, organs)."""
    diagonal = np.hypot(*truth.shape[1:3])
    values = np.zeros((depth, truth.shape[-1]))
    for organ, pair in enumerate(_organs(truth, prediction)):
        for z in np.flatnonzero((pair[0] | pair[1]).any(axis=(1, 2))):
            first, second = (mask[z : z + 1] for mask in pair)
            values[z, organ] = host.hausdorff(first, second, directed=True, steps=(1.0, 1.0, 1.0)) / diagonal
    return np.minimum(values, 1.0)


def _organs(truth: np.ndarray, prediction: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(truth[..., organ], prediction[..., organ]) for organ in range(truth.shape[-1])]


CONVENTIONS = {
    convention.name: convention
    for convention in (
        Convention("host", NAN, 0.0, _symmetric, "our estimate of the leaderboard"),
        Convention("page", 0.0, 0.0, _directed, "the competition page and the paper, to the letter"),
        Convention("ones", 1.0, 0.0, _symmetric, "many public notebooks"),
        Convention("slicewise", 1.0, NAN, _slicewise, "pipelines built on MONAI"),
        Convention("union", NAN, 0.0, _merged, "MLE-bench"),
    )
}


def named(name: str) -> Convention:
    """Return a convention by its name.

    Raises:
        ValueError: lists the names for an unknown one.
    """
    if name not in CONVENTIONS:
        raise ValueError(f"unknown convention {name!r}; choose one of {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]
