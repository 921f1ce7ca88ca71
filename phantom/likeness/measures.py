"""The figures of a set of scans: areas, extents, shapes, days, overlaps, grey values and two baselines.

`read` decodes a root scan by scan and keeps what little is needed of each; `measure` makes figures of it, by the names
that `likeness` compares with the real data's.
"""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import rle
from kitlib.contest import ORGANS, SLICE_THICKNESS_MM, parse_id
from kitlib.data import scans
from phantom.likeness import guesses, shapes

GRID = 128  # side of the grid on which atlas and copied days are scored
POSITIONS = 144  # relative slice positions of the atlas
OVERLAPS = ((0, 1), (1, 2), (0, 2))
GREY = (
    "share of air",
    "p95 over p99",
    "p99.9 over p99",
    "correlation of slices, 1 apart",
    "correlation of slices, 5 apart",
    "correlation of slices, 10 apart",
    "noise over p99",
    "AUC of grey, organ against its rim",
    "AUC of grey, organ against the rest of the body",
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
    grey: np.ndarray | None = None


@dataclass
class Reading:
    """Everything measured on a root: masks per scan, grey values per scan, slices and annotated share per scan."""

    tallies: list[Tally]
    pixels: list[tuple]
    annotated: list[tuple[int, float]]


def tally(name: str, masks: np.ndarray, spacing_mm: float = 1.5) -> Tally:
    """Measure the masks of one scan, (D, H, W, organs) bool."""
    case, day, _ = parse_id(f"{name}_slice_0001")
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
        outlines=[[shapes.outline(part) for part in mask if part.any()] for mask in channels],
        pieces=[shapes.pieces_3d(mask) if mask.any() else 0 for mask in channels],
        dices=[shapes.neighbour_dice(mask) for mask in channels],
        jitters=[shapes.jitter(area.astype(float)) for area in areas.T],
        overlaps=[
            (channels[a] & channels[b]).sum(axis=(1, 2))[here] for (a, b), here in zip(OVERLAPS, both, strict=True)
        ],
        volumes=[shapes.Volume.cut(mask) for mask in channels],
        grid=_small(masks) >= 0.5,
    )


def _small(volume: np.ndarray) -> np.ndarray:
    """Masks or slices (D, H, W, ...) at POSITIONS relative slice positions, averaged onto the GRID; float32."""
    positions = np.rint(np.linspace(0, len(volume) - 1, POSITIONS)).astype(int)
    return np.stack(
        [cv2.resize(volume[z].astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA) for z in positions]
    )


def small_grey(images: np.ndarray) -> np.ndarray:
    """Slices (D, H, W) in steps of 1/200 of the scan's 99th percentile, (POSITIONS, GRID, GRID) uint8."""
    return np.clip(_small(images) * (200 / np.percentile(images, 99)), 0, 255).astype(np.uint8)


def grey(images: np.ndarray, masks: np.ndarray) -> tuple:
    """The grey values of one scan: three levels, three correlations, noise, and both AUCs per organ."""
    correlations = [shapes.slice_correlation(images, lag) for lag in (1, 5, 10)]
    return (*shapes.grey_levels(images), *correlations, shapes.noise(images), *shapes.grey_auc(images, masks))


def read(root, progress: bool = False) -> Reading:
    """Measure a root: its training part, and the hidden part where `truth.csv` tells it.

    Where both `masks.csv` and `slices.csv.gz` lie there (rows, and sizes, of scans without images), these are measured,
    and the images of `train/` serve for the grey values alone. `slices.csv.gz` tells the annotated share of all the
    slices that it lists.

    Raises:
        FileNotFoundError: there are no rows to measure.
        ValueError: there are rows, and not one scan.
    """
    root = Path(root)
    parts, index = [], root / "slices.csv.gz"
    apart = index.is_file() and (root / "masks.csv").is_file()
    if apart:
        parts.append((pd.read_csv(root / "masks.csv", keep_default_na=False), pd.read_csv(index)))
    if (root / "train.csv").is_file():
        slices = scans.read(root)
        parts.append((scans.rows(slices), slices))
    if (root / "truth.csv").is_file():
        parts.append((pd.read_csv(root / "truth.csv", keep_default_na=False), scans.read(root, "test")))
    if not parts:
        raise FileNotFoundError(f"{root}: no train.csv, no truth.csv, and not both masks.csv and slices.csv.gz")
    reading = Reading([], [], [])
    jobs = [(name, rows, slices) for rows, slices in parts for name in rows["id"].map(_scan).unique()]
    for name, rows, slices in tqdm(jobs, unit=" scans", desc="measure", disable=not progress):
        _add(reading, name, rows, slices, only_grey=apart and "path" in slices)
    if not reading.tallies:
        raise ValueError(f"{root}: its tables list not one scan with masks to measure")
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
        reading.tallies[-1].grey = small_grey(images) if "path" in slices else None
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
        **guesses.scores(tallies),
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
            found[kind][k].append(shapes.volume_dice(a, b))
            found[kind + " aligned"][k].append(shapes.volume_dice(a, b, aligned=True))
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
    columns = zip(*pixels, strict=True) if pixels else [[np.nan]] * len(GREY)
    return {name: np.nanmedian(np.array(column), axis=0) for name, column in zip(GREY, columns, strict=True)}
