"""Tuning: what it finds on cases it has not seen, what it refuses, and that it goes on where it was."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import phantom
from kitlib import contest, rle
from kitlib.data import scans
from kitlib.postprocess import cleaning, rescoring, tuning
from kitlib.postprocess.cleaning import Settings
from kitlib.scoring import bootstrap, metric
from phantom import standin

GRID = (
    (("threshold",), ((0.2,), (0.35,), (0.5,), (0.65,))),
    (("seed",), ((0.0,), (0.8,))),
    (("gate_level", "gate_pixels"), ((0.5, 0), (0.8, 3))),
    (("stop",), (("",), ("earlier",), ("mean",))),
)


@pytest.fixture(scope="module")
def competition(tmp_path_factory):
    """Slice table, rows, and stand-in probabilities of 21 small phantom scans."""
    sizes = ((60, 72), (66, 58))
    root = phantom.write(
        tmp_path_factory.mktemp("tuning") / "phantom", cases=26, days=1, slices=24, sizes=sizes, seed=3
    )
    slices = scans.read(root)
    truth = scans.rows(slices)
    made = standin.StandIn(truth, slices, 48, 56)
    return slices, truth, {scan: made(scan) for scan in made.scans}


def part(competition, which):
    """Only the scans at some places."""
    slices, truth, made = competition
    names = slices["scan"].unique()[which]
    slices = slices[slices["scan"].isin(names)].reset_index(drop=True)
    return made.__getitem__, truth[truth["id"].isin(set(slices["id"]))].reset_index(drop=True), slices


def tune(competition, which=slice(None), **options):
    return tuning.tune(*part(competition, which), **{"grid": GRID, "progress": False, "folds": 3} | options)


@pytest.fixture(scope="module")
def timid(competition):
    """The same from a network that is never sure, so that half is the wrong threshold on any phantom."""
    slices, truth, made = competition
    return slices, truth, {scan: grid * np.float32(0.75) for scan, grid in made.items()}


@pytest.fixture(scope="module")
def tuned(timid):
    """A search on eleven cases."""
    return tune(timid, slice(0, 11))


def test_chosen_settings_beat_the_plain_threshold_on_unseen_cases(timid, tuned):
    probabilities, truth, slices = part(timid, slice(11, None))
    plain, chosen = (
        metric.score(truth, rescoring.rows(probabilities, slices, settings), slices).value
        for settings in (Settings(), tuned.settings)
    )
    assert tuned.settings != Settings()
    assert chosen > plain


def test_held_out_values_are_what_the_score_says(competition):
    """With nothing kept, before and after are the score of the plain threshold."""
    found = tune(competition, slice(0, 3), grid=((("island",), ((0,),)),), confidence=1 - 1e-9)
    probabilities, truth, slices = part(competition, slice(0, 3))
    score = metric.score(truth, rescoring.rows(probabilities, slices), slices)
    assert found.before.value == pytest.approx(score.value, abs=1e-9)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(threshold=(0.3, 0.4, 0.55), stop="mean"),
        Settings(seed=(0.8, 0.7, 0.6), gap=(1, 2, 3), stop="later"),
        Settings(island=(9, 0, 5), largest=(False, True, False), smoothing=(1, 2, 0), gate_pixels=(3, 0, 9)),
        Settings(threshold=(1.0, 1.0, 1.0)),
    ],
)
def test_totals_agree_with_masks_scored_from_scratch(competition, settings):
    """The shortcut (one organ at a time, in its box) against the whole way through rows and tables."""
    probabilities, truth, slices = part(competition, slice(0, 3))
    scorer = rescoring.Rescorer(probabilities, truth, slices)
    scorer.fill([settings])
    expected = metric.score(truth, rescoring.rows(probabilities, slices, settings), slices)
    np.testing.assert_allclose(scorer.totals(settings), expected.totals().to_numpy(float), atol=1e-9)


def levels(*values):
    """A field of Settings with an entry per organ, drawn from some values."""
    return st.tuples(*[st.sampled_from(values)] * len(contest.ORGANS))


ANY_SETTINGS = st.builds(
    Settings,
    threshold=levels(0.1, 0.3, 0.5, 0.8, 1.0),
    seed=levels(0.0, 0.4, 0.9),
    gate_pixels=levels(0, 1, 6, 40),
    gate_level=levels(0.05, 0.2, 0.5, 0.9),
    island=levels(0, 3, 9),
    island_3d=levels(0, 20),
    largest=levels(False, True),
    smoothing=levels(0, 1, 2),
    gap=levels(0, 1, 3),
    stop=st.sampled_from(cleaning.STOPS),
)


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


@settings(max_examples=20, deadline=None)
@given(st.lists(ANY_SETTINGS, min_size=2, max_size=3))
def test_a_score_does_not_depend_on_what_else_is_scored(blots, wanted):
    """One at a time, all in one call, and the masks that would be handed in: the same."""
    grids, truth, slices = blots
    together = rescoring.Rescorer(grids.__getitem__, truth, slices, workers=1)
    together.fill(wanted)
    for each in wanted:
        alone = rescoring.Rescorer(grids.__getitem__, truth, slices, workers=1)
        alone.fill([each])
        np.testing.assert_array_equal(together.totals(each), alone.totals(each))
        handed_in = metric.score(truth, rescoring.rows(grids.__getitem__, slices, each), slices)
        np.testing.assert_allclose(alone.totals(each), handed_in.totals().to_numpy(float), rtol=0, atol=1e-12)


def test_a_gate_below_the_threshold_counts_the_whole_slice(blots):
    """Pixels that no threshold lets through still open the gate."""
    grids, truth, slices = blots
    least = (20,) * 3  # more than some slices have above .8, and fewer than any has above .1
    open_gate = Settings(threshold=(0.8,) * 3, gate_level=(0.1,) * 3, gate_pixels=least)
    shut_gate = Settings(threshold=(0.8,) * 3, gate_level=(0.8,) * 3, gate_pixels=least)
    scorer = rescoring.Rescorer(grids.__getitem__, truth, slices)
    scorer.fill([open_gate, shut_gate, Settings(threshold=(0.8,) * 3)])
    assert np.array_equal(scorer.totals(open_gate), scorer.totals(Settings(threshold=(0.8,) * 3)))
    assert not np.array_equal(scorer.totals(shut_gate), scorer.totals(open_gate))


@pytest.mark.parametrize("change", ["truth", "probabilities", "sizes"])
def test_a_ledger_of_other_data_is_not_believed(blots, tmp_path, change):
    """Not even when the runs are the same and stand on the next slice."""
    grids, truth, slices = blots
    rescoring.Rescorer(grids.__getitem__, truth, slices, tmp_path / "ledger").fill([Settings()])
    grids, truth, slices = dict(grids), truth.copy(), slices.copy()
    if change == "truth":
        truth.loc[0:5, "segmentation"] = truth.loc[[3, 4, 5, 0, 1, 2], "segmentation"].to_numpy()
    elif change == "sizes":
        slices[["height", "width"]] += 1
    else:
        grids["case1_day0"] = grids["case1_day0"][:, ::-1]
    scorer = rescoring.Rescorer(grids.__getitem__, truth, slices, tmp_path / "ledger")
    scorer.fill([Settings()])
    handed_in = metric.score(truth, rescoring.rows(grids.__getitem__, slices), slices)
    np.testing.assert_allclose(scorer.totals(Settings()), handed_in.totals().to_numpy(float), atol=1e-12)


def test_every_step_is_kept_exactly_when_its_interval_lies_above_zero(tuned):
    steps = tuned.steps
    assert (steps["low"][steps["kept"]] > 0).all()
    assert not steps["kept"][steps["low"] <= 0].any()
    assert steps["kept"].any()
    assert not steps["kept"].all()


def test_settings_that_all_score_the_same_change_nothing(competition):
    slices, truth, made = competition
    hard = {scan: (grid > 0.5).astype(np.float32) for scan, grid in made.items()}
    probabilities, truth, slices = part((slices, truth, hard), slice(0, 4))
    grid = ((("gate_level", "gate_pixels"), ((0.5, 0), (0.9, 0), (0.3, 0))),)
    found = tuning.tune(probabilities, truth, slices, grid=grid, folds=2, progress=False)
    gates = found.steps["setting"] == "gate_level gate_pixels"
    assert (found.steps["gain"][gates] == 0).all()
    assert not found.steps["kept"][gates].any()
    assert found.settings.gate_level == Settings().gate_level


def test_probabilities_in_bytes_give_the_same_as_in_floats(competition):
    probabilities, truth, slices = part(competition, slice(0, 2))
    stored = {scan: np.rint(probabilities(scan) * 255).astype(np.uint8) for scan in slices["scan"].unique()}
    both = [stored.__getitem__, lambda scan: stored[scan].astype(np.float32) / 255]
    totals = []
    for read in both:
        scorer = rescoring.Rescorer(read, truth, slices)
        scorer.fill([Settings()])
        totals.append(scorer.totals(Settings()))
    np.testing.assert_array_equal(*totals)


def test_a_search_goes_on_from_its_ledger_and_comes_to_the_same(competition, tmp_path):
    ledger = tmp_path / "deep" / "tuning.jsonl"
    first = tune(competition, slice(0, 3), ledger=ledger)
    lines = ledger.read_text(encoding="utf-8")
    ledger.write_text(lines[: len(lines) // 2], encoding="utf-8")  # killed in the middle of a line
    second = tune(competition, slice(0, 3), ledger=ledger)
    assert second.settings == first.settings
    assert second.steps.equals(first.steps)
    assert {line for line in ledger.read_text(encoding="utf-8").splitlines() if line in set(lines.splitlines())} == set(
        lines.splitlines()
    )


def test_a_full_ledger_needs_no_scoring_at_all(competition, tmp_path, monkeypatch):
    ledger = tmp_path / "tuning.jsonl"
    first = tune(competition, slice(0, 3), ledger=ledger)
    monkeypatch.setattr(rescoring, "_Volumes", None)
    assert tune(competition, slice(0, 3), ledger=ledger).settings == first.settings


def test_other_probabilities_do_not_meet_old_scores(competition, tmp_path):
    ledger = tmp_path / "tuning.jsonl"
    tune(competition, slice(0, 2), ledger=ledger, grid=GRID[-1:])
    slices, truth, made = competition
    weaker = {scan: grid * np.float32(0.9) for scan, grid in made.items()}
    tune((slices, truth, weaker), slice(0, 2), ledger=ledger, grid=GRID[-1:])
    keys = [json.loads(json.loads(line)[0])[:2] for line in ledger.read_text(encoding="utf-8").splitlines() if line]
    assert len({tuple(key) for key in keys}) == 2 * len({scan for scan, _ in keys})


def test_only_what_a_setting_reaches_is_scored_again(competition, tmp_path):
    ledger = tmp_path / "scores.jsonl"
    probabilities, truth, slices = part(competition, slice(0, 2))
    scorer = rescoring.Rescorer(probabilities, truth, slices, ledger)
    scorer.fill([Settings()])
    known = set(scorer.ledger.known)
    scorer.fill([Settings(island=(0, 0, 20))])
    new = [json.loads(key) for key in set(scorer.ledger.known) - known]
    assert [entry[2] for entry in new] == [2, 2]  # the stomach of either scan


def test_one_case_cannot_be_tuned_on(competition):
    with pytest.raises(ValueError, match="needs two at least, got 1"):
        tune(competition, slice(0, 1))


@pytest.mark.parametrize("shape", [(23, 48, 56, 3), (24, 48, 56, 2), (24, 48, 56)])
def test_probabilities_of_another_shape_are_refused_by_the_name_of_their_scan(competition, shape):
    _, truth, slices = part(competition, slice(0, 2))
    scan = slices["scan"].iloc[0]
    with pytest.raises(ValueError, match=rf"{scan}: expected probabilities \(24, h, w, 3\), got \({shape[0]}, 48"):
        tuning.tune(lambda _: np.zeros(shape, np.float32), truth, slices, progress=False)


def test_one_fold_cannot_be_held_out(competition):
    with pytest.raises(ValueError, match=r"folds=1: .* two at least"):
        tune(competition, slice(0, 2), folds=1)


def test_a_scan_without_truth_is_named(competition):
    probabilities, truth, slices = part(competition, slice(0, 2))
    absent = slices["scan"].iloc[-1]
    with pytest.raises(ValueError, match=f"no row of 1 of 2 scans, first {absent}"):
        tuning.tune(probabilities, truth[~truth["id"].str.startswith(absent + "_")], slices, progress=False)


def test_workers_do_not_change_the_result(competition):
    one, two = (tune(competition, slice(0, 3), workers=workers, grid=GRID[:1]) for workers in (1, 2))
    assert one.settings == two.settings
    assert one.steps.equals(two.steps)


def test_a_progress_bar_counts_scans(competition, capsys):
    tune(competition, slice(0, 2), grid=GRID[-1:], progress=True)
    assert "8/8" in capsys.readouterr().err  # (1 step and 3 finer thresholds) x 2 scans


def test_the_full_grid_tries_at_least_two_hundred_settings():
    """Different ones, even where nothing is kept, and before the finer thresholds."""
    tried = {
        settings
        for names, values, organ in tuning._steps(tuning.GRID)
        for settings in tuning._candidates(Settings(), names, values, organ, finer=False)
    }
    assert len(tried) >= 200


def test_gain_is_the_difference_of_after_and_before(tuned):
    assert tuned.gain.value == pytest.approx(tuned.after.value - tuned.before.value, abs=1e-12)
    assert isinstance(tuned.gain, bootstrap.Interval)
    assert {field.name for field in dataclasses.fields(tuned)} >= {"settings", "steps", "before", "after", "gain"}
