"""The published figures of the training set, beside the same figures of whatever is attached; and of the experiments.

Source: the paper's section IV, its tables 3 to 6 and the text around its figures 3, 6 and 12, where the hidden test is
not part of them; for the experiments section V, table 8 and the text around figures 7, 9 and 10.
"""

from pathlib import Path

import pandas as pd

from kitlib.contest import ORGANS
from kitlib.data import scans
from kitlib.eda import annotators, statistics

SLICES, SCANS, CASES = 38_496, 274, 85

LARGE, SMALL, STOMACH = ORGANS

# Where a figure is looked up: the function of `statistics`, its row, its column.
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
# The experiments: what is compared -> row -> measure -> value; "at" is the value at the epoch of the lowest loss.
_MEASURES = ("best epoch", "Dice", "Dice at", "IoU", "IoU at", "accuracy", "accuracy at")
_EXPERIMENTS = {
    "losses": {
        "BCE": (25, 0.6786, 0.4241, 0.7305, 0.3747, 0.6786, 0.4241),
        "soft Dice": (37, 0.448, 0.4458, 0.5678, 0.5309, 0.9683, 0.9548),
        "BCE + Dice": (36, 0.6957, 0.6957, 0.7665, 0.7631, 0.8628, 0.1534),
        "BCE + 0.5 Dice": (19, 0.7006, 0.7006, 0.7699, 0.7576, 0.9287, 0.6449),
    },
    "levels": {"4 levels": (27, 0.7, None, 0.75), "5 levels": (19, 0.7, None, 0.75)},
    "augmentation": {"with": (19, 0.7006, None, 0.7699), "the paper's first course": (6, 0.5, None, 0.6)},
}
_ABOVE = "IoU above Dice, but on one set IoU = Dice / (2 - Dice)"
_CEILING = "above .294, the mean Dice of a perfect file where an empty one counts 0"
_REPEATED = "repeats the row's Dice"
_OTHER_RUN = "the epochs of the 5-level run"
_NEEDS_ANNOTATION = ("slices with a mask", "slices without a mask")


def attached(root=None, index=None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read what is attached: all slices, and those of them whose masks are known.

    Args:
        root: folder in the official layout; with an index, only its train.csv is wanted, and that may be absent.
        index: csv of slices (`id image_path`, and `has_mask` where known) that stands for the folder of images.

    Returns:
        Two slice tables, the same one twice without an index.
    """
    if index is None:
        slices = scans.read(scans.find_root(root))
        return slices, slices
    slices = scans.read(Path(index).parent, split="test", index=index)
    listed = pd.read_csv(index)
    if "has_mask" in listed:
        slices = slices.join(listed.set_index("id")["has_mask"], on="id")
    if root is not None and (Path(root) / "train.csv").is_file():
        return slices, scans.read(root, problems=[], index=index)
    return slices, slices.iloc[:0].assign(**dict.fromkeys(ORGANS, ""))


def compare(slices: pd.DataFrame) -> pd.DataFrame:
    """Lay the published figures beside those of a slice table: "published | here | same".

    Returns:
        Indexed by figure: `published`, `here` (<NA> where the table cannot tell) and `same`: "same" or "different"
        when the full training set is attached, else "-": figures of a part of the data cannot agree with those of the
        whole.
    """
    complete = is_complete(slices)
    measured = statistics.has_masks(slices)
    tables = _tables(slices, measured)
    rows = {}
    for name, (table, row, column, published) in (_COUNTS | _MASKS).items():
        known = table in tables and (name not in _NEEDS_ANNOTATION or statistics.has_annotation(slices))
        known = known and (measured or name not in _MASKS)
        frame = tables.get(table)
        here = (frame[column].get(row, 0) if row in frame.index else 0) if known else pd.NA
        agrees = "same" if pd.notna(here) and here == published else "different"
        same = agrees if complete and known else "-"
        rows[name] = (published, here, same)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["published", "here", "same"])
    return table.astype({"here": "Int64"}).rename_axis("figure")


def cells(comparison: str) -> pd.DataFrame:
    """List what the paper gives for one comparison of its experiments, and what is doubtful about it.

    Args:
        comparison: a key of `experiments.SETS`; the paper gives nothing on "attention" and "neighbours".

    Returns:
        One line per cell: `row`, `column`, `value` and `doubt`, empty where there is none.
    """
    lines = []
    for row, values in _EXPERIMENTS.get(comparison, {}).items():
        for column, value in zip(_MEASURES, values, strict=False):
            doubt = _CEILING if column in ("Dice", "Dice at") else _ABOVE if column in ("IoU", "IoU at") else ""
            if comparison == "losses" and row == "BCE" and column in ("accuracy", "accuracy at"):
                doubt = _REPEATED
            if column == "best epoch" and (comparison, row) in (("losses", "BCE + 0.5 Dice"), ("augmentation", "with")):
                doubt = _OTHER_RUN
            if value is not None:
                lines.append((row, column, value, doubt))
    return pd.DataFrame(lines, columns=["row", "column", "value", "doubt"])


def beside(table: pd.DataFrame, comparison: str) -> pd.DataFrame:
    """Lay the paper's cells beside a table of `experiments`, as text: "0.43 +-0.02 | 0.70?"; "?" marks a doubtful cell.

    Args:
        table: index row; columns of means with `... +-` beside them.
        comparison: a key of `experiments.SETS`.
    """
    known = cells(comparison).set_index(["row", "column"])
    lines = {}
    for row in table.index:
        line = {}
        for column in [name for name in table.columns if f"{name} +-" in table.columns]:
            digits = 0 if "epoch" in column else 3
            text = f"{table.at[row, column]:.{digits}f} ±{table.at[row, f'{column} +-']:.{digits}f}"
            if (row, column) in known.index:
                value, doubt = known.loc[(row, column)]
                text += f" | {value:.{digits}f}{'?' if doubt else ''}"
            line[column] = text
        lines[row] = line
    return pd.DataFrame(lines).T.rename_axis("here | paper")


def claims(slices: pd.DataFrame) -> pd.DataFrame:
    """Check what the paper says in words about overlaps and positions.

    Returns:
        Indexed by claim: `here`, the figures that decide it, and `holds`: "yes" or "no" for the attached data.
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
        "some large-bowel masks lie wholly inside small bowel": (f"{contained} masks", contained > 0),
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
    """Say what the statistics decide about a model, and by which figure of the attached data.

    Args:
        samples: rows of `intensities.sample`; without them the scale of the grey values is left open.

    Returns:
        Indexed by decision: `because`.
    """
    table = statistics.measured(slices)
    organs = statistics.organs_per_slice(table)
    shared = int((statistics.overlap_areas(table)[list(statistics.COMBINATIONS)] > 0).any(axis=1).sum())
    days = table.groupby("case")["scan"].nunique()
    run = statistics.organ_counts(table)["masks"].sum() / max(len(annotators.extents(table)), 1)
    several = organs.loc[organs["organs"] > 1, "slices"].sum()
    here = int(annotators.suspects(table)["here"].sum())
    reasons = {
        "three sigmoid masks, not one label per pixel": f"organs overlap on {shared:,} slices",
        "folds grouped by case": f"cases have {days.mean():.1f} scans on average, {days.max()} at most",
        "folds stratified by organ count": f"{several / max(len(table), 1):.0%} of the slices hold several organs, "
        f"{organs.at['none', 'share']:.0%} hold none",
        "a stack along the body": f"an organ fills {run:.0f} slices on end",
        "a gate for empty slices": f"{organs.at['none', 'share']:.0%} of the slices have no mask",
        "suspects left out": f"{here} of the hosts' {len(annotators.SUSPECT_SCANS)} are here",
    }
    if samples is not None:
        bright = samples.groupby("scan")["p99"].median()
        reasons["percentiles of the scan as its scale"] = (
            f"the 99th percentile of scans runs from {bright.min():,.0f} to {bright.max():,.0f}"
        )
    return pd.DataFrame({"because": reasons}).rename_axis("decision")


def is_complete(slices: pd.DataFrame) -> bool:
    """Whether the table covers the full public training set: all its slices, scans and cases."""
    here = len(slices), slices["scan"].nunique(), slices["case"].nunique()
    return here == (SLICES, SCANS, CASES)


def missing(slices: pd.DataFrame, synthetic: bool = False) -> str:
    """Say in a sentence what the table lacks for a comparison with the published figures, or that it lacks nothing; or
    that it is of a synthetic competition.
    """
    if synthetic:
        return "A phantom: the published figures are of other data, and none can be called the same."
    scans, here = slices["scan"].nunique(), len(slices)
    lacks = []
    if not is_complete(slices):
        lacks.append(f"{here:,} of {SLICES:,} slices in {scans} of {SCANS} scans are attached")
    if not statistics.has_masks(slices):
        lacks.append("the table has no masks")
    if not lacks:
        return "The full training set is attached, and every figure is compared."
    sentence = " and ".join(lacks) + "; "
    left = "figures of masks are" if is_complete(slices) else "no figure can be"
    return sentence[0].upper() + sentence[1:] + left + (" left out." if is_complete(slices) else " called the same.")


def _tables(slices: pd.DataFrame, measured: bool) -> dict[str, pd.DataFrame]:
    """The tables that the figures are looked up in."""
    tables = {"summary": statistics.summary(slices), "scans_per_case": statistics.scans_per_case(slices)}
    tables["sizes"] = statistics.image_sizes(slices).groupby(["height", "width"])[["slices"]].sum()
    if measured:
        tables["organ_counts"] = statistics.organ_counts(slices)
        tables["cooccurrence"] = statistics.cooccurrence(slices)
        tables["organs_per_slice"] = statistics.organs_per_slice(slices)
        tables["by_number"] = tables["organs_per_slice"].groupby("organs")[["slices"]].sum()
        tables["bells"] = statistics.bells(slices)
    return tables
