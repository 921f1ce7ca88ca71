"""Predictions without a network, on scans where their score is known."""

from types import SimpleNamespace

import numpy as np
import pytest

from phantom.likeness import guesses


def test_best_range_is_the_organs_own_grey_value():
    everything = np.array([100, 50, 30, 40])
    inside = np.array([0, 0, 30, 2])
    assert guesses._best_range(inside, everything) == (2, 3)


def test_atlas_of_equal_cases_is_perfect_and_of_strangers_is_not():
    grid = np.zeros((6, 16, 16, 3), bool)
    grid[2:4, 4:9, 4:9] = True
    alike = [SimpleNamespace(case=case, small=grid, grey=None) for case in (1, 2, 3)]
    strangers = [SimpleNamespace(case=case, small=np.roll(grid, 7 * case, axis=2), grey=None) for case in (1, 2)]
    assert guesses.mean_of_other_cases(alike) == pytest.approx(1.0)
    assert guesses.mean_of_other_cases(strangers) < 0.7


def test_copied_day_needs_another_day():
    grid = np.zeros((6, 16, 16, 3), bool)
    grid[2:4, 4:9, 4:9] = True
    days = [SimpleNamespace(case=case, small=grid) for case in (1, 1, 2)]
    assert guesses.copied_day(days) == pytest.approx(1.0)
    assert np.isnan(guesses.copied_day(days[1:]))


def test_grey_value_finds_organs_that_it_identifies_and_no_others():
    rng = np.random.default_rng(0)
    told, hidden = [], []
    for case in range(3):
        grid = np.zeros((6, 32, 32, 3), bool)
        for channel in range(3):
            y, x = rng.integers(0, 24, 2)
            grid[1:5, y : y + 6, x : x + 6, channel] = True
        grey = np.full((6, 32, 32), 100, np.uint8)
        grey[grid.any(axis=-1)] = 20
        told.append(SimpleNamespace(case=case, small=np.repeat(grid.any(axis=-1)[..., None], 3, axis=-1), grey=grey))
        noise = rng.integers(0, 200, grey.shape).astype(np.uint8)
        hidden.append(SimpleNamespace(case=case, small=grid, grey=noise))
    assert guesses.grey_and_position(told) == pytest.approx(1.0)
    assert guesses.grey_and_position(hidden) < 0.5
