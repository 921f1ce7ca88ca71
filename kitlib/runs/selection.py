"""Which run held which scan out: one fold, or all folds of a cross-validation read as one set of probabilities.

A score or a setting is honest only on scans that the network has not learned from. Each run keeps the probabilities of
the scans it has held out; the folds of a cross-validation together keep those of every scan, each once.
"""

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kitlib.runs import folder


class HeldOut:
    """Out-of-fold probabilities of one or more runs, by the name of a scan: (D, height, width, organs) float32.

    Args:
        found: the runs.
        scans: names of scans to be content with, such as those that the data hold; None is all.

    Attributes:
        scans: names of the scans, run by run.
        cases: names of their cases.
        folder: where what belongs to all the runs is kept: the run's own folder, or the one that holds them.

    Raises:
        ValueError: names a scan that two runs have held out, since either could answer for it.
    """

    def __init__(self, found: Sequence[folder.Run], scans: Collection[str] | None = None):
        self.runs, self._owner = list(found), {}
        for run in self.runs:
            for scan in run.scans:
                other = self._owner.setdefault(scan, run)
                if other is not run:
                    raise ValueError(f"{scan} is held out by {other.folder} and by {run.folder}: name one of them")
        self.scans = [scan for scan in self._owner if scans is None or scan in scans]
        self.cases = list(dict.fromkeys(scan.split("_")[0] for scan in self.scans))
        first = self.runs[0].folder
        self.folder = first if len(self.runs) == 1 else first.parent

    def __call__(self, scan: str) -> np.ndarray:
        return self._owner[scan].probabilities(scan)

    def __str__(self) -> str:
        many = f", {len(self.runs)} folds" if len(self.runs) > 1 else ""
        return f"{self.folder.name}{many}: {len(self.scans)} scans of {len(self.cases)} cases held out"


def choose(root: str | os.PathLike, name: str = "", scans: Collection[str] | None = None) -> HeldOut | None:
    """Choose what to score below a folder of runs; the folds of one cross-validation go together.

    Args:
        root: folder of runs.
        name: folder of a run, or of a cross-validation (the one that holds its folds.csv); empty is the newest that
            has held out two cases or more. One that was stopped in its first epoch counts for nothing: it has learned
            too little to choose anything by.
        scans: names of the scans that the data hold; None is any.

    Returns:
        None when nothing was named and there is nothing to choose.

    Raises:
        ValueError: for a name that is none, or that has held out fewer than two cases of the data; lists what there is.
    """
    trained, raw = [], []
    for run in folder.find(root):
        (raw if run.record.get("best_weights") == folder.UNFINISHED else trained).append(run)
    if raw:
        names = ", ".join(str(run.folder) for run in raw)
        print(f"left out, stopped in the first epoch: {names}; train on with the same call")
    there = _choices(Path(root), trained, None if scans is None else set(scans))
    enough = {key: one for key, one in there.items() if len(one.cases) > 1}
    if not name:
        return list(enough.values())[-1] if enough else None
    named = [key for key in there if name in (key, key.rsplit("/", 1)[-1])]
    if named and named[-1] in enough:
        return enough[named[-1]]
    fault = f"holds out {len(there[named[-1]].cases)} of the data's cases, and needs two" if named else "is not there"
    listed = "".join(f"\n  {key}: {len(one.scans)} scans of {len(one.cases)} cases" for key, one in there.items())
    raise ValueError(f"run {name!r} {fault}; below {root} there is{listed or ' no finished run: train first'}")


def thin(scans: Sequence[str], most: int) -> list[str]:
    """Take at most so many scans, in their order: one of each case before a second of any; 0 is all, 1 counts as 2.

    >>> thin(["case1_day0", "case1_day9", "case2_day0", "case3_day4"], 2)
    ['case1_day0', 'case2_day0']
    """
    most = min(max(2, most), len(scans)) if most else len(scans)
    cases = pd.Series([scan.split("_")[0] for scan in scans])
    by_turns = cases.groupby(cases).cumcount().sort_values(kind="stable").index
    pool = by_turns[: max(most, cases.nunique())]
    return [scans[place] for place in sorted(pool[k * len(pool) // most] for k in range(most))]


def _choices(root: Path, trained: Sequence[folder.Run], scans: Collection[str] | None) -> dict[str, HeldOut]:
    """List runs and cross-validations by their folder below the root, the newest last."""
    found = {}
    for run in trained:
        place = run.folder.relative_to(root)
        found[place.as_posix()] = [run]
        if (run.folder.parent / "folds.csv").is_file():
            key = place.parent.as_posix()
            found[key] = [*found.pop(key, []), run]
    return {key: HeldOut(group, scans) for key, group in found.items()}
