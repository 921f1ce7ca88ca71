"""Train/validation splits. A case is on one side only, except for its later days."""

import contextlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from kitlib import files
from kitlib.data import scans


def by_case(slices: pd.DataFrame, count: int = 5) -> pd.Series:
    """Split the cases into folds with equal shares of slices with 0, 1, 2 and 3 organs (paper, V.B.1).

    All days of a case are in one fold. This is scikit-learn's StratifiedGroupKFold without shuffling, which gives the
    same folds in every version. A cross-validation keeps its folds in folds.csv: read that file to get them again.

    Returns:
        The fold of each row, 0 to count - 1, named "fold".

    Raises:
        ValueError: when there are fewer cases than folds.
    """
    cases = slices["case"].nunique()
    if cases < count:
        remedy = f"choose at most {cases} folds" if cases > 1 else "add slices of other cases"
        raise ValueError(f"{count} folds need at least {count} cases, got {cases}; {remedy}")
    fold = np.full(len(slices), -1)
    splitter = StratifiedGroupKFold(n_splits=count, shuffle=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # fewer slices with one number of organs than folds
        for number, (_, held_out) in enumerate(splitter.split(slices, scans.organ_count(slices), slices["case"])):
            fold[held_out] = number
    return pd.Series(fold, index=slices.index, name="fold")


def read(path: str | os.PathLike) -> pd.Series:
    """Read the folds.csv of a cross-validation: the fold of each case.

    Raises:
        ValueError: names the file and the line that is not a case and its fold.
    """
    table = files.read_csv(path, ["case", "fold"])
    wrong = table[~(table["case"].str.fullmatch(r"\d+") & table["fold"].str.fullmatch(r"\d+"))]
    if len(wrong):
        row = ",".join(wrong.iloc[0])
        raise ValueError(
            f"{path}, line {wrong.index[0]}: the row is {row!r}; expected two whole numbers, a case and its fold"
        )
    return table.astype(int).set_index("case")["fold"]


def check_same(one: str | os.PathLike, other: str | os.PathLike) -> None:
    """Check that two cross-validations, such as a gate's and a segmenter's, have the same folds.

    Otherwise the gate of a fold was trained on cases that the segmenter of that fold is scored on.

    Args:
        one: a folds.csv.
        other: another.

    Raises:
        ValueError: names both files, and the first case whose fold differs.
    """
    tables = pd.concat([read(one), read(other)], axis=1, keys=["one", "other"]).sort_index()
    apart = tables[tables["one"] != tables["other"]]
    if len(apart):
        places = ("no fold" if pd.isna(fold) else f"fold {fold:.0f}" for fold in apart.iloc[0])
        found = " and ".join(f"in {place} of {path}" for place, path in zip(places, (one, other), strict=True))
        raise ValueError(f"case {apart.index[0]} is {found}; choose a new folder, which takes the other's folds")


def table(
    slices: pd.DataFrame,
    path: Path,
    count: int,
    earlier: Sequence[str | os.PathLike] = (),
    folds_of: str | os.PathLike | None = None,
) -> pd.Series:
    """Return the fold of each row, from the saved table of folds; the first call draws or copies it.

    Args:
        slices: table of slices.
        path: the table, folds.csv.
        count: folds.
        earlier: run folders; where there is no table yet, one beside them that fits the cases is copied.
        folds_of: folder with the table that this one must equal; None is any.

    Raises:
        FileNotFoundError: when `folds_of` has no table.
        ValueError: when the table has another number of folds, lacks a case, or differs from that of `folds_of`.
    """
    partner = None if folds_of is None else Path(folds_of).expanduser() / "folds.csv"
    if partner is not None and not partner.is_file():
        raise FileNotFoundError(f"{partner} does not exist; folds_of takes the folder of a cross-validation")
    if path.is_file():
        where, kept = path, read(path)
        if partner is not None:
            check_same(path, partner)
    elif partner is not None:
        where, kept = partner, read(partner)
    else:
        where, kept = path, _earlier_table(slices, count, earlier)
        if kept is None:
            drawn = slices[["case"]].assign(fold=by_case(slices, count)).drop_duplicates()
            kept = drawn.set_index("case")["fold"]
    missing = set(slices["case"]) - set(kept.index)
    if missing or kept.nunique() != count:
        what = (
            f"has {kept.nunique()} folds, not {count}" if kept.nunique() != count else f"lacks cases {sorted(missing)}"
        )
        raise ValueError(f"{where} {what}; choose another folder")
    if not path.is_file():
        with files.replacing(path) as file:
            file.write(kept.reset_index().to_csv(index=False))
    return slices["case"].map(kept)


def _earlier_table(slices: pd.DataFrame, count: int, earlier: Sequence[str | os.PathLike]) -> pd.Series | None:
    """Read a table beside earlier run folders that fits the cases; None without one."""
    for folder in dict.fromkeys(Path(run).parent for run in earlier):
        with contextlib.suppress(OSError, ValueError):  # no table, or somebody else's
            found = read(folder / "folds.csv")
            if set(found.index) == set(slices["case"]) and found.nunique() == count:
                return found
    return None


def later_days(slices: pd.DataFrame, every: int = 5) -> pd.Series:
    """Hold out a validation set like the hidden test set: some whole cases, and the later days of the others.

    Of the cases in order, every fifth is held out whole; of the others, the last third of the days is: one of two or
    three days, two of six. In the competition's training set that is 44.5 % of the slices.

    Returns:
        True for the rows held out, named "held_out".
    """
    held_out = pd.Series(False, index=slices.index, name="held_out")
    for number, (_, case) in enumerate(slices.groupby("case", sort=True)):
        days = np.sort(case["day"].unique())
        later = max(1, len(days) // 3) if len(days) > 1 else 0
        first = days[0] if number % every == every // 2 else days[len(days) - later] if later else np.inf
        held_out[case.index[case["day"] >= first]] = True
    return held_out


def split(
    slices: pd.DataFrame, held_out: pd.Series, leave_out: Sequence[str] = (), empty_share: float = 1.0, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split the slices into training and validation set.

    Args:
        slices: table of slices.
        held_out: True for the rows of the validation set: whole cases (`by_case(slices) == 0`), or of a case all days
            from one on (`later_days`).
        leave_out: scans that are not trained on; where they are held out, they stay in the validation set.
        empty_share: share of the slices without a mask to train on, drawn once; 1 is all, 0 leaves the annotated ones.
        seed: of that draw.

    Returns:
        The rows to train on and the rows to validate on.

    Raises:
        ValueError: names a scan that is in both sets, or a case with an earlier day in the validation set than in the
            training set, and when a set is empty.
    """
    mask = np.asarray(held_out)
    if mask.dtype != bool:
        raise ValueError(
            f"held_out holds {mask.dtype} values; give True or False for each slice, such as folds.by_case(slices) == 0"
        )
    if mask.shape != (len(slices),):
        raise ValueError(f"held_out has {len(mask)} rows for {len(slices)} slices; make it from this very table")
    if isinstance(held_out, pd.Series) and not held_out.index.equals(slices.index):
        raise ValueError("held_out has other row labels than the slices; make it from this very table")
    held_out = mask
    kept = ~slices["scan"].isin(leave_out).to_numpy()
    val, train = slices[held_out], slices[~held_out & kept]
    both = set(val["scan"]) & set(train["scan"])
    if both:
        raise ValueError(f"scan {min(both)} is in both the training set and the validation set; hold out whole scans")
    first, last = val.groupby("case")["day"].min(), train.groupby("case")["day"].max()
    shared = first.index.intersection(last.index)
    early = shared[(first[shared] < last[shared]).to_numpy()]
    if len(early):
        raise ValueError(
            f"case {early[0]}: day {first[early[0]]} is in the validation set and the later day {last[early[0]]} in "
            "the training set, and days of one case look alike; hold out whole cases (folds.by_case) or the later days "
            "(folds.later_days)"
        )
    if empty_share < 1:
        empty = (scans.organ_count(train) == 0).to_numpy()
        drawn = np.random.default_rng(seed).random(len(train)) < empty_share
        train = train[~empty | drawn]
    if not len(val) or not len(train):
        raise ValueError(
            f"the split has {len(train)} training slices and {len(val)} validation slices; each set needs "
            "at least one: "
            "check held_out and leave_out"
        )
    return train, val
