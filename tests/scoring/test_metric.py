"""The score of tables: by hand, faulty rows, and real masks where they are available."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from kitlib import contest, rle
from kitlib.scoring import host, metric
from tests.scoring.volumes import random_scans, tables

REAL = os.environ.get("KITLIB_REAL_DATA")
needs_real = pytest.mark.skipif(not REAL, reason="KITLIB_REAL_DATA is not set: there are no real masks")


def test_score_by_hand():
    """One scan, one organ: slice 1 half right, slice 2 predicted alone, slice 3 empty on both sides."""
    truth, prediction = np.zeros((2, 3, 2, 4, 3), bool)
    truth[0, 0, :2, 0] = True
    prediction[0, 0, 1:3, 0] = True
    prediction[1, 0, 0, 0] = True
    found = metric.score(*tables([truth], [prediction]))
    assert found.dice == pytest.approx((0.5 + 0) / 2)
    assert found.hausdorff == pytest.approx(1 / 3 / 3**0.5)  # one slice of three, above the first pixel
    assert found.value == pytest.approx(0.4 * 0.25 + 0.6 * (1 - 1 / 3 / 3**0.5))
    assert found.organs.loc["large_bowel", ["rows", "volumes"]].tolist() == [2, 1]
    assert found.organs.loc["stomach", ["rows", "volumes"]].tolist() == [0, 0]
    assert found.slices["truth"].sum() == 2


def test_the_order_of_rows_does_not_matter():
    truth, prediction, slices = tables(*random_scans())
    shuffled = prediction.sample(frac=1, random_state=1)
    assert metric.score(truth, shuffled, slices).value == metric.score(truth, prediction, slices).value


def test_empty_fields_may_be_nan():
    truth, prediction, slices = tables(*random_scans())
    blank = prediction.replace({"predicted": {"": np.nan}})
    assert metric.score(truth, blank, slices).value == metric.score(truth, prediction, slices).value


def test_a_file_without_any_mask_is_read_as_floats_and_scored():
    truth, prediction, slices = tables(*random_scans())
    nothing = metric.score(truth, prediction.assign(predicted=""), slices)
    assert metric.score(truth, prediction.assign(predicted=np.nan), slices).value == nothing.value
    assert nothing.dice == 0


def test_panel_of_nothing_is_not_a_number_where_empty_rows_do_not_count():
    truth, prediction, slices = tables(*random_scans())
    nothing = truth.assign(segmentation=""), prediction.assign(predicted=""), slices
    assert metric.panel(*nothing)["perfect"].dropna().to_dict() == {"page": 0.6, "ones": 1.0, "slicewise": 1.0}
    assert metric.panel(*(table[:0] for table in nothing))["value"].isna().all()


def test_a_missing_row_is_an_error_that_names_it():
    truth, prediction, slices = tables(*random_scans())
    with pytest.raises(ValueError, match="prediction lacks 1 of 72 rows, first case1_day0_slice_0002 small_bowel"):
        metric.score(truth, prediction.drop(index=4), slices)


@pytest.mark.parametrize("which", [0, 1])
def test_malformed_runs_are_an_error_that_names_table_and_row(which):
    both = [*tables(*random_scans())]
    column, name = (("segmentation", "truth"), ("predicted", "prediction"))[which]
    both[which].loc[4, column] = "5 3 6"
    with pytest.raises(ValueError, match=f"^{name}, case1_day0_slice_0002 small_bowel: run-length text '5 3 6'"):
        metric.score(*both)


def test_doubled_and_unknown_rows_are_errors_that_name_them():
    truth, prediction, slices = tables(*random_scans())
    with pytest.raises(ValueError, match="1 duplicate rows, first case1_day0_slice_0001 small_bowel"):
        metric.score(truth, pd.concat([prediction, prediction.iloc[[1]]]), slices)
    strange = pd.concat([prediction, prediction.iloc[[1]].assign(id="case9_day0_slice_0001")])
    with pytest.raises(ValueError, match=r"1 rows that belong to no slice of .* case9_day0_slice_0001 small_bowel"):
        metric.score(truth, strange, slices)


def test_the_score_of_some_scans_is_that_of_their_rows_alone():
    truth, prediction, slices = tables(*random_scans())
    whole, names = metric.score(truth, prediction, slices), slices["scan"].unique()
    for part in (names[:1], names[1:]):
        rows = slices[slices["scan"].isin(part)]
        alone = metric.score(truth[truth["id"].isin(rows["id"])], prediction[prediction["id"].isin(rows["id"])], rows)
        found = whole.part(part)
        assert (found.value, found.dice, found.hausdorff) == pytest.approx((alone.value, alone.dice, alone.hausdorff))
        pd.testing.assert_frame_equal(found.organs, alone.organs)
        pd.testing.assert_frame_equal(found.totals(), alone.totals())
    table = metric.apart(whole, {"one": names[:1], "nobody": [], "others": names[1:]})
    assert table.index.tolist() == ["one", "others"]
    assert table["scans"].tolist() == [1, len(names) - 1]
    assert table.loc["others", "value"] == pytest.approx(alone.value)
    assert np.isnan(table.loc["one", "low"])


def test_totals_and_interval_give_the_score_back():
    found = metric.score(*tables(*random_scans()))
    assert host.value(found.totals().to_numpy(float).sum(axis=0)) == pytest.approx(found.value, abs=1e-12)
    value, low, high = found.interval()
    assert value == pytest.approx(found.value)
    assert low < value < high


def real_scan(size, organs=contest.ORGANS):
    """The first real scan of a height: truth (D, H, W, organs)."""
    index = pd.read_csv(Path(REAL) / "slices.csv.gz").set_index("id")
    rows = pd.read_csv(Path(REAL) / "masks.csv", keep_default_na=False)
    rows = rows[rows["id"].map(index["height"]) == size]
    scan = rows["id"].iloc[0].rsplit("_slice", 1)[0]
    rows = rows[rows["id"].str.startswith(scan + "_slice")].sort_values("id")
    shape = tuple(index.loc[rows["id"].iloc[0], ["height", "width"]])
    texts = [rows.loc[rows["class"] == organ, "segmentation"].tolist() for organ in organs]
    return np.stack([rle.decode_stack(organ, shape) for organ in texts], axis=-1)


def brute(source, target, steps):
    """Scipy's exact distance transform, in a box that holds both."""
    filled = np.nonzero(source | target)
    box = tuple(slice(side.min(), side.max() + 1) for side in filled)
    return ndimage.distance_transform_edt(~target[box], sampling=steps)[source[box]].max()


SPOILT = {
    "shifted": lambda mask: np.roll(mask, (1, 4, -5), (0, 1, 2)),
    "late stop": lambda mask: mask | np.roll(mask, 5, 0),
    "island": lambda mask: mask | (np.arange(mask[0].size) == 5000).reshape(1, *mask.shape[1:]),
}


@needs_real
@pytest.mark.parametrize("kind", SPOILT)
def test_real_masks_against_themselves_spoilt_score_as_brute_force_says(kind):
    truth = real_scan(266)
    prediction = np.stack([SPOILT[kind](mask) for mask in np.moveaxis(truth, -1, 0)], axis=-1)
    steps = 1 / np.array(truth.shape[:3])
    organs = [(truth[..., k], prediction[..., k]) for k in range(3)]
    distances = [max(brute(g, p, steps), brute(p, g, steps)) / 3**0.5 for g, p in organs]
    overlap, total = (truth & prediction).sum(axis=(1, 2)), (truth.astype(int) + prediction).sum(axis=(1, 2))
    dice = (2 * overlap[total > 0] / total[total > 0]).mean()
    found = metric.score(*tables([truth], [prediction]))
    assert found.dice == pytest.approx(dice, abs=1e-12)
    assert found.hausdorff == pytest.approx(np.mean(distances), abs=1e-9)
