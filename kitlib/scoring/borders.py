"""Distances between borders: in millimetres as clinicians report them, and the bias of the predicted border.

The paper asks why its predictions shrink at the border (its second open question). `bias` measures this: the signed
distance of the predicted border from the true one, in the plane of each slice, negative where the prediction is too
tight. `clinical` reports the symmetric Hausdorff distance of the voxel sets in mm, its 95 % form, and the mean surface
distance, both from border to border.
"""

from collections.abc import Callable

import cv2
import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from kitlib import contest
from kitlib.scoring import distances, host, metric


def surface_distances(
    truth: np.ndarray, prediction: np.ndarray, steps: distances.Steps
) -> tuple[np.ndarray, np.ndarray]:
    """Measure the distance of each border voxel of either mask from the other's border.

    Args:
        truth, prediction: (D, H, W) bool, neither empty; a border voxel has one of its six neighbours outside the mask.
        steps: distance of neighbouring voxels along z, y and x.

    Returns:
        Distances from the truth to the prediction, and from the prediction to the truth.
    """
    points = [distances.border(mask) * np.asarray(steps, float) for mask in (truth, prediction)]
    trees = [cKDTree(part, balanced_tree=False, compact_nodes=False) for part in points]
    return trees[1].query(points[0])[0], trees[0].query(points[1])[0]


def hausdorff_95(truth: np.ndarray, prediction: np.ndarray, steps: distances.Steps) -> float:
    """Return the larger of both directions' 95 % quantiles of surface distances; empty masks as in `mean_distance`."""
    return _surface(truth, prediction, steps, lambda *both: max(np.quantile(part, 0.95) for part in both))


def mean_distance(truth: np.ndarray, prediction: np.ndarray, steps: distances.Steps) -> float:
    """Average the surface distances of both directions, every border voxel once.

    NaN when both masks are empty, infinity when exactly one is.

    >>> truth, prediction = np.zeros((2, 1, 1, 5), bool)
    >>> truth[0, 0, 0] = prediction[0, 0, 2] = True
    >>> mean_distance(truth, prediction, (3.0, 1.5, 1.5))
    3.0
    """
    return _surface(truth, prediction, steps, lambda *both: np.concatenate(both).mean())


def clinical(truth: pd.DataFrame, prediction: pd.DataFrame, slices: pd.DataFrame) -> pd.DataFrame:
    """Measure every scan and organ as a volume in millimetres.

    Args:
        truth, prediction: rows of run-length text.
        slices: the slice table, with `spacing_mm`.

    Returns:
        One row per scan and organ: `scan organ dice hausdorff_mm hausdorff_95_mm mean_distance_mm`; NaN where both
        masks are empty, infinity where one is.
    """
    lines = []
    for part, _, *masks in metric.decoded(truth, prediction, slices):
        spacing = float(part["spacing_mm"].iloc[0])
        steps = contest.SLICE_THICKNESS_MM, spacing, spacing
        for index, organ in enumerate(contest.ORGANS):
            pair = [volume[..., index] for volume in masks]
            line = {"scan": part["scan"].iloc[0], "organ": organ, "dice": host.dice(*pair)}
            line["hausdorff_mm"] = host.hausdorff(*pair, steps=steps)
            line["hausdorff_95_mm"] = hausdorff_95(*pair, steps)
            line["mean_distance_mm"] = mean_distance(*pair, steps)
            lines.append(line)
    return pd.DataFrame(lines)


def clinical_means(table: pd.DataFrame) -> pd.DataFrame:
    """Average `clinical` per organ over the scans where both masks contain it.

    Returns:
        Index organ; means of `dice` (over all scans that count) and of the distances in mm, and `missed`, the number of
        scans in which only one mask contains the organ: their distance is infinite and in no mean.
    """
    finite = table.replace([np.inf, -np.inf], np.nan)
    means = finite.groupby("organ", sort=False).mean(numeric_only=True)
    return means.assign(missed=np.isinf(table["hausdorff_mm"]).groupby(table["organ"], sort=False).sum())


def signed_distances(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Measure from each border pixel of the prediction to the true border, in the plane, in pixels.

    A border runs between pixels: half a pixel outside the mask's outermost pixels. The distance is 0 everywhere when
    the masks are equal, and -1 when the prediction is a pixel too tight everywhere. Slices where either mask is empty
    are left out.

    Args:
        truth, prediction: (D, H, W) bool.

    Returns:
        (N,) float, negative inside the truth.
    """
    parts = []
    for true, predicted in zip(truth, prediction, strict=True):
        if true.any() and predicted.any():
            bordered = np.pad(predicted, 1)
            inner = bordered[:-2, 1:-1] & bordered[2:, 1:-1] & bordered[1:-1, :-2] & bordered[1:-1, 2:]
            parts.append(_offset(true)[predicted & ~inner])
    return np.concatenate(parts) if parts else np.empty(0)


def bias(truth: pd.DataFrame, prediction: pd.DataFrame, slices: pd.DataFrame) -> pd.DataFrame:
    """Summarise per organ on which side of the true border the predicted one lies.

    Returns:
        Index organ; columns `mean_px mean_mm median_px low_px high_px tight pixels`: mean signed distance, its median
        and 5 and 95 % quantiles, the share of border pixels inside the truth, and their number.
    """
    decoded = metric.decoded(truth, prediction, slices)
    return summarise([(organ_distances(*masks), float(part["spacing_mm"].iloc[0])) for part, _, *masks in decoded])


def organ_distances(truth: np.ndarray, prediction: np.ndarray) -> list[np.ndarray]:
    """Return the signed distances of each organ, from masks (D, H, W, organs) bool."""
    return [signed_distances(truth[..., organ], prediction[..., organ]) for organ in range(truth.shape[-1])]


def summarise(scans: list[tuple[list[np.ndarray], float]]) -> pd.DataFrame:
    """Summarise signed distances as `bias` does.

    Args:
        scans: per scan, the distances of each organ and the side of a pixel in mm.
    """
    lines = []
    for organ in range(len(contest.ORGANS)):
        pixels = np.concatenate([parts[organ] for parts, _ in scans]) if scans else np.empty(0)
        if not pixels.size:
            lines.append({"pixels": 0})
            continue
        millimetres = np.concatenate([parts[organ] * mm for parts, mm in scans])
        low, median, high = np.quantile(pixels, [0.05, 0.5, 0.95])
        line = {"mean_px": pixels.mean(), "mean_mm": millimetres.mean(), "median_px": median}
        lines.append(line | {"low_px": low, "high_px": high, "tight": (pixels < 0).mean(), "pixels": pixels.size})
    columns = ["mean_px", "mean_mm", "median_px", "low_px", "high_px", "tight", "pixels"]
    return pd.DataFrame(lines, index=pd.Index(contest.ORGANS, name="organ"), columns=columns)


def _offset(mask: np.ndarray) -> np.ndarray:
    """Return the signed distance of each pixel from the mask's border: 0 for the outermost pixels of the mask.

    Inside, it is one less than the distance to the nearest pixel outside, and negative; outside, it is the distance to
    the nearest pixel inside.
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    inside = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform(1 - padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.where(padded > 0, 1 - inside, outside)[1:-1, 1:-1]


def _surface(truth: np.ndarray, prediction: np.ndarray, steps: distances.Steps, summary: Callable) -> float:
    filled = bool(truth.any()), bool(prediction.any())
    if all(filled):
        return float(summary(*surface_distances(truth, prediction, steps)))
    return float("inf") if any(filled) else float("nan")
