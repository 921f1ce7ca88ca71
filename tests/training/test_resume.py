import shutil
import stat
import sys
import types

import pytest

from kitlib import contest, runs, training
from kitlib.data import folds
from kitlib.data.inputs import InputSpec
from kitlib.models import unet
from kitlib.training import budget, checkpoints, jobs, resume, trackers


def describe(slices, held_out, **changes):
    options = {
        "network": print,
        "network_options": {"levels": 4},
        "loss": types.SimpleNamespace(name="bce"),
        "epochs": 3,
    }
    options["loss"].get_config = lambda: {"name": "bce", "smooth": 1.0}
    learn, check = folds.split(slices, held_out)
    return resume.describe(learn, check, InputSpec(32, 32), augment=None, **options | changes)


@pytest.fixture
def held_out(slices):
    return slices["case"] == slices["case"].iloc[0]


def test_same_call_is_the_same_record(slices, held_out):
    assert resume.differences(describe(slices, held_out), describe(slices, held_out)) == []


def test_differences_are_named_with_both_values(slices, held_out):
    old = describe(slices, held_out)
    assert resume.differences(old, describe(slices, held_out, epochs=4)) == ["epochs is 3 in the folder and 4 now"]
    options = {"network_options": {"levels": 5}}
    assert resume.differences(old, describe(slices, held_out, **options)) == ["levels is 4 in the folder and 5 now"]
    other = describe(slices, slices["case"] == slices["case"].iloc[-1])
    assert any("held_out" in text for text in resume.differences(old, other))


def test_other_masks_of_the_same_slices_are_other_data(slices, held_out):
    spoiled = slices.assign(stomach="")
    found = resume.differences(describe(slices, held_out), describe(spoiled, held_out))
    assert [text.split(" is ")[0] for text in found] == ["learned", "checked"]


def test_call_into_another_run_is_refused(slices, held_out, tmp_path):
    assert resume.begin(tmp_path / "run", describe(slices, held_out)).state == "running"
    assert resume.begin(tmp_path / "run", describe(slices, held_out)).state == "running"
    with pytest.raises(ValueError, match="epochs is 3 in the folder and 4 now"):
        resume.begin(tmp_path / "run", describe(slices, held_out, epochs=4))


@pytest.fixture(scope="module")
def trained(slices, tmp_path_factory):
    """One course of two epochs, stopped after the first, and the same one finished; and how it was called."""
    folder = tmp_path_factory.mktemp("trained")
    options = {"held_out": slices["case"] == slices["case"].iloc[0], "spec": InputSpec(32, 32, depth=1), "epochs": 2}
    options |= {"network_options": {"levels": 1, "base": 2} | unet.NO_ATTENTION, "batch_size": 8, "score_every": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget.Budget, "fits", lambda self, *_: False)
        stopped = training.fit_fold(slices, folder / "stopped", **options)
    shutil.copytree(stopped.folder, folder / "finished")
    finished = training.fit_fold(slices, folder / "finished", **options)
    assert (stopped.state, finished.state) == ("stopped", "finished")
    return stopped, finished, options


def attach(run, place, *left_out):
    shutil.copytree(run.folder, place, ignore=shutil.ignore_patterns(*left_out))


@pytest.mark.parametrize("mount", ["my-run", "notebooks/someone/my-run", "datasets/someone/my-run"])
def test_attached_run_with_a_checkpoint_is_gone_on_with_whatever_lies_beside_it(
    slices, trained, tmp_path, monkeypatch, capsys, mount
):
    stopped, finished, options = trained
    place = tmp_path / "input" / mount / "runs/paper/fold0"
    attach(stopped, place)
    attach(stopped, tmp_path / "input/a-bundle/runs/fold0", "checkpoint", "oof")
    attach(finished, tmp_path / "input/b-bundle/runs/fold0", "oof")
    for name, text in (("c", "[1, 2]"), ("d", "no json"), ("e", '{"parameters": 1, "folds": [3]}')):
        with runs.replacing(tmp_path / "input" / name / "run.json") as file:
            file.write(text)
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    monkeypatch.setattr("kitlib.contest.KAGGLE_INPUT", tmp_path / "input")
    run = training.fit_fold(slices, tmp_path / "working/run", **options)
    assert f"going on with {place}" in capsys.readouterr().out
    assert run.state == "finished"
    assert len(run.history()) == 2
    assert run.history().iloc[0].equals(stopped.history().iloc[0])
    assert runs.read(place).state == "stopped"


def test_of_several_attached_runs_the_one_that_got_furthest_is_taken(trained, tmp_path):
    stopped, finished, _ = trained
    attach(stopped, tmp_path / "input/a")
    attach(finished, tmp_path / "input/b")
    run = resume.begin(tmp_path / "run", stopped.record | {"state": "running"}, (tmp_path / "input",))
    assert run.state == "finished"
    assert run.scans == finished.scans


def test_copy_of_a_read_only_run_can_be_written_to(trained, tmp_path):
    stopped = trained[0]
    attach(stopped, tmp_path / "input/a")
    for path in (tmp_path / "input/a").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (tmp_path / "input/a").chmod(0o555)
    folder = resume.begin(tmp_path / "run", stopped.record, (tmp_path / "input",)).folder
    copied = [folder, *folder.rglob("*")]
    assert {path.name for path in copied} >= {"history.csv", "checkpoint", "model.weights.h5"}
    assert all(path.stat().st_mode & stat.S_IWUSR for path in copied)


def test_a_start_from_nothing_says_what_the_nearest_attached_run_lacks(trained, tmp_path, capsys):
    stopped, finished, _ = trained
    attach(stopped, tmp_path / "input/near")
    parameters = stopped.record["parameters"] | {"precision": "mixed_float16"}
    record = stopped.record | {"state": "running", "parameters": parameters}
    attach(finished, tmp_path / "input/far")
    runs.write_record(tmp_path / "input/far", finished.record | {"data": {}})
    assert resume.begin(tmp_path / "one", record, (tmp_path / "input",)).state == "running"
    said = capsys.readouterr().out
    assert "near: precision is 'float32' in the folder and 'mixed_float16' now" in said
    attach(finished, tmp_path / "bundle/run", "oof")
    assert resume.begin(tmp_path / "two", finished.record | {"state": "running"}, (tmp_path / "bundle",)).scans == []
    assert "without a checkpoint or out-of-fold probabilities" in capsys.readouterr().out
    runs.write_record(tmp_path / "killed/run", stopped.record | {"state": "running"})
    resume.begin(tmp_path / "three", stopped.record, (tmp_path / "killed",))
    assert "it is this run, but without a finished epoch\n" in capsys.readouterr().out


def test_competitions_and_pictures_are_not_searched_for_runs(tmp_path):
    runs.write_record(tmp_path / "competitions/uw-madison/train/case1", {})
    (tmp_path / "competitions/uw-madison/train.csv").write_text("id,class,segmentation\n", encoding="utf-8")
    runs.write_record(tmp_path / "a/scans/run", {})
    runs.write_record(tmp_path / "a/b/run", {})
    assert contest.attached("run.json", [tmp_path, tmp_path / "nothing"]) == [tmp_path / "a/b/run"]


def test_attached_table_of_folds_is_kept(slices, tmp_path):
    dealt = jobs.fold_table(slices, tmp_path / "old/folds.csv", 2)
    turned = (
        (tmp_path / "old/folds.csv")
        .read_text(encoding="utf-8")
        .replace(",0", ",x")
        .replace(",1", ",0")
        .replace(",x", ",1")
    )
    (tmp_path / "old/folds.csv").write_text(turned, encoding="utf-8")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange/folds.csv").write_text("case,fold\n999,0\n998,1\n", encoding="utf-8")
    with runs.replacing(tmp_path / "another/folds.csv") as file:
        file.write("patient,part\n1,2\n")
    with runs.replacing(tmp_path / "empty/folds.csv") as file:
        file.write("")
    jobs.adopt_table(slices, tmp_path / "new/folds.csv", 2, contest.attached("folds.csv", [tmp_path]))
    assert (jobs.fold_table(slices, tmp_path / "new/folds.csv", 2) == 1 - dealt).all()


def test_unknown_and_missing_trackers_are_explained(tmp_path, monkeypatch):
    assert trackers.callbacks((), tmp_path) == []
    with pytest.raises(ValueError, match="no tracker 'mlflow'"):
        trackers.callbacks(["mlflow"], tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"track: 'wandb' needs .* pip install wandb"):
        trackers.callbacks(["wandb"], tmp_path)


def test_tracked_run_keeps_its_id_where_it_goes_on_and_shares_it_with_none(slices, held_out, tmp_path, monkeypatch):
    started, wandb = [], types.SimpleNamespace(init=lambda **options: started.append(options))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    record = describe(slices, held_out)
    for place, changes in {
        "a/bce/seed0": {},
        "a/bce/seed0 again": {"state": "stopped", "wall_seconds": 9.0, "best_epoch": 3},
        "b/bce/seed0": {"began": "2026-01-01T00:00:00+00:00"},
    }.items():
        runs.write_record(tmp_path / place, record | changes)
        trackers.callbacks(["wandb"], tmp_path / place)[0].on_train_begin()
    first, again, other = started
    assert first["name"] == other["name"] == "bce-seed0"
    assert first["id"] == again["id"] != other["id"]


def test_run_that_goes_on_is_running_and_counts_the_time_of_killed_calls(slices, held_out, tmp_path):
    record = describe(slices, held_out) | {"state": "stopped", "wall_seconds": 70.0}
    runs.write_record(tmp_path, record)
    rows = [{"seconds": 30.0}, {"seconds": 20.0}]
    again = resume.reopen(runs.read(tmp_path), rows)
    assert (again.state, again.record["wall_seconds"]) == ("running", 70.0)
    assert runs.read(tmp_path).record == again.record
    assert resume.reopen(again, [*rows, {"seconds": 40.0}]).record["wall_seconds"] == 90.0


def test_interrupted_checkpoint_leaves_the_one_before(tmp_path, monkeypatch):
    model = types.SimpleNamespace(save_weights=lambda path: path.write_bytes(b"weights"))
    checkpoints.save_best(tmp_path, model, 1)
    checkpoints.save(tmp_path, model, checkpoints.State(epoch=1, best_epoch=1))
    checkpoints.save_best(tmp_path, model, 2)

    def fail(path):
        path.write_bytes(b"wei")
        raise OSError("disk full")

    broken = types.SimpleNamespace(save_weights=fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(tmp_path, broken, checkpoints.State(epoch=2, best_epoch=2))
    assert checkpoints.read_state(tmp_path).epoch == 1
    assert checkpoints.best_path(tmp_path, 1).is_file()
    checkpoints.save(tmp_path, model, checkpoints.State(epoch=2, best_epoch=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-0002.weights.h5", "epoch-0002"]
