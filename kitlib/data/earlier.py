"""The earlier day of a scan: the same patient, treated some days before and already annotated.

Part of the hidden test set are later days of training cases. What the annotators outlined on an earlier day is then
known: where the organs were, and on which slice both bowels ended. `days` decides for the whole kit which scan that is.
Its contract:

- Only a strictly earlier day of the same case counts, never the same day or a later one, because a test scan has none.
- Only a scan with at least one mask counts; of several, the latest does. A scan without an earlier day has no entry.
- Masks come from `known`, a slice table with masks: in training and tuning the table of the training set, also for
  scans that are held out; in inference the training set of the competition. `trusted` leaves out the hosts' suspects.

The masks are `scans.masks(known[known["scan"] == name])`, in the earlier scan's own frame; `alignment.register` finds
how far the patient has moved since. `stop_lines` puts both together for the slice on which the bowels end.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd

from kitlib import contest
from kitlib.data import alignment, inputs, scans


def days(slices: pd.DataFrame, known: pd.DataFrame | None = None) -> dict[str, str]:
    """Find the earlier day of each scan: the latest day of its case before its own that has a mask.

    Args:
        slices: slice table of the scans in question; masks are not needed.
        known: slice table with masks, whose scans may be an earlier day. None is `slices`.

    Returns:
        The names of the earlier scans by the names of their later scans, in the order of `slices`; no entry for a scan
        without one.

    Raises:
        ValueError: when `known` has no columns of masks.

    >>> table = pd.DataFrame({"case": 7, "day": [0, 3, 9], "scan": ["case7_day0", "case7_day3", "case7_day9"]})
    >>> days(table.assign(large_bowel=["1 5", "", ""], small_bowel="", stomach=""))
    {'case7_day3': 'case7_day0', 'case7_day9': 'case7_day0'}
    """
    known = slices if known is None else known
    lacking = [organ for organ in contest.ORGANS if organ not in known]
    if lacking:
        raise ValueError(
            f"the table of known scans has no column {lacking[0]}; give one with masks, as scans.read does"
        )
    later, annotated = _scans(slices), _scans(known[(scans.organ_count(known) > 0).to_numpy()])
    pairs = pd.merge_asof(
        later.sort_values("day"),
        annotated.sort_values("day"),
        on="day",
        by="case",
        allow_exact_matches=False,
        suffixes=("", "_earlier"),
    )
    found = pairs.dropna().set_index("scan")["scan_earlier"].to_dict()
    return {scan: found[scan] for scan in later["scan"] if scan in found}


def trusted(slices: pd.DataFrame) -> pd.DataFrame:
    """Leave out the scans whose annotation the hosts found wrong (`contest.SUSPECT_SCANS`)."""
    return slices[~slices["scan"].isin(contest.SUSPECT_SCANS)]


def last_bowel_slice(rows: pd.DataFrame) -> int | None:
    """Find the slice on which the annotators stopped outlining the bowels of a scan.

    Args:
        rows: the scan's rows of a slice table with masks.

    Returns:
        Its position among the rows, from 0; None for a scan without a bowel.
    """
    filled = (rows[list(contest.BOWELS)] != "").any(axis=1).to_numpy().nonzero()[0]
    return int(filled[-1]) if len(filled) else None


def stop_line(rows: pd.DataFrame, shift: int) -> int | None:
    """Predict on which slice of a scan both bowels end: where they ended on the earlier day, moved with the patient.

    Args:
        rows: the earlier day's rows of a slice table with masks.
        shift: slices from the earlier day to the scan, the first number of `alignment.register`.

    Returns:
        The position of the slice among those of the scan, from 0; it may lie outside. None where the earlier day has no
        bowel.
    """
    last = last_bowel_slice(rows)
    return None if last is None else last + shift


def stop_lines(slices: pd.DataFrame, known: pd.DataFrame | None = None) -> Callable[[str], int | None]:
    """Make the function that predicts the stop line of a scan by its name, for `rescoring` and `tuning`.

    Args:
        slices: slice table of the scans in question, with images.
        known: slice table with masks and images, as for `days`.

    Returns:
        Function of the scan's name: `stop_line`, or None for a scan without an earlier day. Both days are read and
        registered when a scan is first asked for, which takes half a second; the result is kept.

    Raises:
        ValueError: as `days`; the function names an image that cannot be read.
    """
    known = slices if known is None else known
    before = days(slices, known)
    places, known_places = (table.groupby("scan", sort=False).indices for table in (slices, known))

    @cache
    def line(scan: str) -> int | None:
        if scan not in before:
            return None
        rows = known.iloc[known_places[before[scan]]]
        return stop_line(rows, alignment.register(_prepared(slices.iloc[places[scan]]), _prepared(rows))[0])

    return line


def _prepared(rows: pd.DataFrame) -> np.ndarray:
    """Read a scan for registration."""
    return inputs.prepare(inputs.load(rows["path"].tolist()), alignment.SPEC, scans.spacing_mm(rows))


def _scans(slices: pd.DataFrame) -> pd.DataFrame:
    """List the scans of a slice table: case, day and scan; an empty table has no types of its own."""
    return slices.drop_duplicates("scan")[["case", "day", "scan"]].astype({"case": "int64", "day": "int64"})
