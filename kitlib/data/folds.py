"""Who is learned from and who is checked on; a case is never on both sides, but for the days that come after."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kitlib import runs
from kitlib.data import scans


def sides(
    slices: pd.DataFrame, held_out: pd.Series, leave_out: tuple[str, ...] = ()
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Part the slices into those to learn from and those to check on.

    Args:
        slices: table of slices.
        held_out: True for the rows to check on: whole cases, or of a case all days from one on (`scans.later_days`).
        leave_out: scans not to learn from; held out, they stay.

    Raises:
        ValueError: names a scan that is on both sides, or a case of which an earlier day is held out than one that is
            learned from, and when a side is empty.
    """
    held_out = np.asarray(held_out, bool)
    if len(held_out) != len(slices):
        raise ValueError(f"held_out marks {len(held_out)} rows and there are {len(slices)} slices")
    kept = ~slices["scan"].isin(leave_out).to_numpy()
    check, learn = slices[held_out], slices[~held_out & kept]
    if not len(check) or not len(learn):
        raise ValueError(f"{len(learn)} slices to learn from and {len(check)} held out: neither side may be empty")
    both = set(check["scan"]) & set(learn["scan"])
    if both:
        raise ValueError(f"scan {min(both)} is both learned from and held out; hold out whole scans")
    first, last = check.groupby("case")["day"].min(), learn.groupby("case")["day"].max()
    shared = first.index.intersection(last.index)
    early = shared[(first[shared] < last[shared]).to_numpy()]
    if len(early):
        raise ValueError(
            f"case {early[0]}: day {first[early[0]]} is held out and day {last[early[0]]} is learned from, and days of "
            "one case look alike; hold out whole cases (scans.folds), or the later days (scans.later_days)"
        )
    return learn, check


def thinned(learn: pd.DataFrame, empty_share: float, seed: int) -> pd.DataFrame:
    """Leave out some of the slices without a mask, drawn once for the whole run."""
    empty = (scans.organ_count(learn) == 0).to_numpy()
    drawn = np.random.default_rng(seed).random(len(learn)) < empty_share
    return learn[~empty | drawn]


def chances(learn: pd.DataFrame, foreground_share: float | None) -> np.ndarray | None:
    """Give each slice its chance to be drawn, so that slices with a mask make up a share of the samples.

    Returns:
        (rows,) float64 with sum 1; None, each slice once per epoch, when no share is asked for.
    """
    if foreground_share is None:
        return None
    filled = (scans.organ_count(learn) > 0).to_numpy()
    if not 0 < foreground_share < 1:
        raise ValueError(
            f"foreground_share is {foreground_share}; give a share between 0 and 1 (empty_share=0 for all)"
        )
    if filled.all() or not filled.any():
        raise ValueError(
            f"foreground_share needs slices with and without masks; {filled.sum()} of {len(filled)} have one"
        )
    return np.where(filled, foreground_share / filled.sum(), (1 - foreground_share) / (~filled).sum())


def fold_table(slices: pd.DataFrame, path: Path, count: int) -> pd.Series:
    """Read the table of folds of a run, or deal the cases and keep it: a run that goes on must not deal again.

    Raises:
        ValueError: when the table on disk has another number of folds or lacks a case.
    """
    if not path.is_file():
        dealt = slices[["case"]].assign(fold=scans.folds(slices, count)).drop_duplicates()
        runs.write_text(path, dealt.to_csv(index=False))
    kept = pd.read_csv(path).set_index("case")["fold"]
    missing = set(slices["case"]) - set(kept.index)
    if missing or kept.nunique() != count:
        raise ValueError(
            f"{path} deals {kept.nunique()} folds and lacks cases {sorted(missing)}; choose another folder"
        )
    return slices["case"].map(kept)


def adopt_table(slices: pd.DataFrame, path: Path, count: int, folders: Sequence[Path]) -> None:
    """Copy the table of folds of an earlier run, where there is none yet and one of these folders fits the cases."""
    for folder in folders:
        if path.is_file():
            return
        try:
            table = pd.read_csv(folder / "folds.csv")
            fits = set(table["case"]) == set(slices["case"]) and table["fold"].nunique() == count
        except (ValueError, KeyError):  # somebody else's folds.csv
            continue
        if fits:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "folds.csv", path)
