"""The file that is handed in: one row per slice and organ, in the order of the sample.

A submission is built by a left join on the sample's rows, so that a slice nobody predicted is an empty field and not a
missing row. The file is written under another name and put in place when it is whole.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from kitlib import contest, files, rle

COLUMNS = ["id", "class", "predicted"]


def read(path: str | os.PathLike) -> pd.DataFrame:
    """Read a submission, or a sample of one, as text columns id, class and predicted; an empty field stays empty.

    Raises:
        FileNotFoundError: names the file that is missing.
        ValueError: names the file and its columns when they are not the three of a submission.
    """
    table = files.read_csv(path, COLUMNS)
    if list(table.columns) != COLUMNS:
        raise ValueError(f"{path}: columns are {list(table.columns)}, expected {COLUMNS}")
    return table


def expected_rows(slices: pd.DataFrame) -> pd.DataFrame:
    """List the rows that the slices call for: id and class, three rows per slice in the order of the table."""
    ids = slices["id"].repeat(len(contest.ORGANS)).to_numpy()
    return pd.DataFrame({"id": ids, "class": np.tile(np.array(contest.ORGANS, object), len(slices))})


def encode(slices: pd.DataFrame, masks: np.ndarray) -> pd.DataFrame:
    """Write the masks of one scan as rows id, class, predicted.

    Args:
        slices: the scan's rows of a slice table. Where it has heights and widths, and a slice has another size than
            the masks, its masks are stretched to that size.
        masks: (D, H, W, organs) bool.
    """
    texts = [rle.encode_stack(masks[..., channel]) for channel in range(len(contest.ORGANS))]
    if "height" in slices:
        sizes = slices[["height", "width"]].to_numpy()
        for row in np.flatnonzero((sizes != masks.shape[1:3]).any(axis=1)):
            height, width = map(int, sizes[row])
            for channel, column in enumerate(texts):
                mask = masks[row, ..., channel].astype(np.uint8)
                stretched = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
                column[row] = rle.encode(stretched.astype(bool))
    predicted = [text for three in zip(*texts, strict=True) for text in three]
    return expected_rows(slices).assign(predicted=predicted)


def write(
    path: str | os.PathLike, masks: Mapping[tuple[str, str], str] | pd.DataFrame, order: pd.DataFrame | None = None
) -> Path:
    """Write a submission whole or not at all.

    Args:
        path: the file to write or replace.
        masks: run-length text by (id, organ), or a table with columns id, class, predicted.
        order: table whose columns id and class give the rows to write, as the sample has them; rows without a mask
            become empty fields. None writes the masks in their own order.

    Raises:
        ValueError: names masks that are not among the rows of `order`, rather than dropping them.
    """
    if not isinstance(masks, pd.DataFrame):
        keys = pd.MultiIndex.from_tuples(masks, names=["id", "class"]) if masks else []
        masks = pd.DataFrame([(*key, masks[key]) for key in keys], columns=COLUMNS)
    table = masks[COLUMNS].fillna({"predicted": ""})
    if order is not None:
        doubled = table[table.duplicated(["id", "class"])]
        if len(doubled):
            raise ValueError(f"{len(doubled)} masks are given twice, {_name(doubled.iloc[0])} among them")
        table = order[["id", "class"]].merge(table, on=["id", "class"], how="left", validate="many_to_one")
        if table["predicted"].notna().sum() < len(masks):
            known = pd.MultiIndex.from_frame(order[["id", "class"]])
            lost = masks[~pd.MultiIndex.from_frame(masks[["id", "class"]]).isin(known)]
            raise ValueError(f"{len(lost)} masks have no row in the sample, {_name(lost.iloc[0])} among them")
    with files.replacing(path) as file:
        table.fillna({"predicted": ""}).to_csv(file, index=False, lineterminator="\n")
    return Path(path)


def check(
    path: str | os.PathLike, slices: pd.DataFrame, order: pd.DataFrame | None = None, any_order: bool = False
) -> list[tuple[str, str]]:
    """List what is wrong with a submission; an empty list means that the competition would take it.

    Args:
        path: the file.
        slices: the slices it must cover, with columns id, height and width.
        order: the sample, whose columns id and class give the rows in order; None expects the order of `slices`.
        any_order: take the rows in any order.

    Returns:
        Pairs (where, what), one per kind of problem, with an example and how often it occurs. Where is the file, or the
        file and its first line at fault. Problems are: unreadable files, rows that are missing, extra, doubled or out
        of order, unknown organs, NaN, and malformed masks.
    """
    try:
        table = read(path)
    except (OSError, ValueError) as error:
        return [(str(path), str(error))]
    wanted = expected_rows(slices) if order is None else order[["id", "class"]].reset_index(drop=True)
    found = pd.MultiIndex.from_frame(table[["id", "class"]])
    needed = pd.MultiIndex.from_frame(wanted)
    strange = ~table["class"].isin(contest.ORGANS)
    doubled = found.duplicated()
    nan = table["predicted"].str.strip().str.lower().isin(["nan", "none", "null", "na", "<na>"])
    problems = []

    def report(rows: pd.DataFrame, what: str, where: str = "") -> None:
        if len(rows):
            where = where or f"{path}, line {rows.index[0] + 2}"
            problems.append((where, f"{_count(len(rows))} {what}: {_name(rows.iloc[0])}"))

    report(table[strange], "of an unknown organ")
    report(wanted[~needed.isin(found)], "missing", str(path))
    report(table[~found.isin(needed) & ~strange], "extra: no such slice is asked for")
    report(table[doubled], "doubled")
    kept = table[found.isin(needed) & ~doubled]
    asked = wanted[needed.isin(found)]
    moved = np.flatnonzero((kept[["id", "class"]].to_numpy() != asked.to_numpy()).any(axis=1))
    if len(moved) and not any_order:
        line, expected = kept.index[moved[0]] + 2, asked.iloc[moved[0]]
        what = f"rows are out of order from {_name(kept.iloc[moved[0]])} on; expected {_name(expected)}"
        problems.append((f"{path}, line {line}", what))
    report(table[nan], "NaN: an empty mask is an empty field")
    sizes = dict(zip(slices["id"], slices["height"] * slices["width"], strict=True))
    faults = []
    for line, name, organ, text in table[(table["predicted"] != "") & ~nan].itertuples():
        if name in sizes:
            try:
                rle.parse([text], sizes[name])
            except ValueError as error:
                faults.append((line + 2, f"{name} {organ}: {error}"))
    if faults:
        line, what = faults[0]
        problems.append((f"{path}, line {line}", f"{_count(len(faults))} with a malformed mask: {what}"))
    return problems


def _count(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows:,} rows"


def _name(row: pd.Series) -> str:
    return f"{row['id']} {row['class']}"
