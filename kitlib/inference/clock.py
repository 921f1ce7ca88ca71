"""The clock of an inference run: measure scans, forecast the rest, and drop passes that no longer fit.

A pass is one network over one scan, plain or flipped. Flipped passes are dropped first, then segmenters, then gates,
each from the last to the first; the first segmenter and the first gate always stay. Passes are weighed again for each
scan, so that one slow scan does not cost the passes of all that follow.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

MARGIN = 0.05  # share of the hours kept in reserve for what comes after the last scan
COLUMNS = ["scan", "elapsed_min", "forecast_min", "left_min", "passes", "shed"]


class Pass(NamedTuple):
    """One network over a scan, by the index of its model, plain or flipped, as a gate or as a segmenter."""

    model: int
    flipped: bool = False
    gate: bool = False

    def __str__(self) -> str:
        return f"{'gate' if self.gate else 'model'} {self.model + 1}{', flipped' if self.flipped else ''}"


def passes(flips: Sequence[bool], gates: Sequence[bool] | None = None) -> list[Pass]:
    """List the passes over a scan, the most important first.

    The first segmenter and the first gate, the other gates, the other segmenters, then the models that also run
    flipped.

    Args:
        flips: whether each model also runs flipped.
        gates: whether each model is a gate; None is no gate.

    >>> [str(run) for run in passes([True, False, True])]
    ['model 1', 'model 2', 'model 3', 'model 1, flipped', 'model 3, flipped']
    >>> [str(run) for run in passes([False] * 4, [False, False, True, True])]
    ['model 1', 'gate 3', 'gate 4', 'model 2']
    """
    gates = [False] * len(flips) if gates is None else list(gates)
    plain = [Pass(model, gate=gate) for model, gate in enumerate(gates)]
    further = [gate in gates[:model] for model, gate in enumerate(gates)]
    plain.sort(key=lambda run: (further[run.model], run.gate != further[run.model]))
    return plain + [Pass(model, True, gates[model]) for model, flip in enumerate(flips) if flip]


class Deadline:
    """Keeps a run within its time: measures scans, forecasts the end, and drops passes that no longer fit.

    The forecast is slices * (seconds per slice outside the networks + sum over the passes of their seconds per slice),
    measured over the scans so far. The first scan is forgotten once there are two others: networks compile during it.

    Args:
        hours: limit for the whole run, from the start of the process; None is no limit, and nothing is shed.
        now: the clock, in seconds.
        spent: seconds that had passed before this clock was made; None asks the operating system for the age of the
            process, since the notebook's hours count from its start.
    """

    def __init__(
        self, hours: float | None = 9.0, now: Callable[[], float] = time.monotonic, spent: float | None = None
    ):
        if hours is not None and hours <= 0:
            raise ValueError(f"hours is {hours}; expected a positive number, or None for no limit")
        self.hours, self.now = hours, now
        self.started = now() - (process_seconds() if spent is None else spent)
        self.limit = float("inf") if hours is None else hours * 3600 * (1 - MARGIN)
        self.lines: list[dict] = []
        self.shed: list[Pass] = []
        self._scans: list[tuple[int, float, dict[Pass, float]]] = []

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self.now() - self.started

    @property
    def over(self) -> bool:
        """Whether only the margin is left."""
        return self.elapsed >= self.limit

    def record(self, slices: int, rest: float, seconds: dict[Pass, float], failed: int = 0) -> None:
        """Record a scan: its slices, the seconds outside its passes and of each pass, and how many passes failed."""
        if self.lines:
            self.lines[-1]["passes"] = len(seconds) - failed
        self._scans.append((slices, rest, dict(seconds)))

    def forecast(self, slices: int, plan: Sequence[Pass]) -> float | None:
        """Forecast the seconds for a number of slices; None until a scan has been measured.

        A pass that was never measured costs the mean of the others.
        """
        scans = self._scans[1:] if len(self._scans) > 2 else self._scans
        if not scans:
            return None
        rest = sum(rest for _, rest, _ in scans) / sum(count for count, _, _ in scans)
        costs = {}
        for run in {run for *_, seconds in scans for run in seconds}:
            measured = [(count, seconds[run]) for count, _, seconds in scans if run in seconds]
            costs[run] = sum(spent for _, spent in measured) / sum(count for count, _ in measured)
        usual = sum(costs.values()) / len(costs) if costs else 0.0
        return slices * (rest + sum(costs.get(run, usual) for run in plan))

    def plan(self, plan: Sequence[Pass], slices: int, scan: str = "") -> list[Pass]:
        """Drop passes until the rest is forecast to end in time, and add a row to the log.

        Args:
            plan: all passes, the last to be shed first.
            slices: slices that are still to come.
            scan: the next scan, for the log.

        Returns:
            The passes to run on the next scan: all of them or fewer, and always the first segmenter and the first gate.
        """
        plan, left, shed = list(plan), self.limit - self.elapsed, []
        firsts = [next(run for run in plan if run.gate == gate) for gate in {run.gate for run in plan}]
        for run in [run for run in reversed(plan) if run not in firsts]:
            if (self.forecast(slices, plan) or 0.0) <= left:
                break
            plan.remove(run)
            shed.append(run)
        self.shed += [run for run in shed if run not in self.shed]
        needed = self.forecast(slices, plan)
        minutes = self.elapsed / 60, None if needed is None else needed / 60, left / 60
        row = (scan, *minutes, len(plan), "; ".join(map(str, shed)))
        self.lines.append(dict(zip(COLUMNS, row, strict=True)))
        return plan

    def log(self) -> pd.DataFrame:
        """List one row per scan: minutes since the start, forecast for the rest, left; passes that worked, and shed."""
        return pd.DataFrame(self.lines, columns=COLUMNS).astype({"forecast_min": float})


def process_seconds() -> float:
    """Ask Linux for the age of this process in seconds; 0 on other systems."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        up = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
        return max(0.0, up - int(fields[19]) / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return 0.0
