"""Tasks on Ray, where it is installed; one of the two workers is killed while it trains."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from test_workers import children

from kitlib import cluster, inputs, losses, runs, training

SPEC = inputs.InputSpec(32, 32, depth=3)
OPTIONS = {"spec": SPEC, "network_options": {"levels": 2, "base": 4, "window_stages": (0,)}, "batch_size": 4}


def test_without_ray_the_way_out_is_named(slices, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install kitlib\[cluster\]"):
        cluster.train(slices, [], tmp_path)


def test_more_than_any_machine_has_is_refused_and_both_are_named():
    machines = [{"CPU": 2.0, "memory": 8e9}, {"CPU": 1.0, "GPU": 1.0}]
    with pytest.raises(
        ValueError,
        match="4 processors and 1 GPUs, and no machine has both: 2 processors and 0 GPUs; 1 processors and 1 GPUs",
    ):
        cluster.affordable(machines, 4, 1)
    with pytest.raises(ValueError, match="asks for 2 processors and 1 GPUs"):
        cluster.affordable(machines, 2, None)
    assert cluster.affordable(machines, 1, None) == 1
    assert cluster.affordable(machines, 2, 0) == 0
    assert cluster.affordable(machines[:1], 2, None) == 0


@pytest.mark.slow
def test_a_killed_worker_costs_its_task_only(slices, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed: pip install kitlib[cluster]")
    cases = slices["case"].unique()[:2]
    jobs = [
        OPTIONS
        | {"folder": tmp_path / f"case{case}", "held_out": slices["case"] == case, "loss": losses.BCE(), "epochs": 3}
        for case in cases
    ]
    killed = []

    def kill():
        """Kill a worker of this test after its first epoch; /proc names it by its function."""
        while not (tmp_path / f"case{cases[0]}" / "history.csv").is_file():
            time.sleep(0.1)
        for process in children(os.getpid()):
            try:
                name = Path(f"/proc/{process}/cmdline").read_text()
            except OSError:
                continue
            if name.startswith("ray::fit"):
                os.kill(process, signal.SIGKILL)
                killed.append(process)
                return

    watcher = threading.Thread(target=kill, daemon=True)
    watcher.start()
    done = cluster.train(slices, jobs, tmp_path / "packed")
    assert killed
    assert [run.state for run in done] == ["finished", "finished"]
    assert [len(run.history()) for run in done] == [3, 3]
    straight = training.fit_fold(slices, **jobs[0] | {"folder": tmp_path / "straight"})
    assert straight.history()["val_loss"].tolist() == pytest.approx(done[0].history()["val_loss"].tolist(), rel=0.02)
    assert runs.read(tmp_path / "straight").state == "finished"
    with pytest.raises(ValueError, match="asks for 1000 processors and 0 GPUs, and no machine has both"):
        cluster.train(slices, jobs, tmp_path / "packed", processors=1000, gpus=0)
