"""The sliding window: what it keeps, what it weighs, and a plain loop beside it."""

import itertools

import numpy as np
import pytest

from kitlib.inference import windows

SHAPES = [((13,), (5,)), ((13, 7), (5, 4)), ((13, 7, 11), (5, 4, 3))]


def volume(shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


@pytest.mark.parametrize(("sides", "window"), SHAPES)
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9])
def test_a_network_that_gives_back_what_it_gets_gives_back_the_volume(sides, window, overlap):
    given = volume(sides)
    found = windows.slide(lambda batch: batch, given, window, overlap, batch_size=3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, given, atol=1e-6)


@pytest.mark.parametrize(("sides", "window"), SHAPES)
def test_a_constant_stays_the_constant(sides, window):
    found = windows.slide(lambda batch: np.full_like(batch, 0.7), volume(sides), window)
    np.testing.assert_allclose(found, np.full(sides, 0.7), atol=1e-6)


@pytest.mark.parametrize(("sides", "window"), SHAPES)
def test_the_mean_is_that_of_a_plain_loop(sides, window):
    """Each window has a value of its own: the sum of its voxels. Weights are written out, and divided at the end."""
    given = volume(sides)
    starts = [windows.shares(side, length)[0] for side, length in zip(sides, window, strict=True)]
    top, bottom = np.zeros(sides), np.zeros(sides)
    for corner in itertools.product(*starts):
        inside = tuple(slice(first, first + length) for first, length in zip(corner, window, strict=True))
        for voxel in itertools.product(*map(range, window)):
            squares = [((x - (length - 1) / 2) / (length / 8)) ** 2 for x, length in zip(voxel, window, strict=True)]
            place = tuple(first + x for first, x in zip(corner, voxel, strict=True))
            weight = np.exp(-sum(squares) / 2)
            top[place] += weight * given[inside].sum()
            bottom[place] += weight

    def run(batch):
        total = batch.sum(axis=tuple(range(1, batch.ndim)), keepdims=True)
        return np.broadcast_to(total, batch.shape)

    np.testing.assert_allclose(windows.slide(run, given, window, batch_size=2), top / bottom, rtol=1e-4)


def test_channels_go_in_whole_and_organs_come_out():
    given, seen = volume((9, 6, 4)), []

    def run(batch):
        seen.append(batch.shape)
        return np.stack([batch[..., 0], batch[..., 1] + batch[..., 3]], axis=-1)

    found = windows.slide(run, given, (4, 5), batch_size=2)
    np.testing.assert_allclose(found, np.stack([given[..., 0], given[..., 1] + given[..., 3]], axis=-1), atol=1e-6)
    assert set(seen) == {(2, 4, 5, 4)}


def test_a_short_side_is_extended_by_its_last_row():
    given, seen = volume((3, 6)), []
    found = windows.slide(lambda batch: seen.append(batch) or batch, given, (5, 6))
    np.testing.assert_allclose(found, given, atol=1e-6)
    np.testing.assert_array_equal(seen[0][0], given[[0, 1, 2, 2, 2]])


@pytest.mark.parametrize(("side", "window", "overlap"), [(144, 32, 0.5), (80, 32, 0.5), (17, 16, 0.25), (9, 9, 0.5)])
def test_windows_are_evenly_placed_and_overlap_enough(side, window, overlap):
    starts, shares = windows.shares(side, window, overlap)
    steps = np.diff(starts)
    assert (starts[0], starts[-1]) == (0, side - window)
    assert (steps <= window * (1 - overlap)).all()
    assert np.ptp(steps) <= 1 if len(steps) else side == window
    assert shares.shape == (len(starts), window)


def test_the_middle_of_a_window_counts_more_than_its_rim():
    starts, shares = windows.shares(12, 8, 0.5)
    assert starts.tolist() == [0, 4]
    squares = np.array([3.5**2 - 0.5**2, 2.5**2 - 1.5**2, 1.5**2 - 2.5**2, 0.5**2 - 3.5**2])  # sigma is one voxel
    np.testing.assert_allclose(shares[0, 4:], 1 / (1 + np.exp(-squares / 2)), atol=1e-6)
    assert (np.diff(shares[0, 4:]) < 0).all()
    np.testing.assert_allclose(shares[0, 4:] + shares[1, :4], 1, atol=1e-6)


def test_an_overlap_that_is_none_is_named():
    with pytest.raises(ValueError, match=r"overlap is 1\.0; choose a share from 0 to below 1"):
        windows.shares(8, 4, 1.0)
