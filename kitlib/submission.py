"""The submission file: one row per slice and organ, in the order of the sample.

A submission is built by a left join on the sample's rows, so that a slice without a prediction has an empty field, and
no row is missing.
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
    """Read a submission or a sample as text columns id, class and predicted; an empty mask is the empty text.

    Raises:
        FileNotFoundError: names the file that is missing.
        ValueError: names the file, the line and the remedy (`files.read_csv`).
    """
    return files.read_csv(path, COLUMNS).reset_index(drop=True)


def expected_rows(slices: pd.DataFrame) -> pd.DataFrame:
    """List the rows that a submission of these slices needs: id and class, three rows per slice, in their order."""
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
    """Write a submission; an error leaves the file that was there before.

    Args:
        path: the file to write or replace.
        masks: run-length text by (id, organ), or a table with columns id, class, predicted.
        order: the sample, whose columns id and class are the rows to write; rows without a mask get empty fields. None
            writes the masks in their own order.

    Raises:
        ValueError: names masks that have no row in `order` or are given twice.
    """
    if not isinstance(masks, pd.DataFrame):
        keys = pd.MultiIndex.from_tuples(masks, names=["id", "class"]) if masks else []
        masks = pd.DataFrame([(*key, masks[key]) for key in keys], columns=COLUMNS)
    table = masks[COLUMNS].fillna({"predicted": ""})
    if order is not None:
        doubled = table[table.duplicated(["id", "class"])]
        if len(doubled):
            raise ValueError(f"{len(doubled)} masks are given twice, first {_name(doubled.iloc[0])}; keep one of each")
        table = order[["id", "class"]].merge(table, on=["id", "class"], how="left", validate="many_to_one")
        if table["predicted"].notna().sum() < len(masks):
            known = pd.MultiIndex.from_frame(order[["id", "class"]])
            lost = masks[~pd.MultiIndex.from_frame(masks[["id", "class"]]).isin(known)]
            raise ValueError(
                f"{len(lost)} masks have no row in the sample, first {_name(lost.iloc[0])}; leave them out"
            )
    with files.replacing(path) as file:
        table.fillna({"predicted": ""}).to_csv(file, index=False, lineterminator="\n")
    return Path(path)


def check(
    path: str | os.PathLike, slices: pd.DataFrame, order: pd.DataFrame | None = None, strict: bool = True
) -> list[tuple[str, str]]:
    """List the problems of a submission; an empty list means that the competition would accept it.

    Args:
        path: the file.
        slices: the slices it must cover, with columns id, height and width.
        order: the sample, whose columns id and class give the rows in order; None expects the order of `slices`.
        strict: False accepts any order of the rows, and every csv file that `files.read_csv` reads.

    Returns:
        Pairs (where, what), one per kind of problem, with an example and how often it occurs; where is the file, with
        the first line concerned if there is one. The kinds are: a file that cannot be read, another first line, rows
        that are missing, extra, doubled or out of order, unknown organs, NaN, and malformed masks.
    """
    try:
        table = files.read_csv(path, COLUMNS)
    except files.Problem as error:
        return [(error.where, error.what)]
    except OSError as error:
        return [(str(path), f"cannot be read: {error.strerror or error}")]
    wanted = expected_rows(slices) if order is None else order[["id", "class"]].reset_index(drop=True)
    given, needed = (pd.MultiIndex.from_frame(rows[["id", "class"]]) for rows in (table, wanted))
    strange, doubled = ~table["class"].isin(contest.ORGANS), given.duplicated()
    nan = table["predicted"].str.lower().isin(["nan", "none", "null", "na", "<na>"])
    problems = _form(path) if strict else []

    def report(rows: pd.DataFrame, what: str, where: str = "") -> None:
        if len(rows):
            where = where or f"{path}, line {rows.index[0]}"
            problems.append((where, f"{_count(len(rows))} {what}: {_name(rows.iloc[0])}"))

    report(table[strange], "of an unknown organ")
    report(wanted[~needed.isin(given)], "missing", where=str(path))
    report(table[~given.isin(needed) & ~strange], "not asked for")
    report(table[doubled], "doubled")
    kept, asked = table[given.isin(needed) & ~doubled], wanted[needed.isin(given)]
    moved = np.flatnonzero((kept[["id", "class"]].to_numpy() != asked.to_numpy()).any(axis=1))
    if len(moved) and strict:
        actual, expected = kept.iloc[moved[0]], asked.iloc[moved[0]]
        what = f"rows are out of order: {_name(actual)} is here, expected {_name(expected)}"
        problems.append((f"{path}, line {actual.name}", what))
    report(table[nan], "with the text NaN instead of the empty field of an empty mask")
    sizes = dict(zip(slices["id"], slices["height"] * slices["width"], strict=True))
    malformed = []
    for line, name, organ, text in table[(table["predicted"] != "") & ~nan].itertuples():
        try:
            rle.parse([text], sizes.get(name))
        except ValueError as error:
            malformed.append((line, f"{name} {organ}: {error}"))
    if malformed:
        line, what = malformed[0]
        problems.append((f"{path}, line {line}", f"{_count(len(malformed))} with a malformed mask: {what}"))
    return problems


def _form(path: str | os.PathLike) -> list[tuple[str, str]]:
    """Check the first line byte by byte, because Kaggle reads less than `files.read_csv` does."""
    with open(path, "rb") as file:
        first = file.readline(200)
    names = first.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n").replace(b'"', b"")
    if names == ",".join(COLUMNS).encode():
        return []
    what = f"is {first[:60]!r}; expected {','.join(COLUMNS)}: write the file with kitlib.submission.write"
    return [(f"{path}, line 1", what)]


def _count(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows:,} rows"


def _name(row: pd.Series) -> str:
    return f"{row['id']} {row['class']}"
