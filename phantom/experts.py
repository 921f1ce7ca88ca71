"""Annotations of the synthetic competition, drawn as experts draw them.

Experts draw a little outside the wall, with a hand that trembles from slice to slice. They end both bowels on one slice
(the stop line) and let touching organs overlap a little. Some scans get a planted fault (`planted.spoil`).
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from kitlib.contest import ORGANS
from phantom.anatomy import wander
from phantom.geometry import FAR_MM

# Smallest piece that is annotated, as a share of the organ's volume.
SMALLEST_SHARE = {"large_bowel": 0.25, "small_bowel": 0.08, "stomach": 0.5}
SMALLEST_PX = 23  # the smallest mask seen in the real data
LARGEST_HOLE_PX = {"large_bowel": 12, "small_bowel": 76, "stomach": 10_000}  # larger ones are left open
OVERLAP_MM = {  # overlap of the outlines of two organs: mean and deviation over slices
    ("large_bowel", "small_bowel"): (-1.9, 1.5),
    ("small_bowel", "stomach"): (-1.7, 2.7),
    ("large_bowel", "stomach"): (-2.3, 0.5),
}


@dataclass(frozen=True)
class Habit:
    """One expert on one scan.

    Attributes:
        generous_mm: mean distance of the outline outside the wall.
        tremble_mm, shift_mm: deviation of that distance along an outline, and between outlines.
        overlap_mm: pair of organs -> overlap of their outlines on each slice, (D,); negative for a gap.
    """

    generous_mm: float
    tremble_mm: float
    shift_mm: float
    overlap_mm: dict[frozenset, np.ndarray]


def habit(rng, slices: int) -> Habit:
    """Draw an expert for a scan with this number of slices."""
    overlap = {frozenset(pair): mean + spread * wander(rng, slices, 2.5) for pair, (mean, spread) in OVERLAP_MM.items()}
    return Habit(rng.uniform(0.6, 1.8), rng.uniform(0.7, 1.1), rng.uniform(0.1, 0.25), overlap)


def trace(here: dict, expert: Habit, z: int, rng) -> np.ndarray:
    """Return masks (H, W, organs) of slice `z` from signed distances `here` (mm), name -> (H, W)."""
    height, width = here["stomach"].shape
    masks = np.zeros((height, width, len(ORGANS)), bool)
    for channel, name in enumerate(ORGANS):
        if name not in here or here[name].min() > 3:
            continue
        coarse = rng.standard_normal((max(3, height // 14), max(3, width // 14)), dtype=np.float32)
        tremble = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        line = expert.generous_mm + expert.shift_mm * rng.standard_normal() + expert.tremble_mm * tremble
        mask = here[name] < line
        for other in ORGANS:
            if other != name and other in here:
                mask &= here[other] > -expert.overlap_mm[frozenset((name, other))][z] - 0.3 * tremble
        masks[..., channel] = tidy(mask, LARGEST_HOLE_PX[name])
    return masks


def tidy(mask: np.ndarray, hole_px: int) -> np.ndarray:
    """Remove specks and fill holes of up to `hole_px`: a contour drawn by hand has neither; mask (H, W) bool."""
    if not mask.any():
        return mask
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    part = mask[box].copy()
    _, labels, stats, _ = cv2.connectedComponentsWithStats(part.view(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= SMALLEST_PX
    keep[0] = False
    part = np.pad(keep[labels], 1)
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~part).view(np.uint8), connectivity=4)
    fill = stats[:, cv2.CC_STAT_AREA] <= hole_px
    fill[labels[0, 0]] = False
    tidied = np.zeros_like(mask)
    tidied[box] = (part | (fill[labels] & ~part))[1:-1, 1:-1]
    return tidied


def principal(distance: np.ndarray, share: float) -> np.ndarray:
    """Remove pieces below `share` of the organ's volume, which experts leave out; distances (D, h, w) in mm."""
    labels, count = ndimage.label(distance < -0.5, np.ones((3, 3, 3)))
    if count < 2:
        return distance
    sizes = np.bincount(labels.ravel())
    small = sizes < share * sizes[1:].sum()
    small[0] = False
    return np.where(ndimage.grey_dilation(small[labels], size=3), np.float32(FAR_MM), distance)


def contiguous(masks: np.ndarray) -> np.ndarray:
    """Keep, per organ, the run of slices that holds the most pixels; (D, H, W, organs)."""
    for channel in range(masks.shape[-1]):
        area = masks[..., channel].sum(axis=(1, 2))
        runs = np.cumsum(np.diff(np.r_[0, area > 0].astype(int)) == 1) * (area > 0)
        if runs.any():
            best = np.bincount(runs, weights=area)[1:].argmax() + 1
            masks[runs != best, ..., channel] = False
    return masks
