"""How like the real data a competition folder is: every figure measured, beside the real one and the band it must meet.

The real values come from 13 annotated scans (masks), all 38,496 slices (share of annotated slices) and, for grey
values, two scans with degraded pixels and five original slices. `python -m kitlib.phantom ROOT --report` prints it.
"""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import metric, rle, scans, traits
from kitlib.contest import DICE_WEIGHT, HAUSDORFF_WEIGHT, ORGANS, SLICE_THICKNESS_MM

GRID = 128  # side of the grid on which atlas and copied days are scored
POSITIONS = 144  # relative slice positions of the atlas
THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35)
OVERLAPS = ((0, 1), (1, 2), (0, 2))


@dataclass(frozen=True)
class Figure:
    """One line of the report: `real` values and, for each, the lowest and highest value that still passes."""

    row: int
    name: str
    real: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def _within(row: int, name: str, real, plus=None, share=None, low=None, high=None) -> Figure:
    """A band of `plus` on both sides, of a `share` of the real value, or from `low` to `high`."""
    real = np.atleast_1d(np.asarray(real, float))
    if plus is not None:
        low, high = real - plus, real + plus
    elif share is not None:
        low, high = real * (1 - np.asarray(share)), real * (1 + np.asarray(share))
    low, high = (np.broadcast_to(np.asarray(bound, float), real.shape) for bound in (low, high))
    return Figure(row, name, tuple(real.tolist()), tuple(low.tolist()), tuple(high.tolist()))


FIGURES = (
    _within(1, "area px, 5 %", (434, 274, 131), share=0.5),
    _within(1, "area px, 25 %", (936, 1268, 558), share=(0.25, 0.25, 0.4)),
    _within(1, "area px, 50 %", (1536, 1903, 1775), share=(0.25, 0.25, 0.4)),
    _within(1, "area px, 75 %", (2442, 2628, 2749), share=(0.25, 0.25, 0.4)),
    _within(1, "area px, 95 %", (3741, 3945, 4805), share=0.5),
    _within(2, "first slice, relative, median", (0.385, 0.51, 0.35), plus=0.05),
    _within(2, "last slice, relative, median", (0.83, 0.83, 0.58), plus=0.05),
    _within(2, "mean span", (0.41, 0.34, 0.21), plus=0.05),
    _within(2, "bowels end on the same slice", 1.0, low=0.95, high=1.0),
    _within(2, "area on the last slice over the maximum", (0.70, 0.67, 0.04), plus=0.15),
    _within(2, "area on the first slice over the maximum", (0.05, 0.04, 0.11), plus=0.15),
    _within(2, "annotated share, mean of scans", 0.435, plus=0.05),
    _within(2, "annotated share, 144-slice scans", 0.426, plus=0.05),
    _within(2, "annotated share, 80-slice scans", 0.598, plus=0.05),
    _within(2, "share of slices with 0/1/2/3 organs", (0.569, 0.064, 0.284, 0.083), plus=0.05),
    _within(3, "pieces per slice, mean", (2.43, 3.50, 1.14), share=0.2),
    _within(3, "share of slices in one piece", (0.17, 0.12, 0.86), share=0.2),
    _within(3, "pieces in 3D, most (95 % of scans)", (2, 4, 1), low=0.8, high=(2.4, 4.8, 1.2)),
    _within(3, "share of slices with holes", (0.013, 0.038, 0.0), share=0.2),
    _within(3, "inner border over sqrt(area), median", (5.4, 7.3, 4.0), share=0.2),
    _within(4, "Dice of neighbouring slices, median", (0.909, 0.876, 0.913), plus=0.02),
    _within(4, "Dice of neighbouring slices, 5 %", (0.796, 0.733, 0.656), plus=0.07),
    _within(4, "area jitter, median", (0.025, 0.040, 0.028), low=0.015, high=0.06),
    _within(5, "Dice of two days of a case", (0.31, 0.21, 0.57), plus=0.10),
    _within(5, "Dice of two days, centroids aligned", (0.41, 0.32, 0.76), plus=0.10),
    _within(5, "Dice of two cases", (0.05, 0.14, 0.06), plus=0.10),
    _within(5, "Dice of two cases, centroids aligned", (0.18, 0.21, 0.53), plus=0.10),
    _within(5, "centroid shift between days, mm", (33, 31, 19), low=(19.8, 18.6, 11.4), high=(52.8, 49.6, 30.4)),
    _within(
        5, "abs log volume ratio of days", (0.19, 0.32, 0.23), low=(0.114, 0.192, 0.138), high=(0.304, 0.512, 0.368)
    ),
    _within(6, "overlap L-S / S-St / L-St, share of slices with both", (0.29, 0.28, 0.026), plus=0.10),
    _within(6, "overlap px, 95 %", (107, 219, 5), low=(53, 109, 2.5), high=(214, 438, 10)),
    _within(7, "share of air", 0.57, low=0.45 * 0.8, high=0.68 * 1.2),
    _within(7, "p95 over p99", 0.65, low=0.63 * 0.8, high=0.66 * 1.2),
    _within(7, "p99.9 over p99", 1.33, low=1.2 * 0.8, high=1.45 * 1.2),
    _within(7, "correlation of slices, 1 apart", 0.99, plus=0.03),
    _within(7, "correlation of slices, 5 apart", 0.90, plus=0.06),
    _within(7, "correlation of slices, 10 apart", 0.82, plus=0.08),
    _within(7, "noise over p99", 0.013, low=0.005, high=0.024),
    _within(7, "AUC of grey, organ against its rim", (0.27, 0.27, 0.27), low=0.20, high=0.40),
    _within(7, "AUC of grey, organ against the rest of the body", (0.43, 0.43, 0.43), low=0.30, high=0.60),
    _within(8, "host score of an atlas of other cases", 0.545, low=0.50, high=0.60),
    _within(8, "host score of another day copied", 0.650, low=0.60, high=0.72),
)


@dataclass
class Tally:
    """What the masks of one scan add to the figures; lists run over organs (`overlaps`: over pairs of organs)."""

    scan: str
    case: int
    day: int
    shape: tuple[int, int, int]
    spacing_mm: float
    areas: np.ndarray
    outlines: list
    pieces: list
    dices: list
    jitters: list
    overlaps: list
    volumes: list
    grid: np.ndarray


@dataclass
class Reading:
    """Everything measured on a root: masks per scan, grey values per scan, slices and annotated share per scan."""

    tallies: list[Tally]
    pixels: list[tuple]
    annotated: list[tuple[int, float]]


def tally(name: str, masks: np.ndarray, spacing_mm: float = 1.5) -> Tally:
    """Measure the masks of one scan, (D, H, W, organs) bool."""
    case, day = (int(part.lstrip("caseday")) for part in name.split("_"))
    channels = [np.ascontiguousarray(masks[..., channel]) for channel in range(len(ORGANS))]
    areas = np.stack([mask.sum(axis=(1, 2)) for mask in channels], axis=1)
    both = [(areas[:, a] > 0) & (areas[:, b] > 0) for a, b in OVERLAPS]
    return Tally(
        scan=name,
        case=case,
        day=day,
        shape=masks.shape[:3],
        spacing_mm=spacing_mm,
        areas=areas,
        outlines=[[traits.outline(part) for part in mask if part.any()] for mask in channels],
        pieces=[traits.pieces_3d(mask) if mask.any() else 0 for mask in channels],
        dices=[traits.neighbour_dice(mask) for mask in channels],
        jitters=[traits.jitter(area.astype(float)) for area in areas.T],
        overlaps=[
            (channels[a] & channels[b]).sum(axis=(1, 2))[here] for (a, b), here in zip(OVERLAPS, both, strict=True)
        ],
        volumes=[traits.Volume.cut(mask) for mask in channels],
        grid=_small(masks),
    )


def _small(masks: np.ndarray) -> np.ndarray:
    """A scan's masks at POSITIONS relative slice positions on the GRID; (POSITIONS, GRID, GRID, organs) bool."""
    positions = np.rint(np.linspace(0, len(masks) - 1, POSITIONS)).astype(int)
    area = [cv2.resize(masks[z].astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA) for z in positions]
    return np.stack(area) >= 0.5


def grey(images: np.ndarray, masks: np.ndarray) -> tuple:
    """The grey values of one scan: three levels, three correlations, noise, and both AUCs per organ."""
    correlations = [traits.slice_correlation(images, lag) for lag in (1, 5, 10)]
    return (*traits.grey_levels(images), *correlations, traits.noise(images), *traits.grey_auc(images, masks))


def read(root, progress: bool = False) -> Reading:
    """Measure a root: its training part, and the hidden part where `truth.csv` tells it.

    Where `masks.csv` and `slices.csv.gz` lie beside (rows and sizes of scans without images), these are measured and the images of `train/` serve for the grey values alone.

    Raises:
        FileNotFoundError: there are no rows to measure.
    """
    root = Path(root)
    parts, index = [], root / "slices.csv.gz"
    if (root / "masks.csv").is_file():
        parts.append((pd.read_csv(root / "masks.csv", keep_default_na=False), pd.read_csv(index)))
    if (root / "train.csv").is_file():
        slices = scans.read(root)
        parts.append((scans.rows(slices), slices))
    if (root / "truth.csv").is_file():
        parts.append((pd.read_csv(root / "truth.csv", keep_default_na=False), scans.read(root, "test")))
    if not parts:
        raise FileNotFoundError(f"{root}: no train.csv, truth.csv or masks.csv to measure")
    reading = Reading([], [], [])
    jobs = [(name, rows, slices) for rows, slices in parts for name in rows["id"].map(_scan).unique()]
    for name, rows, slices in tqdm(jobs, unit=" scans", desc="measure", disable=not progress):
        _add(reading, name, rows, slices, only_grey="path" in slices and index.is_file())
    reading.tallies.sort(key=lambda one: (one.case, one.day))
    if index.is_file():
        known = pd.read_csv(index)
        marked = known["has_mask"].groupby(known["id"].map(_scan))
        reading.annotated = list(zip(marked.size(), marked.mean(), strict=True))
    return reading


def _scan(name: str) -> str:
    return name.rsplit("_slice_", 1)[0]


def _add(reading: Reading, name: str, rows: pd.DataFrame, slices: pd.DataFrame, only_grey: bool) -> None:
    """Decode one scan and add what is measured on it."""
    rows = rows[rows["id"].str.startswith(name + "_slice_")]
    slices = slices[slices["id"].isin(rows["id"])]
    shape = tuple(int(side) for side in slices[["height", "width"]].iloc[0])
    texts = [rows.loc[rows["class"] == organ, "segmentation"].tolist() for organ in ORGANS]
    masks = np.stack([rle.decode_stack(part, shape) for part in texts], axis=-1)
    if "path" in slices:
        images = np.stack([cv2.imread(path, cv2.IMREAD_UNCHANGED) for path in slices["path"]])
        reading.pixels.append(grey(images, masks))
    if not only_grey:
        spacing_mm = float(slices["spacing_mm"].iloc[0]) if "spacing_mm" in slices else 1.5
        reading.tallies.append(tally(name, masks, spacing_mm))
        reading.annotated.append((len(masks), float(masks.any(axis=(1, 2, 3)).mean())))


def measure(reading: Reading) -> dict[str, tuple[float, ...]]:
    """All figures of a root, by the names of FIGURES; NaN where there is nothing to measure."""
    tallies = reading.tallies
    values = {
        **_areas(tallies),
        **_extents(tallies),
        **_shares(reading),
        **_shapes(tallies),
        **_pairs(tallies),
        **_overlaps(tallies),
        **_grey(reading.pixels),
        **_baselines(tallies),
    }
    return {name: tuple(float(value) for value in np.atleast_1d(found)) for name, found in values.items()}


def _per_organ(tallies: list[Tally], values, reduce) -> list[float]:
    """`reduce` over the joined `values(tally, channel)` of all scans, per organ; NaN without any."""
    joined = [np.concatenate([np.atleast_1d(values(one, k)) for one in tallies]) for k in range(len(ORGANS))]
    return [float(reduce(part)) if len(part) else float("nan") for part in joined]


def _areas(tallies: list[Tally]) -> dict:
    def filled(one, k):
        return one.areas[:, k][one.areas[:, k] > 0]

    return {
        f"area px, {q} %": _per_organ(tallies, filled, lambda a, q=q: np.percentile(a, q)) for q in (5, 25, 50, 75, 95)
    }


def _extents(tallies: list[Tally]) -> dict:
    """Where each organ begins and ends, relative to the scan."""
    rows = [[], [], []]
    same = []
    for one in tallies:
        ends = []
        for k, area in enumerate(one.areas.T):
            where = np.flatnonzero(area)
            if len(where):
                first, last, count = where[0], where[-1], len(area)
                share = area[[last, first]] / area.max()
                rows[k].append((first / (count - 1), last / (count - 1), (last - first + 1) / count, *share))
                ends.append(last)
        if len(ends) == len(ORGANS):
            same.append(ends[0] == ends[1])
    columns = [np.array(part).T if part else np.full((5, 1), np.nan) for part in rows]
    return {
        "first slice, relative, median": [np.median(part[0]) for part in columns],
        "last slice, relative, median": [np.median(part[1]) for part in columns],
        "mean span": [np.mean(part[2]) for part in columns],
        "bowels end on the same slice": np.mean(same) if same else np.nan,
        "area on the last slice over the maximum": [np.median(part[3]) for part in columns],
        "area on the first slice over the maximum": [np.median(part[4]) for part in columns],
    }


def _shares(reading: Reading) -> dict:
    """How much of the scans is annotated."""
    shares = np.array([share for _, share in reading.annotated])
    depths = np.array([depth for depth, _ in reading.annotated])
    of = {depth: shares[depths == depth].mean() if (depths == depth).any() else np.nan for depth in (144, 80)}
    organs = np.concatenate([(one.areas > 0).sum(axis=1) for one in reading.tallies])
    return {
        "annotated share, mean of scans": shares.mean(),
        "annotated share, 144-slice scans": of[144],
        "annotated share, 80-slice scans": of[80],
        "share of slices with 0/1/2/3 organs": np.bincount(organs, minlength=4) / len(organs),
    }


def _shapes(tallies: list[Tally]) -> dict:
    def column(i):
        return lambda one, k: np.array([found[i] for found in one.outlines[k]], float)

    return {
        "pieces per slice, mean": _per_organ(tallies, column(0), np.mean),
        "share of slices in one piece": _per_organ(tallies, column(0), lambda count: np.mean(count == 1)),
        "pieces in 3D, most (95 % of scans)": _per_organ(
            tallies, lambda one, k: one.pieces[k], lambda count: np.percentile(count, 95, method="higher")
        ),
        "share of slices with holes": _per_organ(tallies, column(1), np.mean),
        "inner border over sqrt(area), median": _per_organ(tallies, column(2), np.median),
        "Dice of neighbouring slices, median": _per_organ(tallies, lambda one, k: one.dices[k], np.median),
        "Dice of neighbouring slices, 5 %": _per_organ(
            tallies, lambda one, k: one.dices[k], lambda dice: np.percentile(dice, 5)
        ),
        "area jitter, median": _per_organ(tallies, lambda one, k: one.jitters[k], np.median),
    }


def _pairs(tallies: list[Tally]) -> dict:
    """Two days of a case, and two cases: pairs of scans of one size."""
    found = {key: [[] for _ in ORGANS] for key in ("days", "days aligned", "cases", "cases aligned", "shift", "ratio")}
    for one, two in combinations(tallies, 2):
        kind = "days" if one.case == two.case else "cases"
        for k, (a, b) in enumerate(zip(one.volumes, two.volumes, strict=True)):
            if one.shape != two.shape or a is None or b is None:
                continue
            found[kind][k].append(traits.volume_dice(a, b))
            found[kind + " aligned"][k].append(traits.volume_dice(a, b, aligned=True))
            if kind == "days":
                voxel_mm = np.array([SLICE_THICKNESS_MM, one.spacing_mm, one.spacing_mm])
                found["shift"][k].append(np.linalg.norm((a.centre - b.centre) * voxel_mm))
                found["ratio"][k].append(abs(np.log(a.size / b.size)))
    middle = {key: [np.median(part) if part else np.nan for part in parts] for key, parts in found.items()}
    return {
        "Dice of two days of a case": middle["days"],
        "Dice of two days, centroids aligned": middle["days aligned"],
        "Dice of two cases": middle["cases"],
        "Dice of two cases, centroids aligned": middle["cases aligned"],
        "centroid shift between days, mm": middle["shift"],
        "abs log volume ratio of days": middle["ratio"],
    }


def _overlaps(tallies: list[Tally]) -> dict:
    pixels = [np.concatenate([one.overlaps[i] for one in tallies]) for i in range(len(OVERLAPS))]
    return {
        "overlap L-S / S-St / L-St, share of slices with both": [(p > 0).mean() if len(p) else np.nan for p in pixels],
        "overlap px, 95 %": [np.percentile(p[p > 0], 95) if p.any() else 0.0 for p in pixels],
    }


def _grey(pixels: list[tuple]) -> dict:
    """Medians over the scans that have images; the AUCs per organ."""
    names = [figure.name for figure in FIGURES if figure.row == 7]
    columns = zip(*pixels, strict=True) if pixels else [[np.nan]] * len(names)
    return {name: np.nanmedian(np.array(column), axis=0) for name, column in zip(names, columns, strict=True)}


def _baselines(tallies: list[Tally]) -> dict:
    """Host scores of two ways to know nothing of the image.

    An atlas: the mean mask of the other cases, each case counting once, at the threshold that is best over all scans;
    and, for each case of several days, the masks of the first other day.
    """
    cases = sorted({one.case for one in tallies})
    means = np.stack([np.mean([one.grid for one in tallies if one.case == case], axis=0) for case in cases])
    total = means.sum(axis=0)
    atlases = {case: (total - mean) / max(1, len(cases) - 1) for case, mean in zip(cases, means, strict=True)}
    atlas = [_host([(one.grid, atlases[one.case] > cut) for one in tallies]) for cut in THRESHOLDS]
    copies = []
    for one in tallies:
        others = [other for other in tallies if other.case == one.case and other is not one]
        copies += [(one.grid, others[0].grid)] if others else []
    return {
        "host score of an atlas of other cases": max(atlas) if len(cases) > 1 else np.nan,
        "host score of another day copied": _host(copies) if copies else np.nan,
    }


def _host(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """The host score of (truth, prediction) pairs, each (D, H, W, organs) bool."""
    dices, distances = [], []
    for truth, guess in pairs:
        total = truth.sum(axis=(1, 2)) + guess.sum(axis=(1, 2))
        dices.append(2 * (truth & guess).sum(axis=(1, 2))[total > 0] / total[total > 0])
        distances += [metric.hausdorff(truth[..., k], guess[..., k]) for k in range(len(ORGANS))]
    return DICE_WEIGHT * np.concatenate(dices).mean() + HAUSDORFF_WEIGHT * (1 - np.nanmean(distances))


def passes(figure: Figure, found: tuple[float, ...]) -> bool:
    """Whether every value of a figure lies in its band."""
    return all(low <= value <= high for low, value, high in zip(figure.low, found, figure.high, strict=True))


def table(values: dict[str, tuple[float, ...]]) -> pd.DataFrame:
    """Measured, real and band side by side: columns `row figure measured real band inside`."""
    lines = []
    for figure in FIGURES:
        found = values[figure.name]
        lines.append((figure.row, figure.name, _text(found), _text(figure.real), _band(figure), passes(figure, found)))
    return pd.DataFrame(lines, columns=["row", "figure", "measured", "real", "band", "inside"])


def _text(values) -> str:
    return " / ".join(f"{value:.0f}" if abs(value) >= 10 else f"{value:.3g}" for value in values)


def _band(figure: Figure) -> str:
    spans = [f"{low:.3g}..{high:.3g}" for low, high in zip(figure.low, figure.high, strict=True)]
    return spans[0] if len(set(spans)) == 1 else " / ".join(spans)


def report(root, progress: bool = False) -> str:
    """Measure a root and print the table; organs in the order large bowel / small bowel / stomach."""
    lines = table(measure(read(root, progress)))
    marks = lines["inside"].map({True: "yes", False: "NO"})
    count = f"{int(lines['inside'].sum())} of {len(lines)} figures inside their bands"
    return lines.assign(inside=marks).to_string(index=False) + "\n" + count
