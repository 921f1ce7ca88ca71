"""The file that is handed in: one row per slice and organ, in the order of the sample.

A submission is built by a left join on the sample's rows, so that a slice nobody predicted is an empty field and not a
missing row. The file is written under another name and put in place when it is whole.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kitlib import contest, rle

COLUMNS = ["id", "class", "predicted"]


def read(path: str | os.PathLike) -> pd.DataFrame:
    """Read a submission, or a sample of one, as text columns id, class and predicted; an empty field stays empty.

    Raises:
        FileNotFoundError: names the file that is missing.
        ValueError: names the file and its columns when they are not the three of a submission.
    """
    table = read_text(path, COLUMNS)
    if list(table.columns) != COLUMNS:
        raise ValueError(f"{path}: columns are {list(table.columns)}, expected {COLUMNS}")
    return table


def read_text(path: str | os.PathLike, columns: Sequence[str]) -> pd.DataFrame:
    """Read a csv file as text, empty fields as empty text; `columns` is what its first line should be.

    Raises:
        FileNotFoundError: names the file that is missing.
        ValueError: names the file, and the line where there is one, that is no such table.
    """
    first = ",".join(columns)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path} is empty; it begins with the line {first}") from None
    except pd.errors.ParserError as error:
        raise ValueError(f"{path}: {str(error).strip()}; a row has {len(columns)} fields: {first}") from None
    except UnicodeDecodeError as error:
        lines = Path(path).read_bytes().split(b"\n")
        line = next(number for number, text in enumerate(lines, 1) if text != text.decode(errors="ignore").encode())
        raise ValueError(f"{path}, line {line}: no UTF-8 text ({error.reason}); save it as UTF-8 csv") from None
    if not isinstance(table.index, pd.RangeIndex):
        row = ",".join(map(str, [table.index[0], *table.iloc[0]]))
        raise ValueError(f"{path}: row {row!r} has more fields than the first line; runs are parted by spaces")
    return table


def expected_rows(slices: pd.DataFrame) -> pd.DataFrame:
    """List the rows that the slices call for: id and class, three rows per slice in the order of the table."""
    ids = slices["id"].repeat(len(contest.ORGANS)).to_numpy()
    return pd.DataFrame({"id": ids, "class": np.tile(np.array(contest.ORGANS, object), len(slices))})


def encode(rows: pd.DataFrame, masks: np.ndarray) -> pd.DataFrame:
    """Write the masks of one scan, (D, H, W, organs) bool, as rows id, class, predicted."""
    texts = [rle.encode_stack(masks[..., channel]) for channel in range(len(contest.ORGANS))]
    ids = np.repeat(rows["id"].to_numpy(), len(contest.ORGANS))
    predicted = [text for three in zip(*texts, strict=True) for text in three]
    return pd.DataFrame({"id": ids, "class": list(contest.ORGANS) * len(rows), "predicted": predicted})


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
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        table.fillna({"predicted": ""}).to_csv(draft, index=False)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def check(path: str | os.PathLike, slices: pd.DataFrame, order: pd.DataFrame | None = None) -> list[str]:
    """List what is wrong with a submission: nothing, when the competition would take it.

    Args:
        path: the file.
        slices: the slices it must cover, with columns id, height and width.
        order: the sample, whose columns id and class give the rows in order; None expects the order of `slices`.

    Returns:
        One sentence per kind of problem, each with an example and how often it occurs: unreadable files, rows missing,
        extra, doubled or out of order, unknown organs, NaN, and runs that are malformed, overlap or pass the end of the
        slice.
    """
    try:
        table = read(path)
    except (OSError, ValueError) as error:
        return [str(error)]
    wanted = expected_rows(slices) if order is None else order[["id", "class"]].reset_index(drop=True)
    found = pd.MultiIndex.from_frame(table[["id", "class"]])
    needed = pd.MultiIndex.from_frame(wanted)
    problems = []
    strange = ~table["class"].isin(contest.ORGANS)
    _report(problems, table[strange], "of an unknown organ")
    _report(problems, wanted[~needed.isin(found)], "missing")
    _report(problems, table[~found.isin(needed) & ~strange], "extra: no such slice is asked for")
    doubled = found.duplicated()
    _report(problems, table[doubled], "doubled")
    kept = found[found.isin(needed) & ~doubled]
    asked = needed[needed.isin(found)]
    if not kept.equals(asked):
        moved = next(place for place, (here, there) in enumerate(zip(kept, asked, strict=True)) if here != there)
        problems.append(
            f"rows are out of order from {' '.join(kept[moved])} on, where {' '.join(asked[moved])} belongs"
        )
    written = table["predicted"].str.strip().str.lower().isin(["nan", "none", "null", "na", "<na>"])
    _report(problems, table[written], "NaN: an empty mask is an empty field")
    sizes = dict(zip(slices["id"], slices["height"] * slices["width"], strict=True))
    masks = table[(table["predicted"] != "") & ~written & table["id"].isin(list(sizes))]
    faults = []
    for name, organ, text in masks[COLUMNS].itertuples(index=False):
        try:
            rle.parse([text], sizes[name])
        except ValueError as error:
            faults.append(f"{name} {organ}: {error}")
    if faults:
        problems.append(f"{_count(len(faults))} with bad runs: {faults[0]}")
    return problems


def _report(problems: list[str], rows: pd.DataFrame, what: str) -> None:
    """Append a sentence about rows, if there are any."""
    if len(rows):
        problems.append(f"{_count(len(rows))} {what}: {_name(rows.iloc[0])}")


def _count(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows:,} rows"


def _name(row: pd.Series) -> str:
    return f"{row['id']} {row['class']}"
