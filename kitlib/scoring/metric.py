"""The score of the leaderboard: 0.4 Dice + 0.6 (1 - Hausdorff distance), of masks or of tables of run-length rows.

`score` gives one convention in full, `panel` all of `conventions` side by side; both take tables as train.csv and
submission.csv have them, and the slice table for order and sizes. From the command line:

    python -m kitlib.scoring TRUTH.csv SUBMISSION.csv --data ROOT
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import contest, rle
from kitlib.scoring import bootstrap, conventions
from kitlib.scoring import distances as sets


@dataclass(frozen=True)
class Score:
    """A score and where it comes from.

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
        """Sum what counts per case, for `bootstrap`: columns dice, rows, hausdorff, volumes; the index is the case."""
        scans = self.scans.fillna({"dice": 0.0, "hausdorff": 0.0})
        sums = pd.DataFrame(
            {
                "dice": scans["dice"] * scans["rows"],
                "rows": scans["rows"],
                "hausdorff": scans["hausdorff"] * scans["volumes"],
                "volumes": scans["volumes"],
            }
        )
        return sums.groupby(scans["scan"].str.split("_").str[0].rename("case"), sort=False).sum()

    def interval(self, confidence: float = 0.95, samples: int = 5000, seed: int = 0) -> bootstrap.Interval:
        """Give the bootstrap confidence interval of `value` over cases."""
        return bootstrap.interval(self.totals().to_numpy(float), confidence, samples, seed)


def dice(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Give 2 |P and G| / (|P| + |G|) of two bool arrays of one shape; NaN when both are empty.

    >>> dice(np.array([True, True]), np.array([True, False])) == 2 / 3
    True
    """
    _check_masks(truth, prediction)
    total = np.count_nonzero(truth) + np.count_nonzero(prediction)
    return float(2 * np.count_nonzero(truth & prediction) / total) if total else float("nan")


def hausdorff(
    truth: np.ndarray, prediction: np.ndarray, directed: bool = False, steps: sets.Steps | None = None
) -> float:
    """Give the largest distance from one mask to the other, as sets of voxels.

    Args:
        truth, prediction: (D, H, W) bool.
        directed: only from the prediction to the truth; otherwise the larger of both directions.
        steps: distance between neighbouring voxels along z, y and x, for example (3.0, 1.5, 1.5) in mm. None is the
            score's own form: voxel centres at (z/D, y/H, x/W), the distance divided by sqrt(3), so that it lies in
            [0, 1].

    Returns:
        NaN when both masks are empty; when exactly one is, 1.0, or infinity if `steps` are given.

    >>> one, other = np.zeros((2, 2, 4), bool), np.zeros((2, 2, 4), bool)
    >>> one[0, 0, 0] = other[0, 0, 3] = True
    >>> hausdorff(one, other, steps=(3.0, 1.5, 1.5))
    4.5
    """
    _check_masks(truth, prediction)
    if truth.ndim != 3 or (steps is not None and (len(steps) != 3 or min(steps) <= 0)):
        raise ValueError(f"expected masks (D, H, W) and three steps above 0, got {truth.shape} and steps {steps}")
    filled = bool(truth.any()), bool(prediction.any())
    if not all(filled):
        return (1.0 if steps is None else float("inf")) if any(filled) else float("nan")
    search = sets.directed if directed else sets.symmetric
    if steps is None:
        return search(prediction, truth, conventions.unit_steps(len(truth), truth.shape[1:])).distance / 3**0.5
    return search(prediction, truth, steps).distance


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
        slices: the slice table: order of the slices within each scan, and sizes.
        convention: a name from `conventions`.
        progress: show a bar over the scans.

    Raises:
        ValueError: when a row is missing, doubled or unknown. As in the competition a missing row is an error and no
            empty mask.

    Cost: some 0.05 s per scan of 144 slices.
    """
    return _measure(truth, prediction, slices, [conventions.named(convention)], progress)[convention]


def panel(truth: pd.DataFrame, prediction: pd.DataFrame, slices: pd.DataFrame, progress: bool = False) -> pd.DataFrame:
    """Score in every convention: one row each, with what a perfect file would score beside it.

    Returns:
        Index convention; columns `value low high dice hausdorff perfect seen_in`; low and high are the ends of the 95 %
        interval over cases.
    """
    scores = _measure(truth, prediction, slices, conventions.CONVENTIONS.values(), progress)
    return panel_of(scores)


def panel_of(scores: dict[str, Score]) -> pd.DataFrame:
    """Put scores by convention into the table of `panel`."""
    lines = {}
    for name, found in scores.items():
        convention, area = conventions.named(name), found.slices["truth"].to_numpy()
        perfect = _value(pd.Series(convention.dice(area, area, area)).mean(), 0.0)
        line = found.interval()._asdict() | {"dice": found.dice, "hausdorff": found.hausdorff}
        lines[name] = line | {"perfect": perfect, "seen_in": convention.seen_in}
    return pd.DataFrame(lines.values(), index=pd.Index(lines, name="convention"))


def scores(
    truth: pd.DataFrame, prediction: pd.DataFrame, slices: pd.DataFrame, progress: bool = False
) -> dict[str, Score]:
    """Score in every convention in one pass: `Score` by name."""
    return _measure(truth, prediction, slices, conventions.CONVENTIONS.values(), progress)


def scan_masks(rows: pd.DataFrame, slices: pd.DataFrame, scan: str) -> np.ndarray:
    """Decode one scan of a table of rows: (organs, D, H, W) bool."""
    part = slices[slices["scan"] == scan]
    if part.empty:
        raise ValueError(f"no scan {scan!r} in the slice table; its first is {slices['scan'].iloc[0]}")
    texts = _texts(rows[rows["id"].isin(set(part["id"]))], part, "table")
    shape = int(part["height"].iloc[0]), int(part["width"].iloc[0])
    return _decode(texts, shape, part["id"], "table")


def _decode(texts: pd.DataFrame, shape: tuple[int, int], ids: pd.Series, name: str) -> np.ndarray:
    """Decode slices with a column of text per organ: (organs, slices, H, W) bool; an error names table and row."""
    organs = texts.to_numpy(object).T
    try:
        return rle.decode_stack(organs.ravel().tolist(), shape).reshape(*organs.shape, *shape)
    except ValueError:
        for place, organ in np.ndindex(organs.shape[::-1]):
            try:
                rle.parse([organs[organ, place]], shape[0] * shape[1])
            except ValueError as error:
                raise ValueError(f"{name}, {ids.iloc[place]} {contest.ORGANS[organ]}: {error}") from None
        raise


def _measure(
    truth: pd.DataFrame,
    prediction: pd.DataFrame,
    slices: pd.DataFrame,
    wanted: Iterable[conventions.Convention],
    progress: bool,
) -> dict[str, Score]:
    """Decode each scan once and measure it in every convention; distances that conventions share are taken once."""
    wanted, areas, distances = list(wanted), [], {}
    total = slices["scan"].nunique()
    for scan, ids, depth, one, other in tqdm(
        _decoded(truth, prediction, slices), total=total, desc="score", unit="scan", disable=not progress
    ):
        areas.append(_areas(scan, ids, one[1], other[1], one[0]))
        for measure in {convention.distances: None for convention in wanted}:
            distances.setdefault(measure, {})[scan] = measure(one[1], other[1], depth)
    rows = pd.concat(areas, ignore_index=True) if areas else _areas("", [], *[np.empty((3, 0, 0, 0), bool)] * 2, [])
    return {
        convention.name: _summary(rows, convention, distances.get(convention.distances, {})) for convention in wanted
    }


def _decoded(truth: pd.DataFrame, prediction: pd.DataFrame, slices: pd.DataFrame) -> Iterator[tuple]:
    """Give per scan its name, ids, depth, and both masks with the positions of the slices they are decoded for."""
    texts = _texts(truth, slices, "truth"), _texts(prediction, slices, "prediction")
    for scan, rows in slices.groupby("scan", sort=False).indices.items():
        part = slices.iloc[rows]
        sizes = part[["height", "width"]].drop_duplicates()
        if len(sizes) > 1:
            raise ValueError(f"scan {scan} mixes slices of {len(sizes)} sizes; a volume has one")
        shape = tuple(sizes.iloc[0].astype(int).tolist())
        both = [table.iloc[rows] for table in texts]
        filled = np.flatnonzero(np.any([(table != "").any(axis=1) for table in both], axis=0))
        kept = np.arange(filled[0], filled[-1] + 1) if filled.size else filled
        stacks = []
        for name, table in zip(("truth", "prediction"), both, strict=True):
            stacks.append((kept, _decode(table.iloc[kept], shape, part["id"].iloc[kept], name)))
        yield scan, part["id"].to_numpy(), len(part), *stacks


def _areas(scan: str, ids: np.ndarray, truth: np.ndarray, prediction: np.ndarray, kept: np.ndarray) -> pd.DataFrame:
    """Count the pixels of truth, prediction and overlap on every slice of a scan."""
    counts = np.zeros((3, len(contest.ORGANS), len(ids)), int)
    for organ, place in np.ndindex(truth.shape[:2]):
        one, other = truth[organ, place], prediction[organ, place]
        counts[:, organ, kept[place]] = [np.count_nonzero(mask) for mask in (one, other, one & other)]
    table = pd.DataFrame({"id": np.tile(ids, len(contest.ORGANS)), "scan": scan})
    table["organ"] = np.repeat(contest.ORGANS, len(ids))
    return table.assign(**dict(zip(("truth", "predicted", "overlap"), counts.reshape(3, -1), strict=True)))


def _summary(rows: pd.DataFrame, convention: conventions.Convention, distances: dict[str, np.ndarray]) -> Score:
    """Average rows and volumes, per scan, per organ and over all."""
    slices = rows.assign(dice=convention.dice(*(rows[name].to_numpy() for name in ("truth", "predicted", "overlap"))))
    parts = [
        pd.DataFrame({"scan": scan, "organ": np.repeat(contest.ORGANS, values.shape[1]), "hausdorff": values.ravel()})
        for scan, values in distances.items()
    ]
    volumes = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["scan", "organ", "hausdorff"])
    scans = _means(slices, volumes, ["scan", "organ"]).reset_index()
    organs = _means(slices, volumes, ["organ"]).reindex(list(contest.ORGANS))
    mean_dice, mean_distance = float(slices["dice"].mean()), float(volumes["hausdorff"].mean())
    return Score(_value(mean_dice, mean_distance), mean_dice, mean_distance, organs, scans, slices)


def _means(slices: pd.DataFrame, volumes: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Average per group, and count what counts."""
    dice, distance = (
        table.groupby(keys, sort=False)[name] for table, name in ((slices, "dice"), (volumes, "hausdorff"))
    )
    table = pd.DataFrame({"dice": dice.mean(), "hausdorff": distance.mean()})
    table["value"] = _value(table["dice"], table["hausdorff"])
    return table.assign(rows=dice.count(), volumes=distance.count())


def _value(dice, hausdorff):
    """Weigh the two terms."""
    return contest.DICE_WEIGHT * dice + contest.HAUSDORFF_WEIGHT * (1 - hausdorff)


def _texts(rows: pd.DataFrame, slices: pd.DataFrame, name: str) -> pd.DataFrame:
    """Put run-length texts beside the slices, a column per organ; every slice must have its three rows, once."""
    column = "predicted" if "predicted" in rows else "segmentation"
    absent = {"id", "class", column} - set(rows.columns)
    if absent:
        raise ValueError(f"the {name} has no column {' or '.join(sorted(absent))}; it has {list(rows.columns)}")
    keys = pd.MultiIndex.from_frame(rows[["id", "class"]])
    wanted = pd.MultiIndex.from_product([slices["id"], contest.ORGANS], names=["id", "class"])
    doubled = keys[keys.duplicated()]
    if len(doubled):
        raise ValueError(f"the {name} has {len(doubled)} doubled rows, first {' '.join(map(str, doubled[0]))}")
    missing = wanted[~wanted.isin(keys)]
    if len(missing):
        first = " ".join(missing[0])
        raise ValueError(
            f"the {name} misses {len(missing)} of {len(wanted)} rows, first {first}: an empty mask needs one"
        )
    extra = keys[~keys.isin(wanted)]
    if len(extra):
        first = " ".join(map(str, extra[0]))
        raise ValueError(f"the {name} has {len(extra)} rows that no slice asks for, first {first}")
    filled = rows[column].astype(object).where(rows[column].notna(), "")  # a column without any mask is one of floats
    texts = pd.Series(filled.to_numpy(object), index=keys).reindex(wanted)
    return pd.DataFrame(texts.to_numpy(object).reshape(-1, len(contest.ORGANS)), columns=list(contest.ORGANS))


def _check_masks(truth: np.ndarray, prediction: np.ndarray) -> None:
    if truth.shape != prediction.shape or truth.dtype != bool or prediction.dtype != bool:
        raise ValueError(
            f"expected two bool masks of one shape, got truth {truth.shape} {truth.dtype} "
            f"and prediction {prediction.shape} {prediction.dtype}"
        )
