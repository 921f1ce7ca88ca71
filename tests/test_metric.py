"""The score: hand-computed cases, and agreement with a slow readable reference."""

import numpy as np
import pytest
from scipy.spatial.distance import directed_hausdorff

from kitlib import metric

SHAPES = [(7, 11, 13), (5, 9, 6), (12, 10, 8)]


def reference(truth, prediction, directed=False):
    """Scipy's directed distance over all voxels, in the unit cube."""
    points = [np.argwhere(mask) / mask.shape for mask in (prediction, truth)]
    there = directed_hausdorff(*points)[0]
    return (there if directed else max(there, directed_hausdorff(*points[::-1])[0])) / 3**0.5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("density", [0.002, 0.05, 0.4, 0.97])
def test_hausdorff_agrees_with_scipy_on_random_masks(shape, directed, density):
    random = np.random.default_rng(shape[0])
    truth, prediction = random.random(shape) < density, random.random(shape) < 0.1
    truth[2, 3, 4] = prediction[1, 5, 2] = True
    found = metric.hausdorff(truth, prediction, directed)
    assert found == pytest.approx(reference(truth, prediction, directed), abs=1e-9)


def test_both_empty_is_not_a_number():
    empty = np.zeros((2, 3, 4), bool)
    assert np.isnan(metric.hausdorff(empty, empty))
    assert np.isnan(metric.dice(empty, empty))


def test_exactly_one_empty_is_distance_one():
    empty, full = np.zeros((2, 3, 4), bool), np.ones((2, 3, 4), bool)
    assert metric.hausdorff(empty, full) == metric.hausdorff(full, empty) == 1.0
