"""Statistics of the training set as DataFrames: slices, scans, masks, co-occurrence, sizes, positions and overlaps.

Every function takes the slice table of `scans.read`, or the same table after `areas.measure`; call that once when you
want several tables. No function decodes a mask or opens an image. They give the figures of the paper's section IV
(Tables 3 to 6, Figures 3, 6 and 12); `published` compares them with the attached data.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from kitlib import files
from kitlib.contest import ORGANS
from kitlib.data import scans
from kitlib.eda.areas import COMBINATIONS, mask_texts, measure

PAIRS = {name: organs for name, organs in COMBINATIONS.items() if len(organs) == 2}
ALL_THREE = "+".join(ORGANS)


def read(
    root: str | os.PathLike | None = None, index: str | os.PathLike | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read all slices of the training set, and those of them whose masks are known.

    Args:
        root: folder of the competition; with an index, only its train.csv is read, and None means no masks.
        index: csv with one row per slice (`id image_path`, and `has_mask` where known) that replaces the images.

    Returns:
        Two slice tables; without an index both are the same table.

    Raises:
        ValueError: names the line of the index whose `has_mask` is neither True nor False.
        FileNotFoundError: there is no index, or no train.csv in `root`; names the notebook's parameter.
    """
    if index is None:
        slices = scans.read(scans.find_root(root))
        return slices, slices
    index, root = Path(index).expanduser(), root and Path(root).expanduser()
    if not index.is_file():
        raise FileNotFoundError(f"INDEX={index}: no such file; give a csv with the columns id and image_path")
    if root and not (root / "train.csv").is_file():
        raise FileNotFoundError(f"DATA={root} has no train.csv; give the folder that has it, or leave DATA empty")
    slices = scans.read(index.parent, split="test", index=index)
    listed = files.read_csv(index, ["id"], optional=["has_mask"])
    if "has_mask" in listed:
        answers = listed["has_mask"].str.lower().map({"true": True, "1": True, "false": False, "0": False})
        if answers.isna().any():
            line = answers.index[answers.isna()][0]
            raise ValueError(f"{index}, line {line}: has_mask is {listed['has_mask'][line]!r}; write True or False")
        slices = slices.join(listed.assign(has_mask=answers.astype(bool)).set_index("id")["has_mask"], on="id")
    if root:
        return slices, scans.read(root, problems=[], index=index)
    return slices, slices.iloc[:0].assign(**dict.fromkeys(ORGANS, ""))


def summary(slices: pd.DataFrame) -> pd.DataFrame:
    """Count cases, scans, slices and masks (the paper's Table 3).

    A table without masks (a test folder) has <NA> for their counts. An index of the training set with a column
    `has_mask` still gives the slices with and without a mask.

    Returns:
        Indexed by figure: `count`, and for counts of slices their `share` of all slices.
    """
    lengths = slices.groupby("scan").size()
    counts = {"cases": slices["case"].nunique(), "scans": len(lengths)}
    counts |= {f"scans of {length} slices": n for length, n in lengths.value_counts().sort_index().items()}
    counts["slices"] = len(slices)
    with_mask = int(annotated(slices).sum()) if has_annotation(slices) else pd.NA
    counts |= {"slices with a mask": with_mask, "slices without a mask": len(slices) - with_mask}
    counts["masks"] = int(present(slices).to_numpy().sum()) if has_masks(slices) else pd.NA
    table = pd.DataFrame({"count": pd.Series(counts, dtype="Int64")})
    table["share"] = pd.Series(dtype="Float64")
    of_slices = ["slices with a mask", "slices without a mask"]
    table.loc[of_slices, "share"] = table.loc[of_slices, "count"] / max(len(slices), 1)
    return table.rename_axis("figure")


def scans_per_case(slices: pd.DataFrame) -> pd.DataFrame:
    """Count the cases by their number of scans (the paper's Table 4).

    Returns:
        Indexed by number of `scans`: `cases`.
    """
    scans = slices.groupby("case")["scan"].nunique()
    return scans.value_counts().sort_index().rename_axis("scans").to_frame("cases")


def organ_counts(slices: pd.DataFrame) -> pd.DataFrame:
    """Count the masks of each organ.

    Returns:
        Indexed by ORGANS: `masks`, `share` of all masks, `share_of_slices` that hold the organ.
    """
    masks = present(slices).sum()
    table = pd.DataFrame({"masks": masks, "share": masks / max(masks.sum(), 1)})
    table["share_of_slices"] = masks / max(len(slices), 1)
    return table.rename_axis("organ")


def cooccurrence(slices: pd.DataFrame, share: bool = False) -> pd.DataFrame:
    """Count the slices that hold two organs together (the paper's Table 5).

    Args:
        share: divide each row by its diagonal, which gives the share of the slices with the row's organ that also
            hold the column's.

    Returns:
        Square, indexed by ORGANS both ways, with the organ's total on the diagonal.

    >>> row = {"large_bowel": ["1 1", "1 1"], "small_bowel": ["1 1", ""], "stomach": ["", ""]}
    >>> cooccurrence(pd.DataFrame(row)).loc["large_bowel"].tolist()
    [2, 1, 0]
    """
    on = present(slices).to_numpy(np.int64)
    together = on.T @ on
    table = pd.DataFrame(together, index=list(ORGANS), columns=list(ORGANS))
    return table.div(np.diag(together).clip(min=1), axis=0) if share else table


def organs_per_slice(slices: pd.DataFrame) -> pd.DataFrame:
    """Count the slices by their exact combination of organs (the paper's Figure 3).

    Returns:
        Indexed by combination, from "none" to "large_bowel+small_bowel+stomach": `organs` (0 to 3), `slices`, `share`
        of all slices, `share_within` the slices with the same number of organs.
    """
    kinds = [(), *((organ,) for organ in ORGANS), *COMBINATIONS.values()]
    bits = {organ: 1 << bit for bit, organ in enumerate(ORGANS)}
    code = present(slices).to_numpy(np.int64) @ list(bits.values())
    counts = np.bincount(code, minlength=2 ** len(ORGANS))
    rows = [("+".join(kind) or "none", len(kind), counts[sum(bits[organ] for organ in kind)]) for kind in kinds]
    table = pd.DataFrame(rows, columns=["combination", "organs", "slices"]).set_index("combination")
    table["share"] = table["slices"] / max(len(slices), 1)
    table["share_within"] = table["slices"] / table.groupby("organs")["slices"].transform("sum").clip(lower=1)
    return table


def image_sizes(slices: pd.DataFrame) -> pd.DataFrame:
    """Count the image sizes and pixel spacings (the paper's Table 6).

    Returns:
        One row per size and spacing, most frequent first: `height width spacing_mm slices scans cases`.
    """
    keys = [name for name in ("height", "width", "spacing_mm") if name in slices]
    groups = slices.groupby(keys)
    table = groups.agg(slices=("slice", "size"), scans=("scan", "nunique"), cases=("case", "nunique"))
    return table.sort_values("slices", ascending=False).reset_index()


def slice_positions(slices: pd.DataFrame) -> pd.DataFrame:
    """Count the masks at each slice number, 1 nearest to the head (the bell-shaped curves of the paper's Figure 6).

    Returns:
        Indexed by `slice`, from 1 to the highest number: one column of counts per organ.
    """
    counts = present(slices).groupby(slices["slice"].to_numpy()).sum()
    return counts.reindex(range(1, int(slices["slice"].max()) + 1), fill_value=0).astype(np.int64).rename_axis("slice")


def bells(slices: pd.DataFrame) -> pd.DataFrame:
    """Describe the curve of `slice_positions` for each organ: its peak, its width and its skew.

    Returns:
        Indexed by ORGANS: `peak` (the slice number, the first of several equal ones) and `count` there, `mean` and
        `spread` (standard deviation) in slices, `skew` (third standardised moment; negative: the long tail lies before
        the peak), and the shares of the masks `before` and `after` the peak.
    """
    counts = slice_positions(slices)
    position = counts.index.to_numpy(float)
    rows = []
    for organ in ORGANS:
        weight = counts[organ].to_numpy(float)
        peak, total = int(weight.argmax()), weight.sum()
        if not total:
            rows.append((pd.NA, 0, *[np.nan] * 5))
            continue
        mean = position @ weight / total
        spread = np.sqrt((position - mean) ** 2 @ weight / total)
        skew = (position - mean) ** 3 @ weight / total / spread**3 if spread else 0.0
        sides = weight[:peak].sum() / total, weight[peak + 1 :].sum() / total
        rows.append((int(position[peak]), int(weight[peak]), mean, spread, skew, *sides))
    columns = ["peak", "count", "mean", "spread", "skew", "before", "after"]
    table = pd.DataFrame(rows, index=pd.Index(ORGANS, name="organ"), columns=columns)
    return table.astype({"peak": "Int64"})


def overlap_areas(slices: pd.DataFrame) -> pd.DataFrame:
    """Count the pixels of each slice that belong to two or to all three organs (the paper's Figure 12).

    Returns:
        One row per slice, in the order of the table: `id scan slice`, then the pixels of each combination, such as
        `large_bowel+stomach`.
    """
    table = measured(slices)
    return table[[*(name for name in ("id", "scan", "slice") if name in table), *COMBINATIONS]].copy()


def overlaps(slices: pd.DataFrame) -> pd.DataFrame:
    """Summarise the overlaps: how often organs on the same slice share pixels, and how many.

    Returns:
        Indexed by combination: `together` (slices that hold all of its organs), `overlapping` and its `share` of them,
        then the shared pixels on overlapping slices: `median`, `95 %`, `max`.
    """
    table, on = measured(slices), present(slices)
    rows = {}
    for name, organs in COMBINATIONS.items():
        pixels = table.loc[table[name] > 0, name]
        together = int(on[list(organs)].all(axis=1).sum())
        median, high = pixels.quantile([0.5, 0.95])
        rows[name] = (together, len(pixels), len(pixels) / max(together, 1), median, high, pixels.max())
    columns = ["together", "overlapping", "share", "median", "95 %", "max"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("combination")


def containment(slices: pd.DataFrame) -> pd.DataFrame:
    """Count the masks of one organ that lie completely inside the mask of another on the same slice.

    Returns:
        One row per ordered pair: `inner outer together inside share`; `share` is relative to all masks of the inner
        organ.
    """
    table = measured(slices)
    rows = []
    for name, pair in PAIRS.items():
        together = (table[[f"{organ}_px" for organ in pair]] > 0).all(axis=1)
        for inner, outer in (pair, pair[::-1]):
            area = table[f"{inner}_px"]
            inside = int((together & (table[name] == area)).sum())
            rows.append((inner, outer, int(together.sum()), inside, inside / max((area > 0).sum(), 1)))
    return pd.DataFrame(rows, columns=["inner", "outer", "together", "inside", "share"])


def organ_areas(slices: pd.DataFrame) -> pd.DataFrame:
    """Describe the areas of each organ's masks.

    Returns:
        Indexed by ORGANS, in pixels: `masks mean min 5 % 25 % 50 % 75 % 95 % max`, and the median in `median_cm2`
        where the pixel spacing is known.
    """
    table = measured(slices)
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    rows = {}
    for organ in ORGANS:
        area = table[f"{organ}_px"]
        on = area > 0
        area = area[on]
        row = {"masks": len(area), "mean": area.mean(), "min": area.min()}
        row |= {f"{level:.0%}".replace("%", " %"): area.quantile(level) for level in levels} | {"max": area.max()}
        if "spacing_mm" in table:
            row["median_cm2"] = (area * table.loc[on, "spacing_mm"] ** 2).median() / 100
        rows[organ] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("organ")


def centroids(slices: pd.DataFrame) -> pd.DataFrame:
    """Measure the position of each organ: the centroid of its masks in the image, and its position along the scan.

    Returns:
        One row per organ and axis (`down` the rows, front to back; `across` the columns, the patient's right to left;
        `along` the scan, head to feet): `5 % 50 % 95 %`, each from 0 to 1.
    """
    table = measured(slices)
    position = {"along": relative_position(table)}
    rows = {}
    for organ in ORGANS:
        position["down"] = (table[f"{organ}_row"] + 0.5) / table["height"]
        position["across"] = (table[f"{organ}_column"] + 0.5) / table["width"]
        for axis in ("down", "across", "along"):
            rows[organ, axis] = position[axis][table[f"{organ}_px"] > 0].quantile([0.05, 0.5, 0.95]).tolist()
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["5 %", "50 %", "95 %"])
    table.index = pd.MultiIndex.from_tuples(table.index, names=["organ", "axis"])
    return table


def fold_counts(slices: pd.DataFrame, part) -> pd.DataFrame:
    """Count the cases, scans and slices of each fold, or of each part of any split.

    Args:
        part: the number or name of the part, per row of the table.

    Returns:
        Indexed by part: `cases scans slices`, slices with `0 organs` to `3 organs`, slices per image size such as
        `310x360`, and `shared cases`, the number of cases that other parts hold too: 0 everywhere when nothing leaks.
    """
    part = pd.Series(np.asarray(part), index=slices.index, name="part")
    table = slices.groupby(part).agg(cases=("case", "nunique"), scans=("scan", "nunique"), slices=("slice", "size"))
    organs = present(slices).sum(axis=1).rename("organs")
    size = (slices["height"].astype(str) + "x" + slices["width"].astype(str)).rename("size")
    by_organs = pd.crosstab(part, organs).rename(columns=lambda n: f"{n} organ" if n == 1 else f"{n} organs")
    shared = slices["case"].map(part.groupby(slices["case"]).nunique()) > 1
    leaks = slices["case"].where(shared).groupby(part).nunique().rename("shared cases")
    return pd.concat([table, by_organs, pd.crosstab(part, size), leaks], axis=1)


def relative_position(slices: pd.DataFrame) -> pd.Series:
    """Position of each slice within its scan, from 0 (the first, at the head) to 1 (the last)."""
    groups = slices.groupby("scan")["slice"]
    return groups.cumcount() / (groups.transform("size") - 1).clip(lower=1)


def measured(slices: pd.DataFrame) -> pd.DataFrame:
    """Measure a table of masks, unless it has been measured already."""
    return slices if f"{ORGANS[0]}_px" in slices else measure(slices)


def present(slices: pd.DataFrame) -> pd.DataFrame:
    """Mark the organs that each slice contains: one bool column per organ.

    Raises:
        ValueError: the table has no masks.
    """
    if f"{ORGANS[0]}_px" in slices:
        return pd.DataFrame({organ: slices[f"{organ}_px"] > 0 for organ in ORGANS})
    if not has_masks(slices):
        raise ValueError("the slice table has no masks; read it with scans.read(root, split='train')")
    return pd.DataFrame({organ: mask_texts(slices[organ]) != "" for organ in ORGANS}, slices.index)


def annotated(slices: pd.DataFrame) -> pd.Series:
    """Mark the slices that have a mask of any organ."""
    return present(slices).any(axis=1) if has_masks(slices) else slices["has_mask"].astype(bool)


def has_masks(slices: pd.DataFrame) -> bool:
    """Whether the table holds masks or their measurements."""
    return ORGANS[0] in slices or f"{ORGANS[0]}_px" in slices


def has_annotation(slices: pd.DataFrame) -> bool:
    """Whether the table says which slices have a mask."""
    return has_masks(slices) or "has_mask" in slices
