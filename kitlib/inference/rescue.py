"""Read a hidden test set that has faults, and save as much of it as possible.

Every function takes a `faults.Faults`. When it is strict, the first fault is raised. When it is not, each fault is
listed, a slice that cannot be read is filled from its neighbours, and a sample with damaged rows is completed.
"""

import contextlib
import ctypes
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from kitlib import contest, files, submission
from kitlib.data import earlier, inputs, scans
from kitlib.inference.faults import Faults

# Version 2 and version 1 of the kernel's control groups, as a container sees its own.
_CGROUPS = (
    ("", "memory.max", "memory.current", ""),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)
_BYTES_PER_VOXEL = 60  # a scan, its floats, probabilities and masks of three organs, and one copy of the largest


def read(root: str | os.PathLike, faults: Faults) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the test split and the sample, so that both have the same slices.

    Returns:
        The table of slices as scans.read gives it, and the rows to write in their order, with columns id and class.
        Slices that the sample asks for and that have no file are in the table with an empty path, if their scan has
        another file.

    Raises:
        ValueError: when strict, names the faulty files and rows.
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


def read_known(root: str | os.PathLike, slices: pd.DataFrame, faults: Faults) -> pd.DataFrame:
    """Read the earlier days of a test set: the training scans of its cases, with their masks.

    A training set that is missing or broken costs only what it would have added. Scans whose annotation the hosts found
    wrong are left out.

    Args:
        root: the competition.
        slices: table of the test scans.

    Returns:
        The table of slices as scans.read gives it; without rows where no case is known.

    Raises:
        ValueError: when strict, names the faulty files and rows.
    """
    root = Path(root)
    nothing = pd.DataFrame(columns=[*scans.COLUMNS, *contest.ORGANS])
    problems: list[tuple[str, str]] = []
    with faults.survive(root / "train", "no scan has an earlier day"):
        known = scans.read(root, "train", problems)
        if problems:
            where, what = problems[0]
            text = f"{len(problems)} problems in the training set, first {where}: {what}"
            faults.meet(root / "train", text, "the earlier days are read from the rest")
        return earlier.trusted(known[known["case"].isin(set(slices["case"]))]).reset_index(drop=True)
    return nothing


def load(rows: pd.DataFrame, faults: Faults) -> np.ndarray | None:
    """Read the slices of one scan; those that cannot be read are filled from the nearest that can.

    Args:
        rows: the scan's rows of the table of slices.

    Returns:
        (D, H, W) uint16 of the size that most slices have; None when no slice can be read.

    Raises:
        ValueError: when strict, names the file.
        MemoryError: when the machine has not enough memory for the scan.
    """
    name = rows["scan"].iloc[0]
    shape = scans.common_size(rows)
    _check_memory(name, (len(rows), *shape))
    scan, whole = np.empty((len(rows), *shape), np.uint16), np.zeros(len(rows), bool)
    for index, (path, height, width) in enumerate(zip(rows["path"], rows["height"], rows["width"], strict=True)):
        if not path:
            continue
        try:
            picture = inputs.read_picture(path)
        except files.Problem as error:
            faults.meet(error.where, error.what, "filled from its neighbours")
            continue
        if picture.shape != (height, width):
            faults.meet(path, f"is {_size(picture.shape)}, and its name says {_size((height, width))}", "stretched")
        elif picture.shape != shape:
            faults.meet(path, f"is {_size(picture.shape)}, and most of {name} is {_size(shape)}", "stretched")
        if picture.shape != shape:
            picture = cv2.resize(picture, shape[::-1], interpolation=cv2.INTER_LINEAR)
        scan[index], whole[index] = picture, True
    if not whole.any():
        faults.meet(name, "none of its slices can be read", "left empty")
        return None
    return fill(scan, whole)


def fill(scan: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Fill unreadable slices from the nearest readable ones on both sides, weighted by distance; at the ends, from one.

    Args:
        scan: (D, H, W); written to.
        whole: (D,) True for the slices that were read.

    >>> fill(np.array([0, 7, 7, 9], np.uint16)[:, None, None], np.array([True, False, False, True])).ravel().tolist()
    [0, 3, 6, 9]
    """
    there = np.flatnonzero(whole)
    for index in np.flatnonzero(~whole):
        after = np.searchsorted(there, index)
        if after in (0, len(there)):
            scan[index] = scan[there[min(after, len(there) - 1)]]
            continue
        first, last = there[after - 1], there[after]
        share = (index - first) / (last - first)
        scan[index] = np.rint((1 - share) * scan[first] + share * scan[last])
    return scan


def memory_left(root: str | os.PathLike = "/") -> int | None:
    """Return the bytes of free memory: the system's, or a container's where those are fewer.

    Cached files count as free. None where the system does not tell.

    Args:
        root: where /proc and /sys are.
    """
    root, left = Path(root), []
    with contextlib.suppress(OSError, KeyError, ValueError):
        left.append(int(_pairs(root / "proc/meminfo")["MemAvailable:"]) * 1024)
    for folder, limit, used, prefix in _CGROUPS:
        folder = root / "sys/fs/cgroup" / folder
        with contextlib.suppress(OSError, KeyError, ValueError):  # a limit of "max" is no number
            found = _pairs(folder / "memory.stat")
            cached = sum(int(found[f"{prefix}{kind}_file"]) for kind in ("active", "inactive"))
            most, taken = (int((folder / name).read_text(encoding="utf-8")) for name in (limit, used))
            left.append(most - taken + cached)
    return max(min(left), 0) if left else None


def return_memory() -> None:
    """Return freed memory to the system, where the C library can (glibc): it keeps a gigabyte after large pictures."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _pairs(path: Path) -> dict[str, str]:
    """Read a name and a number from each line."""
    return dict(line.split()[:2] for line in path.read_text(encoding="utf-8").splitlines())


def _read_sample(path: Path, slices: pd.DataFrame, faults: Faults) -> pd.DataFrame:
    """Read the rows to write; a sample with damaged rows is completed from the files."""
    before, sample = len(faults), None
    try:
        sample = submission.read(path)
    except (OSError, ValueError) as error:
        where, what = (error.where, error.what) if isinstance(error, files.Problem) else (path, error)
        faults.meet(where, what, "its readable rows are used")
        sample = _read_lines(path)
    wrong = [  # rows, their fault, whether they are left out
        (~sample["id"].map(_is_id).astype(bool), "is not a slice id", True),
        (~sample["class"].isin(contest.ORGANS), "is not an organ of the competition", True),
        (sample.duplicated(["id", "class"]), "has a second row", True),
        (~sample["predicted"].str.fullmatch(r"(\d+ \d+( \d+ \d+)*)?"), "has a malformed mask", False),
    ]
    bad = pd.Series(False, index=sample.index)
    for rows, fault, dropped in wrong:
        rows = rows & ~bad
        if rows.any():
            first = sample[rows].iloc[0]
            text = f"{int(rows.sum())} rows: {first['id']} {first['class']} {fault}"
            faults.meet(path, text, "these rows are left out" if dropped else "these masks are ignored")
            bad |= rows & dropped
    sample = sample.loc[~bad, ["id", "class"]].reset_index(drop=True)
    counts = sample["id"].value_counts(sort=False)
    short = counts.index[counts < len(contest.ORGANS)]
    if len(short):
        faults.meet(path, f"{len(short)} ids lack a row of an organ, such as {short[0]}", "the rows are added")
    if not len(sample) and len(slices):
        faults.meet(path, f"has no rows, but there are {len(slices)} slices", "all slices are written in their order")
    if len(faults) == before:
        return sample
    ids = pd.DataFrame({"id": pd.unique(pd.concat([sample["id"], slices["id"]]))})
    rows = pd.concat([sample, submission.expected_rows(ids)], ignore_index=True)
    return rows.drop_duplicates(["id", "class"], ignore_index=True)


def _read_lines(path: Path) -> pd.DataFrame:
    """Read the lines of a damaged csv file that have three fields."""
    try:
        lines = path.read_bytes().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    fields = [line.split(",") for line in lines[1:]]
    return pd.DataFrame([row for row in fields if len(row) == 3], columns=submission.COLUMNS, dtype=str)


def _complete(slices: pd.DataFrame, sample: pd.DataFrame, faults: Faults) -> pd.DataFrame:
    """Add slices that the sample asks for and that have no file; list files that it does not ask for."""
    asked = pd.Index(sample["id"].unique())
    extra = slices[~slices["id"].isin(asked)]
    if len(extra):
        text = f"sample_submission.csv does not ask for this slice, nor for {len(extra) - 1} others"
        faults.meet(extra["path"].iloc[0], text, "not written")
    lines = []
    lost = pd.Series(asked[~asked.isin(slices["id"])], dtype=str)
    for scan, names in lost.groupby(lost.map(contest.scan_of), sort=False):
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
    """Refuse a scan that does not fit into memory, before the system kills the whole process for it."""
    left = memory_left()
    if left is None:
        return
    needed = int(np.prod(shape, dtype=np.int64)) * _BYTES_PER_VOXEL
    if needed > left:
        raise MemoryError(
            f"{name} of {_size(shape)} needs {needed >> 20:,} MiB of memory, but only {left >> 20:,} MiB are free"
        )


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
