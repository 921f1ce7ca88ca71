"""Which runs predict and score: folds that go together, unknown names, foreign data, broken bundles, thinning."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitlib import runs
from kitlib.postprocess import cleaning
from kitlib.postprocess.cleaning import DEFAULT, Settings
from kitlib.runs import manifest, selection


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


def held_out(*given, **options):
    return runs.choose_held_out(*given, **options)[0]


def test_folds_of_a_cross_validation_answer_for_the_scans_they_held_out(root):
    found = held_out(root, "cv")
    assert found.scans == ["case1_day0", "case2_day0", "case3_day0", "case3_day4"]
    assert found.cases == ["case1", "case2", "case3"]
    assert found.folder == root / "cv"
    assert [round(255 * found(scan).max()) for scan in found.scans] == [4, 4, 5, 5]
    assert str(found) == "cv, 2 folds: 4 scans of 3 cases held out"


def test_the_newest_with_two_cases_is_taken_and_a_cross_validation_is_as_new_as_its_last_fold(root):
    assert held_out(root).folder == root / "cv"
    make(root, "new", ["case1_day0", "case2_day0"], "2026-01-05")
    assert held_out(root).folder == root / "new"


@pytest.mark.parametrize("name", ["deep/single", "single"])
def test_a_run_is_found_by_its_path_and_by_its_last_name(root, name):
    assert held_out(root, name).folder == root / "deep" / "single"


def test_a_name_that_is_none_lists_what_there_is(root):
    with pytest.raises(
        ValueError, match=r"run 'typo' is not available; choose a run of .*\n  cv/a: 2 scans of 2 cases\n"
    ) as error:
        held_out(root, "typo")
    assert "lonely: 2 scans of 1 case" in str(error.value)


def test_attached_runs_are_chosen_from_too(root, tmp_path_factory):
    attached = tmp_path_factory.mktemp("input")
    for fold, scans in (("cv/a", ["case1_day0"]), ("cv/b", ["case2_day0"])):
        make(attached, fold, scans, "2026-02-01")
    (attached / "cv" / "folds.csv").write_text("case,fold\n", encoding="utf-8")
    folders = [attached / "cv" / "a", attached / "cv" / "b"]
    assert held_out(root, attached=folders).folder == attached / "cv"
    assert held_out(root, "deep/single", attached=folders).folder == root / "deep" / "single"
    assert held_out(root, str(attached / "cv"), attached=folders).folder == attached / "cv"
    assert held_out(attached / "none", attached=folders).scans == ["case1_day0", "case2_day0"]
    assert held_out(attached, attached=folders).runs == held_out(attached).runs  # listed twice, read once


def test_a_named_run_with_one_case_is_refused_and_said(root):
    with pytest.raises(ValueError, match="run 'lonely' holds out 1 of the data's cases, but scoring needs two"):
        held_out(root, "lonely")


def test_only_scans_of_the_data_count(root):
    assert held_out(root, "single", ["case1_day0", "case3_day0", "case8_day0"]).cases == ["case1", "case3"]
    with pytest.raises(ValueError, match="holds out 1 of the data's cases"):
        held_out(root, "single", ["case1_day0"])
    assert held_out(root, scans=["case9_day0"]) is None


def test_a_run_without_a_finished_epoch_is_left_out_by_name(root):
    make(root, "raw", ["case1_day0", "case2_day0"], "2026-01-06", best_weights="unfinished epoch")
    make(root, "cv/ccc", ["case4_day0"], "2026-01-07", trained_epochs=0)
    found, problems = runs.choose_held_out(root)
    assert str(found) == "cv, 2 folds: 4 scans of 3 cases held out"
    assert dict(problems).keys() == {root / "raw", root / "cv/ccc"}
    assert "stopped within its first epoch" in dict(problems)[root / "raw"]
    with pytest.raises(ValueError, match="run 'raw' is not available"):
        held_out(root, "raw")


def test_no_run_at_all_is_nothing_and_a_name_then_says_to_train(tmp_path):
    assert held_out(tmp_path) is None
    with pytest.raises(ValueError, match="no finished run: train first"):
        held_out(tmp_path, "any")


def test_two_runs_that_held_out_the_same_scan_are_named(root):
    twice = [make(root, f"cv{k}", ["case1_day0"]) for k in range(2)]
    with pytest.raises(ValueError, match=r"case1_day0 is held out by .*cv0 and by .*cv1"):
        selection.HeldOut(twice)


@settings(deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=9), st.integers(0, 30))
def test_thinning_keeps_the_order_the_number_and_as_many_cases_as_it_can(days, most):
    scans = [f"case{case}_day{day}" for case, count in enumerate(days) for day in range(count)]
    kept = selection.thin(scans, most)
    assert kept == [scan for scan in scans if scan in set(kept)]
    assert len(kept) == (min(len(scans), max(2, most)) if most else len(scans))
    assert len({scan.split("_")[0] for scan in kept}) == min(len(days), len(kept))


def tune(folder, gap):
    (folder / "settings.json").write_text(Settings(gap=(gap, 0, 0)).to_json(), encoding="utf-8")


def test_settings_of_runs_that_disagree_are_those_of_the_best(tmp_path):
    folders = [tmp_path / name for name in ("a", "b")]
    for folder, score, gap in zip(folders, (0.7, 0.8), (1, 2), strict=True):
        runs.write_record(folder, {"parameters": {}})
        (folder / "score.json").write_text(f'{{"score": {score}}}', encoding="utf-8")
        tune(folder, gap)
    gap_of = lambda chosen: runs.choose_settings(chosen)[0].gap[0]  # noqa: E731
    assert gap_of(folders) == 2
    assert gap_of(folders[:1]) == 1
    tune(tmp_path, 3)
    assert gap_of(folders) == 3
    assert gap_of(folders[:1]) == 1
    (folders[0] / "settings.json").unlink()
    assert gap_of(folders[:1]) == 3, "one fold left of a cross-validation"
    assert runs.choose_settings([]) == (DEFAULT, [])


def test_runs_that_were_never_tuned_have_no_vote(tmp_path):
    folders = [tmp_path / name for name in ("coronal/fold0", "pair/fold0", "pair/fold1")]
    for folder, score in zip(folders, (0.9, 0.8, 0.7), strict=True):
        runs.write_record(folder, {"parameters": {}})
        (folder / "score.json").write_text(f'{{"score": {score}}}', encoding="utf-8")
    for folder, gap in zip(folders[1:], (1, 2), strict=True):
        tune(folder, gap)
    assert runs.choose_settings(folders)[0].gap[0] == 1
    assert runs.choose_settings(folders[:1])[0] == DEFAULT


@pytest.mark.parametrize("text", ["{", "[]", '{"gap": 1}', '{"unheard_of": 1}'])
def test_settings_that_cannot_be_read_are_a_problem_and_the_default_is_used(tmp_path, text):
    runs.write_record(tmp_path / "a", {})
    (tmp_path / "a/settings.json").write_text(text, encoding="utf-8")
    settings, problems = runs.choose_settings([tmp_path / "a"])
    assert settings == DEFAULT
    assert [path for path, _ in problems] == [tmp_path / "a/settings.json"]


def predictor(root, place, ended="1", **record):
    """A run folder with an empty model."""
    runs.write_record(root / place, {"parameters": {}, "ended": ended} | record)
    (root / place / "model.keras").write_bytes(b"")
    return root / place


def names(root, *given, **options):
    return [path.relative_to(root).as_posix() for path in runs.choose(root, *given, **options).folders]


def test_all_folds_of_the_newest_cross_validation_predict(tmp_path):
    for place, ended in (("alone", "1"), ("cv/fold0", "2"), ("cv/fold1", "3")):
        predictor(tmp_path, place, ended)
    assert names(tmp_path) == ["cv/fold1"]
    (tmp_path / "cv/folds.csv").write_text("case,fold\n", encoding="utf-8")
    assert names(tmp_path) == ["cv/fold0", "cv/fold1"]
    assert names(tmp_path, "alone") == ["alone"]
    assert names(tmp_path, "cv") == ["cv/fold0", "cv/fold1"]
    manifest.write(tmp_path)
    assert names(tmp_path) == ["alone", "cv/fold0", "cv/fold1"]
    assert runs.choose(tmp_path, "none") == runs.Choice()
    assert runs.choose(tmp_path / "nowhere") == runs.Choice()


@pytest.mark.parametrize("stopped", [{"best_weights": "unfinished epoch"}, {"trained_epochs": 0}])
def test_a_run_without_a_finished_epoch_predicts_only_where_it_is_alone(tmp_path, stopped):
    trained = [
        predictor(tmp_path, "cv/fold0", trained_epochs=3),
        predictor(tmp_path, "cv/fold2", best_weights="epoch 1"),
    ]
    raw = predictor(tmp_path, "cv/fold1", "2", **stopped)
    (tmp_path / "cv/folds.csv").write_text("case,fold\n", encoding="utf-8")
    assert runs.choose(tmp_path) == runs.Choice(trained, [], [raw])
    assert runs.choose(tmp_path, "cv/fold1") == runs.Choice([raw], [], [raw])
    manifest.write(tmp_path)
    assert runs.choose(tmp_path) == runs.Choice(trained, [], [raw])
    assert runs.choose(tmp_path, "cv/fold0") == runs.Choice(trained[:1], [], [])


PHANTOM, REAL = {"data": {"kind": "phantom"}}, {"data": {"kind": "competition"}}


@pytest.mark.parametrize(("kind", "foreign"), [("competition", PHANTOM), ("phantom", REAL)])
def test_runs_trained_on_another_kind_of_data_are_left_out_by_name(tmp_path, kind, foreign):
    own = REAL if foreign is PHANTOM else PHANTOM
    places = [
        predictor(tmp_path, "older", "1", **own),
        predictor(tmp_path, "old", "0"),
        predictor(tmp_path, "newest", "2", **foreign),
    ]
    choice = runs.choose(tmp_path, kind=kind)
    assert choice.folders == places[:1]
    ((path, problem),) = choice.problems
    assert path == places[2]
    assert f"was trained on {foreign['data']['kind']} data, not {kind} data" in problem
    assert "ANY_DATA = True" in problem
    assert runs.choose(tmp_path).folders == places[2:]
    assert runs.choose(tmp_path, "newest", kind).folders == []
    assert runs.choose(tmp_path, "old", kind) == runs.Choice(places[1:2]), "a record that does not say it"
    manifest.write(tmp_path)
    choice = runs.choose(tmp_path, kind=kind)
    assert sorted(choice.folders) == sorted(places[:2])
    assert [path for path, _ in choice.problems] == places[2:]


def test_a_score_is_not_taken_from_runs_on_another_kind_of_data(root):
    make(root, "new", ["case1_day0", "case2_day0"], "2026-01-05", **PHANTOM)
    found, problems = runs.choose_held_out(root, kind="competition")
    assert found.folder == root / "cv"
    assert [path for path, _ in problems] == [root / "new"]
    assert runs.choose_held_out(root, kind="phantom")[0].folder == root / "new"
    with pytest.raises(ValueError, match=r"(?s)run 'new' is not available.*was trained on phantom data"):
        runs.choose_held_out(root, "new", kind="competition")


def test_a_record_that_cannot_be_read_costs_one_run_where_there_is_no_manifest(tmp_path):
    places = [predictor(tmp_path, name) for name in ("a", "b", "c")]
    for place, text in zip(places[1:], ("{", "[]"), strict=True):
        (place / "run.json").write_text(text, encoding="utf-8")
    choice = runs.choose(tmp_path)
    assert choice.folders == places[:1]
    assert [path for path, _ in choice.problems] == [place / "run.json" for place in places[1:]]
    assert selection._score(places[1]) == -1
    (places[0] / "score.json").write_text('{"score": null}', encoding="utf-8")
    assert selection._score(places[0]) == -1


def role(name, *held_out):
    """A record of a run with a role."""
    return {"recipe": {"role": name}, "folds": {"train": [], "held_out": list(held_out)}}


def table(folder, fold=0):
    (folder / "folds.csv").write_text(f"case,fold\ncase1,{fold}\n", encoding="utf-8")


@pytest.fixture
def pair(tmp_path):
    """Cross-validations of a gate and of a segmenter with the same folds, and an older gate with other folds."""
    for fold in (0, 1):
        predictor(tmp_path, f"other/fold{fold}", "1", **role("gate"))
        predictor(tmp_path, f"gate/fold{fold}", "2", **role("gate"))
        predictor(tmp_path, f"segmenter/fold{fold}", "3", **role("segmenter"))
    for name, first in (("other", 1), ("gate", 0), ("segmenter", 0)):
        table(tmp_path / name, first)
    return tmp_path


PAIR = ["gate/fold0", "gate/fold1", "segmenter/fold0", "segmenter/fold1"]


def test_a_segmenter_comes_with_the_newest_gate_of_the_same_folds(pair):
    assert names(pair) == PAIR
    predictor(pair, "newer/fold0", "4", **role("gate"))
    table(pair / "newer")
    assert names(pair) == ["newer/fold0", *PAIR[2:]], "the newest run is a gate"
    predictor(pair, "newest/fold0", "5", **role("segmenter"))
    table(pair / "newest")
    assert names(pair) == ["newer/fold0", "newest/fold0"]
    assert names(pair, "segmenter") == PAIR[2:]


@pytest.mark.parametrize("newest", ["gate", "segmenter"])
def test_runs_of_two_roles_with_other_folds_are_never_mixed(pair, newest):
    for fold in (0, 1):
        predictor(pair, f"{newest}/fold{fold}", "9", **role(newest))
    table(pair / newest, 7)
    assert names(pair) == [f"{newest}/fold0", f"{newest}/fold1"]


def test_a_run_that_plays_both_has_no_gate_and_serves_one_only_without_a_segmenter(pair):
    predictor(pair, "alone/fold0", "4", **role("both"))
    table(pair / "alone")
    assert names(pair) == ["alone/fold0"]
    predictor(pair, "newer/fold0", "5", **role("gate"))
    table(pair / "newer")
    assert names(pair) == ["newer/fold0", *PAIR[2:]]
    shutil.rmtree(pair / "segmenter")
    assert names(pair) == ["alone/fold0", "newer/fold0"]


@pytest.mark.parametrize("newest", ["pair1/segmenter", "pair1/gate", "pair2/gate"])
def test_a_segmenter_keeps_the_gate_beside_it_whichever_run_is_the_newest(tmp_path, newest):
    for place in ("pair1/gate", "pair1/segmenter", "pair2/gate"):
        predictor(tmp_path, f"{place}/fold0", "9" if place == newest else place[4], **role(place[6:]))
        table(tmp_path / place)
    assert names(tmp_path) == ["pair1/gate/fold0", "pair1/segmenter/fold0"]
    shutil.rmtree(tmp_path / "pair1/gate")
    assert names(tmp_path) == ["pair1/segmenter/fold0", "pair2/gate/fold0"]


def test_single_runs_of_two_roles_belong_together_by_the_scans_they_held_out(tmp_path):
    predictor(tmp_path, "a", "1", **role("gate", "case1_day0", "case2_day0"))
    predictor(tmp_path, "b", "2", **role("gate", "case1_day0"))
    predictor(tmp_path, "c", "3", **role("segmenter", "case2_day0", "case1_day0"))
    assert names(tmp_path) == ["a", "c"]


def test_a_foreign_gate_is_not_chosen_for_a_segmenter(pair):
    for fold in (0, 1):
        predictor(pair, f"segmenter/fold{fold}", "3", **role("segmenter"), **REAL)
        predictor(pair, f"gate/fold{fold}", "2", **role("gate"), **PHANTOM)
    assert [path.parent.name for path in runs.choose(pair, kind="competition").folders] == ["segmenter"] * 2
    assert names(pair) == PAIR


def test_settings_of_a_pair_are_those_of_the_segmenter(pair):
    tune(pair / "gate", 1)
    tune(pair / "gate/fold0", 1)
    chosen = runs.choose(pair).folders
    assert runs.choose_settings(chosen) == (cleaning.default(gate=True), []), "the gate decides on the slices"
    tune(pair / "segmenter", 2)
    assert runs.choose_settings(chosen)[0].gap[0] == 2
    assert runs.choose_settings(chosen[:2])[0].gap[0] == 1, "gates alone"
    (pair / "segmenter/fold0/run.json").write_text("{", encoding="utf-8")
    assert runs.choose_settings(chosen)[0].gap[0] == 2


def test_held_out_scans_of_a_segmenter_come_with_the_presence_of_its_gate(pair):
    for fold, scan in enumerate(["case1_day0", "case2_day0"]):
        for name in ("gate", "segmenter", "other"):
            runs.write_probabilities(pair / f"{name}/fold{fold}", scan, np.zeros((2, 1, 1, 3)))
        for name, level in (("gate", 0.25), ("other", 0.75)):
            runs.write_presence(pair / f"{name}/fold{fold}", scan, np.full((2, 3), level + fold / 8))
    found = held_out(pair)
    assert str(found) == f"segmenter, 2 folds, with the gate {pair.name}/gate: 2 scans of 2 cases held out"
    assert [found.presence(scan)[0, 0] for scan in found.scans] == [0.25, 0.375]
    assert found.presence("case3_day0") is None
    for fold in (0, 1):
        predictor(pair, f"gate/fold{fold}", "8", **role("gate"))
    assert held_out(pair).folder == pair / "segmenter", "also where the gate is newer"
    alone = held_out(pair, "other")
    assert str(alone) == "other, 2 folds: 2 scans of 2 cases held out"
    assert alone.presence("case2_day0")[0, 0] == 0.875


def two_scans(root, place, name, ended="1", present=()):
    """A cross-validation of two folds that each held out a scan; the presence of some, as 0.25."""
    for fold, scan in enumerate(["case1_day0", "case2_day0"]):
        predictor(root, f"{place}/fold{fold}", ended, **role(name))
        runs.write_probabilities(root / f"{place}/fold{fold}", scan, np.zeros((2, 1, 1, 3)))
        if scan in present:
            runs.write_presence(root / f"{place}/fold{fold}", scan, np.full((2, 3), 0.25))
    table(root / place)


BOTH_SCANS = ("case1_day0", "case2_day0")


def test_a_gate_that_lacks_the_presence_of_a_scan_is_left_out_and_said(tmp_path):
    two_scans(tmp_path, "pair/segmenter", "segmenter")
    two_scans(tmp_path, "pair/gate", "gate", "2", present=BOTH_SCANS[:1])
    found = held_out(tmp_path)
    text = "without the gate pair/gate (missing for 1 of the scans, such as case2_day0)"
    assert str(found) == f"segmenter, 2 folds, {text}: 2 scans of 2 cases held out"
    assert found.gates == []
    assert len(found.folders) == 4, "it still predicts"
    assert [found.presence(scan) for scan in found.scans] == [None, None]
    assert held_out(tmp_path, "pair/gate").lacking == ["case2_day0"]
    two_scans(tmp_path, "older/gate", "gate", "0", present=BOTH_SCANS)
    assert "with the gate older/gate:" in str(held_out(tmp_path))


def test_a_gate_attached_twice_is_read_where_its_presence_is(tmp_path):
    two_scans(tmp_path, "output/pair/segmenter", "segmenter")
    for place, present in (("output/pair/gate", BOTH_SCANS), ("uwm-kit-bundle/pair/gate", ())):
        two_scans(tmp_path, place, "gate", present=present)
    shutil.copytree(tmp_path / "output/pair/segmenter", tmp_path / "uwm-kit-bundle/pair/segmenter")
    for segmenter in ("output/pair/segmenter", "uwm-kit-bundle/pair/segmenter"):
        found = held_out(tmp_path, segmenter)
        assert {gate.folder.parent for gate in found.gates} == {tmp_path / "output/pair/gate"}


@pytest.mark.parametrize("name", ["deep/pair", "pair"])
def test_a_folder_of_a_gate_and_a_segmenter_means_the_segmenter(tmp_path, name):
    for role_of in ("segmenter", "gate"):
        two_scans(tmp_path, f"deep/pair/{role_of}", role_of, present=BOTH_SCANS)
    two_scans(tmp_path, "newer", "both", "9")
    found = held_out(tmp_path, name)
    assert found.folder == tmp_path / "deep/pair/segmenter"
    assert len(found.gates) == 2
    shutil.rmtree(tmp_path / "deep/pair/gate")
    with pytest.raises(ValueError, match=f"run '{name}' is not available"):
        held_out(tmp_path, name)


def test_runs_without_a_gate_have_no_presence(root):
    found = held_out(root, "cv")
    assert found.gates == []
    assert found.presence("case1_day0") is None


@pytest.fixture
def dataset(tmp_path):
    """A data set as `make bundle` writes it: a wheel, two runs and their manifest."""
    root = tmp_path / "uwm-kit-bundle"
    for name in ("a", "b"):
        predictor(root / "runs", name)
    manifest.write(root / "runs")
    (root / "kitlib-0.2.0-py3-none-any.whl").touch()
    return root


def test_runs_of_a_bundle_are_found_where_the_upload_has_put_them(dataset):
    assert names(dataset, bundle=True) == ["runs/a", "runs/b"]
    (dataset / "runs").rename(dataset / "inner")
    (dataset / "runs").mkdir()
    (dataset / "inner").rename(dataset / "runs/runs")
    assert names(dataset, bundle=True) == ["runs/runs/a", "runs/runs/b"]
    assert names(dataset, "b", bundle=True) == ["runs/runs/b"]
    assert runs.choose(dataset, bundle=True).problems == []


def flattened(dataset):
    for path in sorted((dataset / "runs").rglob("*.*")):
        path.replace(dataset / path.name)


def without_folders(dataset):
    for name in ("a", "b"):
        for path in (dataset / "runs" / name).iterdir():
            path.replace(dataset / "runs" / f"{name}_{path.name}")


def zipped(dataset):
    shutil.make_archive(dataset / "runs", "zip", dataset / "runs")
    shutil.rmtree(dataset / "runs")


def zipped_inside(dataset):
    zipped(dataset)
    (dataset / "runs").mkdir()
    (dataset / "runs.zip").rename(dataset / "runs/runs.zip")


def no_manifest(dataset):
    (dataset / "runs/manifest.json").unlink()


def half(dataset):
    shutil.rmtree(dataset / "runs/a")


def added(dataset):
    predictor(dataset / "runs", "c", "9")


@pytest.mark.parametrize(
    ("spoil", "where", "words", "left"),
    [
        (flattened, "a/model.keras", "missing", []),
        (without_folders, "runs/b/run.json", "missing", []),
        (zipped, "runs.zip", "is not unpacked", []),
        (zipped_inside, "runs/runs.zip", "is not unpacked", []),
        (no_manifest, "", "has runs but no manifest.json", ["runs/a", "runs/b"]),
        (half, "runs/a/run.json", "missing", ["runs/b"]),
        (added, "runs/c", "is not in the manifest", ["runs/a", "runs/b"]),
    ],
)
def test_a_bundle_that_arrives_broken_is_named_and_never_half_used_in_silence(dataset, spoil, where, words, left):
    spoil(dataset)
    choice = runs.choose(dataset, bundle=True)
    assert [path.relative_to(dataset).as_posix() for path in choice.folders] == left
    assert words in dict(choice.problems)[dataset / where]


def test_a_second_manifest_in_a_bundle_is_named(dataset):
    shutil.copytree(dataset / "runs", dataset / "runs copy")
    assert [path for path, _ in runs.choose(dataset, bundle=True).problems] == [dataset / "runs copy/manifest.json"]
