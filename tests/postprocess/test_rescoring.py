"""Totals of settings: the same as masks scored from scratch, and never those of other data."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from kitlib import contest, rle
from kitlib.data.inputs import InputSpec
from kitlib.postprocess import cleaning, intervals, rescoring
from kitlib.postprocess.cleaning import Settings
from kitlib.scoring import metric
from tests.scoring.volumes import tables


def levels(*values):
    """A field of Settings with an entry per organ, drawn from some values."""
    return st.tuples(*[st.sampled_from(values)] * len(contest.ORGANS))


SHAPES = {
    "threshold": levels(0.1, 0.3, 0.5, 0.8, 1.0),
    "seed": levels(0.0, 0.4, 0.9),
    "island": levels(0, 3, 9),
    "island_3d": levels(0, 20),
    "largest": levels(False, True),
}
HABITS = st.builds(
    Settings,
    **SHAPES,
    gate_pixels=levels(0, 1, 6, 40),
    gate_level=levels(0.05, 0.2, 0.5, 0.9),
    presence=levels(0.0, 0.0, 0.4),
    smoothing=levels(0, 1, 2),
    gap=levels(0, 1, 3),
    stop=st.sampled_from(cleaning.STOPS),
)
INTERVALS = st.builds(
    Settings,
    **SHAPES,
    ends=st.just("interval"),
    offset=levels(-1.0, 0.0, 0.3, 2.0),
    line_weight=st.sampled_from([0.0, 0.0, 1.5]),
)
ANY_SETTINGS = HABITS | INTERVALS


@pytest.fixture(scope="module")
def blots():
    """Two scans of smooth noise, probabilities on a grid of their own, as slice table, rows and probabilities."""
    random, slices, lines, grids = np.random.default_rng(5), [], [], {}
    for scan, shape in (("case1_day0", (7, 23, 31)), ("case2_day3", (5, 29, 18))):
        noise = ndimage.gaussian_filter(random.random((shape[0], 14, 16, 3)), (0.7, 1.5, 1.5, 0))
        low, high = noise.min(axis=(0, 1, 2)), noise.max(axis=(0, 1, 2))
        grids[scan] = ((noise - low) / (high - low)).astype(np.float32)
        truth = ndimage.gaussian_filter(random.random((3, *shape)), (0, 0.7, 2, 2)) > 0.53
        for z in range(shape[0]):
            name = f"{scan}_slice_{z + 1:04d}"
            slices.append({"id": name, "scan": scan, "height": shape[1], "width": shape[2]})
            rows = zip(contest.ORGANS, map(rle.encode, truth[:, z]), strict=True)
            lines += [{"id": name, "class": organ, "segmentation": text} for organ, text in rows]
    return grids, pd.DataFrame(lines), pd.DataFrame(slices)


def on_grid(grids):
    """The probabilities of `blots` with their grid."""
    return rescoring.Probabilities(grids.__getitem__, InputSpec(14, 16))


def gate(scan):
    """A presence of its own for the first scan, none for the other."""
    return np.random.default_rng(8).random((7, 3)) if scan == "case1_day0" else None


def line(scan):
    """A line for the first scan, none for the other."""
    return 2 if scan == "case1_day0" else None


@settings(max_examples=20, deadline=None)
@given(st.lists(ANY_SETTINGS, min_size=2, max_size=3), st.sampled_from([None, gate]), st.sampled_from([None, line]))
def test_a_score_does_not_depend_on_what_else_is_scored(blots, wanted, presence, lines):
    """One at a time, all in one call, and the masks that would be handed in: the same."""
    grids, truth, slices = blots
    together = rescoring.Rescorer(on_grid(grids), truth, slices, workers=1, presence=presence, lines=lines)
    together.fill(wanted)
    for each in wanted:
        alone = rescoring.Rescorer(on_grid(grids), truth, slices, workers=1, presence=presence, lines=lines)
        alone.fill([each])
        np.testing.assert_array_equal(together.totals(each), alone.totals(each))
        handed_in = metric.score(truth, rescoring.rows(on_grid(grids), slices, each, presence, lines), slices)
        np.testing.assert_allclose(alone.totals(each), handed_in.totals().to_numpy(float), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(threshold=(0.3, 0.4, 0.55), stop="mean"),
        Settings(seed=(0.8, 0.7, 0.6), gap=(1, 2, 3), stop="later"),
        Settings(island=(9, 0, 5), largest=(False, True, False), smoothing=(1, 2, 0), gate_pixels=(3, 0, 9)),
        Settings(threshold=(1.0, 1.0, 1.0)),
        Settings(threshold=(0.3, 0.4, 0.55), ends="interval", offset=(0.2, -1.0, 0.5)),
    ],
)
def test_totals_agree_with_masks_scored_from_scratch(blots, settings):
    """The shortcut (one organ at a time, in its box) against the whole way through rows and tables."""
    grids, truth, slices = blots
    scorer = rescoring.Rescorer(on_grid(grids), truth, slices)
    scorer.fill([settings])
    expected = metric.score(truth, rescoring.rows(on_grid(grids), slices, settings), slices)
    np.testing.assert_allclose(scorer.totals(settings), expected.totals().to_numpy(float), atol=1e-9)


def test_a_gate_below_the_threshold_counts_the_whole_slice(blots):
    """Pixels that no threshold lets through still open the gate."""
    grids, truth, slices = blots
    least = (20,) * 3  # more than some slices have above .8, and fewer than any has above .1
    open_gate = Settings(threshold=(0.8,) * 3, gate_level=(0.1,) * 3, gate_pixels=least)
    shut_gate = Settings(threshold=(0.8,) * 3, gate_level=(0.8,) * 3, gate_pixels=least)
    scorer = rescoring.Rescorer(on_grid(grids), truth, slices)
    scorer.fill([open_gate, shut_gate, Settings(threshold=(0.8,) * 3)])
    assert np.array_equal(scorer.totals(open_gate), scorer.totals(Settings(threshold=(0.8,) * 3)))
    assert not np.array_equal(scorer.totals(shut_gate), scorer.totals(open_gate))


@pytest.mark.parametrize("change", ["truth", "probabilities", "sizes", "presence"])
def test_a_cache_of_other_data_is_not_believed(blots, tmp_path, change):
    """Not even when the runs are the same and stand on the next slice."""
    grids, truth, slices = blots
    each = Settings(ends="interval", offset=(-1.0,) * 3)
    rescoring.Rescorer(on_grid(grids), truth, slices, tmp_path / "cache").fill([each])
    presence = gate if change == "presence" else None
    grids, truth, slices = dict(grids), truth.copy(), slices.copy()
    if change == "truth":
        truth.loc[0:5, "segmentation"] = truth.loc[[3, 4, 5, 0, 1, 2], "segmentation"].to_numpy()
    elif change == "sizes":
        slices[["height", "width"]] += 1
    elif change == "probabilities":
        grids["case1_day0"] = grids["case1_day0"][:, ::-1]
    scorer = rescoring.Rescorer(on_grid(grids), truth, slices, tmp_path / "cache", presence=presence)
    scorer.fill([each])
    handed_in = metric.score(truth, rescoring.rows(on_grid(grids), slices, each, presence), slices)
    np.testing.assert_allclose(scorer.totals(each), handed_in.totals().to_numpy(float), atol=1e-12)


def test_probabilities_in_bytes_give_the_same_as_in_floats(blots):
    grids, truth, slices = blots
    stored = {scan: np.rint(grid * 255).astype(np.uint8) for scan, grid in grids.items()}
    floats = {scan: grid.astype(np.float32) / 255 for scan, grid in stored.items()}
    totals = []
    for kept in (stored, floats):
        scorer = rescoring.Rescorer(on_grid(kept), truth, slices)
        scorer.fill([Settings()])
        totals.append(scorer.totals(Settings()))
    np.testing.assert_array_equal(*totals)


def test_only_what_a_setting_reaches_is_scored_again(blots, tmp_path):
    cache = tmp_path / "scores.jsonl"
    grids, truth, slices = blots
    scorer = rescoring.Rescorer(on_grid(grids), truth, slices, cache)
    scorer.fill([Settings()])
    known = set(scorer.cache.known)
    scorer.fill([Settings(island=(0, 0, 20))])
    new = [json.loads(key) for key in set(scorer.cache.known) - known]
    assert [entry[2] for entry in new] == [2, 2]  # the stomach of either scan


def test_the_offset_of_one_bowel_reaches_both_and_not_the_stomach(blots):
    grids, truth, slices = blots
    scorer = rescoring.Rescorer(on_grid(grids), truth, slices)
    scorer.fill([Settings(ends="interval")])
    known = set(scorer.cache.known)
    for offset, organs in (((0.5, 0.0, 0.0), [0, 1]), ((0.0, 0.0, 0.5), [2])):
        scorer.fill([Settings(ends="interval", offset=offset)])
        assert sorted({json.loads(key)[2] for key in set(scorer.cache.known) - known}) == organs
        known = set(scorer.cache.known)
    scorer.fill([Settings(offset=(1.0, 1.0, 1.0)), Settings()])  # without ends, offsets change nothing
    assert len(set(scorer.cache.known) - known) == 6


def test_a_line_reaches_the_bowels_of_its_scan_and_is_asked_for_only_with_a_weight(blots):
    grids, truth, slices = blots
    asked = []
    scorer = rescoring.Rescorer(on_grid(grids), truth, slices, lines=lambda scan: asked.append(scan) or line(scan))
    scorer.fill([Settings(ends="interval")])
    assert not asked
    known = set(scorer.cache.known)
    scorer.fill([Settings(ends="interval", line_weight=0.5)])
    new = sorted(json.loads(key)[:3:2] for key in set(scorer.cache.known) - known)
    assert new == [["case1_day0", 0], ["case1_day0", 1]]
    assert set(asked) == set(slices["scan"])


def test_another_line_does_not_meet_old_scores(blots, tmp_path):
    grids, truth, slices = blots
    each, totals = Settings(threshold=(0.2,) * 3, ends="interval", offset=(-1.0,) * 3, line_weight=9.0), []
    for last in (1, 5):
        scorer = rescoring.Rescorer(on_grid(grids), truth, slices, tmp_path / "cache", lines=lambda scan, at=last: at)
        scorer.fill([each])
        rows = rescoring.rows(on_grid(grids), slices, each, lines=lambda scan, at=last: at)
        totals.append(scorer.totals(each))
        expected = metric.score(truth, rows, slices).totals().to_numpy(float)
        np.testing.assert_allclose(totals[-1], expected, atol=1e-12)
    assert np.abs(totals[0] - totals[1]).max() > 0.01


def test_presence_is_measured_at_the_size_of_the_slices_as_the_masks_do(blots):
    grids, _, slices = blots
    source, each = on_grid(grids), Settings(ends="interval", offset=(0.4, 0.4, 0.4))
    groups = dict(list(slices.groupby("scan")))
    measured = {scan: rescoring.measure_presence(source, scan, part) for scan, part in groups.items()}
    rows = rescoring.rows(source, slices, each, measured.__getitem__)
    assert rows.equals(rescoring.rows(source, slices, each))
    assert all(np.abs(measured[scan] - intervals.presence(grids[scan])).max() > 0.01 for scan in grids)


def test_a_presence_of_another_shape_is_refused_by_the_name_of_its_scan(blots):
    grids, truth, slices = blots
    scorer = rescoring.Rescorer(on_grid(grids), truth, slices, presence=lambda scan: np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"case1_day0: presence has shape \(3, 3\); expected \(7, 3\)"):
        scorer.fill([Settings()])


def on_square(probabilities):
    return rescoring.Probabilities(lambda _: probabilities, InputSpec(32, 32))


def test_a_higher_threshold_tightens_the_border():
    one = np.zeros((2, 32, 32, 3), bool)
    one[:, 8:24, 8:24] = True
    ramp = np.clip(1 - np.maximum(*np.abs(np.indices((32, 32)) - 15.5)) / 16, 0, 1)
    truth, _, slices = tables([one], [one])
    probabilities = np.repeat(np.repeat(ramp[None, :, :, None], 2, 0), 3, 3).astype(np.float32)
    table = rescoring.bias_by_threshold(on_square(probabilities), truth, slices, (0.3, 0.5, 0.7))
    means = table["mean_px"].unstack("organ")["stomach"]
    assert means[0.3] > means[0.5] > means[0.7]
    assert means[0.5] == pytest.approx(0, abs=0.6)
    stored = np.rint(probabilities * 255).astype(np.uint8)
    in_bytes = rescoring.bias_by_threshold(on_square(stored), truth, slices, (0.3, 0.5, 0.7))
    assert in_bytes["mean_px"].equals(table["mean_px"])


def test_another_box_or_spacing_is_scored_anew(blots, tmp_path):
    grids, truth, slices = blots
    marks = set()
    for box_mm, spacing_mm in ((None, 1.0), (None, 1.5), ((-9, 9, -9, 9), 1.0), ((-9, 9, -9, 9), 1.5)):
        source = rescoring.Probabilities(grids.__getitem__, InputSpec(14, 16, box_mm=box_mm))
        table = slices.assign(spacing_mm=spacing_mm)
        scorer = rescoring.Rescorer(source, truth, table, tmp_path / "cache")
        scorer.fill([Settings()])
        handed_in = metric.score(truth, rescoring.rows(source, table, Settings()), table)
        np.testing.assert_allclose(scorer.totals(Settings()), handed_in.totals().to_numpy(float), atol=1e-12)
        marks.add(scorer.marks["case1_day0"])
    assert len(marks) == 3  # the spacing matters to a box alone
