"""The time limit: training stops between two epochs while there is still time to close the run."""

import os
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from kitlib import runs

CLOSING_SECONDS = 5.0  # to write the model and the tables, beside predicting and scoring


class Budget:
    """The time left until a deadline, and whether one more epoch fits into it.

    Args:
        deadline: a moment, as datetime or as seconds of `time.time()`; None is no limit.
        closed: seconds that the closing of an earlier call took.
    """

    def __init__(self, deadline: float | datetime | None = None, closed: float = 0.0):
        self.end = deadline.timestamp() if isinstance(deadline, datetime) else deadline
        self.closed, self.epoch, self.evaluation = closed, 0.0, 0.0  # seconds of the longest

    def left(self) -> float:
        """Return the seconds until the deadline."""
        return float("inf") if self.end is None else self.end - time.time()

    def note(self, epoch: float, evaluation: float = 0.0) -> None:
        """Record the seconds of an epoch, and the part that its evaluation took."""
        self.epoch, self.evaluation = max(self.epoch, epoch), max(self.evaluation, evaluation)

    def closing(self) -> float:
        """Return the seconds to keep for the closing: predictions, their score in every convention, and the files."""
        return max(self.closed, 2 * self.evaluation) + CLOSING_SECONDS

    def fits(self, pending: float = 0.0) -> bool:
        """Whether twice the longest epoch and the closing after it fit into the time left.

        Args:
            pending: seconds that something else will take first.
        """
        return self.left() - pending > 2 * self.epoch + self.closing()

    def over(self) -> bool:
        """Whether, within an epoch, only its evaluation and the closing still fit."""
        return self.left() <= self.evaluation + self.closing()


def has_time(deadline: float | datetime | None, folder: str | os.PathLike, others: Sequence[str | os.PathLike]) -> bool:
    """Whether one of several trainings has time for an epoch; a finished run is only read, whatever the time.

    Args:
        deadline: as for `Budget`.
        folder: its run folder.
        others: run folders of trainings like it, whose epochs tell how long one takes.
    """
    if runs.finished(folder):
        return True
    budget = Budget(deadline)
    for other in (folder, *others):
        history = runs.Run(Path(other), {}).history()
        if len(history):
            budget.note(float(history["seconds"].max()))
    return budget.fits()
