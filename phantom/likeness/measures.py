"""The figures of a folder of scans: areas, extents, shapes, days, overlaps, grey values and two baselines.

`gather` decodes a root scan by scan and keeps a small `Tally` of each. `measure` turns the tallies into figures, under
the names that `report` compares with the real data.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import files
from kitlib.contest import ORGANS, SLICE_THICKNESS_MM, parse_id, scan_of
from kitlib.data import scans
from phantom.likeness import guesses, shapes

SIDE = 128  # height and width at which atlas and copied days are scored
POSITIONS = 144  # and number of slices
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
    """Measurements of one scan. Lists have an entry per organ, `overlaps` has one per pair of organs."""

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
    small: np.ndarray  # masks at SIDE and POSITIONS
    grey: np.ndarray | None = None


@dataclass
class Reading:
    """Measurements of a root: tallies, grey values, and (slices, annotated share), a row per scan each."""

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
        outlines=[[shapes.contour(part) for part in mask if part.any()] for mask in channels],
        pieces=[shapes.pieces_3d(mask) if mask.any() else 0 for mask in channels],
        dices=[shapes.neighbour_dice(mask) for mask in channels],
        jitters=[shapes.jitter(area.astype(float)) for area in areas.T],
        overlaps=[
            (channels[a] & channels[b]).sum(axis=(1, 2))[here] for (a, b), here in zip(OVERLAPS, both, strict=True)
        ],
        volumes=[shapes.Volume.cut(mask) for mask in channels],
        small=_small(masks) >= 0.5,
    )


def _small(volume: np.ndarray) -> np.ndarray:
    """Resize masks or slices (D, H, W, ...) to POSITIONS x SIDE x SIDE, averaging in the plane; float32."""
    positions = np.rint(np.linspace(0, len(volume) - 1, POSITIONS)).astype(int)
    return np.stack(
        [cv2.resize(volume[z].astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for z in positions]
    )


def small_grey(images: np.ndarray) -> np.ndarray:
    """Resize slices (D, H, W) to (POSITIONS, SIDE, SIDE) uint8, in steps of 1/200 of the scan's 99th percentile."""
    return np.clip(_small(images) * (200 / np.percentile(images, 99)), 0, 255).astype(np.uint8)


def grey(images: np.ndarray, masks: np.ndarray) -> tuple:
    """Measure the grey values of one scan: three levels, three correlations, noise, and both AUCs per organ."""
    correlations = [shapes.slice_correlation(images, lag) for lag in (1, 5, 10)]
    return (*shapes.grey_levels(images), *correlations, shapes.noise(images), *shapes.grey_auc(images, masks))


def gather(root, progress: bool = False) -> Reading:
    """Measure a root: its training part, and its hidden part where `truth.csv` is there.

    Where `masks.csv` and `slices.csv.gz` are there (rows and sizes of scans without images), these scans are measured,
    and the images of `train/` are used for grey values only. `slices.csv.gz` gives the annotated share of all slices
    that it lists.

    Raises:
        FileNotFoundError: the root has no rows to measure.
        ValueError: the rows are of no scan.
    """
    root = Path(root).expanduser()
    index = _index(root / "slices.csv.gz") if (root / "slices.csv.gz").is_file() else None
    reading = Reading([], [], [])
    parts = list(_tables(root, index))
    with tqdm(total=sum(table["scan"].nunique() for table, _ in parts), unit=" scans", disable=not progress) as bar:
        for table, only_grey in parts:
            for name, rows in table.groupby("scan", sort=False):
                _add(reading, name, rows, only_grey)
                bar.update()
    if not reading.tallies:
        raise ValueError(f"{root}: its tables list no scan with masks; check train.csv, truth.csv and masks.csv")
    reading.tallies.sort(key=lambda tally: (tally.case, tally.day))
    if index is not None:
        annotated = index["has_mask"].groupby(index["id"].map(scan_of))
        reading.annotated = list(zip(annotated.size(), annotated.mean(), strict=True))
    return reading


def _tables(root: Path, index: pd.DataFrame | None) -> Iterator[tuple[pd.DataFrame, bool]]:
    """Yield slice tables with masks, and whether only the grey values of their scans are measured."""
    apart = index is not None and (root / "masks.csv").is_file()
    known = [root / name for name in ("train.csv", "truth.csv") if (root / name).is_file()]
    if not apart and not known:
        raise FileNotFoundError(f"{root}: has no train.csv, no truth.csv, and not both masks.csv and slices.csv.gz")
    if apart:
        masks = _rows(root / "masks.csv")
        table = scans.with_masks(index[index["id"].isin(masks["id"])], masks)
        yield table.assign(scan=table["id"].map(scan_of)), False
    for path in known:
        hidden = path.name == "truth.csv"
        yield scans.with_masks(scans.read(root, "test"), _rows(path)) if hidden else scans.read(root), apart


def _index(path: Path) -> pd.DataFrame:
    table = files.read_csv(path, ["id", "height", "width", "has_mask"]).reset_index(drop=True)
    return table.astype({"height": int, "width": int}).assign(has_mask=table["has_mask"].str.lower() == "true")


def _rows(path: Path) -> pd.DataFrame:
    return files.read_csv(path, ["id", "class", "segmentation"])


def _add(reading: Reading, name: str, rows: pd.DataFrame, only_grey: bool) -> None:
    """Decode one scan and add its measurements."""
    masks, images = scans.masks(rows), None
    if "path" in rows:
        images = np.stack([cv2.imread(path, cv2.IMREAD_UNCHANGED) for path in rows["path"]])
        reading.pixels.append(grey(images, masks))
    if not only_grey:
        spacing_mm = float(rows["spacing_mm"].iloc[0]) if "spacing_mm" in rows else 1.5
        reading.tallies.append(tally(name, masks, spacing_mm))
        reading.tallies[-1].grey = None if images is None else small_grey(images)
        reading.annotated.append((len(masks), float(masks.any(axis=(1, 2, 3)).mean())))


def measure(reading: Reading) -> dict[str, tuple[float, ...]]:
    """Return all figures of a root by name; NaN where there is nothing to measure."""
    tallies = reading.tallies
    values = {
        **_areas(tallies),
        **_extents(tallies),
        **_shares(reading),
        **_shapes(tallies),
        **_pairs(tallies),
        **_overlaps(tallies),
        **_grey(reading.pixels),
        **guesses.host_scores(tallies),
    }
    return {name: tuple(np.atleast_1d(value).astype(float).tolist()) for name, value in values.items()}


def _per_organ(tallies: list[Tally], values, reduce) -> list[float]:
    """Apply `reduce` per organ to `values(tally, channel)` of all scans; NaN where there are none."""
    joined = [np.concatenate([np.atleast_1d(values(scan, k)) for scan in tallies]) for k in range(len(ORGANS))]
    return [float(reduce(part)) if len(part) else float("nan") for part in joined]


def _areas(tallies: list[Tally]) -> dict:
    def filled(scan, k):
        return scan.areas[:, k][scan.areas[:, k] > 0]

    return {
        f"area px, {q} %": _per_organ(tallies, filled, lambda a, q=q: np.percentile(a, q)) for q in (5, 25, 50, 75, 95)
    }


def _extents(tallies: list[Tally]) -> dict:
    """Measure where each organ starts and ends, relative to the scan."""
    rows = [[], [], []]
    same = []
    for scan in tallies:
        ends = []
        for k, area in enumerate(scan.areas.T):
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
    """Measure how much of the scans is annotated."""
    shares = np.array([share for _, share in reading.annotated])
    depths = np.array([depth for depth, _ in reading.annotated])
    of = {depth: shares[depths == depth].mean() if (depths == depth).any() else np.nan for depth in (144, 80)}
    organs = np.concatenate([(scan.areas > 0).sum(axis=1) for scan in reading.tallies])
    return {
        "annotated share, mean of scans": shares.mean(),
        "annotated share, 144-slice scans": of[144],
        "annotated share, 80-slice scans": of[80],
        "share of slices with 0/1/2/3 organs": np.bincount(organs, minlength=4) / len(organs),
    }


def _shapes(tallies: list[Tally]) -> dict:
    def column(i):
        return lambda scan, k: np.array([contour[i] for contour in scan.outlines[k]], float)

    return {
        "pieces per slice, mean": _per_organ(tallies, column(0), np.mean),
        "share of slices in one piece": _per_organ(tallies, column(0), lambda count: np.mean(count == 1)),
        "pieces in 3D, most (95 % of scans)": _per_organ(
            tallies, lambda scan, k: scan.pieces[k], lambda count: np.percentile(count, 95, method="higher")
        ),
        "share of slices with holes": _per_organ(tallies, column(1), np.mean),
        "inner border over sqrt(area), median": _per_organ(tallies, column(2), np.median),
        "Dice of neighbouring slices, median": _per_organ(tallies, lambda scan, k: scan.dices[k], np.median),
        "Dice of neighbouring slices, 5 %": _per_organ(
            tallies, lambda scan, k: scan.dices[k], lambda dice: np.percentile(dice, 5)
        ),
        "area jitter, median": _per_organ(tallies, lambda scan, k: scan.jitters[k], np.median),
    }


def _pairs(tallies: list[Tally]) -> dict:
    """Compare two days of a case, and two cases, in pairs of scans of one size."""
    pairs = {key: [[] for _ in ORGANS] for key in ("days", "days aligned", "cases", "cases aligned", "shift", "ratio")}
    for one, two in combinations(tallies, 2):
        kind = "days" if one.case == two.case else "cases"
        for k, (a, b) in enumerate(zip(one.volumes, two.volumes, strict=True)):
            if one.shape != two.shape or a is None or b is None:
                continue
            pairs[kind][k].append(shapes.volume_dice(a, b))
            pairs[kind + " aligned"][k].append(shapes.volume_dice(a, b, aligned=True))
            if kind == "days":
                voxel_mm = np.array([SLICE_THICKNESS_MM, one.spacing_mm, one.spacing_mm])
                pairs["shift"][k].append(np.linalg.norm((a.centre - b.centre) * voxel_mm))
                pairs["ratio"][k].append(abs(np.log(a.size / b.size)))
    middle = {key: [np.median(part) if part else np.nan for part in parts] for key, parts in pairs.items()}
    return {
        "Dice of two days of a case": middle["days"],
        "Dice of two days, centroids aligned": middle["days aligned"],
        "Dice of two cases": middle["cases"],
        "Dice of two cases, centroids aligned": middle["cases aligned"],
        "centroid shift between days, mm": middle["shift"],
        "abs log volume ratio of days": middle["ratio"],
    }


def _overlaps(tallies: list[Tally]) -> dict:
    pixels = [np.concatenate([scan.overlaps[i] for scan in tallies]) for i in range(len(OVERLAPS))]
    return {
        "overlap L-S / S-St / L-St, share of slices with both": [(p > 0).mean() if len(p) else np.nan for p in pixels],
        "overlap px, 95 %": [np.percentile(p[p > 0], 95) if p.any() else 0.0 for p in pixels],
    }


def _grey(pixels: list[tuple]) -> dict:
    """Take medians over the scans that have images, for the AUCs per organ."""
    columns = zip(*pixels, strict=True) if pixels else [[np.nan]] * len(GREY)
    return {name: np.nanmedian(np.array(column), axis=0) for name, column in zip(GREY, columns, strict=True)}
