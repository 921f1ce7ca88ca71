"""Distances in millimetres and the bias of the border."""

import numpy as np
import pytest

from kitlib.scoring import borders, distances
from tests.scoring.volumes import CUBE, EMPTY, PAIRS, tables


def test_clinical_distances_of_a_shift_along_z_by_hand():
    one = np.zeros((12, 9, 9, 3), bool)
    one[2:6, 2:7, 2:7] = True
    rows, predicted, slices = tables([one], [np.roll(one, 2, axis=0)])
    table = borders.clinical(rows, predicted, slices)
    assert table["hausdorff_mm"].tolist() == [6.0] * 3
    assert (table["hausdorff_95_mm"] <= 6.0).all()
    assert (table["mean_distance_mm"] < 6.0).all()
    assert table["dice"].tolist() == [0.5] * 3


def test_an_organ_that_is_missed_is_counted_and_in_no_mean_of_millimetres():
    one = np.zeros((12, 9, 9, 3), bool)
    one[2:6, 2:7, 2:7] = True
    half = np.roll(one, 2, axis=0)
    half[..., 1] = False
    means = borders.clinical_means(borders.clinical(*tables([one, one], [np.roll(one, 2, axis=0), half])))
    assert means["missed"].tolist() == [0, 1, 0]
    assert means["hausdorff_mm"].tolist() == [6.0] * 3
    assert means["dice"].tolist() == [0.5, 0.25, 0.5]


def test_surface_distances_agree_with_brute_force():
    truth, prediction = PAIRS["shifted"]
    steps = (3.0, 1.5, 1.5)
    one, other = (distances.border(mask) * steps for mask in (truth, prediction))
    gaps = np.linalg.norm(one[:, None] - other[None], axis=2)
    there, back = gaps.min(axis=1), gaps.min(axis=0)
    assert borders.mean_distance(truth, prediction, steps) == pytest.approx(np.r_[there, back].mean(), abs=1e-9)
    expected = max(np.quantile(there, 0.95), np.quantile(back, 0.95))
    assert borders.hausdorff_95(truth, prediction, steps) == pytest.approx(expected, abs=1e-9)


def test_surface_distance_of_empty_masks():
    assert np.isnan(borders.mean_distance(EMPTY, EMPTY, (3, 1, 1)))
    assert borders.hausdorff_95(EMPTY, CUBE, (3, 1, 1)) == float("inf")


@pytest.mark.parametrize("wide", [-2, -1, 0, 1, 3])
def test_border_bias_of_a_square_is_its_growth_in_pixels(wide):
    truth, prediction = np.zeros((2, 2, 30, 34), bool)
    truth[:, 10:20, 10:24] = True
    prediction[:, 10 - wide : 20 + wide, 10 - wide : 24 + wide] = True
    distances = borders.signed_distances(truth, prediction)
    assert np.median(distances) == pytest.approx(wide, abs=1e-6)
    assert (np.sign(distances) == np.sign(wide)).all()


def test_bias_table_has_millimetres_and_a_row_for_an_absent_organ():
    one = np.zeros((4, 20, 20, 3), bool)
    one[1:3, 5:15, 5:15, :2] = True
    tight = one & np.roll(one, 1, 1) & np.roll(one, -1, 1) & np.roll(one, 1, 2) & np.roll(one, -1, 2)
    table = borders.bias(*tables([one], [tight]))
    assert table.loc["large_bowel", "mean_px"] == pytest.approx(-1, abs=1e-6)
    assert table.loc["large_bowel", "mean_mm"] == pytest.approx(-1.5, abs=1e-6)
    assert table.loc["large_bowel", "tight"] == 1
    assert table.loc["stomach", "pixels"] == 0
