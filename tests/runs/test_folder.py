import json
import os
import types
from pathlib import Path

import numpy as np
import pytest

from kitlib import runs
from kitlib.data.inputs import InputSpec
from kitlib.postprocess.cleaning import DEFAULT, Settings


def record(ended="2026-01-01T00:00:00", **parameters):
    spec = json.loads(InputSpec(64, 96).to_json())
    return {"parameters": parameters, "input_spec": spec, "wall_seconds": 90, "ended": ended}


def finish(folder, score=0.5, **options):
    runs.write_record(folder, record(**options))
    (folder / "model.keras").write_bytes(b"")
    with runs.replacing(folder / "history.csv") as file:
        file.write("epoch,loss\n1,0.5\n2,0.25\n")
    with runs.replacing(folder / "score.json") as file:
        file.write(json.dumps({"score": score}))


def test_what_is_written_is_read(tmp_path):
    runs.write_record(tmp_path / "run", record(epochs=3))
    run = runs.read(tmp_path / "run")
    assert run.record["parameters"] == {"epochs": 3}
    assert run.spec == InputSpec(64, 96)
    assert run.score() == {}


def test_probabilities_come_back_within_half_a_step(tmp_path):
    runs.write_record(tmp_path, record())
    probabilities = np.random.default_rng(0).random((4, 5, 6, 3)).astype(np.float32)
    runs.write_probabilities(tmp_path, "case1_day0", probabilities)
    run = runs.read(tmp_path)
    assert run.scans == ["case1_day0"]
    np.testing.assert_allclose(run.probabilities("case1_day0"), probabilities, atol=0.5 / 255 + 1e-6)
    assert (tmp_path / "oof/case1_day0.npy").stat().st_size < 600


def test_presence_comes_back_exactly_and_is_none_where_a_run_is_no_gate(tmp_path):
    runs.write_record(tmp_path, record())
    presence = np.random.default_rng(0).random((7, 3)).astype(np.float32)
    runs.write_presence(tmp_path, "case1_day0", presence)
    run = runs.read(tmp_path)
    np.testing.assert_array_equal(run.presence("case1_day0"), presence)
    assert run.presence("case1_day0").dtype == np.float32
    assert run.presence("case2_day0") is None
    assert run.scans == []


@pytest.mark.parametrize(
    ("stored", "role"),
    [
        ({"recipe": {"role": "gate"}}, "gate"),
        ({"recipe": {"role": "segmenter"}}, "segmenter"),
        ({"recipe": {"epochs": 3}}, "both"),
        ({"parameters": {"epochs": 3}}, "both"),
        ({}, "both"),
    ],
)
def test_a_run_without_a_role_plays_both(tmp_path, stored, role):
    assert runs.Run(tmp_path, stored).role == role
    assert role in runs.ROLES


def test_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a run folder: it has no run\.json"):
        runs.read(tmp_path)


def test_runs_are_found_newest_last_and_only_with_a_model(tmp_path):
    finish(tmp_path / "b/fold0", ended="2026-01-02")
    finish(tmp_path / "a", ended="2026-01-03")
    runs.write_record(tmp_path / "unfinished", record())
    assert [run.folder.name for run in runs.find(tmp_path)] == ["fold0", "a"]


@pytest.mark.parametrize("place", ["#recycle", ".Trash-1000/files", "@eaDir", ".ipynb_checkpoints", "$RECYCLE.BIN/S-1"])
def test_runs_in_folders_of_other_programs_are_passed_over(tmp_path, place):
    finish(tmp_path / "a", ended="2026-01-01")
    finish(tmp_path / place / "thrown-away", ended="2026-01-09")
    assert [run.folder.name for run in runs.find(tmp_path)] == ["a"]
    assert [path.name for path in runs.choose(tmp_path).folders] == ["a"]
    (tmp_path / "a/@eaDir/run.json").mkdir(parents=True)
    assert runs.choose_held_out(tmp_path) == (None, [])


@pytest.mark.parametrize("name", ["._case1_day0.npy", "~case1_day0.npy", ".case1_day0.npy.7.part"])
def test_stray_files_among_probabilities_are_no_scans(tmp_path, name):
    finish(tmp_path)
    runs.write_probabilities(tmp_path, "case1_day0", np.zeros((1, 1, 1, 3)))
    (tmp_path / "oof" / name).write_bytes(b"left by another program")
    assert runs.read(tmp_path).scans == ["case1_day0"]


def test_comparison_has_a_row_per_run(tmp_path):
    finish(tmp_path / "a", score=0.7, epochs=2)
    finish(tmp_path / "b/fold0", score=0.6, epochs=2, ended="2027")
    table = runs.compare(tmp_path)
    assert table.index.tolist() == ["a", "b/fold0"]
    assert table["score"].tolist() == [0.7, 0.6]
    assert table["minutes"].tolist() == [1.5, 1.5]
    assert table["epochs run"].tolist() == [2, 2]
    assert runs.compare(tmp_path / "nothing").empty


def test_run_that_was_stopped_in_its_first_epoch_is_compared_like_any_other(tmp_path):
    finish(tmp_path / "a")
    with runs.replacing(tmp_path / "a/history.csv") as file:
        file.write("")
    assert runs.read(tmp_path / "a").history().empty
    assert runs.compare(tmp_path)["epochs run"].tolist() == [0]


def test_settings_are_the_default_until_they_are_tuned(tmp_path):
    runs.write_record(tmp_path, record())
    assert runs.read(tmp_path).settings == DEFAULT
    tuned = Settings(threshold=(0.3, 0.4, 0.5), stop="mean")
    with runs.replacing(tmp_path / "settings.json") as file:
        file.write(tuned.to_json())
    assert runs.read(tmp_path).settings == tuned


def test_interrupted_writing_leaves_the_old_file(tmp_path, monkeypatch):
    with runs.replacing(tmp_path / "score.json") as file:
        file.write("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"), runs.replacing(tmp_path / "score.json") as file:
        file.write("new")
    assert (tmp_path / "score.json").read_text(encoding="utf-8") == "old"


def test_missing_git_costs_only_the_hash(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert runs.surroundings()["git"] is None


def test_surroundings_name_versions():
    found = runs.surroundings()
    assert found["versions"]["keras"]
    assert found["versions"]["kitlib"]
    json.dumps(found)


@pytest.mark.parametrize("text", ["{", "", "[1]", '{"data": 3}'])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"run\.json: is damaged: .*copy the run folder again"):
        runs.read(tmp_path)


def test_a_record_without_an_input_spec_is_named(tmp_path):
    runs.write_record(tmp_path, {"recipe": {}})
    with pytest.raises(ValueError, match=r"run\.json: has no input_spec; copy the run folder again, or train it again"):
        _ = runs.read(tmp_path).spec


def test_a_recipe_reads_as_flat_values_and_says_whether_slices_were_mirrored(tmp_path):
    recipe = {
        "epochs": 3,
        "network_options": {"levels": 4},
        "loss": {"class_name": "BCEDice", "config": {"dice_weight": 0.5}},
        "augmentation": {"class_name": "Augment", "config": {"flip": 0.5}},
    }
    run = runs.Run(tmp_path, {"recipe": recipe})
    assert run.parameters["epochs"] == 3
    assert run.parameters["levels"] == 4
    assert (run.parameters["loss"], run.parameters["loss_settings"]) == ("BCEDice", {"dice_weight": 0.5})
    assert run.flipped
    still = {"class_name": "Augment", "config": {"flip": 0.5, "strength": 0}}
    for other in (None, {"class_name": "Augment", "config": {"flip": 0}}, still):
        assert not runs.Run(tmp_path, {"recipe": recipe | {"augmentation": other}}).flipped
    assert runs.Run(tmp_path, {"parameters": {"augment_settings": {"flip": 0.5}}}).flipped
    assert not runs.Run(tmp_path, {"parameters": {"augment": None}}).flipped


@pytest.mark.parametrize(("size", "slices", "words"), [(384, 38496, "17.1 GB"), (128, 7700, "0.5 GB")])
def test_the_disk_use_of_trainings_is_forecast(tmp_path, size, slices, words):
    spec = InputSpec(size, size)
    assert f"about {words}, and 20.0 GB are left" in runs.check_disk(tmp_path, slices, spec, 20 * 10**9)
    with pytest.raises(OSError, match=rf"about {words}, and 0\.4 GB are left: remove files, train fewer folds"):
        runs.check_disk(tmp_path, slices, spec, 4 * 10**8)


def test_without_a_figure_the_free_space_of_the_disk_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(free=4 * 10**8 if path.is_dir() else 0))
    with pytest.raises(OSError, match=r"not/there will take about 1\.9 GB, and 0\.4 GB are left"):
        runs.check_disk(tmp_path / "not/there", 4000, InputSpec(384, 384))


@pytest.mark.parametrize("record", [{}, {"data": {}}, {"data": {"train": "9 slices"}}, {"data": {"kind": None}}])
def test_a_record_without_the_kind_of_data_is_foreign_to_none(tmp_path, record):
    run = runs.Run(tmp_path, record)
    assert run.kind == runs.UNKNOWN
    assert not any(run.foreign(kind) for kind in ("competition", "phantom", runs.UNKNOWN))


SAVED = Path(__file__).parent / "saved-ae48e92"


def test_a_run_folder_of_version_0_1_is_read():
    run = runs.read(SAVED)
    assert run.spec == InputSpec(16, 16)
    assert run.state == "finished"
    assert run.trained
    assert run.kind == runs.UNKNOWN
    assert run.flipped
    assert run.parameters["epochs"] == 1
    assert run.settings.threshold == (0.4, 0.5, 0.3)
    assert len(run.history()) == 1
    assert runs.compare(SAVED.parent).index.tolist() == [SAVED.name]
    assert runs.choose(SAVED.parent, kind="competition").folders == [SAVED]
    assert runs.choose_settings([SAVED])[0] == run.settings
