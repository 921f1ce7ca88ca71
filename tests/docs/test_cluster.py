"""Tasks on Ray, where it is installed; one of the two workers is killed while it trains."""

import contextlib
import os
import signal
import sys
import threading
import time
import types
from dataclasses import replace
from pathlib import Path

import keras
import pytest

from docs import cluster
from kitlib import runs, training
from kitlib.data import folds, inputs, scans
from kitlib.layers import losses
from kitlib.paper import experiments
from kitlib.training import Job, devices
from kitlib.training import jobs as trainings
from tests.training.test_jobs import children

GRID = experiments.trials(("losses", "levels", "augmentation", "attention", "neighbours"))  # of 05_experiments
SPEC = inputs.InputSpec(32, 32, depth=3)
OPTIONS = {"levels": 2, "base": 4, "window_stages": (0,)}
SMALL = training.Recipe(network_options=OPTIONS, batch_size=4, loss=losses.BCE())


def test_without_ray_the_way_out_is_named(slices, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install kitlib\[cluster\]"):
        cluster.train(slices, [], tmp_path)


class Local:
    """As much of Ray as the module needs: tasks run here, one after the other, in another current folder."""

    exceptions = types.SimpleNamespace(RayError=OSError)

    def __init__(self, elsewhere):
        self.elsewhere, self.shutdown = elsewhere, lambda: None
        self.is_initialized, self.put, self.get = lambda: True, lambda value: value, lambda task: task[1]
        self.nodes = lambda: [{"Alive": True, "Resources": {"CPU": 1.0}}]
        self.wait = lambda tasks: (tasks[:1], tasks[1:])

    def remote(self, function):
        def start(*arguments, **options):
            with contextlib.chdir(self.elsewhere):
                return str(arguments[1].folder), function(*arguments, **options)

        return types.SimpleNamespace(options=lambda **_: types.SimpleNamespace(remote=start))


def test_relative_folders_are_those_of_the_caller_and_a_run_that_is_not_there_is_an_error(
    slices, tmp_path, monkeypatch, capsys
):
    def fit(slices, job, packed, *_, **__):
        assert packed.is_dir()
        seed = job.recipe.seed
        if seed < 2:
            runs.write_record(job.folder, {"seed": seed})
        return seed != 1  # the second had no time left

    monkeypatch.setitem(sys.modules, "ray", Local(tmp_path))
    monkeypatch.setattr(trainings, "train", fit)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    held_out = slices["case"] == 1
    jobs = [Job(Path(f"runs/seed{seed}"), held_out, SPEC, replace(SMALL, seed=seed)) for seed in range(3)]
    assert [run.record for run in cluster.train(slices, jobs[:2], "packed")] == [{"seed": 0}, {"seed": 1}]
    assert "left for the next call" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="here/runs/seed2: done, but this machine sees no "):
        cluster.train(slices, jobs, "packed")


def test_documented_grid_is_the_long_form_of_the_notebook_in_its_precision(slices, monkeypatch):
    called = []

    def train(slices, jobs, packed):
        called.append((keras.config.dtype_policy().name, jobs))

    chosen = devices.Devices(1, "mixed_float16", "a GPU")
    monkeypatch.setattr(devices, "detect", lambda: chosen)
    monkeypatch.setattr(scans, "read", lambda root: slices)
    monkeypatch.setattr(folds, "by_case", lambda slices, count=5: slices["case"] % count)
    monkeypatch.setattr(cluster, "train", train)
    page = (Path(__file__).parents[2] / "docs/cluster.md").read_text(encoding="utf-8")
    policy = keras.config.dtype_policy()
    try:
        exec(page.split("```python\n")[1].split("```")[0], {})
    finally:
        keras.config.set_dtype_policy(policy)
    ((precision, jobs),) = called
    assert precision == chosen.precision
    held_out, spec = slices["case"] % 5 == 0, inputs.InputSpec(128, 128)
    expected = experiments.tasks("runs/experiments", GRID, range(3), held_out, spec, experiments.LONG.recipe())
    for job, other in zip(jobs, expected, strict=True):
        assert (job.folder, job.spec, job.recipe, job.name) == (other.folder, other.spec, other.recipe, other.name)
        assert job.held_out.equals(held_out)
    assert {job.recipe.epochs for job in jobs} == {40}


def test_more_than_any_machine_has_is_refused_and_both_are_named():
    machines = [{"CPU": 2.0, "memory": 8e9}, {"CPU": 1.0, "GPU": 1.0}]
    with pytest.raises(
        ValueError,
        match="4 processors and 1 GPUs, and no machine has both: 2 processors and 0 GPUs; 1 processors and 1 GPUs",
    ):
        cluster.affordable(machines, 4, 1)
    with pytest.raises(ValueError, match="needs 2 processors and 1 GPUs"):
        cluster.affordable(machines, 2, None)
    assert cluster.affordable(machines, 1, None) == 1
    assert cluster.affordable(machines, 2, 0) == 0
    assert cluster.affordable(machines[:1], 2, None) == 0


@pytest.mark.slow
def test_a_killed_worker_costs_its_task_only(slices, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed: pip install kitlib[cluster]")
    cases = slices["case"].unique()[:2]
    jobs = [Job(tmp_path / f"case{case}", slices["case"] == case, SPEC, replace(SMALL, epochs=3)) for case in cases]
    killed = []

    def kill():
        """Kill a worker of this test after its first epoch; /proc names it by its function."""
        while not (tmp_path / f"case{cases[0]}" / "history.csv").is_file():
            time.sleep(0.1)
        for process in children(os.getpid()):
            try:
                name = Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8")
            except OSError:
                continue
            if name.startswith("ray::train"):
                os.kill(process, signal.SIGKILL)
                killed.append(process)
                return

    watcher = threading.Thread(target=kill, daemon=True)
    watcher.start()
    done = cluster.train(slices, jobs, tmp_path / "packed")
    assert killed
    assert [run.state for run in done] == ["finished", "finished"]
    assert [len(run.history()) for run in done] == [3, 3]
    straight = training.fit_fold(
        slices, tmp_path / "straight", held_out=jobs[0].held_out, spec=SPEC, recipe=jobs[0].recipe
    )
    assert straight.history()["val_loss"].tolist() == pytest.approx(done[0].history()["val_loss"].tolist(), rel=0.02)
    assert runs.read(tmp_path / "straight").state == "finished"
    with pytest.raises(ValueError, match="needs 1000 processors and 0 GPUs, and no machine has both"):
        cluster.train(slices, jobs, tmp_path / "packed", processors=1000, gpus=0)
