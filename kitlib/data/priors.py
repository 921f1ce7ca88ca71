"""The prior of a scan: the masks of another day of its case, as further channels of the network's input.

The prior of a slice is the other day's slice that shows the same anatomy: the two scans are registered
(`alignment.register`), and the shift along z says which slice that is; pixels stay where they are. A slice without a
partner, because the other day does not reach so far, has no prior.

In training the other day is any annotated one of the training set, and half of the samples get none, so that the
network also works without. A scan that is predicted gets its earlier day (`earlier.days`), never a later one.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib.data import alignment, scans
from kitlib.data.inputs import InputSpec

Shifts = dict[tuple[str, str], int]


def others(slices: pd.DataFrame) -> dict[str, list[str]]:
    """Find for each scan of a table the other scans of its case that have a mask, in the order of the table."""
    annotated = slices[scans.organ_count(slices) > 0].drop_duplicates("scan").groupby("case")["scan"].agg(list)
    first = slices.drop_duplicates("scan")
    return {
        scan: [other for other in annotated.get(case, []) if other != scan]
        for scan, case in zip(first["scan"], first["case"], strict=True)
    }


def comparable(rows: pd.DataFrame, others: pd.DataFrame, spec: InputSpec) -> bool:
    """Tell whether two scans have one scale on the grid: with a box in mm, or with slices of one size and spacing."""
    if spec.box_mm is not None:
        return True
    sizes = [(scans.common_size(table), scans.spacing_mm(table)) for table in (rows, others)]
    return sizes[0] == sizes[1]


def shifts(slices: pd.DataFrame, images: np.ndarray, spec: InputSpec) -> Shifts:
    """Register every two days of each case that are comparable; shows a progress bar.

    Args:
        slices: slice table, whole scans.
        images: (rows, height, width) of the table, from `inputs.prepare`.
        spec: of the images.

    Returns:
        The slices from an earlier day to a later one, by (later, earlier): what is at slice z of the earlier scan is at
        z + shift of the later one.

    Cost: about 0.1 s for each pair, of which the competition has 370.
    """
    groups = dict(list(slices.reset_index(drop=True).groupby("scan", sort=False)))
    pairs = [
        (later, earlier)
        for _, days in slices.drop_duplicates("scan").sort_values("day").groupby("case")["scan"]
        for number, later in enumerate(days)
        for earlier in days.iloc[:number]
        if comparable(groups[later], groups[earlier], spec)
    ]
    found = {}
    for later, earlier in tqdm(pairs, desc="registering", unit=" pairs", disable=not pairs):
        found[later, earlier] = alignment.register(images[groups[later].index], images[groups[earlier].index])[0]
    return found


def between(shifts: Shifts, scan: str, other: str) -> int | None:
    """Return the slices from a scan's other day to the scan; None where they were not registered."""
    if (scan, other) in shifts:
        return shifts[scan, other]
    return -shifts[other, scan] if (other, scan) in shifts else None


def positions(count: int, others: int, shift: int) -> np.ndarray:
    """Find the slice of the other day for each of the `count` slices of a scan; -1 where there is none.

    >>> positions(5, 4, shift=2)
    array([-1, -1,  0,  1,  2])
    """
    found = np.arange(count) - shift
    return np.where((found >= 0) & (found < others), found, -1)


def rows(slices: pd.DataFrame, days: Mapping[str, Sequence[str]], shifts: Shifts) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows of the slice table that may be the prior of each row.

    Args:
        slices: slice table, whole scans.
        days: the other days of scans.
        shifts: from `shifts`; days that were not registered are left out.

    Returns:
        (rows, most + 1) int32: in the first columns the row of each other day, and -1 where that has no slice for it or
        there is no further day; the last column is always -1. And (rows,) int32, the number of other days.
    """
    places = slices.groupby("scan", sort=False).indices
    days = {
        scan: [other for other in found if between(shifts, scan, other) is not None] for scan, found in days.items()
    }
    most = max(map(len, days.values()), default=0)
    table, counts = np.full((len(slices), most + 1), -1, np.int32), np.zeros(len(slices), np.int32)
    for scan, found in days.items():
        here = places[scan]
        counts[here] = len(found)
        for column, other in enumerate(found):
            there = places[other]
            position = positions(len(here), len(there), between(shifts, scan, other))
            table[here, column] = np.where(position < 0, -1, there[position])
    return table, counts


def channels(masks: np.ndarray, count: int, shift: int) -> np.ndarray:
    """Make the prior of the slices of a scan from the masks of another day.

    Args:
        masks: (D, height, width, organs) bool of the other day, on the grid.
        count: slices of the scan.
        shift: slices from the other day to the scan.

    Returns:
        (count, height, width, organs + 1) uint8: the masks, and 1 where the slice has a prior.
    """
    position = positions(count, len(masks), shift)
    there = position >= 0
    found = np.zeros((count, *masks.shape[1:3], masks.shape[3] + 1), np.uint8)
    found[there, ..., :-1] = masks[position[there]]
    found[there, ..., -1] = 1
    return found
