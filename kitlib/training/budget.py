"""The time a training may take: it stops between two epochs while there is still time to close the run."""

import os
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from kitlib import runs

CLOSING_SECONDS = 5.0  # to write the model and the tables, beside predicting and scoring
CLOSING_JUDGINGS = 3.0  # one of the mean of the last epochs; all conventions of the score take two


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
        self.epochs: list[float] = []  # seconds of each epoch's training
        self.judging = 0.0  # of the longest judging
        self.closed = 0.0  # of the closing of an earlier call

    def left(self) -> float:
        """Seconds until the end."""
        return float("inf") if self.end is None else self.end - time.time()

    def note(self, training_seconds: float, judging_seconds: float) -> None:
        """Learn from an epoch how long the next one and the closing may take."""
        self.epochs.append(training_seconds)
        self.judging = max(self.judging, judging_seconds)

    def closing(self) -> float:
        """Seconds to keep for the end: as long as the last time, or CLOSING_JUDGINGS, and the files."""
        return max(self.closed, CLOSING_JUDGINGS * self.judging) + CLOSING_SECONDS

    def fits(self, trained: float | None = None) -> bool:
        """Tell whether one more epoch, its judging, and the closing after it, fit into what is left.

        Its training is taken to be as long as the longest of the last three, a tenth added: the first one compiles.

        Args:
            trained: seconds of an epoch that has been trained and is still to be judged; None between two epochs.
        """
        training, judgings = (self.epochs, 1) if trained is None else ([*self.epochs, trained], 2)
        return self.left() > 1.1 * max(training[-3:], default=0.0) + judgings * self.judging + self.closing()

    def over(self) -> bool:
        """Tell, within an epoch, whether only its judging and the closing still fit."""
        return self.left() <= self.judging + self.closing()

    def worth_beginning(self, folder: str | os.PathLike, others: Sequence[str | os.PathLike] = ()) -> bool:
        """Tell whether the next of several trainings is worth calling, or left for another day.

        A finished run is only read, whatever the time. Any other needs time for two epochs as slow as the slowest that
        it or the others have had, mostly a first one, which compiles.

        Args:
            folder: its run folder.
            others: folders of runs whose epochs tell how long one takes.
        """
        if runs.finished(folder):
            return True
        histories = [runs.Run(Path(one), {}).history() for one in (folder, *others)]
        slowest = max((float(table["seconds"].max()) for table in histories if len(table)), default=0.0)
        return self.left() > max(2 * slowest, CLOSING_SECONDS)
