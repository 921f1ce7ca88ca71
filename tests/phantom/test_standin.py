"""Probabilities made from the truth: reproducible, of the size asked for, and nearly right."""

import numpy as np
import pytest

from kitlib.data import scans
from kitlib.postprocess import PLAIN, rescoring
from kitlib.scoring import score
from phantom.standin import StandIn


@pytest.fixture(scope="module")
def few(slices):
    """Two scans whose masks are not empty."""
    names = slices.loc[slices["stomach"] != "", "scan"].unique()[:2]
    return slices[slices["scan"].isin(names)].reset_index(drop=True)


def test_probabilities_have_the_size_and_the_slices_of_their_scan(few):
    made = StandIn(few, 40, 56)
    for scan in made.scans:
        probabilities = made(scan)
        assert probabilities.shape == ((few["scan"] == scan).sum(), 40, 56, 3)
        assert 0 <= probabilities.min() <= probabilities.max() <= 1


def test_a_seed_repeats_and_another_differs(few):
    scan = few["scan"].iloc[0]
    one = StandIn(few, 40, 56, seed=3)(scan)
    np.testing.assert_array_equal(StandIn(few, 40, 56, seed=3)(scan), one)
    assert not np.array_equal(StandIn(few, 40, 56, seed=4)(scan), one)


def test_masks_are_near_the_truth_and_not_perfect(few):
    value = score(scans.rows(few), rescoring.rows(StandIn(few), few, PLAIN), few).value
    assert 0.4 < value < 0.99
