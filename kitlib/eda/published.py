"""The paper's figures of the training set, compared with those of the attached data.

Source: section IV of the paper, its Tables 3 to 6 and the text around its Figures 3, 6 and 12. They describe the public
training set, without the hidden test set.
"""

import pandas as pd

from kitlib.contest import ORGANS, SUSPECT_SCANS
from kitlib.eda import annotators, statistics

SLICES, SCANS, CASES = 38_496, 274, 85

LARGE, SMALL, STOMACH = ORGANS

# figure: (table of `_tables`, its row, its column, published value)
_COUNTS = {
    "cases": ("summary", "cases", "count", CASES),
    "scans": ("summary", "scans", "count", SCANS),
    "scans of 144 slices": ("summary", "scans of 144 slices", "count", 259),
    "scans of 80 slices": ("summary", "scans of 80 slices", "count", 15),
    "slices": ("summary", "slices", "count", SLICES),
    "slices with a mask": ("summary", "slices with a mask", "count", 16_590),
    "slices without a mask": ("summary", "slices without a mask", "count", 21_906),
}
_COUNTS |= {
    f"cases scanned {n} times" if n > 1 else "cases scanned once": ("scans_per_case", n, "cases", cases)
    for n, cases in enumerate((9, 8, 45, 2, 20, 1), start=1)
}
_COUNTS |= {
    f"slices of {height} x {width}": ("sizes", (height, width), "slices", slices)
    for height, width, slices in ((266, 266, 25_920), (310, 360, 11_232), (276, 276, 1_200), (234, 234, 144))
}
_MASKS = {
    "masks": ("summary", "masks", "count", 33_913),
    "masks of the large bowel": ("organ_counts", LARGE, "masks", 14_085),
    "masks of the small bowel": ("organ_counts", SMALL, "masks", 11_201),
    "masks of the stomach": ("organ_counts", STOMACH, "masks", 8_627),
    "stomach and large bowel together": ("cooccurrence", STOMACH, LARGE, 6_181),
    "large and small bowel together": ("cooccurrence", LARGE, SMALL, 10_982),
    "small bowel and stomach together": ("cooccurrence", SMALL, STOMACH, 3_361),
    "exactly one organ": ("by_number", 1, "slices", 2_468),
    "only the stomach": ("organs_per_slice", STOMACH, "slices", 2_286),
    "only the large bowel": ("organs_per_slice", LARGE, "slices", 123),
    "only the small bowel": ("organs_per_slice", SMALL, "slices", 59),
    "exactly two organs": ("by_number", 2, "slices", 10_921),
    "only large and small bowel": ("organs_per_slice", f"{LARGE}+{SMALL}", "slices", 7_781),
    "only large bowel and stomach": ("organs_per_slice", f"{LARGE}+{STOMACH}", "slices", 2_980),
    "only small bowel and stomach": ("organs_per_slice", f"{SMALL}+{STOMACH}", "slices", 160),
    "all three organs": ("by_number", 3, "slices", 3_201),
    "peak of the stomach: slice": ("bells", STOMACH, "peak", 67),
    "peak of the stomach: masks": ("bells", STOMACH, "count", 196),
    "peak of the large bowel: slice": ("bells", LARGE, "peak", 100),
    "peak of the large bowel: masks": ("bells", LARGE, "count", 240),
    "peak of the small bowel: slice": ("bells", SMALL, "peak", 102),
    "peak of the small bowel: masks": ("bells", SMALL, "count", 235),
}
_NEEDS_ANNOTATION = ("slices with a mask", "slices without a mask")


def compare(slices: pd.DataFrame) -> pd.DataFrame:
    """Compare the published figures with those of a slice table.

    Returns:
        Indexed by figure: `published`, `here` (<NA> where the table cannot tell) and `same`: "same" or "different" for
        the full training set, else "-", because figures of a part of the data cannot agree with those of the whole.
    """
    complete, measured = is_complete(slices), statistics.has_masks(slices)
    tables = _tables(slices, measured)
    rows = {}
    for figure, (name, row, column, published) in (_COUNTS | _MASKS).items():
        known = measured if figure in _MASKS else figure not in _NEEDS_ANNOTATION or statistics.has_annotation(slices)
        here = tables[name][column].get(row, 0) if known else pd.NA
        agrees = pd.notna(here) and here == published
        same = ("same" if agrees else "different") if complete and known else "-"
        rows[figure] = (published, here, same)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["published", "here", "same"])
    return table.astype({"here": "Int64"}).rename_axis("figure")


def claims(slices: pd.DataFrame) -> pd.DataFrame:
    """Check the paper's statements about overlaps and positions.

    Returns:
        Indexed by claim: `here`, the deciding figures, and `holds`: "yes" or "no" for the attached data.
    """
    table = statistics.measured(slices)
    bells, overlaps = statistics.bells(table), statistics.overlaps(table)
    inside = statistics.containment(table).set_index(["inner", "outer"]).loc[(LARGE, SMALL)]
    contained = int(inside["inside"])
    three, two = overlaps["max"].fillna(0)[[statistics.ALL_THREE, f"{LARGE}+{SMALL}"]].astype(int)
    peak, count, spread = bells["peak"], bells["count"], bells["spread"]
    sides = {organ: f"{bells.at[organ, 'before']:.0%} before, {bells.at[organ, 'after']:.0%} after" for organ in ORGANS}
    lean = bells["before"] - bells["after"]
    rows = {
        "some large-bowel masks lie completely inside small bowel": (f"{contained} masks", contained > 0),
        "all three organs overlap on more than 300 px": (f"at most {three} px", three > 300),
        "large and small bowel overlap on more than 600 px": (f"at most {two} px", two > 600),
        "the bells peak in the order stomach, large, small bowel": (
            ", ".join(f"{organ} {peak[organ]}" for organ in (STOMACH, LARGE, SMALL)),
            bool(peak[STOMACH] < peak[LARGE] < peak[SMALL]) if peak.notna().all() else False,
        ),
        "peak counts fall from large bowel to small bowel to stomach": (
            ", ".join(f"{organ} {count[organ]}" for organ in ORGANS),
            count[LARGE] > count[SMALL] > count[STOMACH],
        ),
        "the large bowel leans to slices before its peak": (sides[LARGE], lean[LARGE] > 0),
        "the small bowel leans to slices before its peak": (sides[SMALL], lean[SMALL] > 0),
        "the stomach leans to slices after its peak": (sides[STOMACH], lean[STOMACH] < 0),
        "small bowel and stomach spread less than the large bowel": (
            ", ".join(f"{organ} {spread[organ]:.1f}" for organ in ORGANS) + " slices",
            max(spread[SMALL], spread[STOMACH]) < spread[LARGE],
        ),
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["here", "holds"]).rename_axis("claim")
    return table.assign(holds=table["holds"].map({True: "yes", False: "no"}))


def decisions(slices: pd.DataFrame, samples: pd.DataFrame | None = None) -> pd.DataFrame:
    """List the design decisions that the statistics support, each with the figure behind it.

    Args:
        samples: rows of `intensities.sample`; None leaves out the decision about the scale of the grey values.

    Returns:
        Indexed by decision: `because`.
    """
    table = statistics.measured(slices)
    organs = statistics.organs_per_slice(table)
    overlapping = int((statistics.overlap_areas(table)[list(statistics.COMBINATIONS)] > 0).any(axis=1).sum())
    days = table.groupby("case")["scan"].nunique()
    length = statistics.organ_counts(table)["masks"].sum() / max(len(annotators.extents(table)), 1)
    several = organs.loc[organs["organs"] > 1, "slices"].sum() / max(len(table), 1)
    empty, suspects = organs.at["none", "share"], int(annotators.suspects(table)["here"].sum())
    reasons = {
        "three sigmoid masks, not one label per pixel": f"organs overlap on {overlapping:,} slices",
        "folds grouped by case": f"cases have {days.mean():.1f} scans on average, {days.max()} at most",
        "folds stratified by organ count": f"{several:.0%} of the slices hold several organs, {empty:.0%} hold none",
        "a stack of neighbouring slices": f"an organ covers {length:.0f} consecutive slices on average",
        "a gate for empty slices": f"{empty:.0%} of the slices have no mask",
        "suspects left out": f"{suspects} of the hosts' {len(SUSPECT_SCANS)} are here",
    }
    if samples is not None:
        bright = samples.groupby("scan")["p99"].median()
        reasons["scaling by percentiles of the scan"] = (
            f"the 99th percentile of scans ranges from {bright.min():,.0f} to {bright.max():,.0f}"
        )
    return pd.DataFrame({"because": reasons}).rename_axis("decision")


def is_complete(slices: pd.DataFrame) -> bool:
    """Whether the table covers the full public training set: all its slices, scans and cases."""
    here = len(slices), slices["scan"].nunique(), slices["case"].nunique()
    return here == (SLICES, SCANS, CASES)


def missing(slices: pd.DataFrame, synthetic: bool = False) -> str:
    """Say in a sentence which published figures can be compared with the table, and why not all.

    Args:
        synthetic: the table is of a phantom.
    """
    if synthetic:
        return "This is a phantom: the published figures describe other data, so none is compared."
    if not is_complete(slices):
        here = f"{len(slices):,} of {SLICES:,} slices in {slices['scan'].nunique()} of {SCANS} scans are attached"
        lacks = "" if statistics.has_masks(slices) else ", without masks"
        return f"{here}{lacks}: no figure is compared."
    if not statistics.has_masks(slices):
        return "The table has no masks: only figures of slices, scans and cases are compared."
    return "The full training set is attached: every figure is compared."


def _tables(slices: pd.DataFrame, measured: bool) -> dict[str, pd.DataFrame]:
    """Make the tables in which the figures are looked up."""
    tables = {"summary": statistics.summary(slices), "scans_per_case": statistics.scans_per_case(slices)}
    tables["sizes"] = statistics.image_sizes(slices).groupby(["height", "width"])[["slices"]].sum()
    if measured:
        tables["organ_counts"] = statistics.organ_counts(slices)
        tables["cooccurrence"] = statistics.cooccurrence(slices)
        tables["organs_per_slice"] = statistics.organs_per_slice(slices)
        tables["by_number"] = tables["organs_per_slice"].groupby("organs")[["slices"]].sum()
        tables["bells"] = statistics.bells(slices)
    return tables
