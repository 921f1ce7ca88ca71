"""Records, locks and checkpoints: what a run folder is resumed from, and by whom."""

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import h5py
import keras
import pytest

from kitlib import contest, runs, training
from kitlib.data import folds
from kitlib.data.inputs import InputSpec
from kitlib.layers import augment, losses
from kitlib.models import unet
from kitlib.training import budget, resume

fcntl = pytest.importorskip("fcntl")


def describe(slices, held_out, **changes):
    recipe = training.Recipe(**{"network_options": {"levels": 4}, "loss": losses.BCE(), "epochs": 3} | changes)
    return resume.new_record(*folds.split(slices, held_out), InputSpec(32, 32), recipe)


def test_same_call_is_the_same_record(slices, held_out):
    assert resume.differences(describe(slices, held_out), describe(slices, held_out)) == []


def test_differences_are_named_with_both_values(slices, held_out):
    old = describe(slices, held_out)
    assert resume.differences(old, describe(slices, held_out, epochs=4)) == ["epochs was 3, now 4"]
    options = {"network_options": {"levels": 5}}
    assert resume.differences(old, describe(slices, held_out, **options)) == ["network_options.levels was 4, now 5"]
    other = describe(slices, slices["case"] == slices["case"].iloc[-1])
    assert any("held_out" in text for text in resume.differences(old, other))
    (text,) = resume.differences(old, describe(slices, held_out, loss=losses.BCE(paper=True)))
    assert text == "loss.paper was None, now True"
    text, *others = resume.differences(old, describe(slices, held_out, augment=augment.Augment(flip=0.2)))
    assert (text, len(others) > 9) == ("augment was None, now 'kitlib>Augment'", True)


def test_other_masks_of_the_same_slices_are_other_data(slices, held_out):
    spoiled = slices.assign(stomach="")
    found = resume.differences(describe(slices, held_out), describe(spoiled, held_out))
    assert [text.split(" was ")[0] for text in found] == ["data.train", "data.val"]


def test_call_into_another_run_is_refused(slices, held_out, tmp_path):
    assert resume.open_run(tmp_path / "run", describe(slices, held_out)).state == "running"
    assert resume.open_run(tmp_path / "run", describe(slices, held_out)).state == "running"
    with pytest.raises(ValueError, match=r"was started with other settings: epochs was 3, now 4. Use the same"):
        resume.open_run(tmp_path / "run", describe(slices, held_out, epochs=4))


@pytest.fixture(scope="module")
def trained(slices, held_out, tmp_path_factory):
    """One training of two epochs, stopped after the first, and the same one finished; and its arguments."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = training.Recipe(
        network_options={"levels": 1, "base": 2} | unet.NO_ATTENTION, batch_size=8, epochs=2, score_every=2
    )
    options = {"held_out": held_out, "spec": InputSpec(32, 32, depth=1), "recipe": recipe}
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
def test_earlier_run_with_a_checkpoint_is_resumed_whatever_is_beside_it(slices, trained, tmp_path, capsys, mount):
    stopped, finished, options = trained
    place = tmp_path / "input" / mount / "runs/paper/fold0"
    attach(stopped, place)
    attach(stopped, tmp_path / "input/a-bundle/runs/fold0", "checkpoint", "oof")
    attach(finished, tmp_path / "input/b-bundle/runs/fold0", "oof")
    for name, text in (("c", "[1, 2]"), ("d", "no json"), ("e", '{"parameters": 1, "folds": [3]}')):
        with runs.replacing(tmp_path / "input" / name / "run.json") as file:
            file.write(text)
    earlier = contest.attached("run.json", [tmp_path / "input"])
    run = training.fit_fold(slices, tmp_path / "working/run", earlier=earlier, **options)
    assert f"resuming {place}, copied to" in capsys.readouterr().out
    assert run.state == "finished"
    assert len(run.history()) == 2
    assert run.history().iloc[0].equals(stopped.history().iloc[0])
    assert runs.read(place).state == "stopped"


def test_of_several_earlier_runs_the_one_with_the_most_epochs_is_taken(trained, tmp_path):
    stopped, finished, _ = trained
    attach(stopped, tmp_path / "input/a")
    attach(finished, tmp_path / "input/b")
    run = resume.open_run(
        tmp_path / "run", stopped.record | {"state": "running"}, contest.attached("run.json", [tmp_path / "input"])
    )
    assert run.state == "finished"
    assert run.scans == finished.scans


def test_copy_of_a_read_only_run_can_be_written_to(trained, tmp_path):
    stopped = trained[0]
    attach(stopped, tmp_path / "input/a")
    for path in (tmp_path / "input/a").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (tmp_path / "input/a").chmod(0o555)
    folder = resume.open_run(
        tmp_path / "run", stopped.record, contest.attached("run.json", [tmp_path / "input"])
    ).folder
    copied = [folder, *folder.rglob("*")]
    assert {path.name for path in copied} >= {"history.csv", "checkpoint", "model.weights.h5"}
    assert all(path.stat().st_mode & stat.S_IWUSR for path in copied)


def test_a_start_from_nothing_says_what_the_nearest_earlier_run_lacks(trained, tmp_path, capsys):
    stopped, finished, _ = trained
    attach(stopped, tmp_path / "input/near")
    record = stopped.record | {"state": "running", "precision": "mixed_float16"}
    attach(finished, tmp_path / "input/far")
    runs.write_record(tmp_path / "input/far", finished.record | {"data": {}})
    assert (
        resume.open_run(tmp_path / "one", record, contest.attached("run.json", [tmp_path / "input"])).state == "running"
    )
    said = capsys.readouterr().out
    assert "near: precision was 'float32', now 'mixed_float16'" in said
    attach(finished, tmp_path / "bundle/run", "oof")
    assert (
        resume.open_run(tmp_path / "two", finished.record | {"state": "running"}, [tmp_path / "bundle/run"]).scans == []
    )
    assert "without a checkpoint or out-of-fold probabilities" in capsys.readouterr().out
    runs.write_record(tmp_path / "killed/run", stopped.record | {"state": "running"})
    resume.open_run(tmp_path / "three", stopped.record, [tmp_path / "killed/run"])
    assert "it is this run, but without a finished epoch\n" in capsys.readouterr().out


def test_attached_table_of_folds_is_kept(slices, tmp_path):
    dealt = folds.table(slices, tmp_path / "old/folds.csv", 2)
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
    earlier = [tmp_path / place / "fold0" for place in ("none", "empty", "strange", "another", "old")]
    assert (folds.table(slices, tmp_path / "new/folds.csv", 2, earlier) == 1 - dealt).all()


def test_run_that_goes_on_is_running_and_counts_the_time_of_killed_calls(slices, held_out, tmp_path):
    record = describe(slices, held_out) | {"state": "stopped", "wall_seconds": 70.0}
    runs.write_record(tmp_path, record)
    rows = [{"seconds": 30.0}, {"seconds": 20.0}]
    again = resume.reopen(runs.read(tmp_path), rows, {"xla": {"on": False}})
    assert (again.state, again.record["wall_seconds"]) == ("running", 70.0)
    assert again.record["xla"] == {"on": False}
    assert runs.read(tmp_path).record == again.record
    assert resume.reopen(again, [*rows, {"seconds": 40.0}], {}).record["wall_seconds"] == 90.0


def test_interrupted_checkpoint_leaves_the_one_before(tmp_path, monkeypatch):
    model = types.SimpleNamespace(save_weights=lambda path: path.write_bytes(b"weights"))
    resume.save_best(tmp_path, model, 1)
    resume.save_checkpoint(tmp_path, model, resume.State(epoch=1, best_epoch=1))
    resume.save_best(tmp_path, model, 2)

    def fail(path):
        path.write_bytes(b"wei")
        raise OSError("disk full")

    broken = types.SimpleNamespace(save_weights=fail)
    with pytest.raises(OSError, match="disk full"):
        resume.save_checkpoint(tmp_path, broken, resume.State(epoch=2, best_epoch=2))
    assert resume.read_state(tmp_path).epoch == 1
    assert resume.best_path(tmp_path, 1).is_file()
    resume.save_checkpoint(tmp_path, model, resume.State(epoch=2, best_epoch=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-0002.weights.h5", "epoch-0002"]


@pytest.mark.parametrize(
    "marker",
    [
        "paper/run.json",
        "fold0/run.json",
        "cv/fold0/run.json",
        "experiments/faults/fold1/run.json",
        "train.csv",
        "phantom/train.csv",
        "pyproject.toml",
    ],
)
def test_a_folder_of_runs_or_of_data_is_no_run_folder(slices, held_out, tmp_path, marker):
    with runs.replacing(tmp_path / "runs" / marker) as file:
        file.write("{}")
    words = r"(a folder of runs \((paper|fold0|cv|experiments)\)|a folder of data|the folder of a program)"
    with pytest.raises(ValueError, match=f"runs is {words}, not a run"):
        resume.open_run(tmp_path / "runs", describe(slices, held_out))
    assert not (tmp_path / "runs/run.json").exists()


def test_a_run_of_an_earlier_version_is_not_resumed(slices, held_out, tmp_path):
    runs.write_record(tmp_path, {"parameters": {"epochs": 3}, "state": "stopped"})
    with pytest.raises(ValueError, match="was trained by an earlier version of the kit"):
        resume.open_run(tmp_path, describe(slices, held_out))


HOLD = """
import sys
from kitlib.training import resume
with resume.hold(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder) -> subprocess.Popen:
    """Hold a folder in another process until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_second_writer_is_refused_until_the_first_has_ended_or_was_killed(tmp_path):
    for end in (signal.SIGKILL, None):
        process = holder(tmp_path / "run")
        opened = len(os.listdir("/dev/fd"))
        with (
            pytest.raises(resume.Held, match=r"another process is training in .*run[:;] wait"),
            resume.hold(tmp_path / "run"),
        ):
            pass
        assert len(os.listdir("/dev/fd")) == opened
        process.communicate("") if end is None else (process.send_signal(end), process.communicate())
        with resume.hold(tmp_path / "run"):
            pass
        assert not list((tmp_path / "run").iterdir())


def test_second_call_in_the_same_process_is_refused_until_the_first_has_failed(tmp_path):
    def hold_twice():
        with resume.hold(tmp_path), resume.hold(tmp_path):
            pass

    with pytest.raises(RuntimeError, match="another process is training"):
        hold_twice()
    with resume.hold(tmp_path):
        pass


def test_folder_that_cannot_be_made_is_left_to_its_writer(tmp_path):
    (tmp_path / "file").touch()
    with resume.hold(tmp_path / "file/run"):
        pass


def test_lock_that_cannot_be_removed_hides_no_error(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(ZeroDivisionError), resume.hold(tmp_path):
        raise ZeroDivisionError
    with resume.hold(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS])
def test_a_drive_without_locks_stops_no_training(slices, held_out, packed, spec, small, tmp_path, monkeypatch, code):
    """Neither our own lock nor HDF5's, which fails on such a drive with an OSError."""
    plain = h5py.File

    def locked(name, *arguments, **options):
        if str(name).startswith(str(tmp_path)):
            raise OSError(code, os.strerror(code))
        return plain(name, *arguments, **options)

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(h5py, "File", locked)
    with resume.hold(tmp_path / "run"):
        pass
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    resume.save_best(tmp_path / "run", model, 1)
    resume.save_checkpoint(tmp_path / "run", model, resume.State(epoch=1, best_epoch=1))
    weights = model.get_weights()
    model.set_weights([weight + 1 for weight in weights])
    assert resume.load_checkpoint(tmp_path / "run", model)[0].epoch == 1
    assert all((one == other).all() for one, other in zip(model.get_weights(), weights, strict=True))
    if code == errno.ENOLCK:
        options = {"held_out": held_out, "spec": spec, "packed": packed}
        assert (
            training.fit_fold(slices, tmp_path / "fit", recipe=replace(small, epochs=1), **options).state == "finished"
        )
