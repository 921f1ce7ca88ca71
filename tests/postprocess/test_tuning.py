"""Tuning: what it finds on cases it has not seen, what it refuses, and that it goes on where it was."""

import dataclasses
import json

import numpy as np
import pytest

import phantom
from kitlib.data import earlier, scans
from kitlib.data.inputs import InputSpec
from kitlib.postprocess import rescoring, tuning
from kitlib.postprocess.cleaning import DEFAULT, PLAIN, Settings
from kitlib.scoring import bootstrap, host, metric
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
    made = standin.StandIn(slices, 48, 56)
    return slices, truth, {scan: made(scan) for scan in made.scans}


def part(competition, which):
    """Only the scans at some places."""
    slices, truth, made = competition
    names = slices["scan"].unique()[which]
    slices = slices[slices["scan"].isin(names)].reset_index(drop=True)
    return (
        rescoring.Probabilities(made.__getitem__, InputSpec(48, 56)),
        truth[truth["id"].isin(set(slices["id"]))].reset_index(drop=True),
        slices,
    )


def tune(competition, which=slice(None), **options):
    same = {"values": GRID, "progress": False, "folds": 3, "start": PLAIN}
    return tuning.tune(*part(competition, which), **same | options)


@pytest.fixture(scope="module")
def timid(competition):
    """The same from a network that is never sure, so that half is the wrong threshold on any phantom."""
    slices, truth, made = competition
    return slices, truth, {scan: grid * np.float32(0.75) for scan, grid in made.items()}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache") / "tuning.jsonl"


@pytest.fixture(scope="module")
def tuned(timid, cache):
    """A search on eleven cases."""
    return tune(timid, slice(0, 11), cache=cache)


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
    found = tune(competition, slice(0, 3), values=((("island",), ((0,),)),), confidence=1 - 1e-9)
    probabilities, truth, slices = part(competition, slice(0, 3))
    score = metric.score(truth, rescoring.rows(probabilities, slices, Settings()), slices)
    assert found.before.value == pytest.approx(score.value, abs=1e-9)


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
    values = ((("gate_level", "gate_pixels"), ((0.5, 0), (0.9, 0), (0.3, 0))),)
    found = tuning.tune(probabilities, truth, slices, PLAIN, values, folds=2, progress=False)
    gates = found.steps["setting"] == "gate_level gate_pixels"
    assert (found.steps["gain"][gates] == 0).all()
    assert not found.steps["kept"][gates].any()
    assert found.settings.gate_level == Settings().gate_level


def test_a_search_goes_on_from_its_cache_and_comes_to_the_same(competition, tmp_path):
    cache = tmp_path / "deep" / "tuning.jsonl"
    first = tune(competition, slice(0, 3), cache=cache)
    lines = cache.read_text(encoding="utf-8")
    cache.write_text(lines[: len(lines) // 2], encoding="utf-8")  # killed in the middle of a line
    second = tune(competition, slice(0, 3), cache=cache)
    assert second.settings == first.settings
    assert second.steps.equals(first.steps)
    assert {line for line in cache.read_text(encoding="utf-8").splitlines() if line in set(lines.splitlines())} == set(
        lines.splitlines()
    )


def test_a_full_cache_needs_no_scoring_at_all(competition, tmp_path, monkeypatch):
    cache = tmp_path / "tuning.jsonl"
    first = tune(competition, slice(0, 3), cache=cache)
    monkeypatch.setattr(rescoring, "_Volumes", None)
    assert tune(competition, slice(0, 3), cache=cache).settings == first.settings


def test_other_probabilities_do_not_meet_old_scores(competition, tmp_path):
    cache = tmp_path / "tuning.jsonl"
    tune(competition, slice(0, 2), cache=cache, values=GRID[-1:])
    slices, truth, made = competition
    weaker = {scan: grid * np.float32(0.9) for scan, grid in made.items()}
    tune((slices, truth, weaker), slice(0, 2), cache=cache, values=GRID[-1:])
    keys = [json.loads(json.loads(line)[0])[:2] for line in cache.read_text(encoding="utf-8").splitlines() if line]
    assert len({tuple(key) for key in keys}) == 2 * len({scan for scan, _ in keys})


def test_one_case_cannot_be_tuned_on(competition):
    with pytest.raises(ValueError, match="needs at least two cases, got 1"):
        tune(competition, slice(0, 1))


@pytest.mark.parametrize("shape", [(23, 48, 56, 3), (24, 48, 56, 2), (24, 48, 56)])
def test_probabilities_of_another_shape_are_refused_by_the_name_of_their_scan(competition, shape):
    _, truth, slices = part(competition, slice(0, 2))
    scan = slices["scan"].iloc[0]
    blank = rescoring.Probabilities(lambda _: np.zeros(shape, np.float32), InputSpec(48, 56))
    with pytest.raises(ValueError, match=rf"{scan}: probabilities have .*\({shape[0]}, 48.*expected \(24, h, w, 3\)"):
        tuning.tune(blank, truth, slices, progress=False)


def test_one_fold_cannot_be_held_out(competition):
    with pytest.raises(ValueError, match=r"folds=1: must be at least 2"):
        tune(competition, slice(0, 2), folds=1)


def test_a_scan_without_truth_is_named(competition):
    probabilities, truth, slices = part(competition, slice(0, 2))
    absent = slices["scan"].iloc[-1]
    with pytest.raises(ValueError, match=f"the truth lacks slices of 1 scans, first {absent}"):
        tuning.tune(probabilities, truth[~truth["id"].str.startswith(absent + "_")], slices, progress=False)


def test_workers_do_not_change_the_result(competition):
    one, two = (tune(competition, slice(0, 3), workers=workers, values=GRID[:1]) for workers in (1, 2))
    assert one.settings == two.settings
    assert one.steps.equals(two.steps)


def test_a_progress_bar_counts_scans(competition, capsys):
    tune(competition, slice(0, 2), values=GRID[-1:], progress=True)
    printed = capsys.readouterr()
    assert "60/60" in printed.err  # (3 stops and 3 x 9 finer thresholds) x 2 scans
    assert "tuning: 30 values on 2 scans, about" in printed.out


def test_the_full_grid_tries_at_least_two_hundred_settings():
    """Different ones, even where nothing is kept, and before the finer thresholds."""
    tried = {
        settings
        for names, values, organ in tuning._steps(tuning.FULL)
        for settings in tuning._candidates(Settings(), names, values, organ, finer=False)
    }
    assert len(tried) >= 200


def test_the_default_is_where_a_search_begins(competition):
    """Where nothing gains, because the probabilities are the truth, the default comes out."""
    slices, truth, _ = competition
    slices = slices[slices["height"] == 60].reset_index(drop=True)
    perfect = {scan: scans.masks(rows).astype(np.float32) for scan, rows in slices.groupby("scan")}
    probabilities = rescoring.Probabilities(perfect.__getitem__, InputSpec(60, 72))
    found = tuning.tune(probabilities, truth, slices, values=GRID, folds=3, progress=False)
    assert found.settings == DEFAULT
    assert not found.helps
    assert found.gain.value == 0
    assert tuning.tune.__defaults__[0] == DEFAULT


def test_the_gain_is_that_of_searches_that_never_saw_the_scored_cases(timid, tuned, cache):
    probabilities, truth, slices = part(timid, slice(0, 11))
    cases = slices["case"].unique()
    totals = []
    for fold in range(3):
        out = slices["case"].isin(cases[np.arange(len(cases)) % 3 == fold])
        rest = slices[~out].reset_index(drop=True)
        found = tuning.tune(probabilities, truth, rest, PLAIN, GRID, folds=3, cache=cache, progress=False)
        held_out = slices[out].reset_index(drop=True)
        rows = rescoring.rows(probabilities, held_out, found.settings)
        totals.append(metric.score(truth[truth["id"].isin(held_out["id"])], rows, held_out).totals())
    assert tuned.after.value == pytest.approx(host.value(sum(part.to_numpy(float).sum(axis=0) for part in totals)))
    assert tuned.helps == (tuned.gain.low > 0)


def test_two_cases_show_no_gain(timid):
    """Without one of them, there is nothing left to hold out."""
    found = tune(timid, slice(0, 2))
    assert found.gain == (0, 0, 0)
    assert not found.helps


INTERVAL = ((("ends", "offset"), (("", 0.0), ("interval", -1.0), ("interval", 0.0))), (("offset",), ((0.0,), (1.0,))))


def gate(slices):
    """A presence that is right except for scattered slices, as an interval can mend."""
    made = {}
    for scan, rows in slices.groupby("scan"):
        true = scans.masks(rows).any(axis=(1, 2))
        wrong = np.random.default_rng(len(made)).random(true.shape) < 0.1
        made[scan] = np.where(true ^ wrong, 0.9, 0.1)
    return made.__getitem__


def test_an_interval_is_found_where_a_gate_knows_the_ends(competition):
    probabilities, truth, slices = part(competition, slice(0, 8))
    options = {"values": INTERVAL + tuning.SHORT[-1:], "folds": 4, "progress": False}
    found = tuning.tune(probabilities, truth, slices, presence=gate(slices), **options)
    assert found.settings.ends == "interval"
    assert found.helps
    steps = found.steps.set_index("setting")
    assert steps.loc["ends offset", "kept"]
    assert steps.loc["ends offset", "organ"] == "all organs"
    assert steps.loc["stop", "gain"] == 0  # nothing to try beside an interval
    alone = tuning.tune(probabilities, truth, slices, **options)
    assert alone.after.value < found.after.value


def test_a_line_is_tried_where_there_is_one_and_kept_where_it_knows_the_end(competition):
    probabilities, truth, slices = part(competition, slice(0, 8))
    ends = {scan: earlier.last_bowel_slice(rows) for scan, rows in slices.groupby("scan")}
    given = gate(slices)

    def unsure(scan):
        presence = given(scan).copy()
        presence[max(ends[scan] - 3, 0) :] = 0.5  # the ends are not seen
        return presence

    start = Settings(ends="interval", offset=(0.2,) * 3)
    options = {"start": start, "values": ((tuning.LINE, ((0.0,), (2.0,))),), "folds": 4, "progress": False}
    found = tuning.tune(probabilities, truth, slices, presence=unsure, lines=ends.__getitem__, **options)
    step = found.steps[found.steps["setting"] == "line_weight"].iloc[0]
    assert (step["organ"], step["value"], step["kept"]) == ("bowels", "2.0", True)
    assert found.settings.line_weight == 2.0
    assert found.helps
    without = tuning.tune(probabilities, truth, slices, presence=unsure, **options)
    assert "line_weight" not in set(without.steps["setting"])


def test_the_weight_of_a_line_goes_with_the_interval():
    state = Settings(ends="interval", line_weight=1.0)
    both = [Settings(), Settings(ends="interval", line_weight=2.0)]
    assert tuning._candidates(Settings(), tuning.LINE, ((0.0,), (2.0,)), organ=None, finer=False) == both
    found = tuning._candidates(state, *INTERVAL[0], organ=None, finer=False)
    assert found[:2] == [state, Settings()]
    assert {each.line_weight for each in found[2:]} <= {1.0}


def test_an_interval_resets_what_it_takes_the_place_of():
    state = Settings(smoothing=(1, 2, 3), stop="mean", island=(5, 5, 5))
    found = tuning._candidates(state, *INTERVAL[0], organ=None, finer=False)
    runs = [Settings(ends="interval", offset=(offset,) * 3, island=(5, 5, 5)) for offset in (-1.0, 0.0)]
    assert found == [state, *runs]
    assert [*tuning._candidates(runs[0], *INTERVAL[1], organ=1, finer=False)] == [
        runs[0],
        *(Settings(ends="interval", offset=(-1.0, offset, -1.0), island=(5, 5, 5)) for offset in (0.0, 1.0)),
    ]
    assert tuning._candidates(runs[0], ("gap",), ((4,),), organ=1, finer=False) == [runs[0]]
    assert tuning._candidates(state, *INTERVAL[1], organ=0, finer=False) == [state]


def test_gain_is_the_difference_of_after_and_before(tuned):
    assert tuned.gain.value == pytest.approx(tuned.after.value - tuned.before.value, abs=1e-12)
    assert isinstance(tuned.gain, bootstrap.Interval)
    assert {field.name for field in dataclasses.fields(tuned)} >= {"settings", "steps", "before", "after", "gain"}
