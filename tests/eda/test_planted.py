"""Bad annotations planted on purpose: each kind by hand, and several in a slice table."""

import cv2
import numpy as np
import pytest

from kitlib.contest import ORGANS
from kitlib.eda import planted


@pytest.fixture
def drawn():
    """Three squares on six slices, one per organ."""
    masks = np.zeros((6, 60, 60, 3), bool)
    for channel in range(3):
        masks[1:5, 20:30, 15 * channel + 2 : 15 * channel + 12, channel] = True
    return masks


def test_shifted_annotation_is_the_same_shape_elsewhere(drawn):
    spoiled = planted.spoil(drawn, "shifted", np.random.default_rng(0))
    middle = [np.argwhere(part[..., 1]).mean(axis=0) for part in (drawn, spoiled)]
    assert spoiled[..., 1].sum() == drawn[..., 1].sum()
    assert (np.abs(middle[1] - middle[0])[1:] >= 9).all()


def test_shifted_annotation_does_not_come_back_on_the_other_side():
    masks = np.zeros((1, 13, 17, 1), bool)
    masks[0, :5, :4] = True
    np.testing.assert_array_equal(np.argwhere(planted._shift(masks, -3, 2)[0, ..., 0]).min(axis=0), [0, 2])
    np.testing.assert_array_equal(np.argwhere(planted._shift(masks, -3, 2)[0, ..., 0]).max(axis=0), [1, 5])
    assert not planted._shift(masks, -5, 1).any()
    assert not planted._shift(masks, -14, 1).any()
    assert not planted._shift(masks, 0, 18).any()


@pytest.mark.parametrize("seed", range(5))
def test_missing_organ_loses_a_third_of_its_slices_or_more(drawn, seed):
    drawn[..., seed % 3] = False
    spoiled = planted.spoil(drawn, "missing", np.random.default_rng(seed))
    before, after = (masks.any(axis=(1, 2)).sum(axis=0) for masks in (drawn, spoiled))
    assert sorted(before > after) == [False, False, True]
    assert (before - after).max() >= 4 / 3


@pytest.mark.parametrize("kind", planted.FAULTS)
def test_fault_that_changes_nothing_is_refused(drawn, kind):
    with pytest.raises(ValueError, match=f"'{kind}' changes nothing.*'stomach': 0"):
        planted.spoil(np.zeros_like(drawn), kind, np.random.default_rng(0))


def test_swapped_annotation_exchanges_the_bowels(drawn):
    spoiled = planted.spoil(drawn, "swapped", np.random.default_rng(0))
    np.testing.assert_array_equal(spoiled, drawn[..., [1, 0, 2]])


def test_half_finished_annotation_stops_half_way(drawn):
    spoiled = planted.spoil(drawn, "half", np.random.default_rng(0))
    np.testing.assert_array_equal(np.flatnonzero(spoiled.any(axis=(1, 2, 3))), [1, 2])


def test_overdrawn_annotation_holds_the_right_one(drawn):
    spoiled = planted.spoil(drawn, "overdrawn", np.random.default_rng(0))
    assert (spoiled & drawn).sum() == drawn.sum()
    assert spoiled.sum() > 2 * drawn.sum()


def test_unknown_fault_is_refused_by_name(drawn):
    with pytest.raises(ValueError, match="'upside down'"):
        planted.spoil(drawn, "upside down", np.random.default_rng(0))


def test_outlines_are_overdrawn_by_the_disc_of_opencv():
    masks = np.random.default_rng(0).random((3, 17, 23, 3)) < 0.02
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    grown = np.stack([cv2.dilate(part.astype(np.uint8), disc) for part in masks]).astype(bool)
    np.testing.assert_array_equal(planted._dilate(masks, 4), grown)


def test_only_the_listed_scans_of_a_table_are_spoiled(slices):
    spoiled, faults = planted.plant(slices, 3)
    assert faults["fault"].tolist() == list(planted.FAULTS[:3])
    other = ~slices["scan"].isin(faults["scan"])
    assert (spoiled[other] == slices[other]).all(axis=None)
    for scan in faults["scan"]:
        rows = slices["scan"] == scan
        assert (spoiled.loc[rows, list(ORGANS)] != slices.loc[rows, list(ORGANS)]).any(axis=None)
    assert (planted.plant(slices, 3)[0] == spoiled).all(axis=None)


@pytest.mark.parametrize("count", [-1, 99])
def test_a_count_that_cannot_be_planted_is_refused(slices, count):
    with pytest.raises(ValueError, match=f"{count} annotations cannot be spoiled; choose 0 to"):
        planted.plant(slices, count)


def test_faults_of_a_phantom_are_taken_before_any_are_planted(slices, tmp_path):
    spoiled, faults = planted.read_or_plant(tmp_path, slices)
    assert len(faults) == max(1, slices["scan"].nunique() // 5)
    assert not (spoiled == slices).all(axis=None)
    with pytest.raises(ValueError, match=r"^FAULTS=99: 99 annotations cannot be spoiled; choose 0 to \d+"):
        planted.read_or_plant(tmp_path, slices, 99)
    (tmp_path / "faults.csv").write_text("scan,fault\ncase1_day0,half\n", encoding="utf-8")
    same, faults = planted.read_or_plant(tmp_path, slices, 3)
    assert same is slices
    assert faults["scan"].tolist() == ["case1_day0"]


def test_faults_of_a_phantom_are_read_from_its_folder(competition, tmp_path):
    assert planted.read_faults(competition).empty
    assert planted.read_faults(tmp_path).columns.tolist() == ["scan", "fault"]
    (tmp_path / "faults.csv").write_text("scan,fault\ncase1_day0,half\n", encoding="utf-8")
    assert planted.read_faults(tmp_path)["fault"].tolist() == ["half"]
