"""A hidden test set with faults in it: what can be saved, and what has to stay empty.

Every function takes a `faults.Faults`: when that is strict the first fault is raised, and the functions are plain
readers; when it is not, a slice that cannot be read is filled from its neighbours, a sample with damaged rows is
completed from the files, and each fault is written down.
"""

import contextlib
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from kitlib import contest, submission
from kitlib.data import inputs, scans
from kitlib.inference.faults import Faults

# Version 2 and version 1 of the kernel's control groups, as a container sees its own.
_CGROUPS = (
    ("", "memory.max", "memory.current", ""),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)
_BYTES_PER_VOXEL = 60  # a scan, its floats, probabilities and masks of three organs, and one copy of the largest


def read(root: str | os.PathLike, faults: Faults) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the test split and the sample, so that both speak of the same slices.

    Returns:
        The table of slices as scans.read gives it, and the rows to write in their order, with columns id and class.
        Slices that the sample asks for and that have no file stand in the table with an empty path, as long as another
        file of their scan is there.

    Raises:
        ValueError: when strict, names the files and rows that are faulty.
    """
    root = Path(root)
    if faults.strict:
        slices = scans.read(root, "test")
    else:
        slices, problems = pd.DataFrame(columns=scans.COLUMNS), []
        with faults.survive(root / "test", "no slice of it is predicted"):
            slices = scans.read(root, "test", problems)
        for where, what in problems:
            faults.meet(where, what, "this file is left out")
    sample = _read_sample(root / "sample_submission.csv", slices, faults)
    return _complete(slices, sample, faults), sample


def load(rows: pd.DataFrame, faults: Faults) -> np.ndarray | None:
    """Read the pictures of one scan; those that cannot be read are filled from the nearest that can.

    Args:
        rows: the scan's rows of the table of slices.

    Returns:
        (D, H, W) uint16 of the size that most slices have; None when nothing could be read.

    Raises:
        ValueError: when strict, names the file.
        MemoryError: when the machine has not enough memory for the scan.
    """
    name = rows["scan"].iloc[0]
    shape = scans.common_size(rows)
    _check_memory(name, (len(rows), *shape))
    scan, whole = np.empty((len(rows), *shape), np.uint16), np.zeros(len(rows), bool)
    for place, (path, height, width) in enumerate(zip(rows["path"], rows["height"], rows["width"], strict=True)):
        if not path:
            continue
        try:
            picture = inputs.read_picture(path)
        except ValueError as error:
            faults.meet(path, error, "filled from its neighbours", error)
            continue
        if picture.shape != (height, width):
            faults.meet(path, f"is {_size(picture.shape)}, and its name says {_size((height, width))}", "stretched")
        elif picture.shape != shape:
            faults.meet(path, f"is {_size(picture.shape)}, and most of {name} is {_size(shape)}", "stretched")
        if picture.shape != shape:
            picture = cv2.resize(picture, shape[::-1], interpolation=cv2.INTER_LINEAR)
        scan[place], whole[place] = picture, True
    if not whole.any():
        faults.meet(name, "not one of its slices can be read", "left empty")
        return None
    return fill(scan, whole)


def fill(scan: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Fill slices from the nearest whole ones on both sides, weighted by their distance; at the ends, from one.

    Args:
        scan: (D, H, W); written to.
        whole: (D,) True for the slices that are there.

    >>> fill(np.array([0, 7, 7, 9], np.uint16)[:, None, None], np.array([True, False, False, True])).ravel().tolist()
    [0, 3, 6, 9]
    """
    places = np.flatnonzero(whole)
    for place in np.flatnonzero(~whole):
        after = np.searchsorted(places, place)
        if after in (0, len(places)):
            scan[place] = scan[places[min(after, len(places) - 1)]]
            continue
        first, last = places[after - 1], places[after]
        share = (place - first) / (last - first)
        scan[place] = np.rint((1 - share) * scan[first] + share * scan[last])
    return scan


def memory_left(root: str | os.PathLike = "/") -> int | None:
    """Find the bytes that may still be taken: what the system has free, or a container's limit where that is nearer.

    Files that are kept in memory count as free, since they go when it runs short. None where nothing tells.

    Args:
        root: where /proc and /sys are.
    """
    root, left = Path(root), []
    with contextlib.suppress(OSError, KeyError, ValueError):
        left.append(int(_pairs(root / "proc/meminfo")["MemAvailable:"]) * 1024)
    for folder, limit, used, files in _CGROUPS:
        folder = root / "sys/fs/cgroup" / folder
        with contextlib.suppress(OSError, KeyError, ValueError):  # a limit of "max" is none
            found = _pairs(folder / "memory.stat")
            kept = sum(int(found[f"{files}{kind}_file"]) for kind in ("active", "inactive"))
            left.append(
                int((folder / limit).read_text(encoding="utf-8"))
                - int((folder / used).read_text(encoding="utf-8"))
                + kept
            )
    return max(min(left), 0) if left else None


def _pairs(path: Path) -> dict[str, str]:
    """Read a name and a number from each line."""
    return dict(line.split()[:2] for line in path.read_text(encoding="utf-8").splitlines())


def _read_sample(path: Path, slices: pd.DataFrame, faults: Faults) -> pd.DataFrame:
    """Read the rows to write; a sample with damaged rows is completed from the files."""
    before, sample = len(faults), None
    try:
        sample = submission.read(path)
    except (OSError, ValueError) as error:
        faults.meet(path, error, "its readable rows are used", error if str(path) in str(error) else None)
        sample = _read_lines(path)
    wrong = {
        "is no slice id": ~sample["id"].map(_is_id).astype(bool),
        "is no organ of the competition": ~sample["class"].isin(contest.ORGANS),
        "stands there twice": sample.duplicated(["id", "class"]),
        "comes with runs that are none": ~sample["predicted"].str.fullmatch(r"(\d+ \d+( \d+ \d+)*)?"),
    }
    bad = pd.Series(False, index=sample.index)
    for what, rows in wrong.items():
        rows = rows & ~bad
        if rows.any():
            first = sample[rows].iloc[0]
            text = f"{int(rows.sum())} rows: {first['id']} {first['class']} {what}"
            faults.meet(path, text, "these rows are left out, or empty")
            bad |= rows & (what != "comes with runs that are none")
    sample = sample.loc[~bad, ["id", "class"]].reset_index(drop=True)
    counts = sample["id"].value_counts(sort=False)
    short = counts.index[counts < len(contest.ORGANS)]
    if len(short):
        faults.meet(path, f"{len(short)} ids lack an organ's row, {short[0]} among them", "the rows are added")
    if not len(sample) and len(slices):
        faults.meet(path, f"has no rows, and there are {len(slices)} slices", "all slices are written in their order")
    if len(faults) == before:
        return sample
    ids = pd.DataFrame({"id": pd.unique(pd.concat([sample["id"], slices["id"]]))})
    rows = pd.concat([sample, submission.expected_rows(ids)], ignore_index=True)
    return rows.drop_duplicates(["id", "class"], ignore_index=True)


def _read_lines(path: Path) -> pd.DataFrame:
    """Read what can be read of a csv of three fields, line by line."""
    try:
        lines = path.read_bytes().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    fields = [line.split(",") for line in lines[1:]]
    return pd.DataFrame([row for row in fields if len(row) == 3], columns=submission.COLUMNS, dtype=str)


def _complete(slices: pd.DataFrame, sample: pd.DataFrame, faults: Faults) -> pd.DataFrame:
    """Add the slices that the sample asks for and that have no file; name the files that it does not ask for."""
    asked = pd.Index(sample["id"].unique())
    extra = slices[~slices["id"].isin(asked)]
    if len(extra):
        text = f"sample_submission.csv does not ask for this slice, nor for {len(extra) - 1} others"
        faults.meet(extra["path"].iloc[0], text, "not written")
    lines = []
    lost = pd.Series(asked[~asked.isin(slices["id"])], dtype=str)
    for scan, names in lost.groupby(lost.str.rsplit("_slice_", n=1).str[0], sort=False):
        rows = slices[slices["scan"] == scan]
        remedy = "filled from their neighbours" if len(rows) else "left empty"
        text = f"sample_submission.csv asks for {len(names)} slices without a file: {', '.join(names[:5])}"
        text += ", ..." if len(names) > 5 else ""
        faults.meet(scan, text, remedy)
        for name in names if len(rows) else ():
            parts = contest.parse_id(name)
            size = (*scans.common_size(rows), rows["spacing_mm"].iloc[0])
            lines.append((name, parts.case, parts.day, parts.slice, "", *size, scan))
    if not lines:
        return slices
    added = pd.concat([slices, pd.DataFrame(lines, columns=scans.COLUMNS)])
    return added.sort_values(["case", "day", "slice"], ignore_index=True)


def _is_id(text: str) -> bool:
    try:
        return bool(contest.parse_id(text))
    except ValueError:
        return False


def _check_memory(name: str, shape: tuple[int, ...]) -> None:
    """Refuse a scan that would have the whole process killed, where the system tells how much memory is left."""
    left = memory_left()
    if left is None:
        return
    needed = int(np.prod(shape, dtype=np.int64)) * _BYTES_PER_VOXEL
    if needed > left:
        raise MemoryError(f"{name} of {_size(shape)} needs {needed >> 20:,} MiB of memory, and {left >> 20:,} are left")


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
