"""Folds in processes of their own: their GPUs, their deadline, and what becomes of them without a parent."""

import os
import signal
import time
from pathlib import Path

import pytest

from kitlib import runs, training
from kitlib.data import inputs
from kitlib.training import devices, jobs, locks
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
        network_options=dict(levels=1, base=2, window_stages=(), external_bottleneck=False),
        epochs=100_000,
        patience=100_000,
        batch_size=4,
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
        parent.wait(timeout=120)
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


def test_a_fold_is_left_when_no_epoch_of_it_would_fit(slices, tmp_path):
    spec = inputs.InputSpec(32, 32, depth=3)
    job = {"folder": tmp_path / "fold1", "held_out": slices["case"] == slices["case"].iloc[0], "spec": spec}
    folders, policy = [tmp_path / "fold0", tmp_path / "fold1"], "float32"
    for seconds, row in ((1, None), (150, {"epoch": 1, "seconds": 100.0})):
        if row:
            runs.write_history(folders[0], [row])
        assert not jobs.fit(slices, job, tmp_path / "packed", policy, time.time() + seconds, folders)
        assert not (tmp_path / "fold1").exists()
        assert not (tmp_path / "packed").exists()


def test_folder_whose_holder_lets_go_is_waited_for(slices, tmp_path, monkeypatch):
    job, refused = {"folder": tmp_path / "fold0"}, [locks.Held("held"), locks.Held("held"), None]

    def fit(*_):
        reason = refused.pop(0)
        if reason:
            raise reason

    monkeypatch.setattr(jobs, "_fit", fit)
    monkeypatch.setattr(jobs, "AGAIN_SECONDS", 0.0)
    assert jobs.fit(slices, job, tmp_path, "float32", None, patience=60)
    assert not refused
    refused += [locks.Held("held")]
    with pytest.raises(locks.Held):
        jobs.fit(slices, job, tmp_path, "float32", None)


def test_second_cross_validation_side_by_side_is_refused_and_removes_nothing(slices, tmp_path):
    (tmp_path / "packed").mkdir()
    with locks.hold(tmp_path), pytest.raises(locks.Held, match=f"{tmp_path.name} is being trained by process"):
        training.cross_validate(slices, tmp_path, count=2, at_once=2)
    assert (tmp_path / "packed").is_dir()


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
    monkeypatch.setattr(devices, "listed", lambda kind: ["one"] * gpus if kind == "gpu" else [])
    assert jobs.shares(at_once) == expected
    said = capsys.readouterr().out
    assert said.startswith(f"at_once={at_once}, but {gpus} GPU(s): ") == (0 < gpus < at_once)


def test_a_tpu_is_not_for_several_processes(slices, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "listed", lambda kind: ["tpu:0"] if kind == "tpu" else [])
    with pytest.raises(RuntimeError, match="at_once=2, but a TPU belongs to one process"):
        training.cross_validate(slices, tmp_path, count=2, at_once=2)
