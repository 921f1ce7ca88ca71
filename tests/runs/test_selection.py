"""Which run held which scan out: folds that go together, names that are none, and thinning."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitlib import runs
from kitlib.runs import selection


def make(root, place, scans, ended="2026-01-01", **record):
    """A finished run that held some scans out; the first number of each probability tells the run."""
    folder = root / place
    runs.write_record(folder, {"ended": ended} | record)
    (folder / "model.keras").touch()
    for scan in scans:
        runs.write_probabilities(folder, scan, np.full((1, 1, 1, 3), len(place) / 255))
    return runs.read(folder)


@pytest.fixture
def root(tmp_path):
    """A cross-validation of two folds, a newer single run of two cases, and the newest of one case."""
    make(tmp_path, "cv/a", ["case1_day0", "case2_day0"], "2026-01-01")
    make(tmp_path, "cv/bb", ["case3_day0", "case3_day4"], "2026-01-03")
    (tmp_path / "cv" / "folds.csv").write_text("case,fold\n", encoding="utf-8")
    make(tmp_path, "deep/single", ["case1_day0", "case3_day0"], "2026-01-02")
    make(tmp_path, "lonely", ["case5_day0", "case5_day9"], "2026-01-04")
    return tmp_path


def test_folds_of_a_cross_validation_answer_for_the_scans_they_held_out(root):
    found = selection.choose(root, "cv")
    assert found.scans == ["case1_day0", "case2_day0", "case3_day0", "case3_day4"]
    assert found.cases == ["case1", "case2", "case3"]
    assert found.folder == root / "cv"
    assert [round(255 * found(scan).max()) for scan in found.scans] == [4, 4, 5, 5]
    assert str(found) == "cv, 2 folds: 4 scans of 3 cases held out"


def test_the_newest_with_two_cases_is_taken_and_a_cross_validation_is_as_new_as_its_last_fold(root):
    assert selection.choose(root).folder == root / "cv"
    make(root, "new", ["case1_day0", "case2_day0"], "2026-01-05")
    assert selection.choose(root).folder == root / "new"


@pytest.mark.parametrize("name", ["deep/single", "single"])
def test_a_run_is_found_by_its_path_and_by_its_last_name(root, name):
    assert selection.choose(root, name).folder == root / "deep" / "single"


def test_a_name_that_is_none_lists_what_there_is(root):
    with pytest.raises(ValueError, match=r"run 'typo' is not there; below .*\n  cv/a: 2 scans of 2 cases\n") as error:
        selection.choose(root, "typo")
    assert "lonely: 2 scans of 1 case" in str(error.value)


def test_a_named_run_with_one_case_is_refused_and_said(root):
    with pytest.raises(ValueError, match="run 'lonely' holds out 1 of the data's cases, and needs two"):
        selection.choose(root, "lonely")


def test_only_scans_of_the_data_count(root):
    assert selection.choose(root, "single", ["case1_day0", "case3_day0", "case8_day0"]).cases == ["case1", "case3"]
    with pytest.raises(ValueError, match="holds out 1 of the data's cases"):
        selection.choose(root, "single", ["case1_day0"])
    assert selection.choose(root, scans=["case9_day0"]) is None


def test_a_run_without_a_finished_epoch_is_left_out_and_said(root, capsys):
    make(root, "raw", ["case1_day0", "case2_day0"], "2026-01-06", best_weights="unfinished epoch")
    make(root, "cv/ccc", ["case4_day0"], "2026-01-07", best_weights="unfinished epoch")
    assert str(selection.choose(root)) == "cv, 2 folds: 4 scans of 3 cases held out"
    assert f"left out, stopped in the first epoch: {root / 'raw'}, {root / 'cv/ccc'};" in capsys.readouterr().out
    with pytest.raises(ValueError, match="run 'raw' is not there"):
        selection.choose(root, "raw")


def test_no_run_at_all_is_nothing_and_a_name_then_says_to_train(tmp_path):
    assert selection.choose(tmp_path) is None
    with pytest.raises(ValueError, match="no finished run: train first"):
        selection.choose(tmp_path, "any")


def test_two_runs_that_held_out_the_same_scan_are_named(root):
    twice = [make(root, f"cv{k}", ["case1_day0"]) for k in range(2)]
    with pytest.raises(ValueError, match=r"case1_day0 is held out by .*cv0 and by .*cv1"):
        selection.HeldOut(twice)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=9), st.integers(0, 30))
def test_thinning_keeps_the_order_the_number_and_as_many_cases_as_it_can(days, most):
    scans = [f"case{case}_day{day}" for case, count in enumerate(days) for day in range(count)]
    kept = selection.thin(scans, most)
    assert kept == [scan for scan in scans if scan in set(kept)]
    assert len(kept) == (min(len(scans), max(2, most)) if most else len(scans))
    assert len({scan.split("_")[0] for scan in kept}) == min(len(days), len(kept))
