"""How experts outline the organs of the synthetic competition: habits that belong to people, not to anatomy.

They draw a little outside the wall, never twice the same on neighbouring slices, end both bowels on one slice (the stop
line), let touching organs overlap a little, and sometimes get a whole scan wrong (the planted faults).
"""

from dataclasses import dataclass

import cv2
import numpy as np

from kitlib.contest import ORGANS

SMALLEST_PX = 23  # the smallest mask seen in the real data
FAULTS = ("shifted", "missing", "swapped", "half", "overdrawn")


@dataclass(frozen=True)
class Habit:
    """One expert on one scan, in mm: how far outside the wall, how the hand trembles, how deep organs may overlap."""

    generous_mm: float
    tremble_mm: float
    shift_mm: float
    overlap_mm: float


def habit(rng) -> Habit:
    """Draw an expert."""
    return Habit(rng.uniform(0.6, 1.8), rng.uniform(0.7, 1.2), rng.uniform(0.3, 0.6), rng.uniform(0.2, 1.0))


def outline(here: dict, expert: Habit, rng) -> np.ndarray:
    """Masks (H, W, organs) of one slice from signed distances `here` (mm)."""
    height, width = here["stomach"].shape
    masks = np.zeros((height, width, len(ORGANS)), bool)
    for channel, name in enumerate(ORGANS):
        others = np.minimum.reduce([here[other] for other in ORGANS if other != name])
        free = np.maximum(here[name], -others - expert.overlap_mm - 0.6 * abs(rng.standard_normal()))
        coarse = rng.standard_normal((max(3, height // 14), max(3, width // 14)), dtype=np.float32)
        tremble = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        line = expert.generous_mm + expert.shift_mm * rng.standard_normal() + expert.tremble_mm * tremble
        masks[..., channel] = tidy(free < line)
    return masks


def tidy(mask: np.ndarray) -> np.ndarray:
    """Drop specks and fill small holes, as a contour drawn by hand has neither."""
    if not mask.any():
        return mask
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= SMALLEST_PX
    keep[0] = False
    mask = keep[labels]
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).view(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < 90
    return mask | (small[labels] & ~mask)


def contiguous(masks: np.ndarray) -> np.ndarray:
    """Keep, per organ, the run of slices that holds the most pixels; (D, H, W, organs)."""
    for channel in range(masks.shape[-1]):
        area = masks[..., channel].sum(axis=(1, 2))
        runs = np.cumsum(np.diff(np.r_[0, area > 0].astype(int)) == 1) * (area > 0)
        if runs.any():
            best = np.bincount(runs, weights=area)[1:].argmax() + 1
            masks[runs != best, ..., channel] = False
    return masks


def spoil(masks: np.ndarray, kind: str, rng) -> np.ndarray:
    """Plant one kind of error in a scan's masks (D, H, W, organs); returns new masks.

    shifted: all outlines displaced by 9 to 15 px; missing: one organ not drawn on a third or more of its slices; swapped:
    large and small bowel exchanged; half: the annotator stopped half way; overdrawn: 4 px outside the wall.

    Raises:
        ValueError: the kind is none of FAULTS.
    """
    masks = masks.copy()
    if kind == "shifted":
        step = rng.integers(9, 16) * rng.choice([-1, 1], 2)
        return np.roll(masks, step, axis=(1, 2))
    if kind == "missing":
        channel = rng.integers(masks.shape[-1])
        rows = np.flatnonzero(masks[..., channel].any(axis=(1, 2)))
        masks[rows[: max(1, int(len(rows) * rng.uniform(0.35, 0.7)))], ..., channel] = False
    elif kind == "swapped":
        masks = masks[..., [1, 0, 2]]
    elif kind == "half":
        rows = np.flatnonzero(masks.any(axis=(1, 2, 3)))
        masks[rows[len(rows) // 2 :]] = False
    elif kind == "overdrawn":
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
        masks = np.stack([cv2.dilate(part.astype(np.uint8), disc).reshape(part.shape) for part in masks]).astype(bool)
    else:
        raise ValueError(f"{kind!r} is no kind of fault; known: {', '.join(FAULTS)}")
    return masks
