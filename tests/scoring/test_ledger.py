"""The ledger: points sum to 1 - score, planted errors are found in their class, mending agrees with the score."""

import numpy as np
import pytest
from scipy import ndimage

from kitlib import contest
from kitlib.scoring import host, ledger, metric
from tests.scoring.volumes import random_scans, tables

SLICES = ["id", "scan", "slice", "height", "width"]
LARGE, SMALL, STOMACH = range(3)


def box(shape, z, y, x):
    mask = np.zeros(shape, bool)
    mask[slice(*z), slice(*y), slice(*x)] = True
    return mask


def scan(shape=(40, 30, 34)):
    """Three organs; both bowels end on one slice and lie side by side."""
    boxes = [((4, 16), (4, 12), (5, 13)), ((4, 16), (4, 12), (14, 22)), ((8, 18), (16, 25), (8, 20))]
    return np.stack([box(shape, *organ) for organ in boxes], axis=-1)


def pairs(seed):
    """One to three random scans of different sizes, with all kinds of errors and empty organs."""
    random = np.random.default_rng(seed)
    truth, prediction = [], []
    for _ in range(random.integers(1, 4)):
        shape = (*random.integers(2, 9, 1), *random.integers(3, 12, 2), 3)
        smooth = [ndimage.gaussian_filter(random.random(shape), (1, 1, 1, 0)) for _ in range(2)]
        level = np.quantile(smooth[0], random.uniform(0.4, 0.95, 3))
        truth.append(smooth[0] > level)
        prediction.append((smooth[0] + random.uniform(0, 2) * (smooth[1] - 0.5)) > level)
        truth[-1] &= random.random(3) > 0.15
        prediction[-1] &= random.random(3) > 0.15
    return truth, prediction


@pytest.mark.parametrize("start", range(0, 200, 20))
def test_points_sum_to_one_minus_the_score_in_both_orders_on_random_pairs(start):
    for seed in range(start, start + 20):
        truth, prediction = pairs(seed)
        volumes = [(t[..., k], p[..., k]) for t, p in zip(truth, prediction, strict=True) for k in range(3)]
        score = host.value(sum(host.totals(*volume) for volume in volumes))
        found = ledger.measure(*tables(truth, prediction))
        for table in (found.table, *found.orders.values(), found.scans):
            lost = table["points"].sum()
            assert lost == pytest.approx(1 - score, abs=1e-9) if score == score else lost == 0
            terms = table["dice_points"] + table["hausdorff_points"]
            np.testing.assert_allclose(table["points"], terms, atol=1e-12)
        assert found.score == pytest.approx(score, abs=1e-9, nan_ok=True)


def test_after_every_step_the_score_is_that_of_the_mended_masks():
    """The shortcuts (areas by class, one direction of the distance) against masks that are mended and scored."""
    for truth, prediction in (random_scans(), pairs(11)):
        rows, _, slices = tables(truth, prediction)
        found = ledger.measure(*tables(truth, prediction))
        for name, order in (("forward", range(1, 13)), ("reverse", range(12, 0, -1))):
            masks, before = [mask.copy() for mask in prediction], metric.score(*tables(truth, prediction)).value
            classes = [ledger.errors(*pair) for pair in zip(truth, prediction, strict=True)]
            for number in order:
                for mask, one, where in zip(masks, truth, classes, strict=True):
                    mask[where == number] = one[where == number]
                after = metric.score(rows, tables(truth, masks)[1], slices).value
                table = found.orders[name]
                step = table.loc[table["error"] == ledger.CLASSES[number], "points"].sum()
                assert step == pytest.approx(after - before, abs=1e-9)
                before = after
            assert before == 1


def island(masks):
    masks[14:16, 26:29, 29:33, STOMACH] = True


def late_start(masks):
    masks[8:11, ..., STOMACH] = False


def early_end(masks):
    masks[14:16, ..., LARGE] = False


def past_the_line(masks):
    masks[16:19, ..., :STOMACH] = masks[15, ..., :STOMACH]


def before_the_first(masks):
    masks[2:4, ..., SMALL] = masks[4, ..., SMALL]


def hole(masks):
    masks[9:11, ..., LARGE] = False


def swapped(masks):
    masks[6:13, ..., LARGE], masks[6:13, ..., SMALL] = masks[6:13, ..., SMALL], masks[6:13, ..., LARGE].copy()


def wider(masks):
    plane = np.ones((1, 3, 3), bool)
    masks[..., STOMACH] = ndimage.binary_dilation(masks[..., STOMACH], plane)


def tighter(masks):
    plane = np.ones((1, 3, 3), bool)
    masks[..., STOMACH] = ndimage.binary_erosion(masks[..., STOMACH], plane)


def absent(masks):
    masks[..., SMALL] = False


PLANTED = {
    "far island": (island, {STOMACH}),
    "started late": (late_start, {STOMACH}),
    "ended early": (early_end, {LARGE}),
    "beyond the last slice": (past_the_line, {LARGE, SMALL}),
    "before the first slice": (before_the_first, {SMALL}),
    "hole in the run of slices": (hole, {LARGE}),
    "swapped with another organ": (swapped, {LARGE, SMALL}),
    "rim too wide": (wider, {STOMACH}),
    "rim too tight": (tighter, {STOMACH}),
    "absent organ": (absent, {SMALL}),
}


@pytest.mark.parametrize("error", PLANTED)
def test_a_planted_error_is_found_in_its_class_with_all_points_that_the_score_says(error):
    plant, organs = PLANTED[error]
    truth = [scan(), scan((52, 36, 40))]
    prediction = [mask.copy() for mask in truth]
    plant(prediction[1])
    rows = tables(truth, prediction)
    found = ledger.table(*rows)
    assert set(found["error"]) == {error}
    assert set(found["organ"]) == {contest.ORGANS[organ] for organ in organs}
    assert found["points"].sum() == pytest.approx(1 - metric.score(*rows).value, abs=1e-12)
    assert found["points"].min() > 0
    assert found["voxels"].sum() == np.count_nonzero(truth[1] ^ prediction[1])
    assert set(ledger.measure(*rows).scans["scan"]) == {"case2_day0"}


def test_an_invented_organ_and_a_missed_piece_are_found():
    truth = [scan()]
    truth[0][..., SMALL] = False
    truth[0][10:12, 26:29, 29:33, STOMACH] = True
    prediction = [scan()]
    found = ledger.table(*tables(truth, prediction)).set_index("error")["organ"]
    assert found.to_dict() == {"invented organ": "small_bowel", "missed piece": "stomach"}


def test_two_errors_share_the_points_and_a_scan_without_errors_has_none():
    truth = [scan(), scan()]
    prediction = [mask.copy() for mask in truth]
    late_start(prediction[0])
    island(prediction[0])
    rows = tables(truth, prediction)
    found = ledger.measure(*rows)
    assert set(found.table["error"]) == {"started late", "far island"}
    alone = {}
    for plant, name in ((late_start, "started late"), (island, "far island")):
        only = [mask.copy() for mask in truth]
        plant(only[0])
        alone[name] = 1 - metric.score(*tables(truth, only)).value
    for name, table in found.orders.items():
        last = {"forward": "far island", "reverse": "started late"}[name]
        points = table.set_index("error")["points"]
        assert points[last] == pytest.approx(alone[last], abs=1e-12)
    assert set(found.scans["scan"]) == {"case1_day0"}


def test_a_perfect_prediction_has_an_empty_ledger():
    truth = [scan(), scan((30, 30, 30))]
    truth[1][..., LARGE] = False
    found = ledger.measure(*tables(truth, truth))
    assert found.table.empty
    assert list(found.table) == ["error", "organ", "points", "dice_points", "hausdorff_points", "voxels"]
    assert found.scans.empty
    assert (found.score, found.right_presence, found.right_contours) == (1, 1, 1)


def test_nothing_but_empty_masks_has_an_empty_ledger():
    empty = [np.zeros((4, 5, 6, 3), bool)]
    assert ledger.table(*tables(empty, empty)).empty


@pytest.mark.parametrize("seed", range(6))
def test_classes_partition_the_difference(seed):
    for truth, prediction in zip(*pairs(seed), strict=True):
        classes = ledger.errors(truth, prediction)
        assert classes.shape == truth.shape
        assert classes.dtype == np.uint8
        np.testing.assert_array_equal(classes > 0, truth ^ prediction)
        assert classes.max() < len(ledger.CLASSES)


@pytest.mark.parametrize("seed", range(4))
def test_what_ifs_are_scores_of_right_slices_and_of_right_contours(seed):
    truth, prediction = pairs(seed)
    rows, _, slices = tables(truth, prediction)
    presence, contours = [], []
    for one, other in zip(truth, prediction, strict=True):
        there, here = one.any(axis=(1, 2), keepdims=True), other.any(axis=(1, 2), keepdims=True)
        presence.append(np.where(there & here, other, one))
        contours.append(np.where(there & here, one, other))
    found = ledger.measure(*tables(truth, prediction))
    for value, masks in ((found.right_presence, presence), (found.right_contours, contours)):
        assert value == pytest.approx(metric.score(rows, tables(truth, masks)[1], slices).value, abs=1e-9)


def test_scans_are_the_shares_of_the_table():
    found = ledger.measure(*tables(*random_scans()))
    sums = found.scans.groupby(["error", "organ"])[["points", "voxels"]].sum()
    expected = found.table.set_index(["error", "organ"])[["points", "voxels"]]
    np.testing.assert_allclose(sums.loc[expected.index], expected, atol=1e-12)


def test_groups_lose_what_all_scans_would_lose_if_they_were_like_theirs():
    truth = [scan(), scan(), scan()]
    prediction = [mask.copy() for mask in truth]
    late_start(prediction[0])
    found = ledger.measure(*tables(truth, prediction))
    names = list(found.names)
    assert len(names) == 3
    split = found.split({"known": names[:1], "new": names[1:], "none": []})
    assert list(split.columns) == ["error", "organ", "known", "new"]
    assert split["known"].sum() == pytest.approx(3 * (1 - found.score), abs=1e-12)
    assert split["new"].sum() == 0
    whole = found.split({"all": names})
    np.testing.assert_allclose(whole["all"], found.table["points"], atol=1e-12)


def test_the_order_of_rows_and_of_slices_does_not_matter_and_few_columns_do():
    truth, prediction, slices = tables(*random_scans())
    expected = ledger.table(truth, prediction, slices)
    shuffled = [table.sample(frac=1, random_state=1) for table in (truth, prediction, slices[SLICES])]
    found = ledger.table(*shuffled)
    keys = ["error", "organ"]
    for name in ("points", "voxels"):
        one, other = (table.set_index(keys)[name].sort_index() for table in (expected, found))
        np.testing.assert_allclose(one, other, atol=1e-12)
    assert metric.score(*shuffled).value == pytest.approx(metric.score(truth, prediction, slices).value, abs=1e-12)


def test_every_class_has_a_remedy_and_advice_names_large_rows_only():
    assert set(ledger.REMEDIES) == set(ledger.CLASSES[1:])
    truth, prediction = [scan()], [scan()]
    island(prediction[0])
    prediction[0][4, 4, 5, LARGE] = False
    table = ledger.table(*tables(truth, prediction))
    (line,) = ledger.advice(table)
    assert line.startswith("far island, stomach (0.")
    assert "Settings.largest" in line


def test_advice_for_a_rim_that_is_wrong_on_both_sides_is_no_threshold():
    truth, prediction = [scan()], [scan()]
    prediction[0][..., STOMACH] = np.roll(prediction[0][..., STOMACH], 3, axis=2)
    table = ledger.table(*tables(truth, prediction))
    assert set(table["error"]) == {"rim too wide", "rim too tight"}
    assert all("no threshold fixes it" in line for line in ledger.advice(table))
