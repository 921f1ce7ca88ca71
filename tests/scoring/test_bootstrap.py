"""Intervals over cases."""

import numpy as np

from kitlib.scoring import bootstrap


def test_gain_of_nothing_is_zero_with_no_width_and_of_the_same_on_all_cases_too():
    random = np.random.default_rng(0)
    before = np.stack([random.random(9) * 5, np.full(9, 10.0), random.random(9), np.full(9, 3.0)], axis=1)
    assert bootstrap.gain(before, before) == (0.0, 0.0, 0.0)
    better = before + np.array([1, 0, 0, 0])
    np.testing.assert_allclose(bootstrap.gain(before, better), 0.4 * 0.1, atol=1e-12)


def test_one_case_has_no_interval():
    assert np.isnan(bootstrap.interval(np.array([[1.0, 2, 0, 1]])).low)
