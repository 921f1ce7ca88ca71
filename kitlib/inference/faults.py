"""Faults met on the way to a submission: raised at once, or written down and worked around.

Before the scoring rerun a fault should stop the notebook, so that somebody mends it; in the rerun nobody is there, and
a fault may only cost what it touches. One record serves both: `meet` raises when strict, and remembers when not.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd

COLUMNS = ["where", "fault", "remedy"]


class Faults:
    """The faults of one run.

    Args:
        strict: True raises the first fault; False remembers all of them and goes on.
    """

    def __init__(self, strict: bool = True):
        self.strict = strict
        self.entries: list[tuple[str, str, str]] = []

    def meet(self, where: object, fault: object, remedy: str, error: BaseException | None = None) -> None:
        """Raise a fault when strict; write it down otherwise.

        Args:
            where: the file, scan or model that is touched.
            fault: what is wrong with it, in words or as the error that told.
            remedy: what is done about it.
            error: what to raise when strict; None makes a ValueError of the words.

        Raises:
            ValueError: when strict, naming where; or the error that is given.
        """
        where = str(where)
        plain = not isinstance(fault, BaseException) or isinstance(fault, ValueError)
        text = str(fault) if plain else f"{type(fault).__name__}: {fault}"
        if self.strict:
            raise error or ValueError(text if where in text else f"{where}: {text}")
        self.entries.append((where, " ".join(text.removeprefix(where).split()), remedy))

    @contextmanager
    def survive(self, where: object, remedy: str) -> Iterator[None]:
        """Let a block fail: its error is raised when strict and written down otherwise, and the block is left.

        >>> faults = Faults(strict=False)
        >>> with faults.survive("slice 7", "left empty"):
        ...     raise OSError("no such file")
        >>> faults.entries
        [('slice 7', 'OSError: no such file', 'left empty')]
        """
        try:
            yield
        except Exception as error:
            self.meet(where, error, remedy, error if _names(error, where) else None)

    def table(self) -> pd.DataFrame:
        """List the faults, one row each: where, fault, remedy."""
        return pd.DataFrame(self.entries, columns=COLUMNS)

    def __len__(self) -> int:
        return len(self.entries)

    def __str__(self) -> str:
        if not self.entries:
            return "no faults met"
        lines = [f"{where}: {fault} ({remedy})" for where, fault, remedy in self.entries]
        return "\n".join([f"{len(lines)} faults met", *lines])


def _names(error: BaseException, where: object) -> bool:
    """Tell whether an error already says where it happened; a MemoryError stays what it is."""
    return isinstance(error, MemoryError) or str(where) in str(error)
