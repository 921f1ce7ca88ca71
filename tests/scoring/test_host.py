"""Dice and distance of two masks: hand-computed cases, agreement with a slow readable reference, and laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitlib.scoring import borders, distances, host
from tests.scoring.volumes import CUBE, EMPTY, PAIRS, SHAPES, ball, reference_hausdorff


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("directed", [False, True])
def test_hausdorff_agrees_with_scipy_on(name, directed):
    truth, prediction = PAIRS[name]
    for one, other in ((truth, prediction), (prediction, truth)):
        expected = reference_hausdorff(one, other, directed)
        assert host.hausdorff(one, other, directed) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.002, 0.05, 0.4, 0.97])
@pytest.mark.parametrize("directed", [False, True])
def test_hausdorff_agrees_with_scipy_on_random_masks(shape, density, directed):
    random = np.random.default_rng(shape[0])
    truth, prediction = random.random(shape) < density, random.random(shape) < 0.1
    truth[2, 3, 4] = prediction[1, 5, 2] = True
    expected = reference_hausdorff(truth, prediction, directed)
    assert host.hausdorff(truth, prediction, directed) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("many", [0, 10**9])
@pytest.mark.parametrize("table", [0, 30, 4000])
def test_every_way_through_the_search_gives_the_same(monkeypatch, many, table):
    """Blocks from the start, a table that is too short, one that is long enough."""
    monkeypatch.setattr(distances, "_MANY", many)
    monkeypatch.setattr(distances, "_TABLE", table)
    distances._offsets.cache_clear()
    random = np.random.default_rng(3)
    shape = (20, 40, 50)
    truth = ball(shape, (10, 20, 25), 7)
    noisy = ball(shape, (9, 22, 21), 8) ^ (random.random(shape) < 0.02)
    expected = reference_hausdorff(truth, noisy)
    found = host.hausdorff(truth, noisy)
    distances._offsets.cache_clear()
    assert found == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 9), st.integers(1, 11))
def test_hausdorff_agrees_with_scipy_on_anything(seed, depth, height, width):
    random = np.random.default_rng(seed)
    truth, prediction = (random.random((depth, height, width)) < random.random() for _ in range(2))
    found, expected = host.hausdorff(truth, prediction), reference_hausdorff(truth, prediction)
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)


@given(st.integers(0, 2**31))
def test_distance_is_symmetric_and_survives_a_common_flip(seed):
    random = np.random.default_rng(seed)
    one, other = (random.random((3, 6, 8)) < 0.2 for _ in range(2))
    distance = host.hausdorff(one, other)
    np.testing.assert_allclose(host.hausdorff(other, one), distance, atol=1e-12)
    np.testing.assert_allclose(host.hausdorff(one[:, ::-1], other[:, ::-1]), distance, atol=1e-12)


def test_a_ball_inside_a_hollow_shell_is_as_far_as_voxel_sets_say():
    """The ball's centre is farthest, 17 from the shell; from border to border it would be the gap between them, 6."""
    shape, center = (37, 37, 37), (18, 18, 18)
    shell = ball(shape, center, 17) & ~ball(shape, center, 16.99)
    assert host.hausdorff(ball(shape, center, 11), shell, steps=(1, 1, 1)) == 17.0
    edges = borders.surface_distances(ball(shape, center, 11), shell, (1, 1, 1))
    assert edges[1].max() == pytest.approx(6, abs=0.7)


def test_a_ball_inside_a_solid_ball_is_at_directed_distance_zero():
    solid, inner = ball((21, 21, 21), (10, 10, 10), 10), ball((21, 21, 21), (10, 10, 10), 2)
    assert host.hausdorff(solid, inner, directed=True) == 0.0
    assert host.hausdorff(inner, solid, directed=True) > 0.2


def test_opposite_corners_of_a_large_cube_come_near_one():
    corners = np.zeros((2, 50, 50, 50), bool)
    corners[0, 0, 0, 0] = corners[1, -1, -1, -1] = True
    assert host.hausdorff(*corners) == pytest.approx(0.98)


def test_both_empty_is_not_a_number():
    assert np.isnan(host.hausdorff(EMPTY, EMPTY))
    assert np.isnan(host.hausdorff(EMPTY, EMPTY, steps=(3, 1, 1)))
    assert np.isnan(host.dice(EMPTY, EMPTY))


def test_exactly_one_empty_is_distance_one_or_infinity_in_millimetres():
    assert host.hausdorff(EMPTY, CUBE) == host.hausdorff(CUBE, EMPTY) == 1.0
    assert host.hausdorff(EMPTY, CUBE, directed=True) == host.hausdorff(CUBE, EMPTY, directed=True) == 1.0
    assert host.hausdorff(EMPTY, CUBE, steps=(3, 1.5, 1.5)) == float("inf")


def test_exactly_one_empty_is_dice_zero():
    assert host.dice(EMPTY, CUBE) == host.dice(CUBE, EMPTY) == 0.0


@pytest.mark.parametrize("other", [np.zeros((2, 3, 5), bool), np.zeros((2, 3, 4), np.uint8)])
def test_masks_of_other_shape_or_type_are_refused(other):
    with pytest.raises(ValueError, match="expected two bool masks of one shape"):
        host.hausdorff(np.zeros((2, 3, 4), bool), other)


@pytest.mark.parametrize(("shape", "steps"), [((4, 5), None), ((3, 4, 5), (1.5, 1.5)), ((3, 4, 5), (3, 0, 1))])
def test_a_picture_is_no_volume_and_steps_are_three_above_zero(shape, steps):
    with pytest.raises(ValueError, match=r"expected \(D, H, W\) and three steps above 0"):
        host.hausdorff(np.ones(shape, bool), np.ones(shape, bool), steps=steps)
