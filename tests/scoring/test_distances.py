"""The two voxels that make a distance."""

import numpy as np
import pytest

from kitlib.scoring import distances
from tests.scoring.volumes import PAIRS, reference_distance


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "equal"])
def test_the_pair_of_voxels_lies_in_the_masks_and_is_that_far_apart(name):
    truth, prediction = PAIRS[name]
    steps = (3.0, 1.5, 1.63)
    pair = distances.symmetric(truth, prediction, steps)
    source, target = (truth, prediction) if pair.forward else (prediction, truth)
    assert source[pair.source]
    assert not target[pair.source]
    assert target[pair.target]
    gap = (np.array(pair.source) - pair.target) * steps
    assert np.linalg.norm(gap) == pytest.approx(pair.distance, abs=1e-9)
    expected = max(reference_distance(truth, prediction, steps), reference_distance(prediction, truth, steps))
    assert pair.distance == pytest.approx(expected, abs=1e-9)
