"""Faults met on the way to a submission: raised at once, or listed and worked around.

Before the scoring rerun a fault should stop the notebook, so that somebody corrects it; in the rerun nobody is there,
and a fault may only cost what it touches. One record serves both: `meet` raises when strict, and lists when not.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd

from kitlib.files import Problem

COLUMNS = ["where", "fault", "remedy"]


class Faults:
    """The faults of one run; the notebook or command creates it and passes it to the functions.

    Args:
        strict: True raises the first fault; False lists all of them and goes on.
    """

    def __init__(self, strict: bool = True):
        self.strict = strict
        self.entries: list[tuple[str, str, str]] = []

    def meet(self, where: object, fault: object, remedy: str) -> None:
        """Raise a fault when strict; list it otherwise.

        Args:
            where: the file, scan or network that is touched.
            fault: what is wrong with it, as text or as the error that was raised.
            remedy: what is done about it.

        Raises:
            Problem: when strict: a ValueError that names where. A Problem, OSError or MemoryError is raised as it is,
                since it names what it concerns.
        """
        where = str(where)
        if self.strict and isinstance(fault, Problem | OSError | MemoryError):
            raise fault
        text = str(fault)
        if isinstance(fault, Problem) and fault.where == where:
            text = fault.what
        elif isinstance(fault, Exception) and not isinstance(fault, ValueError):
            text = f"{type(fault).__name__}: {fault}"
        if self.strict:
            raise Problem(where, text) from (fault if isinstance(fault, Exception) else None)
        self.entries.append((where, " ".join(text.split()), remedy))

    @contextmanager
    def survive(self, where: object, remedy: str) -> Iterator[None]:
        """Context manager: raise an error of its block when strict; otherwise list it and go on after the block.

        >>> faults = Faults(strict=False)
        >>> with faults.survive("slice 7", "left empty"):
        ...     raise OSError("no such file")
        >>> faults.entries
        [('slice 7', 'OSError: no such file', 'left empty')]
        """
        try:
            yield
        except Exception as error:
            self.meet(where, error, remedy)

    def table(self) -> pd.DataFrame:
        """List the faults, one row each: where, fault, remedy."""
        return pd.DataFrame(self.entries, columns=COLUMNS)

    def __len__(self) -> int:
        return len(self.entries)

    def __str__(self) -> str:
        if not self.entries:
            return "no faults"
        lines = [f"{where}: {fault} ({remedy})" for where, fault, remedy in self.entries]
        return "\n".join([f"{len(lines)} faults", *lines])
