"""The score: hand-computed cases, agreement with a slow readable reference, and real masks where they are at hand."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import directed_hausdorff

from kitlib import contest, rle
from kitlib.scoring import __main__ as scorecard
from kitlib.scoring import bootstrap, borders, conventions, metric
from kitlib.scoring import distances as hausdorff

SHAPES = [(7, 11, 13), (5, 19, 6), (12, 10, 31)]
REAL = os.environ.get("KITLIB_REAL_DATA")
needs_real = pytest.mark.skipif(not REAL, reason="KITLIB_REAL_DATA is not set: no real masks at hand")


# The slow readable reference: scipy over all voxels, one sentence of the definition per line.


def reference_distance(source, target, steps):
    """Scipy's directed distance over all voxels."""
    return directed_hausdorff(np.argwhere(source) * steps, np.argwhere(target) * steps)[0]


def reference_hausdorff(truth, prediction, directed=False):
    """FACTS of the host convention: unit cube, over sqrt(3); NaN for both empty, 1 for one empty."""
    if not truth.any() and not prediction.any():
        return float("nan")
    if not truth.any() or not prediction.any():
        return 1.0
    steps = 1 / np.array(truth.shape)
    there = reference_distance(prediction, truth, steps)
    return (there if directed else max(there, reference_distance(truth, prediction, steps))) / 3**0.5


def reference_score(truth, prediction, convention):
    """Score lists of (organs, D, H, W) masks, one per scan, by the letter of a convention."""
    dices, distances = [], []
    for one, other in zip(truth, prediction, strict=True):
        for g, p in zip(one.reshape(-1, *one.shape[2:]), other.reshape(-1, *one.shape[2:]), strict=True):
            if not g.any() and not p.any():
                dices.append({"page": 0.0, "ones": 1.0, "slicewise": 1.0}.get(convention))
            elif not g.any() and convention == "slicewise":
                dices.append(None)
            else:
                dices.append(2 * (g & p).sum() / (g.sum() + p.sum()))
            if convention == "slicewise":
                distances.append(slice_distance(g, p))
        if convention == "union":
            distances.append(reference_hausdorff(one.any(axis=0), other.any(axis=0)))
        if convention in ("host", "ones", "page"):
            for g, p in zip(one, other, strict=True):
                page = convention == "page"
                distance = reference_hausdorff(g, p, directed=page)
                both = g.any() and p.any()
                distances.append(min(1.0, distance * 3**0.5) if page and both else distance)
    dice = np.mean([value for value in dices if value is not None])
    return 0.4 * dice + 0.6 * (1 - np.nanmean(distances))


def slice_distance(truth, prediction):
    """Pixels from prediction to truth over the slice's diagonal."""
    if truth.any() and prediction.any():
        return directed_hausdorff(np.argwhere(prediction), np.argwhere(truth))[0] / np.hypot(*truth.shape)
    return float(truth.any() or prediction.any())


# Shapes.


def ball(shape, center, radius):
    """A ball of voxels, radius in voxels."""
    grid = np.indices(shape) - np.reshape(center, (3, 1, 1, 1))
    return (grid**2).sum(axis=0) <= radius**2


SHAPE = (15, 21, 27)
CUBE = ball(SHAPE, (7, 10, 13), 5)
EMPTY = np.zeros(SHAPE, bool)


def voxel(*place):
    mask = EMPTY.copy()
    mask[place] = True
    return mask


PAIRS = {
    "equal": (CUBE, CUBE),
    "nested": (ball(SHAPE, (7, 10, 13), 7), ball(SHAPE, (7, 10, 13), 3)),
    "hollow shell around a ball": (
        ball(SHAPE, (7, 10, 13), 7) & ~ball(SHAPE, (7, 10, 13), 6),
        ball(SHAPE, (7, 10, 13), 3),
    ),
    "hole": (CUBE, CUBE & ~ball(SHAPE, (7, 10, 13), 3)),
    "far island": (CUBE, CUBE | voxel(0, 0, 26)),
    "one voxel each": (voxel(3, 4, 5), voxel(14, 20, 26)),
    "one voxel in a full volume": (voxel(0, 0, 0), ~EMPTY),
    "touching the border": (ball(SHAPE, (0, 0, 0), 6), ball(SHAPE, (14, 20, 26), 6)),
    "touching each other": (CUBE, np.roll(CUBE, 11, 2)),
    "shifted": (CUBE, np.roll(CUBE, (1, 2, -3), (0, 1, 2))),
    "missing slices": (CUBE, CUBE & (np.arange(15) < 6)[:, None, None]),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("directed", [False, True])
def test_hausdorff_agrees_with_scipy_on(name, directed):
    truth, prediction = PAIRS[name]
    for one, other in ((truth, prediction), (prediction, truth)):
        expected = reference_hausdorff(one, other, directed)
        assert metric.hausdorff(one, other, directed) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.002, 0.05, 0.4, 0.97])
@pytest.mark.parametrize("directed", [False, True])
def test_hausdorff_agrees_with_scipy_on_random_masks(shape, density, directed):
    random = np.random.default_rng(shape[0])
    truth, prediction = random.random(shape) < density, random.random(shape) < 0.1
    truth[2, 3, 4] = prediction[1, 5, 2] = True
    expected = reference_hausdorff(truth, prediction, directed)
    assert metric.hausdorff(truth, prediction, directed) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("many", [0, 10**9])
@pytest.mark.parametrize("table", [0, 30, 4000])
def test_every_way_through_the_search_gives_the_same(monkeypatch, many, table):
    """Blocks from the start, a table that is too short, one that is long enough."""
    monkeypatch.setattr(hausdorff, "_MANY", many)
    monkeypatch.setattr(hausdorff, "_TABLE", table)
    hausdorff._offsets.cache_clear()
    random = np.random.default_rng(3)
    shape = (20, 40, 50)
    truth = ball(shape, (10, 20, 25), 7)
    noisy = ball(shape, (9, 22, 21), 8) ^ (random.random(shape) < 0.02)
    expected = reference_hausdorff(truth, noisy)
    found = metric.hausdorff(truth, noisy)
    hausdorff._offsets.cache_clear()
    assert found == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 9), st.integers(1, 11))
def test_hausdorff_agrees_with_scipy_on_anything(seed, depth, height, width):
    random = np.random.default_rng(seed)
    truth, prediction = (random.random((depth, height, width)) < random.random() for _ in range(2))
    found, expected = metric.hausdorff(truth, prediction), reference_hausdorff(truth, prediction)
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)


@given(st.integers(0, 2**31))
def test_distance_is_symmetric_and_survives_a_common_flip(seed):
    random = np.random.default_rng(seed)
    one, other = (random.random((3, 6, 8)) < 0.2 for _ in range(2))
    distance = metric.hausdorff(one, other)
    np.testing.assert_allclose(metric.hausdorff(other, one), distance, atol=1e-12)
    np.testing.assert_allclose(metric.hausdorff(one[:, ::-1], other[:, ::-1]), distance, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "equal"])
def test_the_pair_of_voxels_lies_in_the_masks_and_is_that_far_apart(name):
    truth, prediction = PAIRS[name]
    steps = (3.0, 1.5, 1.63)
    pair = hausdorff.symmetric(truth, prediction, steps)
    source, target = (truth, prediction) if pair.forward else (prediction, truth)
    assert source[pair.source]
    assert not target[pair.source]
    assert target[pair.target]
    gap = (np.array(pair.source) - pair.target) * steps
    assert np.linalg.norm(gap) == pytest.approx(pair.distance, abs=1e-9)
    expected = max(reference_distance(truth, prediction, steps), reference_distance(prediction, truth, steps))
    assert pair.distance == pytest.approx(expected, abs=1e-9)


def test_a_ball_inside_a_hollow_shell_is_as_far_as_voxel_sets_say():
    """The ball's centre is farthest, 17 from the shell; from border to border it would be the gap between them, 6."""
    shape, center = (37, 37, 37), (18, 18, 18)
    shell = ball(shape, center, 17) & ~ball(shape, center, 16.99)
    assert metric.hausdorff(ball(shape, center, 11), shell, steps=(1, 1, 1)) == 17.0
    edges = borders.surface_distances(ball(shape, center, 11), shell, (1, 1, 1))
    assert edges[1].max() == pytest.approx(6, abs=0.7)


def test_a_ball_inside_a_solid_ball_is_at_directed_distance_zero():
    solid, inner = ball((21, 21, 21), (10, 10, 10), 10), ball((21, 21, 21), (10, 10, 10), 2)
    assert metric.hausdorff(solid, inner, directed=True) == 0.0
    assert metric.hausdorff(inner, solid, directed=True) > 0.2


def test_opposite_corners_of_a_large_cube_come_near_one():
    corners = np.zeros((2, 50, 50, 50), bool)
    corners[0, 0, 0, 0] = corners[1, -1, -1, -1] = True
    assert metric.hausdorff(*corners) == pytest.approx(0.98)


def test_both_empty_is_not_a_number():
    assert np.isnan(metric.hausdorff(EMPTY, EMPTY))
    assert np.isnan(metric.hausdorff(EMPTY, EMPTY, steps=(3, 1, 1)))
    assert np.isnan(metric.dice(EMPTY, EMPTY))


def test_exactly_one_empty_is_distance_one_or_infinity_in_millimetres():
    assert metric.hausdorff(EMPTY, CUBE) == metric.hausdorff(CUBE, EMPTY) == 1.0
    assert metric.hausdorff(EMPTY, CUBE, directed=True) == metric.hausdorff(CUBE, EMPTY, directed=True) == 1.0
    assert metric.hausdorff(EMPTY, CUBE, steps=(3, 1.5, 1.5)) == float("inf")


def test_exactly_one_empty_is_dice_zero():
    assert metric.dice(EMPTY, CUBE) == metric.dice(CUBE, EMPTY) == 0.0


@pytest.mark.parametrize("other", [np.zeros((2, 3, 5), bool), np.zeros((2, 3, 4), np.uint8)])
def test_masks_of_other_shape_or_type_are_refused(other):
    with pytest.raises(ValueError, match="expected two bool masks of one shape"):
        metric.hausdorff(np.zeros((2, 3, 4), bool), other)


@pytest.mark.parametrize(("shape", "steps"), [((4, 5), None), ((3, 4, 5), (1.5, 1.5)), ((3, 4, 5), (3, 0, 1))])
def test_a_picture_is_no_volume_and_steps_are_three_above_zero(shape, steps):
    with pytest.raises(ValueError, match=r"expected masks \(D, H, W\) and three steps above 0, got"):
        metric.hausdorff(np.ones(shape, bool), np.ones(shape, bool), steps=steps)


# Tables.


def tables(truth, prediction):
    """Lists of (organs, D, H, W) masks as rows, rows and slice table; scan k is case k+1."""
    slices, lines = [], []
    for number, (one, other) in enumerate(zip(truth, prediction, strict=True), 1):
        for z in range(one.shape[1]):
            name = f"case{number}_day0_slice_{z + 1:04d}"
            size = {"height": one.shape[2], "width": one.shape[3], "spacing_mm": 1.5}
            slices.append({"id": name, "scan": f"case{number}_day0"} | size)
            for organ, g, p in zip(contest.ORGANS, one[:, z], other[:, z], strict=True):
                lines.append({"id": name, "class": organ, "segmentation": rle.encode(g), "predicted": rle.encode(p)})
    rows = pd.DataFrame(lines)
    return rows.drop(columns="predicted"), rows.drop(columns="segmentation"), pd.DataFrame(slices)


def random_scans(seed=0):
    """Three scans of different sizes, with organs absent on both, one and no side."""
    random = np.random.default_rng(seed)
    truth, prediction = [], []
    for shape in SHAPES:
        blobs = np.stack([ball(shape, random.integers(2, 5, 3), random.integers(1, 4)) for _ in range(3)])
        truth.append(blobs)
        prediction.append(np.roll(blobs, random.integers(-1, 3, 3), (1, 2, 3)) | (random.random(blobs.shape) < 0.002))
    truth[0][2] = prediction[0][2] = False
    truth[1][1] = False
    prediction[2][0] = False
    return truth, prediction


@pytest.mark.parametrize("name", conventions.CONVENTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_convention_agrees_with_the_readable_reference(name, seed):
    truth, prediction = random_scans(seed)
    found = metric.score(*tables(truth, prediction), convention=name)
    assert found.value == pytest.approx(reference_score(truth, prediction, name), abs=1e-9)


@pytest.mark.parametrize("name", conventions.CONVENTIONS)
def test_convention_agrees_with_the_readable_reference_on_every_shape(name):
    """A scan per pair of shapes: the pair, an organ that neither side holds, and one that a side in turn lacks."""
    truth = [np.stack([one, EMPTY, (EMPTY, CUBE)[k % 2]]) for k, (one, _) in enumerate(PAIRS.values())]
    prediction = [np.stack([other, EMPTY, (CUBE, EMPTY)[k % 2]]) for k, (_, other) in enumerate(PAIRS.values())]
    found = metric.score(*tables(truth, prediction), convention=name)
    assert found.value == pytest.approx(reference_score(truth, prediction, name), abs=1e-9)


@pytest.mark.parametrize(
    ("name", "empty", "expected"),
    [
        ("host", "both", (None, None)),
        ("host", "prediction", (0, 1)),
        ("host", "truth", (0, 1)),
        ("page", "both", (0, None)),
        ("page", "prediction", (0, 1)),
        ("page", "truth", (0, 1)),
        ("ones", "both", (1, None)),
        ("ones", "prediction", (0, 1)),
        ("ones", "truth", (0, 1)),
        ("slicewise", "both", (1, 0)),
        ("slicewise", "prediction", (0, 1)),
        ("slicewise", "truth", (None, 1)),
        ("union", "both", (None, None)),
        ("union", "prediction", (0, 1)),
        ("union", "truth", (0, 1)),
    ],
)
def test_what_empty_masks_count(name, empty, expected):
    """Dice and distance of a scan of one slice, on which one side or both are empty; None where nothing counts."""
    masks = [[np.full((3, 1, 4, 6), empty not in (side, "both"))] for side in ("truth", "prediction")]
    found = metric.score(*tables(*masks), convention=name)
    for value, wanted in zip((found.dice, found.hausdorff), expected, strict=True):
        assert np.isnan(value) if wanted is None else value == wanted


def test_panel_agrees_with_score_and_shows_what_a_perfect_file_gets():
    truth, prediction = random_scans()
    rows, predicted, slices = tables(truth, prediction)
    panel = metric.panel(rows, predicted, slices)
    perfect = rows.rename(columns={"segmentation": "predicted"})
    for name, line in panel.iterrows():
        assert line["value"] == pytest.approx(metric.score(rows, predicted, slices, name).value, abs=1e-12)
        assert line["perfect"] == pytest.approx(metric.score(rows, perfect, slices, name).value, abs=1e-12)
        assert line["perfect"] == pytest.approx(reference_score(truth, truth, name), abs=1e-12)
    assert panel.loc["page", "perfect"] < 1
    assert panel.loc["host", "perfect"] == 1


def test_score_by_hand():
    """One scan, one organ: slice 1 half right, slice 2 predicted alone, slice 3 empty on both sides."""
    truth, prediction = np.zeros((2, 3, 3, 2, 4), bool)
    truth[0, 0, 0, :2] = True
    prediction[0, 0, 0, 1:3] = True
    prediction[0, 1, 0, 0] = True
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
    with pytest.raises(ValueError, match="prediction misses 1 of 72 rows, first case1_day0_slice_0002 small_bowel"):
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
    with pytest.raises(ValueError, match="1 doubled rows, first case1_day0_slice_0001 small_bowel"):
        metric.score(truth, pd.concat([prediction, prediction.iloc[[1]]]), slices)
    strange = pd.concat([prediction, prediction.iloc[[1]].assign(id="case9_day0_slice_0001")])
    with pytest.raises(ValueError, match="1 rows that no slice asks for, first case9_day0_slice_0001 small_bowel"):
        metric.score(truth, strange, slices)


def test_an_unknown_convention_lists_the_known_ones():
    with pytest.raises(ValueError, match="'kaggle'; choose one of host, page, ones, slicewise, union"):
        metric.score(*tables(*random_scans()), convention="kaggle")


def test_totals_and_interval_give_the_score_back():
    found = metric.score(*tables(*random_scans()))
    assert bootstrap.value(found.totals().to_numpy(float).sum(axis=0)) == pytest.approx(found.value, abs=1e-12)
    value, low, high = found.interval()
    assert value == pytest.approx(found.value)
    assert low < value < high


def test_gain_of_nothing_is_zero_with_no_width_and_of_the_same_on_all_cases_too():
    random = np.random.default_rng(0)
    before = np.stack([random.random(9) * 5, np.full(9, 10.0), random.random(9), np.full(9, 3.0)], axis=1)
    assert bootstrap.gain(before, before) == (0.0, 0.0, 0.0)
    better = before + np.array([1, 0, 0, 0])
    np.testing.assert_allclose(bootstrap.gain(before, better), 0.4 * 0.1, atol=1e-12)


def test_one_case_has_no_interval():
    assert np.isnan(bootstrap.interval(np.array([[1.0, 2, 0, 1]])).low)


def test_scan_masks_decodes_one_scan_and_names_an_unknown_one():
    truth, prediction = random_scans()
    rows, _, slices = tables(truth, prediction)
    assert np.array_equal(metric.scan_masks(rows, slices, "case2_day0"), truth[1])
    with pytest.raises(ValueError, match="no scan 'case7_day0'"):
        metric.scan_masks(rows, slices, "case7_day0")


# Borders.


def test_clinical_distances_of_a_shift_along_z_by_hand():
    one = np.zeros((3, 12, 9, 9), bool)
    one[:, 2:6, 2:7, 2:7] = True
    rows, predicted, slices = tables([one], [np.roll(one, 2, axis=1)])
    table = borders.clinical(rows, predicted, slices)
    assert table["hausdorff_mm"].tolist() == [6.0] * 3
    assert (table["hausdorff_95_mm"] <= 6.0).all()
    assert (table["mean_distance_mm"] < 6.0).all()
    assert table["dice"].tolist() == [0.5] * 3


def test_an_organ_that_is_missed_is_counted_and_in_no_mean_of_millimetres():
    one = np.zeros((3, 12, 9, 9), bool)
    one[:, 2:6, 2:7, 2:7] = True
    half = np.roll(one, 2, axis=1)
    half[1] = False
    means = borders.clinical_means(borders.clinical(*tables([one, one], [np.roll(one, 2, axis=1), half])))
    assert means["missed"].tolist() == [0, 1, 0]
    assert means["hausdorff_mm"].tolist() == [6.0] * 3
    assert means["dice"].tolist() == [0.5, 0.25, 0.5]


def test_surface_distances_agree_with_brute_force():
    truth, prediction = PAIRS["shifted"]
    steps = (3.0, 1.5, 1.5)
    one, other = (hausdorff.border(mask) * steps for mask in (truth, prediction))
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
    one = np.zeros((3, 4, 20, 20), bool)
    one[:2, 1:3, 5:15, 5:15] = True
    tight = one & np.roll(one, 1, 2) & np.roll(one, -1, 2) & np.roll(one, 1, 3) & np.roll(one, -1, 3)
    table = borders.bias(*tables([one], [tight]))
    assert table.loc["large_bowel", "mean_px"] == pytest.approx(-1, abs=1e-6)
    assert table.loc["large_bowel", "mean_mm"] == pytest.approx(-1.5, abs=1e-6)
    assert table.loc["large_bowel", "tight"] == 1
    assert table.loc["stomach", "pixels"] == 0


def test_a_higher_threshold_tightens_the_border():
    one = np.zeros((3, 2, 32, 32), bool)
    one[:, :, 8:24, 8:24] = True
    ramp = np.clip(1 - np.maximum(*np.abs(np.indices((32, 32)) - 15.5)) / 16, 0, 1)
    truth, _, slices = tables([one], [one])
    probabilities = np.repeat(np.repeat(ramp[None, :, :, None], 2, 0), 3, 3).astype(np.float32)
    table = borders.bias_by_threshold(lambda _: probabilities, truth, slices, (0.3, 0.5, 0.7))
    means = table["mean_px"].unstack("organ")["stomach"]
    assert means[0.3] > means[0.5] > means[0.7]
    assert means[0.5] == pytest.approx(0, abs=0.6)
    stored = np.rint(probabilities * 255).astype(np.uint8)
    in_bytes = borders.bias_by_threshold(lambda _: stored, truth, slices, (0.3, 0.5, 0.7))
    assert in_bytes["mean_px"].equals(table["mean_px"])


# The command.


@pytest.fixture
def files(tmp_path):
    """Truth, submission and sizes as files."""
    truth, prediction, slices = tables(*random_scans())
    paths = {name: tmp_path / f"{name}.csv" for name in ("truth", "submission", "sizes")}
    for name, table in (("truth", truth), ("submission", prediction), ("sizes", slices)):
        table.to_csv(paths[name], index=False)
    return paths


def run(files, *more):
    return scorecard.main([str(files["truth"]), str(files["submission"]), "--sizes", str(files["sizes"]), *more])


def test_command_prints_the_panel_and_the_worst_scans(files, capsys):
    assert run(files, "--millimetres", "--convention", "ones") == 0
    printed, bar = capsys.readouterr()
    for name in conventions.CONVENTIONS:
        assert name in printed
    assert f"{metric.score(*tables(*random_scans())).value:.5f}" in printed
    assert "ones, worst scans" in printed
    assert "hausdorff_95_mm" in printed
    assert "3/3" in bar


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (
            lambda text: text.replace("case1_day0_slice_0001,small_bowel,", "case1_day0_slice_0001,big_bowel,", 1),
            "big_",
        ),
        (lambda text: "\n".join(text.splitlines()[:-1]), "missing: case3_day0_slice_0012 stomach"),
        (lambda text: text + "case1_day0_slice_0001,stomach,\n", "doubled: case1_day0_slice_0001 stomach"),
        (
            lambda text: text.replace("slice_0001,stomach,", "slice_0001,stomach,1 2 3", 1),
            "slice_0001 stomach: run-length",
        ),
        (lambda text: text.replace("predicted", "rle", 1), "columns are"),
        (lambda text: "", "is empty"),
        (lambda text: text.replace("stomach,", "stomach,1,2", 1), "line 4, saw 4"),
        (lambda text: text.replace("stomach", "m\udce4gen", 1), "line 4: no UTF-8 text"),
    ],
)
def test_command_names_the_row_and_the_fault(files, capsys, fault, named):
    files["submission"].write_text(
        fault(files["submission"].read_text(encoding="utf-8")), errors="surrogateescape", encoding="utf-8"
    )
    assert run(files) == 1
    printed = capsys.readouterr().out
    assert named in printed
    assert all(line.count(str(files["submission"])) == 1 for line in printed.splitlines())


@pytest.mark.parametrize("size", ["tall", "0", "", "inf", "266.5"])
def test_command_names_a_size_that_is_none(files, capsys, size):
    pd.read_csv(files["sizes"]).assign(height=size).to_csv(files["sizes"], index=False)
    assert run(files) == 1
    assert f"case1_day0_slice_0001 has height '{size}'; it is a whole number above 0" in capsys.readouterr().out


def test_command_names_a_truth_row_with_too_many_fields(files, capsys):
    files["truth"].write_text("id,class,segmentation\ncase1_day0_slice_0001,stomach,1,2\n", encoding="utf-8")
    assert run(files) == 1
    assert "row 'case1_day0_slice_0001,stomach,1,2' has more fields" in capsys.readouterr().out


def test_command_says_what_millimetres_need(files, capsys):
    pd.read_csv(files["sizes"]).drop(columns="spacing_mm").to_csv(files["sizes"], index=False)
    assert run(files) == 0
    capsys.readouterr()
    assert run(files, "--millimetres") == 1
    assert "no column spacing_mm, which --millimetres needs: add it" in capsys.readouterr().out


def test_command_names_a_slice_without_a_size(files, capsys):
    files["sizes"].write_text("\n".join(files["sizes"].read_text(encoding="utf-8").splitlines()[:-1]), encoding="utf-8")
    assert run(files) == 1
    assert "no size for 1 of 24 slices of the truth, first case3_day0_slice_0012" in capsys.readouterr().out


def test_command_refuses_a_truth_that_leaves_slices_out(files, capsys):
    """Else a truth without its empty slices would make each scan less deep, and every distance along z longer."""
    for name in ("truth", "submission"):
        lines = files[name].read_text(encoding="utf-8").splitlines(keepends=True)
        files[name].write_text("".join(line for line in lines if "case2_day0_slice_0005" not in line), encoding="utf-8")
    assert run(files) == 1
    assert "the truth leaves out slices of its scans, 1 in all, first case2_day0_slice_0005" in capsys.readouterr().out


def test_command_names_a_truth_without_masks(files, capsys):
    files["truth"].write_text("id,class\n", encoding="utf-8")
    assert run(files) == 1
    assert "has no column segmentation" in capsys.readouterr().out


# Real masks, where they are at hand.


def real_scan(size, organs=contest.ORGANS):
    """The first real scan of a height: truth (organs, D, H, W)."""
    index = pd.read_csv(Path(REAL) / "slices.csv.gz").set_index("id")
    rows = pd.read_csv(Path(REAL) / "masks.csv", keep_default_na=False)
    rows = rows[rows["id"].map(index["height"]) == size]
    scan = rows["id"].iloc[0].rsplit("_slice", 1)[0]
    rows = rows[rows["id"].str.startswith(scan + "_slice")].sort_values("id")
    shape = tuple(index.loc[rows["id"].iloc[0], ["height", "width"]])
    return np.stack([rle.decode_stack(rows.loc[rows["class"] == o, "segmentation"].tolist(), shape) for o in organs])


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
    prediction = np.stack([SPOILT[kind](mask) for mask in truth])
    steps = 1 / np.array(truth.shape[1:])
    distances = [max(brute(g, p, steps), brute(p, g, steps)) / 3**0.5 for g, p in zip(truth, prediction, strict=True)]
    overlap, total = (truth & prediction).sum(axis=(2, 3)), (truth.astype(int) + prediction).sum(axis=(2, 3))
    dice = (2 * overlap[total > 0] / total[total > 0]).mean()
    found = metric.score(*tables([truth], [prediction]))
    assert found.dice == pytest.approx(dice, abs=1e-12)
    assert found.hausdorff == pytest.approx(np.mean(distances), abs=1e-9)
