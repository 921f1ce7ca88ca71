"""The score of tables of run-length rows, in the host convention or another, per organ, scan and slice.

`score` returns one convention in full, `panel` compares all of `conventions`. Both take tables in the format of
train.csv and submission.csv, and the slice table. The command `python -m kitlib.scoring TRUTH.csv SUBMISSION.csv`
prints the same.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import contest
from kitlib.data import scans
from kitlib.scoring import bootstrap, conventions, host

_AREAS = ["id", "scan", "organ", "truth", "predicted", "overlap"]


@dataclass(frozen=True)
class Score:
    """A score and its parts.

    Attributes:
        value: 0.4 * dice + 0.6 * (1 - hausdorff), 1 is perfect.
        dice: mean over the rows (slice, organ) that count.
        hausdorff: mean distance over the volumes (scan, organ) that count, 0 is perfect.
        organs: one row per organ: `dice hausdorff value rows volumes`, the last two are the numbers that count.
        scans: one row per scan and organ: `scan organ dice hausdorff value rows volumes`, NaN where nothing counts.
        slices: one row per slice and organ: `id scan organ truth predicted overlap dice`, areas in pixels.
    """

    value: float
    dice: float
    hausdorff: float
    organs: pd.DataFrame
    scans: pd.DataFrame
    slices: pd.DataFrame

    def totals(self) -> pd.DataFrame:
        """Return the totals of each case, for `bootstrap`: columns dice, rows, hausdorff, volumes."""
        scans = self.scans.fillna({"dice": 0.0, "hausdorff": 0.0})
        sums = pd.DataFrame(
            {
                "dice": scans["dice"] * scans["rows"],
                "rows": scans["rows"],
                "hausdorff": scans["hausdorff"] * scans["volumes"],
                "volumes": scans["volumes"],
            }
        )
        return sums.groupby(scans["scan"].map(contest.case_of).rename("case"), sort=False).sum()

    def part(self, names: Collection[str]) -> "Score":
        """Return the score of some scans alone."""
        slices, volumes = (table[table["scan"].isin(names)] for table in (self.slices, self.scans))
        return _averaged(slices, volumes[["scan", "organ", "hausdorff"]])

    def interval(self, confidence: float = 0.95, samples: int = 5000, seed: int = 0) -> bootstrap.Interval:
        """Return the bootstrap confidence interval of `value` over cases."""
        return bootstrap.interval(self.totals().to_numpy(float), confidence, samples, seed)


def score(
    truth: pd.DataFrame,
    prediction: pd.DataFrame,
    slices: pd.DataFrame,
    convention: str = "host",
    progress: bool = False,
) -> Score:
    """Score a table of run-length rows against another.

    Args:
        truth: rows `id class segmentation`.
        prediction: rows `id class predicted` (or `segmentation`), one for every slice and organ, in any order.
        slices: one row per slice, with columns id, scan, slice (its number in the scan), height and width.
        convention: a name from `conventions`.
        progress: show a bar over the scans.

    Raises:
        ValueError: names a row that is missing, duplicated or unknown. As in the competition, a missing row is an
            error, not an empty mask.

    Cost: about 0.05 s per scan of 144 slices.
    """
    return _measure(truth, prediction, slices, [conventions.named(convention)], progress)[convention]


def panel(truth: pd.DataFrame, prediction: pd.DataFrame, slices: pd.DataFrame, progress: bool = False) -> pd.DataFrame:
    """Score in every convention, one row each, beside the score of a perfect file.

    Returns:
        Index convention; columns `value low high dice hausdorff perfect seen_in`; low and high are the ends of the 95 %
        interval over cases.
    """
    return panel_of(scores(truth, prediction, slices, progress))


def panel_of(scores: dict[str, Score]) -> pd.DataFrame:
    """Put scores by convention into the table of `panel`."""
    lines = {}
    for name, scored in scores.items():
        convention, area = conventions.named(name), scored.slices["truth"].to_numpy()
        perfect = host.weighted(pd.Series(convention.dice(area, area, area)).mean(), 0.0)
        line = scored.interval()._asdict() | {"dice": scored.dice, "hausdorff": scored.hausdorff}
        lines[name] = line | {"perfect": perfect, "seen_in": convention.seen_in}
    return pd.DataFrame(lines.values(), index=pd.Index(lines, name="convention"))


def apart(score: Score, groups: Mapping[str, Collection[str]]) -> pd.DataFrame:
    """Put the scores of groups of scans beside each other, such as scans with an earlier day and without.

    Args:
        score: of all of them.
        groups: names of scans by the name of their group; a group without a scan gets no row.

    Returns:
        Index group; columns `value low high dice hausdorff scans cases`; low and high are the ends of the 95 % interval
        over cases.
    """
    lines = {}
    for group, names in groups.items():
        part = score.part(names)
        scans = part.scans["scan"].unique()
        if len(scans):
            line = part.interval()._asdict() | {"dice": part.dice, "hausdorff": part.hausdorff}
            lines[group] = line | {"scans": len(scans), "cases": len(set(map(contest.case_of, scans)))}
    columns = ["value", "low", "high", "dice", "hausdorff", "scans", "cases"]
    return pd.DataFrame(lines.values(), index=pd.Index(lines, name="group"), columns=columns)


def scores(
    truth: pd.DataFrame, prediction: pd.DataFrame, slices: pd.DataFrame, progress: bool = False
) -> dict[str, Score]:
    """Score in every convention in one pass: `Score` by name."""
    return _measure(truth, prediction, slices, conventions.CONVENTIONS.values(), progress)


def decoded(
    truth: pd.DataFrame, prediction: pd.DataFrame, slices: pd.DataFrame
) -> Iterator[tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]]:
    """Decode both tables scan by scan, after checking that they have the rows that the slices ask for, each once.

    Yields:
        The scan's rows of `slices` in the order of the slices; the indices of those from the first that holds a mask in
        either table to the last; and the masks of truth and prediction on these slices, (d, H, W, organs).
    """
    absent = {"id", "scan", "height", "width"} - set(slices.columns)
    if absent:
        raise ValueError(
            f"the slice table lacks {' and '.join(sorted(absent))}; its columns are {list(slices.columns)}"
        )
    tables = {"truth": truth, "prediction": prediction}
    tables = {name: scans.with_masks(slices, _checked(rows, slices, name)) for name, rows in tables.items()}
    for rows in slices.groupby("scan", sort=False).indices.values():
        if "slice" in slices:
            rows = rows[np.argsort(slices["slice"].to_numpy()[rows], kind="stable")]
        both = {name: table.iloc[rows] for name, table in tables.items()}
        filled = np.flatnonzero(np.any([(part[list(contest.ORGANS)] != "") for part in both.values()], axis=(0, 2)))
        kept = np.arange(filled[0], filled[-1] + 1) if filled.size else np.arange(1)
        yield slices.iloc[rows], kept, *(_masks(part.iloc[kept], name) for name, part in both.items())


def _masks(rows: pd.DataFrame, name: str) -> np.ndarray:
    try:
        return scans.masks(rows)
    except ValueError as error:
        raise ValueError(f"{name}, {error}") from None


def _measure(
    truth: pd.DataFrame,
    prediction: pd.DataFrame,
    slices: pd.DataFrame,
    wanted: Iterable[conventions.Convention],
    progress: bool,
) -> dict[str, Score]:
    """Decode and measure each scan once; distances that conventions share are measured once."""
    wanted, areas, values = list(wanted), [], {}
    bar = tqdm(total=slices["scan"].nunique(), desc="score", unit="scan", disable=not progress)
    with bar:
        for rows, kept, *masks in decoded(truth, prediction, slices):
            areas.append(_areas(rows, kept, *masks))
            for measure in {convention.distances: None for convention in wanted}:
                measured = measure(*masks, len(rows))
                lines = {"scan": rows["scan"].iloc[0], "organ": np.tile(contest.ORGANS, len(measured))}
                values.setdefault(measure, []).append(pd.DataFrame(lines | {"hausdorff": measured.ravel()}))
            bar.update()
    areas = pd.concat(areas, ignore_index=True) if areas else pd.DataFrame(columns=_AREAS)
    volumes = {measure: pd.concat(parts, ignore_index=True) for measure, parts in values.items()}
    nothing = pd.DataFrame(columns=["scan", "organ", "hausdorff"])
    return {
        convention.name: _summary(areas, volumes.get(convention.distances, nothing), convention)
        for convention in wanted
    }


def _areas(rows: pd.DataFrame, kept: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> pd.DataFrame:
    """Count the pixels of truth, prediction and overlap on every slice of a scan."""
    counts = np.zeros((3, len(contest.ORGANS), len(rows)), int)
    for organ, index in np.ndindex(len(contest.ORGANS), len(kept)):
        true, predicted = truth[index, ..., organ], prediction[index, ..., organ]
        counts[:, organ, kept[index]] = [np.count_nonzero(mask) for mask in (true, predicted, true & predicted)]
    ids, names = np.tile(rows["id"], len(contest.ORGANS)), np.repeat(contest.ORGANS, len(rows))
    columns = [ids, rows["scan"].iloc[0], names, *counts.reshape(3, -1)]
    return pd.DataFrame(dict(zip(_AREAS, columns, strict=True)))


def _summary(areas: pd.DataFrame, volumes: pd.DataFrame, convention: conventions.Convention) -> Score:
    """Judge the slices by a convention, and average."""
    return _averaged(areas.assign(dice=convention.dice(*(areas[name].to_numpy() for name in _AREAS[3:]))), volumes)


def _averaged(slices: pd.DataFrame, volumes: pd.DataFrame) -> Score:
    """Average rows and volumes, per scan, per organ and over all."""
    scans = _means(slices, volumes, ["scan", "organ"]).reset_index()
    organs = _means(slices, volumes, ["organ"]).reindex(list(contest.ORGANS))
    dice, distance = float(slices["dice"].mean()), float(volumes["hausdorff"].mean())
    return Score(host.weighted(dice, distance), dice, distance, organs, scans, slices)


def _means(slices: pd.DataFrame, volumes: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Average per group, and count the values that count."""
    dice, distance = (
        table.groupby(keys, sort=False)[name] for table, name in ((slices, "dice"), (volumes, "hausdorff"))
    )
    table = pd.DataFrame({"dice": dice.mean(), "hausdorff": distance.mean()})
    table["value"] = host.weighted(table["dice"], table["hausdorff"])
    return table.assign(rows=dice.count(), volumes=distance.count())


def _checked(rows: pd.DataFrame, slices: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return rows that have exactly one row for every slice and organ; anything else is an error."""
    column = "predicted" if "predicted" in rows else "segmentation"
    absent = {"id", "class", column} - set(rows.columns)
    if absent:
        names = " and ".join(sorted(absent)).replace("segmentation", "segmentation (or predicted)")
        raise ValueError(f"the {name} lacks {names}; its columns are {list(rows.columns)}")
    keys = pd.MultiIndex.from_frame(rows[["id", "class"]])
    wanted = pd.MultiIndex.from_product([slices["id"], contest.ORGANS], names=["id", "class"])
    doubled, missing, extra = keys[keys.duplicated()], wanted[~wanted.isin(keys)], keys[~keys.isin(wanted)]
    total = len(wanted)
    for faults, text in (
        (doubled, "has {} duplicate rows, first {}: keep one of each"),
        (missing, f"lacks {{}} of {total} rows, first {{}}: write a row with an empty field where there is no mask"),
        (extra, "has {} rows that belong to no slice of the table, first {}: remove them, or score their scans too"),
    ):
        if len(faults):
            raise ValueError(f"the {name} {text.format(len(faults), ' '.join(map(str, faults[0])))}")
    # a column without any mask is read as numbers, all missing
    return rows[["id", "class"]].assign(segmentation=rows[column].astype(object).where(rows[column].notna(), ""))
