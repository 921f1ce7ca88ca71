"""The clock of an inference run: measure, forecast, and shed work so as to end in time.

A pass is one network over one scan, plain or flipped. Passes are shed in a stated order, flips first and models last,
each from the last to the first, and the first model never goes: a result from fewer passes beats none. They are weighed
anew for each scan, so that one slow scan does not cost the passes of all that follow.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd


class Pass(NamedTuple):
    """One network over a scan, by the place of its model among those given, plain or flipped."""

    model: int
    flipped: bool = False

    def __str__(self) -> str:
        return f"model {self.model + 1}{', flipped' if self.flipped else ''}"


def passes(models: int, flip: bool) -> list[Pass]:
    """List the passes over a scan, the last to be shed first: all models plain, then all of them flipped.

    >>> [str(one) for one in passes(2, flip=True)]
    ['model 1', 'model 2', 'model 1, flipped', 'model 2, flipped']
    """
    return [Pass(model, flipped) for flipped in (False, True)[: 1 + flip] for model in range(models)]


class Deadline:
    """Measures scans, forecasts the end and sheds passes to keep to it.

    The forecast for what remains is slices * (seconds per slice of everything but networks + sum over the passes of
    seconds per slice), each measured over the scans so far. The first scan counts double wrong, since networks are
    still being compiled while it runs, so it is forgotten as soon as there are two others.

    Args:
        hours: that the run may take in all, from the start of the process; None is no limit, and nothing is shed.
        margin: share of the hours that is kept in reserve, for what comes after the last scan.
        now: the clock, in seconds.
        spent: seconds that had passed before this clock was made; None asks the operating system how old the process
            is, since the notebook's hours count from its start.
    """

    def __init__(
        self,
        hours: float | None = 9.0,
        margin: float = 0.05,
        now: Callable[[], float] = time.monotonic,
        spent: float | None = None,
    ):
        if hours is not None and hours <= 0:
            raise ValueError(f"a deadline of {hours} hours is no time at all; None is no limit")
        if not 0 <= margin < 1:
            raise ValueError(f"margin {margin}: a share of the hours from 0 up to, not including, 1")
        self.hours, self.margin, self.now = hours, margin, now
        self.started = now() - (process_seconds() if spent is None else spent)
        self.limit = float("inf") if hours is None else hours * 3600 * (1 - margin)
        self.lines: list[dict] = []
        self.shed: list[Pass] = []
        self._scans: list[tuple[int, float, dict[Pass, float]]] = []

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self.now() - self.started

    @property
    def over(self) -> bool:
        """Tell whether only the margin is left."""
        return self.elapsed >= self.limit

    def record(self, slices: int, rest: float, seconds: dict[Pass, float], failed: int = 0) -> None:
        """Take down a scan: its slices, the seconds of all but its passes and of those, and how many failed."""
        if self.lines:
            self.lines[-1]["passes"] = len(seconds) - failed
        self._scans.append((slices, rest, dict(seconds)))

    def forecast(self, slices: int, plan: Sequence[Pass]) -> float | None:
        """Forecast the seconds for so many slices; None before a scan was measured.

        A pass that was never measured costs what the others cost on average.
        """
        scans = self._scans[1:] if len(self._scans) > 2 else self._scans
        if not scans:
            return None
        rest = sum(rest for _, rest, _ in scans) / sum(slices for slices, _, _ in scans)
        costs = {}
        for one in {one for _, _, seconds in scans for one in seconds}:
            some = [(count, seconds[one]) for count, _, seconds in scans if one in seconds]
            costs[one] = sum(seconds for _, seconds in some) / sum(count for count, _ in some)
        usual = sum(costs.values()) / len(costs) if costs else 0.0
        return slices * (rest + sum(costs.get(one, usual) for one in plan))

    def plan(self, plan: Sequence[Pass], slices: int, scan: str = "") -> list[Pass]:
        """Shed passes until what remains is forecast to end in time, and write a line into the log.

        Args:
            plan: all passes, the last to be shed first.
            slices: slices that are still to come.
            scan: the scan that comes next, for the log.

        Returns:
            The passes to run on the next scan: all of them, or fewer, and never less than the first.
        """
        plan, left = list(plan), self.limit - self.elapsed
        dropped = []
        while len(plan) > 1 and (self.forecast(slices, plan) or 0.0) > left:
            dropped.append(plan.pop())
        self.shed += [one for one in dropped if one not in self.shed]
        needed = self.forecast(slices, plan)
        self.lines.append(
            {
                "scan": scan,
                "elapsed_min": self.elapsed / 60,
                "forecast_min": None if needed is None else needed / 60,
                "left_min": left / 60,
                "passes": len(plan),
                "shed": "; ".join(map(str, dropped)),
            }
        )
        return plan

    def log(self) -> pd.DataFrame:
        """List one row per scan: minutes since the start, forecast for the rest, left; passes that worked, and shed."""
        columns = ["scan", "elapsed_min", "forecast_min", "left_min", "passes", "shed"]
        return pd.DataFrame(self.lines, columns=columns).astype({"forecast_min": float})


def process_seconds() -> float:
    """Ask Linux how long ago this process began, in seconds; 0 where it does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        up = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
        return max(0.0, up - int(fields[19]) / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return 0.0
