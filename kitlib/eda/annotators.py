"""How the training set was annotated: where outlines begin and stop, which slices lack one, and how cases change over
the days.

Every function takes the slice table of `scans.read`, before or after `areas.measure`, and returns a DataFrame.
"""

import numpy as np
import pandas as pd

from kitlib.contest import BOWELS, ORGANS, SLICE_THICKNESS_MM, SUSPECT_SCANS
from kitlib.eda.statistics import annotated, measured, relative_position


def extents(slices: pd.DataFrame) -> pd.DataFrame:
    """Measure the range of slices of each organ in each scan, and how abruptly it begins and ends.

    Returns:
        Indexed by scan and organ, for the organs that a scan holds: `first last` (slice numbers), `masks`,
        `begins ends` (the same as shares of the scan, 0 at the head, 1 at the feet), `first_area last_area` (the areas
        there over the organ's largest area in the scan: 1 is cut off at full size, near 0 tapers off).
    """
    table = measured(slices)
    position = relative_position(table)
    parts = []
    for organ in ORGANS:
        on = (table[f"{organ}_px"] > 0).to_numpy()
        columns = {"slice": table["slice"], "position": position, "area": table[f"{organ}_px"]}
        groups = pd.DataFrame(columns)[on].groupby(table["scan"][on], sort=False)
        first, last, largest = groups.first(), groups.last(), groups["area"].max()
        part = pd.DataFrame({"first": first["slice"], "last": last["slice"], "masks": groups.size()})
        part = part.assign(begins=first["position"], ends=last["position"])
        part = part.assign(first_area=first["area"] / largest, last_area=last["area"] / largest)
        parts.append(part.assign(organ=organ).set_index("organ", append=True))
    return pd.concat(parts).sort_index(level="scan", sort_remaining=False, kind="stable")


def stop_lines(slices: pd.DataFrame) -> pd.DataFrame:
    """Summarise over all scans where each organ begins and stops, and how abruptly.

    In every real scan seen so far, both bowels stop on the same slice, at two thirds of their largest area. The
    annotators stopped there; the bowel continues. A network can hardly see that line, and each slice predicted past it
    lowers the score.

    Returns:
        Indexed by ORGANS: `scans` that hold the organ, medians of `begins ends first_area last_area` and 5 % and 95 %
        quantiles of `ends` (see `extents`), and `bowels stop together`: the share of the scans with
        both bowels in which these end on the same slice (NaN for the stomach).
    """
    table = extents(slices)
    groups = table.groupby(level="organ")
    lines = groups[["begins", "ends", "first_area", "last_area"]].median()
    lines.insert(0, "scans", groups.size())
    lines["ends 5 %"], lines["ends 95 %"] = groups["ends"].quantile(0.05), groups["ends"].quantile(0.95)
    last = table["last"].unstack("organ").reindex(columns=list(BOWELS)).dropna()
    together = (last[BOWELS[0]] == last[BOWELS[1]]).mean()
    lines["bowels stop together"] = pd.Series(dict.fromkeys(BOWELS, together))
    return lines.reindex(list(ORGANS)).astype({"scans": "Int64"})


def annotated_ranges(slices: pd.DataFrame) -> pd.DataFrame:
    """List which part of each scan is annotated, and which slices inside that part have no mask.

    Returns:
        Indexed by scan, for the scans with a mask: `slices`, `first last` annotated slice numbers, `share` of the
        slices that have a mask, `holes`, the number of slices between first and last that have none, and
        `hole_slices`, their numbers as text.
    """
    on = annotated(slices)
    rows = {}
    for scan, part in slices["slice"].groupby(slices["scan"], sort=False):
        numbers, has_mask = part.to_numpy(), on.loc[part.index].to_numpy()
        if not has_mask.any():
            continue
        begin, end = np.flatnonzero(has_mask)[[0, -1]]
        holes = numbers[begin:end][~has_mask[begin:end]]
        listed = " ".join(map(str, holes))
        rows[scan] = (len(part), numbers[begin], numbers[end], has_mask.mean(), len(holes), listed)
    columns = ["slices", "first", "last", "share", "holes", "hole_slices"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("scan")


def suspects(slices: pd.DataFrame) -> pd.DataFrame:
    """List the scans that the hosts exclude from training because of wrong annotations, and which of them are present.

    Returns:
        Indexed by scan: `here`, `slices` and slices `with_mask`.
    """
    groups = annotated(slices).groupby(slices["scan"])
    table = pd.DataFrame({"slices": groups.size(), "with_mask": groups.sum()})
    table = table.reindex(list(SUSPECT_SCANS)).fillna(0).astype(int)
    table.insert(0, "here", table["slices"] > 0)
    return table.rename_axis("scan")


def days(slices: pd.DataFrame) -> pd.DataFrame:
    """List the days on which each case was scanned and the gaps between them.

    Returns:
        Indexed by case: `scans`, `days` as text, `shortest longest` gap in days (<NA> for a single scan), and `sizes`,
        the number of different image sizes among its scans.
    """
    scans = slices.drop_duplicates("scan").sort_values(["case", "day"])
    scans = scans.assign(size=list(zip(scans["height"], scans["width"], strict=True)))
    rows = {}
    for case, part in scans.groupby("case"):
        gaps = np.diff(part["day"].to_numpy())
        extremes = (gaps.min(), gaps.max()) if len(gaps) else (pd.NA, pd.NA)
        rows[case] = (len(part), ", ".join(map(str, part["day"])), *extremes, part["size"].nunique())
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["scans", "days", "shortest", "longest", "sizes"])
    return table.rename_axis("case").astype({"shortest": "Int64", "longest": "Int64"})


def case_to_follow(slices: pd.DataFrame, case: int = 0) -> int:
    """Choose a case to follow from day to day: the given one, or the first with the most days; 0 for an empty table.

    Raises:
        ValueError: the case is not in the table.
    """
    scans = slices.groupby("case")["scan"].nunique()
    if case and case not in scans.index:
        raise ValueError(f"CASE={case} is not in the data; choose one of {', '.join(map(str, scans.index))}")
    return case or (int(scans.idxmax()) if len(scans) else 0)


def volumes(slices: pd.DataFrame) -> pd.DataFrame:
    """Measure the volume and the centre of each organ in each scan, to follow a case from day to day.

    Returns:
        Indexed by case, day and organ, for the organs that a scan holds: `volume_cm3`, and the centre of all
        its voxels in mm, `down_mm across_mm` from the middle of the image and `along_mm` from the first slice.
    """
    table = measured(slices)
    along = (table["slice"] - 1) * SLICE_THICKNESS_MM
    # Centres are measured from the middle of the image, because the image's size may change between days.
    middle = (table["height"] - 1) / 2, (table["width"] - 1) / 2
    parts = []
    for organ in ORGANS:
        area = table[f"{organ}_px"]
        masks = table.loc[area > 0, ["case", "day"]].assign(pixels=area[area > 0])
        masks["volume_cm3"] = masks["pixels"] * table["spacing_mm"] ** 2 * SLICE_THICKNESS_MM / 1000
        masks["down_mm"] = masks["pixels"] * (table[f"{organ}_row"] - middle[0]) * table["spacing_mm"]
        masks["across_mm"] = masks["pixels"] * (table[f"{organ}_column"] - middle[1]) * table["spacing_mm"]
        masks["along_mm"] = masks["pixels"] * along
        sums = masks.groupby(["case", "day"]).sum()
        for name in ("down_mm", "across_mm", "along_mm"):
            sums[name] /= sums["pixels"]
        parts.append(sums.drop(columns="pixels").assign(organ=organ).set_index("organ", append=True))
    return pd.concat(parts).sort_index(level=["case", "day"], sort_remaining=False, kind="stable")


def daily_changes(slices: pd.DataFrame) -> pd.DataFrame:
    """Compare each scan with the previous one of its case: how far each organ moved and how much it grew.

    Returns:
        One row per case, organ and pair of consecutive days: `case organ from to`, `moved_mm` (distance of
        the centres) and `grew` (volume over volume before).
    """
    table = volumes(slices).reset_index()
    before = table.groupby(["case", "organ"]).shift()
    centre = ["down_mm", "across_mm", "along_mm"]
    moved = np.sqrt(((table[centre] - before[centre]) ** 2).sum(axis=1, skipna=False))
    grew = table["volume_cm3"] / before["volume_cm3"]
    changes = table[["case", "organ"]].assign(**{"from": before["day"], "to": table["day"]}, moved_mm=moved, grew=grew)
    return changes.dropna().astype({"from": int}).reset_index(drop=True)
