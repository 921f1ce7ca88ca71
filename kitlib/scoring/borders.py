"""Borders instead of sets: distances in millimetres as clinicians report them, and which way a prediction errs.

The paper asks why its predictions shrink at the border (its second open question). `bias` measures that: the signed
distance of the predicted border from the true one, in the plane of each slice, negative where the prediction is too
tight. `clinical` gives the hosts' form of the score for people outside Kaggle: the symmetric Hausdorff distance of the
voxel sets in mm, its 95 % form and the mean surface distance, both from border to border.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from kitlib import contest
from kitlib.data import inputs
from kitlib.postprocess import rescoring
from kitlib.scoring import distances, metric


def surface_distances(one: np.ndarray, other: np.ndarray, steps: distances.Steps) -> tuple[np.ndarray, np.ndarray]:
    """Measure how far each border voxel of either mask is from the other's border.

    Args:
        one, other: (D, H, W) bool, neither of them empty; borders are voxels with one of six neighbours outside.
        steps: distance of neighbouring voxels along z, y and x.

    Returns:
        Distances from `one` to `other`, and from `other` to `one`.
    """
    points = [distances.border(mask) * np.asarray(steps, float) for mask in (one, other)]
    trees = [cKDTree(part, balanced_tree=False, compact_nodes=False) for part in points]
    return trees[1].query(points[0])[0], trees[0].query(points[1])[0]


def hausdorff_95(one: np.ndarray, other: np.ndarray, steps: distances.Steps) -> float:
    """Give the larger of both directions' 95 % quantiles of surface distances; empty masks as in `mean_distance`."""
    return _surface(one, other, steps, lambda there, back: max(np.quantile(there, 0.95), np.quantile(back, 0.95)))


def mean_distance(one: np.ndarray, other: np.ndarray, steps: distances.Steps) -> float:
    """Average the surface distances of both directions, every border voxel once.

    NaN when both masks are empty, infinity when exactly one is.

    >>> one, other = np.zeros((1, 1, 5), bool), np.zeros((1, 1, 5), bool)
    >>> one[0, 0, 0] = other[0, 0, 2] = True
    >>> mean_distance(one, other, (3.0, 1.5, 1.5))
    3.0
    """
    return _surface(one, other, steps, lambda there, back: np.concatenate([there, back]).mean())


def clinical(truth: pd.DataFrame, prediction: pd.DataFrame, slices: pd.DataFrame) -> pd.DataFrame:
    """Score every scan and organ as a volume in millimetres.

    Args:
        truth, prediction: rows of run-length text.
        slices: the slice table, with `spacing_mm`.

    Returns:
        One row per scan and organ: `scan organ dice hausdorff_mm hausdorff_95_mm mean_distance_mm`; NaN where both
        masks are empty, infinity where one is.
    """
    lines = []
    for scan, part in slices.groupby("scan", sort=False):
        steps = _steps_mm(part)
        both = [metric.scan_masks(rows, part, scan) for rows in (truth, prediction)]
        for organ, one, other in zip(contest.ORGANS, *both, strict=True):
            line = {"scan": scan, "organ": organ, "dice": metric.dice(one, other)}
            line["hausdorff_mm"] = metric.hausdorff(one, other, steps=steps)
            line["hausdorff_95_mm"] = hausdorff_95(one, other, steps)
            line["mean_distance_mm"] = mean_distance(one, other, steps)
            lines.append(line)
    return pd.DataFrame(lines)


def clinical_means(table: pd.DataFrame) -> pd.DataFrame:
    """Average `clinical` per organ over the scans where both masks hold it.

    Returns:
        Index organ; means of `dice` (over all scans that count) and of the distances in mm, and `missed`, the number of
        scans in which one mask alone holds the organ: their distance is infinite and in no mean.
    """
    finite = table.replace([np.inf, -np.inf], np.nan)
    means = finite.groupby("organ", sort=False).mean(numeric_only=True)
    return means.assign(missed=np.isinf(table["hausdorff_mm"]).groupby(table["organ"], sort=False).sum())


def signed_distances(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Measure from each border pixel of the prediction to the true border, in the plane, in pixels.

    A border runs between pixels: half a pixel outside the mask's outermost pixels. A prediction equal to the truth has
    0 everywhere, one that is a pixel too tight everywhere has -1. Slices where either mask is empty say nothing.

    Args:
        truth, prediction: (D, H, W) bool.

    Returns:
        (N,) float, negative inside the truth.
    """
    parts = []
    for one, other in zip(truth, prediction, strict=True):
        if one.any() and other.any():
            bordered = np.pad(other, 1)
            inner = bordered[:-2, 1:-1] & bordered[2:, 1:-1] & bordered[1:-1, :-2] & bordered[1:-1, 2:]
            parts.append(_offset(one)[other & ~inner])
    return np.concatenate(parts) if parts else np.empty(0)


def bias(truth: pd.DataFrame, prediction: pd.DataFrame, slices: pd.DataFrame) -> pd.DataFrame:
    """Summarise per organ which way the predicted border errs.

    Returns:
        Index organ; columns `mean_px mean_mm median_px low_px high_px tight pixels`: mean signed distance, its median
        and 5 and 95 % quantiles, the share of border pixels inside the truth, and their number.
    """
    return _table(
        (metric.scan_masks(truth, part, scan), metric.scan_masks(prediction, part, scan), _spacing(part))
        for scan, part in slices.groupby("scan", sort=False)
    )


def bias_by_threshold(
    probabilities: Callable[[str], np.ndarray],
    truth: pd.DataFrame,
    slices: pd.DataFrame,
    thresholds: Sequence[float] = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
) -> pd.DataFrame:
    """Ask what the threshold does to the border.

    Args:
        probabilities: gives a scan's (D, h, w, organs) by its name, floats or bytes, on any grid.

    Returns:
        `bias` for every threshold: index threshold and organ.
    """
    found = {threshold: [] for threshold in thresholds}
    for scan, part in slices.groupby("scan", sort=False):
        masks = metric.scan_masks(truth, part, scan)
        grid = rescoring.as_float(rescoring.opened(probabilities, scan, len(part)))
        full = inputs.restore(grid, masks.shape[2:])
        for threshold, entries in found.items():
            predicted = np.moveaxis(full >= np.float32(threshold), -1, 0)
            pairs = zip(masks, predicted, strict=True)
            entries.append(([signed_distances(*pair) for pair in pairs], _spacing(part)))
    tables = [_summary(entries) for entries in found.values()]
    # Not pd.concat: pandas 2 warns where a table without any border is all NaN.
    index = pd.MultiIndex.from_product([found, contest.ORGANS], names=["threshold", "organ"])
    return pd.DataFrame(np.concatenate([table.to_numpy(float) for table in tables]), index, tables[0].columns)


def _table(volumes) -> pd.DataFrame:
    return _summary(
        [([signed_distances(*pair) for pair in zip(one, other, strict=True)], mm) for one, other, mm in volumes]
    )


def _summary(scans: list[tuple[list[np.ndarray], float]]) -> pd.DataFrame:
    """Put the distances of all scans, per organ, into one row each."""
    lines = []
    for place in range(len(contest.ORGANS)):
        pixels = np.concatenate([parts[place] for parts, _ in scans]) if scans else np.empty(0)
        millimetres = np.concatenate([parts[place] * mm for parts, mm in scans]) if scans else np.empty(0)
        if not pixels.size:
            lines.append({"pixels": 0})
            continue
        low, median, high = np.quantile(pixels, [0.05, 0.5, 0.95])
        line = {"mean_px": pixels.mean(), "mean_mm": millimetres.mean(), "median_px": median}
        lines.append(line | {"low_px": low, "high_px": high, "tight": (pixels < 0).mean(), "pixels": pixels.size})
    columns = ["mean_px", "mean_mm", "median_px", "low_px", "high_px", "tight", "pixels"]
    return pd.DataFrame(lines, index=pd.Index(contest.ORGANS, name="organ"), columns=columns)


def _offset(mask: np.ndarray) -> np.ndarray:
    """Give for each pixel how far the mask's border moves to run just outside it: 0 for outermost pixels of the mask.

    Inside, the distance to the nearest pixel outside counts, less one; outside, that to the nearest pixel inside.
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    inside = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform(1 - padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.where(padded > 0, 1 - inside, outside)[1:-1, 1:-1]


def _surface(one: np.ndarray, other: np.ndarray, steps: distances.Steps, summary: Callable) -> float:
    filled = bool(one.any()), bool(other.any())
    if all(filled):
        return float(summary(*surface_distances(one, other, steps)))
    return float("inf") if any(filled) else float("nan")


def _spacing(part: pd.DataFrame) -> float:
    return float(part["spacing_mm"].iloc[0])


def _steps_mm(part: pd.DataFrame) -> distances.Steps:
    return contest.SLICE_THICKNESS_MM, _spacing(part), _spacing(part)
