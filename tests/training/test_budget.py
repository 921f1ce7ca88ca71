"""The time limit of one training, and of several."""

import time
from datetime import datetime, timedelta

import pytest

from kitlib import runs
from kitlib.training import budget


def test_a_deadline_is_a_moment_in_either_form_or_no_limit():
    assert budget.Budget().left() == float("inf")
    assert budget.Budget(datetime.now() + timedelta(seconds=1000)).left() == pytest.approx(1000, abs=1)
    assert budget.Budget(time.time() + 20).left() == pytest.approx(20, abs=1)


def test_twice_the_longest_epoch_and_the_closing_must_fit(monkeypatch):
    monkeypatch.setattr(budget.time, "time", lambda: 0.0)
    spend = budget.Budget(100.0)
    spend.note(30.0, 8.0)
    spend.note(20.0, 2.0)
    assert spend.closing() == 2 * 8.0 + budget.CLOSING_SECONDS
    assert spend.fits()  # 2 * 30 and 21
    spend.note(40.0)
    assert not spend.fits()
    assert not spend.over()
    spend.closed = 92.0
    assert spend.over()


def test_a_training_among_others_needs_two_of_their_longest_epochs_and_a_finished_one_is_always_read(tmp_path):
    new, begun = tmp_path / "new", tmp_path / "begun"
    now = time.time()
    assert not budget.has_time(now + budget.CLOSING_SECONDS - 1, new, [])
    assert budget.has_time(now + budget.CLOSING_SECONDS + 9, new, [])
    runs.write_record(begun, {"state": "stopped"})
    runs.write_history(begun, [{"epoch": 1, "seconds": 100.0}, {"epoch": 2, "seconds": 30.0}])
    for folder in (new, begun):
        assert not budget.has_time(now + 190, folder, [new, begun])
        assert budget.has_time(now + 220, folder, [new, begun])
        assert budget.has_time(None, folder, [new, begun])
    runs.write_record(begun, {"state": "finished"})
    assert budget.has_time(now - 1, begun, [new, begun])
