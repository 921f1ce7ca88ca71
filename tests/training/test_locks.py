"""A folder and its only writer, also between processes, and after one of them was killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kitlib.training import locks

fcntl = pytest.importorskip("fcntl")

HOLD = """
import sys
from kitlib.training import locks
with locks.hold(sys.argv[1]):
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


def test_second_writer_is_refused_with_folder_and_process_of_the_first(tmp_path):
    process = holder(tmp_path / "run")
    refused = rf"run is being trained by process {process.pid} on \S+: wait"
    opened = len(os.listdir("/dev/fd"))
    with pytest.raises(locks.Held, match=refused), locks.hold(tmp_path / "run"):
        pass
    assert len(os.listdir("/dev/fd")) == opened
    process.communicate("")
    with locks.hold(tmp_path / "run"):
        pass
    assert not list((tmp_path / "run").iterdir())


def test_killed_writer_holds_nothing(tmp_path):
    process = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / locks.NAME).is_file()
    with locks.hold(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_second_call_in_the_same_process_is_refused_until_the_first_has_failed(tmp_path):
    def hold_twice():
        with locks.hold(tmp_path), locks.hold(tmp_path):
            pass

    with pytest.raises(RuntimeError, match=f"process {os.getpid()} "):
        hold_twice()
    with locks.hold(tmp_path):
        assert (tmp_path / locks.NAME).read_text(encoding="utf-8").startswith(f"process {os.getpid()} ")


def test_line_of_a_killed_process_is_not_taken_for_that_of_the_holder(tmp_path, monkeypatch):
    path = tmp_path / locks.NAME
    path.write_text("process 1 on a lost machine", encoding="utf-8")
    with open(path, encoding="utf-8") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        monkeypatch.setattr(
            locks.time, "sleep", lambda _: path.write_text("process 2 on this machine", encoding="utf-8")
        )
        with pytest.raises(locks.Held, match="process 2 on this machine"), locks.hold(tmp_path):
            pass
        monkeypatch.setattr(locks.time, "sleep", lambda _: path.unlink())
        with pytest.raises(locks.Held, match="is being trained by"), locks.hold(tmp_path):
            pass


def test_lock_that_cannot_be_removed_holds_nothing_and_hides_no_error(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(ZeroDivisionError), locks.hold(tmp_path):
        raise ZeroDivisionError
    with locks.hold(tmp_path):
        pass


def test_drive_without_locks_refuses_nobody(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locks.hold(tmp_path), locks.hold(tmp_path):
        pass
    monkeypatch.setattr(locks, "fcntl", None)
    with locks.hold(tmp_path), locks.hold(tmp_path):
        pass


def test_folder_that_cannot_be_made_is_left_to_its_writer(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with locks.hold(tmp_path / "file/run"):
        pass


def test_lock_that_its_holder_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    flock, calls = fcntl.flock, []

    def removed_once(file, flags):
        calls.append(file)
        if len(calls) == 1:
            (tmp_path / locks.NAME).unlink()
        return flock(file, flags)

    monkeypatch.setattr(fcntl, "flock", removed_once)
    with locks.hold(tmp_path):
        assert (tmp_path / locks.NAME).is_file()
    assert len(calls) == 2
