"""Tasks on Ray, where it is installed; one of the two workers is killed while it trains."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from kitlib import cluster, inputs, losses, runs, training

SPEC = inputs.InputSpec(32, 32, depth=3)
OPTIONS = {"spec": SPEC, "network_options": {"levels": 2, "base": 4, "window_stages": (0,)}, "batch_size": 4}


def test_without_ray_the_way_out_is_named(slices, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install kitlib\[cluster\]"):
        cluster.train(slices, [], tmp_path)


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
        """Kill the worker of the first task after its first epoch; /proc names it by its function."""
        while not (tmp_path / f"case{cases[0]}" / "history.csv").is_file():
            time.sleep(0.1)
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    name = Path(f"/proc/{entry}/cmdline").read_text()
                except OSError:
                    continue
                if name.startswith("ray::fit"):
                    os.kill(int(entry), signal.SIGKILL)
                    killed.append(int(entry))
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
