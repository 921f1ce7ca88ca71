"""The time a training may take: it stops between two epochs while there is still time to close the run."""

import time
from datetime import datetime

CLOSING_SECONDS = 5.0  # to write the model and the tables, beside predicting and scoring


class Budget:
    """What is left of the time, and whether one more epoch fits.

    Args:
        time_limit: seconds from now; None is no limit.
        deadline: a moment, as datetime or as seconds of `time.time()`; the earlier of both counts.
    """

    def __init__(self, time_limit: float | None = None, deadline: float | datetime | None = None):
        ends = [] if time_limit is None else [time.time() + time_limit]
        if deadline is not None:
            ends.append(deadline.timestamp() if isinstance(deadline, datetime) else float(deadline))
        self.end = min(ends, default=None)
        self.epochs: list[float] = []  # seconds of each epoch with its judging
        self.judging = 0.0  # seconds of judging alone

    def left(self) -> float:
        """Seconds until the end."""
        return float("inf") if self.end is None else self.end - time.time()

    def note(self, epoch_seconds: float, judging_seconds: float) -> None:
        """Learn from an epoch how long the next one and the closing may take."""
        self.epochs.append(epoch_seconds)
        self.judging = max(self.judging, judging_seconds)

    def closing(self) -> float:
        """Seconds to keep for the end: the held-out scans once more, in all conventions, and the files."""
        return 2.0 * self.judging + CLOSING_SECONDS

    def fits(self) -> bool:
        """Tell whether one more epoch, and the closing after it, fit into what is left.

        It is taken to be as long as the longest of the last three, a tenth added: the first one compiles.
        """
        return self.left() > 1.1 * max(self.epochs[-3:], default=0.0) + self.closing()

    def over(self) -> bool:
        """Tell, within an epoch, whether only the closing still fits."""
        return self.left() <= self.closing()
