"""Measurements of drawn masks and slices, by hand and by brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from phantom.likeness import shapes


def test_square_has_one_piece_no_hole_and_its_rim():
    mask = np.zeros((13, 17), bool)
    mask[2:12, 3:13] = True
    pieces, hole, border = shapes.contour(mask)
    assert (pieces, hole) == (1, False)
    assert border == pytest.approx(36 / 10)


def test_ring_has_a_hole_and_two_borders():
    mask = np.ones((11, 11), bool)
    mask[4:7, 4:7] = False
    pieces, hole, border = shapes.contour(mask)
    assert (pieces, hole) == (1, True)
    assert border == pytest.approx((40 + 12) / 112**0.5)


def test_pieces_that_touch_at_a_corner_are_one():
    mask = np.zeros((4, 4), bool)
    mask[:2, :2] = mask[2:, 2:] = True
    assert shapes.contour(mask)[0] == 1
    mask[1, 1] = False
    assert shapes.contour(mask)[0] == 2


def test_pieces_in_3d_touch_across_corners():
    mask = np.zeros((3, 4, 5), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    mask[2, 3, 4] = True
    assert shapes.pieces_3d(mask) == 2


def test_neighbour_dice_skips_slices_without_the_organ():
    mask = np.zeros((5, 4, 4), bool)
    mask[1, :2] = mask[2, :2] = True
    mask[3, 1:3] = True
    np.testing.assert_allclose(shapes.neighbour_dice(mask), [1.0, 0.5])


def test_jitter_of_a_straight_ramp_is_zero():
    np.testing.assert_allclose(shapes.jitter(np.array([0.0, 2, 4, 6, 8, 0])), [0, 0])
    np.testing.assert_allclose(shapes.jitter(np.array([10.0, 12, 10])), [0.2])


def test_shifted_copy_is_itself_when_centroids_are_aligned():
    mask = np.zeros((9, 20, 30), bool)
    mask[2:5, 4:10, 5:13] = True
    moved = np.roll(mask, (3, 5, 11), axis=(0, 1, 2))
    one, two = shapes.Volume.cut(mask), shapes.Volume.cut(moved)
    assert shapes.volume_dice(one, two) == 0.0
    assert shapes.volume_dice(one, two, aligned=True) == 1.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_volume_dice_equals_the_dice_of_whole_masks(seed):
    rng = np.random.default_rng(seed)
    one, two = rng.random((2, 5, 7, 6)) < rng.uniform(0.05, 0.4)
    one[2, 3, 4] = two[1, 1, 1] = True
    expected = 2 * (one & two).sum() / (one.sum() + two.sum())
    assert shapes.volume_dice(shapes.Volume.cut(one), shapes.Volume.cut(two)) == pytest.approx(expected)


def test_auc_is_one_zero_or_half_where_it_must_be():
    low, high = np.arange(10.0), np.arange(10.0) + 50
    assert shapes.auc(high, low) == pytest.approx(1.0)
    assert shapes.auc(low, high) == pytest.approx(0.0)
    assert shapes.auc(low, low) == pytest.approx(0.5)


def test_auc_agrees_with_the_rank_sum():
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 500, 400).astype(float), rng.integers(100, 600, 300).astype(float)
    expected = mannwhitneyu(one, two).statistic / (len(one) * len(two))
    assert shapes.auc(one, two) == pytest.approx(expected, abs=2e-3)
    assert shapes.auc(two, one) != pytest.approx(expected, abs=2e-3)  # the comparison can fail


def test_grey_auc_finds_a_dark_organ_in_a_bright_body():
    images = np.full((2, 60, 60), 100, np.uint16)
    images[:, :5] = 0
    masks = np.zeros((2, 60, 60, 3), bool)
    masks[:, 20:40, 20:40, 0] = True
    images[masks[..., 0]] = 40
    rim, rest = shapes.grey_auc(images, masks)
    assert rim[0] == pytest.approx(0.0)
    assert rest[0] < 0.1
    assert np.isnan(rim[1:]).all()


def test_noise_measures_the_residual_of_a_median():
    rng = np.random.default_rng(0)
    clean = np.full((3, 64, 64), 1000.0)
    quiet = shapes.noise((clean + rng.normal(0, 5, clean.shape)).astype(np.uint16))
    loud = shapes.noise((clean + rng.normal(0, 20, clean.shape)).astype(np.uint16))
    assert shapes.noise(clean.astype(np.uint16)) == 0
    assert 3 < loud / quiet < 5


def test_slices_repeat_themselves_and_noise_does_not():
    one = np.random.default_rng(0).integers(0, 100, (128, 128))
    same = np.stack([one] * 4).astype(np.uint16)
    other = np.random.default_rng(1).integers(0, 100, (4, 128, 128)).astype(np.uint16)
    assert shapes.slice_correlation(same, 1) == pytest.approx(1.0)
    assert abs(shapes.slice_correlation(other, 1)) < 0.1
