import pytest

from kitlib.inference.clock import MARGIN, Deadline, Pass, passes, process_seconds


class Watch:
    """A clock that is set by hand."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def run(hours, scans, cost, rest=1.0, models=3, flip=True, slices=10):
    """Walk a deadline through scans of equal size whose passes cost so many seconds each."""
    watch = Watch()
    clock = Deadline(hours, now=watch, spent=0.0)
    plan, counts = passes([flip] * models), []
    for number in range(scans):
        plan = clock.plan(plan, (scans - number) * slices, f"scan {number}")
        if clock.over:
            break
        counts.append(len(plan))
        watch.seconds += rest + cost * len(plan)
        clock.record(slices, rest, dict.fromkeys(plan, cost))
    return clock, counts, watch


def test_with_time_enough_nothing_is_shed():
    clock, counts, watch = run(hours=1, scans=20, cost=10)
    assert counts == [6] * 20
    assert clock.shed == []
    assert watch.seconds == 20 * 61


def test_flips_go_first_then_models_and_the_first_model_stays():
    watch = Watch()
    clock = Deadline(1.0001 / (1 - MARGIN), now=watch, spent=0.0)
    clock.record(1, 0.0, dict.fromkeys(passes([True] * 3), 600.0))
    assert clock.plan(passes([True] * 3), 1) == passes([True] * 3)
    assert clock.plan(passes([True] * 3), 2) == passes([False] * 3)
    assert clock.shed == [Pass(2, True), Pass(1, True), Pass(0, True)]
    assert clock.plan(passes([False] * 3), 3) == [Pass(0), Pass(1)]
    assert clock.plan([Pass(0), Pass(1)], 100) == [Pass(0)]
    assert clock.plan([Pass(0)], 100) == [Pass(0)]


@pytest.mark.parametrize("gates", [[True, True, False, False], [False, True, False, True], [False, False, True, True]])
def test_segmenters_go_before_gates_and_the_first_of_each_stays(gates):
    watch = Watch()
    clock = Deadline(1.0001 / (1 - MARGIN), now=watch, spent=0.0)
    plan = passes([False] * 4, gates)
    clock.record(1, 0.0, dict.fromkeys(plan, 900.0))
    (gate, second_gate), (model, second_model) = (
        [Pass(index, gate=kind) for index, gate in enumerate(gates) if gate == kind] for kind in (True, False)
    )
    assert clock.plan(plan, 1) == [model, gate, second_gate, second_model]
    watch.seconds = 600.0
    assert clock.plan(plan, 1) == [model, gate, second_gate]
    watch.seconds = 3500.0
    assert clock.plan(plan, 1) == [model, gate]
    assert clock.shed == [second_model, second_gate]


@pytest.mark.parametrize("hours", [0.05, 0.1, 0.2, 0.3])
def test_sheds_enough_to_end_before_the_margin(hours):
    clock, counts, watch = run(hours, scans=20, cost=10, rest=0.0)
    least = 20 * 10
    if least + 60 < clock.limit:
        assert len(counts) == 20
        assert watch.seconds <= clock.limit
    assert sorted(counts, reverse=True) == counts


def test_past_the_deadline_scans_are_left():
    clock, counts, _ = run(hours=0.02, scans=20, cost=10)
    assert 0 < len(counts) < 20
    assert clock.over


def test_first_scan_is_forgotten_when_there_are_two_others():
    clock = Deadline(1, now=Watch(), spent=0.0)
    assert clock.forecast(10, [Pass(0)]) is None
    clock.record(10, 5.0, {Pass(0): 500.0})
    assert clock.forecast(10, [Pass(0)]) == 505
    clock.record(10, 5.0, {Pass(0): 10.0})
    clock.record(10, 5.0, {Pass(0): 20.0})
    assert clock.forecast(20, [Pass(0)]) == pytest.approx(40)
    assert clock.forecast(20, [Pass(0), Pass(1)]) == pytest.approx(70), "a pass never run costs what others do"


def test_hours_count_from_the_start_of_the_process():
    watch = Watch()
    assert Deadline(1, now=watch, spent=3601.0).over
    assert process_seconds() > 0
    assert not Deadline(None, now=watch).over


def test_log_has_a_row_per_scan():
    clock, counts, _ = run(hours=0.2, scans=20, cost=10)
    log = clock.log()
    assert len(log) == len(counts) == 20
    assert log["forecast_min"].isna().tolist() == [True] + [False] * 19
    assert log["elapsed_min"].is_monotonic_increasing
    assert "model 3, flipped" in "; ".join(log["shed"])


def test_impossible_hours_are_refused():
    for hours in (0, -1.5):
        with pytest.raises(ValueError, match=f"hours is {hours}; expected a positive number"):
            Deadline(hours)


def test_one_slow_scan_does_not_cost_the_passes_of_all_that_follow():
    watch, counts = Watch(), []
    clock = Deadline(1.0001 / (1 - MARGIN), now=watch, spent=0.0)
    for number in range(20):
        counts.append(len(clock.plan(passes([True] * 3), (20 - number) * 10)))
        rest = 400.0 if number == 1 else 0.0
        watch.seconds += rest + 10 * counts[-1]
        clock.record(10, rest, dict.fromkeys(passes([True] * 3)[: counts[-1]], 10.0))
    assert min(counts) < 6, "the forecast after the slow scan is past the deadline"
    assert counts[-1] == 6
    assert clock.shed[0] == Pass(2, True)
    assert len(clock.shed) == len(set(clock.shed))
    assert watch.seconds < clock.limit
