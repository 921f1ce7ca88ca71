"""Lists of trainings: in one process or side by side, with their GPUs, their deadline and their precision."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import keras
import pandas as pd
import pytest

from kitlib import runs, training
from kitlib.data import folds
from kitlib.training import Job, devices, jobs, resume
from tests.training.test_resume_killed import start

ENDLESS = """
import signal
import sys
from kitlib.data import inputs
from kitlib.data import scans
from kitlib import training

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    training.cross_validate(
        scans.read(sys.argv[1]),
        sys.argv[2],
        count=3,
        at_once=2,
        spec=inputs.InputSpec(32, 32, depth=3),
        recipe=training.Recipe(
            network_options=dict(levels=1, base=2, window_stages=(), external_bottleneck=False),
            epochs=100_000,
            patience=100_000,
            batch_size=4,
        ),
    )
"""


def children(process: int) -> set[int]:
    """The processes that a process has started, and those that they have."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found = {child for child, parent in parents.items() if parent == process}
    return found.union(*map(children, found))


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_folds_end_with_the_process_that_began_them(competition, tmp_path, how):
    """Killed outright, or by Ctrl-C; the signal reaches the parent alone, and a third fold waits for its turn."""
    parent = start(ENDLESS, competition, tmp_path)
    until = time.monotonic() + 300
    while parent.poll() is None and len(list(tmp_path.glob("fold[01]/history.csv"))) < 2:
        if time.monotonic() > until:
            parent.kill()
        time.sleep(0.1)
    folds = children(parent.pid)
    assert len(folds) >= 2, parent.communicate()[0]
    parent.send_signal(how)
    try:
        parent.wait(timeout=600)
        for _ in range(600):
            left = set(filter(alive, folds))
            if not left:
                break
            time.sleep(0.1)
        assert not left
    finally:
        for process in (parent.pid, *folds):
            if alive(process):
                os.kill(process, signal.SIGKILL)
        parent.communicate()
    assert not (tmp_path / "fold2").exists()
    assert (tmp_path / "packed").exists() == (how == signal.SIGKILL)


def test_a_training_is_left_when_it_has_no_time_for_an_epoch(slices, held_out, spec, tmp_path):
    job = Job(tmp_path / "fold1", held_out, spec)
    folders = [tmp_path / "fold0", tmp_path / "fold1"]
    for seconds, row in ((1, None), (150, {"epoch": 1, "seconds": 100.0})):
        if row:
            runs.write_history(folders[0], [row])
        options = {"deadline": time.time() + seconds, "others": folders}
        assert not jobs.train(slices, job, tmp_path / "packed", "float32", **options)
        assert not (tmp_path / "fold1").exists()
        assert not (tmp_path / "packed").exists()


def test_folder_whose_holder_lets_go_is_waited_for(slices, held_out, packed, tmp_path, monkeypatch):
    job, refused = Job(tmp_path / "fold0", held_out), [resume.Held("held"), resume.Held("held"), None]

    def fit(*_, **__):
        reason = refused.pop(0)
        if reason:
            raise reason

    monkeypatch.setattr(jobs, "fit_fold", fit)
    monkeypatch.setattr(jobs.pipeline, "pack", lambda *_: packed)
    monkeypatch.setattr(jobs, "AGAIN_SECONDS", 0.0)
    assert jobs.train(slices, job, tmp_path, "float32", patience=60)
    assert not refused
    refused += [resume.Held("held")]
    with pytest.raises(resume.Held):
        jobs.train(slices, job, tmp_path, "float32")


def test_second_cross_validation_side_by_side_is_refused_and_removes_nothing(slices, tmp_path):
    (tmp_path / "packed").mkdir()
    with resume.hold(tmp_path), pytest.raises(resume.Held, match=f"is training in .*{tmp_path.name}"):
        training.cross_validate(slices, tmp_path, count=2, at_once=2)
    assert (tmp_path / "packed").is_dir()


@pytest.fixture
def tried(packed, monkeypatch):
    """The folders that were asked for, by a training that writes a finished run or what it is told to."""
    folders, states = [], {}

    def fit(table, folder, **options):
        folders.append(folder.name)
        if states.get(folder.name) == "diverged":
            raise FloatingPointError(f"{folder}: the loss is nan")
        runs.write_record(folder, {"state": states.get(folder.name, "finished")})
        runs.write_history(folder, [{"epoch": 1, "seconds": 100.0}])
        return runs.read(folder)

    monkeypatch.setattr(jobs, "fit_fold", fit)
    monkeypatch.setattr(jobs.pipeline, "pack", lambda *_: packed)
    return folders, states


def test_cross_validation_gives_every_finished_fold_however_little_time_is_left(slices, spec, tmp_path, tried, capsys):
    folders, _ = tried
    options = {"count": 3, "spec": spec}
    assert len(training.cross_validate(slices, tmp_path, **options)) == 3
    options["deadline"] = time.time() + 60
    found = training.cross_validate(slices, tmp_path, **options)
    assert [run.folder.name for run in found] == ["fold0", "fold1", "fold2"]
    (tmp_path / "fold1/run.json").write_text('{"state": "stopped"}', encoding="utf-8")
    folders.clear()
    assert len(training.cross_validate(slices, tmp_path, **options)) == 3
    assert folders == ["fold0", "fold2"]
    assert "1 of 3 trainings out of time; run the same call again to continue: fold1" in capsys.readouterr().out


def test_some_folds_of_a_cross_validation_can_be_trained_alone(slices, spec, tmp_path, tried):
    folders, _ = tried
    (run,) = training.cross_validate(slices, tmp_path, count=3, only=[1], spec=spec)
    assert folders == [run.folder.name] == ["fold1"]


def test_a_gate_and_its_segmenter_have_the_same_folds(slices, spec, tmp_path, tried):
    gate, segmenter = tmp_path / "gate", tmp_path / "segmenter"
    training.cross_validate(slices, gate, count=3, spec=spec)
    swapped = (gate / "folds.csv").read_text(encoding="utf-8").replace(",0\n", ",9\n").replace(",2\n", ",0\n")
    (gate / "folds.csv").write_text(swapped.replace(",9\n", ",2\n"), encoding="utf-8")
    training.cross_validate(slices, segmenter, count=3, spec=spec, folds_of=gate)
    assert (segmenter / "folds.csv").read_bytes() == (gate / "folds.csv").read_bytes()
    training.cross_validate(slices, tmp_path / "alone", count=3, spec=spec)
    with pytest.raises(ValueError, match=r"case .* is in fold .*alone/folds\.csv and in fold .*gate/folds\.csv"):
        training.cross_validate(slices, tmp_path / "alone", count=3, spec=spec, folds_of=gate)
    with pytest.raises(ValueError, match=r"gate/folds\.csv has 3 folds, not 2"):
        training.cross_validate(slices, tmp_path / "two", count=2, spec=spec, folds_of=gate)
    assert not (tmp_path / "two/folds.csv").exists()
    with pytest.raises(FileNotFoundError, match="folds_of takes the folder of a cross-validation"):
        training.cross_validate(slices, tmp_path / "two", count=2, spec=spec, folds_of=tmp_path / "none")


def test_a_training_that_diverges_is_raised_when_the_others_are_done(slices, spec, tmp_path, tried, capsys):
    folders, states = tried
    states["fold0"] = "diverged"
    with pytest.raises(FloatingPointError, match="fold0: the loss is nan"):
        training.cross_validate(slices, tmp_path, count=3, spec=spec)
    assert folders == ["fold0", "fold1", "fold2"]
    assert "1 of 3 trainings diverged; run the same call again to retry: fold0" in capsys.readouterr().out


def test_a_list_ends_when_the_next_training_has_no_time_and_continues_when_called_again(
    slices, held_out, packed, spec, tmp_path, tried, capsys
):
    _, states = tried
    listed = [Job(tmp_path / name / "seed0", held_out, spec, name=name) for name in ("a", "b", "c")]
    options = {"packed": packed, "deadline": time.time() + 150}
    outcomes = jobs.run(slices, listed, **options)  # an epoch takes 100 s
    assert [outcome.run is not None for outcome in outcomes] == [True, False, False]
    said = capsys.readouterr().out
    assert said.startswith("  1/3 a (seed0): Dice")
    assert "2 of 3 trainings out of time; run the same call again to continue: b (seed0), c (seed0)" in said
    assert not any(o.run for o in jobs.run(slices, listed[1:], like=[listed[0].folder], **options))
    assert all(o.run for o in jobs.run(slices, listed, packed=packed))
    states["seed0"] = "stopped"
    assert jobs.run(slices, listed, packed=packed)[1].run.state == "stopped"
    assert "3 of 3 trainings out of time" in capsys.readouterr().out


def test_every_depth_gets_its_stacks_from_the_same_packed_scans(slices, held_out, packed, spec, tmp_path, monkeypatch):
    asked = []

    def fit(table, folder, *, packed, spec, **options):
        assert packed.spec == spec
        asked.append(packed.stacks.shape[1])
        runs.write_record(folder, {})
        return runs.read(folder)

    monkeypatch.setattr(jobs, "fit_fold", fit)
    specs = [replace(spec, depth=depth) for depth in (3, 1, 5)]
    jobs.run(slices, [Job(tmp_path / str(s.depth), held_out, s) for s in specs], packed=packed)
    assert asked == [3, 1, 5]


@pytest.mark.parametrize("given", [True, False])
def test_scans_are_packed_into_the_folder_that_is_given_and_it_is_kept(
    slices, held_out, packed, spec, tmp_path, monkeypatch, given
):
    folder = tmp_path / ("scans" if given else "packed")
    monkeypatch.setattr(jobs, "fit_fold", lambda table, folder, **_: runs.write_record(folder, {}) or runs.read(folder))
    asked = []
    monkeypatch.setattr(jobs.pipeline, "pack", lambda table, spec, place: asked.append(place) or packed)
    jobs.run(slices, [Job(tmp_path / "a", held_out, spec)], packed=folder if given else None)
    assert asked == [folder if given else None]

    class Pool:  # the processes, which pack nothing themselves
        def __init__(self, *_, **__):
            folder.mkdir()

        def submit(self, function, table, job, place, *_):
            assert place == folder
            raise KeyboardInterrupt

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(jobs.concurrent.futures, "ProcessPoolExecutor", Pool)
    options = {"packed": folder if given else None, "at_once": 2}
    with pytest.raises(KeyboardInterrupt):
        jobs.run(slices, [Job(tmp_path / name, held_out, spec) for name in ("b", "c")], **options)
    assert asked[1:] == [folder]
    assert folder.exists() == given


@pytest.mark.slow
def test_all_trainings_of_a_list_have_the_precision_of_the_first(
    slices, held_out, packed, spec, small, tmp_path, monkeypatch
):
    """Keras resets it with its state, which is cleared between two trainings."""
    used = []
    build = training.Recipe.builder
    monkeypatch.setattr(
        training.Recipe,
        "builder",
        lambda self, prior: used.append(keras.config.dtype_policy().name) or build(self, prior),
    )
    recipe = replace(small, epochs=1, network_options={"levels": 1, "base": 2, "window_stages": []})
    listed = [Job(tmp_path / f"seed{seed}", held_out, spec, replace(recipe, seed=seed)) for seed in (0, 1)]
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        outcomes = jobs.run(slices, listed, packed=packed)
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy(before)
    assert [outcome.run.record["precision"] for outcome in outcomes] == ["mixed_bfloat16"] * 2
    assert used == ["mixed_bfloat16"] * 2
    curves = [outcome.run.history()["val_loss"].notna().all() for outcome in outcomes]
    assert curves == [True, True]


@pytest.mark.slow
def test_cross_validation_holds_out_every_case_once_and_skips_what_is_done(slices, spec, small, tmp_path):
    from kitlib.layers import augment

    recipe = replace(small, epochs=1, schedule="cosine", augment=augment.Augment(), augment_on="cpu")
    options = {"count": 2, "spec": spec, "recipe": recipe}
    trained = training.cross_validate(slices, tmp_path, **options)
    assert sorted(scan for run in trained for scan in run.record["folds"]["held_out"]) == sorted(
        slices["scan"].unique()
    )
    ended = [run.record["ended"] for run in trained]
    again = training.cross_validate(slices, tmp_path, **options)
    assert [run.record["ended"] for run in again] == ended
    assert len(runs.compare(tmp_path)) == 2
    for table, wrong in (("case,fold\n1,0\n", "has 1 folds, not 2"), ("case,fold\n1,0\n2,1\n", "lacks cases")):
        (tmp_path / "folds.csv").write_text(table, encoding="utf-8")
        with pytest.raises(ValueError, match=wrong):
            training.cross_validate(slices, tmp_path, **options)
    with pytest.raises(ValueError, match="fold0 is the folder of a single run"):
        training.cross_validate(slices, tmp_path / "fold0", **options)


@pytest.mark.parametrize(
    ("gpus", "shared", "expected"), [(2, (), 2), (2, ("GPU:0", "GPU:1"), 1), (1, (), 1), (8, (), 5), (0, (), 1)]
)
def test_several_cards_train_a_fold_each_unless_they_share_each_batch(
    slices, spec, tmp_path, monkeypatch, tried, gpus, shared, expected
):
    monkeypatch.setattr(jobs, "listed", lambda kind: ["one"] * gpus if kind == "gpu" else [])
    monkeypatch.setattr(runs, "finished", lambda folder: True)
    asked = []
    monkeypatch.setattr(jobs, "run", lambda slices, jobs, *, at_once, **_: asked.append(at_once) or [])
    machine = devices.Devices(gpus, "float32", "a test", shared)
    monkeypatch.setattr(folds, "table", lambda *_: pd.Series(0, index=slices.index))
    training.cross_validate(slices, tmp_path, count=5, spec=spec, devices=machine)
    assert asked == [expected]


@pytest.mark.parametrize(
    ("gpus", "at_once", "visible", "expected"),
    [
        (4, 2, None, ["0,2", "1,3"]),
        (2, 2, "GPU-8f,GPU-2c", ["GPU-8f", "GPU-2c"]),
        (2, 3, "3,1", ["3", "1"]),
        (1, 2, "2,0", ["2"]),
        (0, 2, "1", [None, None]),
    ],
)
def test_processes_share_the_gpus_that_the_user_chose(monkeypatch, capsys, gpus, at_once, visible, expected):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(jobs, "listed", lambda kind: ["one"] * gpus if kind == "gpu" else [])
    assert jobs.shares(at_once) == expected
    said = capsys.readouterr().out
    assert said.startswith(f"at_once={at_once}, but {gpus} GPU(s) found: ") == (0 < gpus < at_once)


def test_a_tpu_is_not_for_several_processes(slices, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "listed", lambda kind: ["tpu:0"] if kind == "tpu" else [])
    with pytest.raises(RuntimeError, match="at_once=2, but only one process can use a TPU"):
        training.cross_validate(slices, tmp_path, count=2, at_once=2)
