"""Bad annotations, planted on purpose: a test of whether wrong outlines can be found.

`spoil` puts one kind of error into the masks of a scan, `plant` does so for several scans of a slice table, and `read`
lists the errors of a phantom. NumPy and the slice table only.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from kitlib import contest, files, rle
from kitlib.data import scans

FAULTS = ("shifted", "missing", "swapped", "half", "overdrawn")
OVERDRAWN_PX = 4
COLUMNS = ["scan", "fault"]


def spoil(masks: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Plant one kind of error in the masks of a scan, (D, H, W, organs) bool; returns new masks.

    shifted: all outlines are displaced by 9 to 15 px and cut off at the border. missing: one of the organs present is
    not drawn on a third of its slices or more. swapped: large and small bowel are exchanged. half: the annotator
    stopped half way. overdrawn: all outlines lie 4 px outside the wall.

    Raises:
        ValueError: the kind is not one of FAULTS, or it changes nothing on these masks.
    """
    original, masks = masks, masks.copy()
    if kind == "shifted":
        step = rng.integers(9, 16) * rng.choice([-1, 1], 2)
        masks = _shift(masks, *step)
    elif kind == "missing":
        channel = rng.choice(np.flatnonzero(masks.any(axis=(0, 1, 2)))) if masks.any() else 0
        rows = np.flatnonzero(masks[..., channel].any(axis=(1, 2)))
        masks[rows[: int(np.ceil(len(rows) * rng.uniform(0.35, 0.7)))], ..., channel] = False
    elif kind == "swapped":
        masks = masks[..., [1, 0, 2]]
    elif kind == "half":
        rows = np.flatnonzero(masks.any(axis=(1, 2, 3)))
        masks[rows[len(rows) // 2 :]] = False
    elif kind == "overdrawn":
        masks = _dilate(masks, OVERDRAWN_PX)
    else:
        raise ValueError(f"unknown fault {kind!r}; choose one of {', '.join(FAULTS)}")
    if np.array_equal(masks, original):
        pixels = dict(zip(contest.ORGANS, original.sum(axis=(0, 1, 2)).tolist(), strict=True))
        raise ValueError(f"fault {kind!r} changes nothing on masks of {pixels} pixels; spoil another scan")
    return masks


def plant(slices: pd.DataFrame, count: int, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Spoil the annotation of some scans of a slice table, with each kind of FAULTS in turn.

    Returns:
        A copy of the table with those masks replaced, and the faults: `scan fault`.

    Raises:
        ValueError: `count` is negative or larger than the number of scans with masks, or a fault would not show.
    """
    rng = np.random.default_rng(seed)
    spoiled, faults = slices.copy(), []
    pixels = slices[list(contest.ORGANS)].map(rle.area).sum(axis=1).groupby(slices["scan"]).sum()
    annotated = pixels.index[pixels > 0].to_numpy()
    if not 0 <= count <= len(annotated):
        raise ValueError(
            f"{count} annotations cannot be spoiled; choose 0 to {len(annotated)}, the number of scans with masks"
        )
    for number, scan in enumerate(rng.permutation(annotated)[:count]):
        rows = slices[slices["scan"] == scan]
        masks = scans.masks(rows)
        kind = FAULTS[number % len(FAULTS)]
        try:
            masks = spoil(masks, kind, rng)
        except ValueError as problem:
            raise ValueError(f"{scan}: {problem}") from None
        for channel, organ in enumerate(contest.ORGANS):
            spoiled.loc[rows.index, organ] = rle.encode_stack(np.ascontiguousarray(masks[..., channel]))
        faults.append((scan, kind))
    return spoiled, pd.DataFrame(faults, columns=COLUMNS)


def read_or_plant(root: str | os.PathLike, slices: pd.DataFrame, count: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a table with bad annotations and the list of them: a phantom's own, or planted now where it has none.

    Args:
        count: annotations to spoil; 0 is one scan in five, and at least one.

    Raises:
        ValueError: as `plant`; names the notebook's parameter, FAULTS.
    """
    faults = read_faults(root)
    if len(faults):
        return slices, faults
    try:
        return plant(slices, count or max(1, slices["scan"].nunique() // 5))
    except ValueError as problem:
        raise ValueError(f"FAULTS={count}: {problem}") from None


def read_faults(root: str | os.PathLike) -> pd.DataFrame:
    """Read the faults that a phantom was written with (`python -m phantom ROOT --faults N`): `scan fault`."""
    path = Path(root) / "faults.csv"
    return files.read_csv(path, COLUMNS) if path.is_file() else pd.DataFrame(columns=COLUMNS)


def _shift(masks: np.ndarray, down: int, right: int) -> np.ndarray:
    """Displace masks (D, H, W, organs) in the plane; pixels that leave the image are lost, and zeros come in."""
    moved = np.roll(masks, (down, right), axis=(1, 2))
    moved[:, slice(0, down) if down > 0 else slice(max(masks.shape[1] + down, 0), None)] = False
    moved[:, :, slice(0, right) if right > 0 else slice(max(masks.shape[2] + right, 0), None)] = False
    return moved


def _dilate(masks: np.ndarray, radius: int) -> np.ndarray:
    """Grow masks (D, H, W, organs) in the plane by a disc, OpenCV's ellipse of 2 radius + 1 pixels."""
    wide = [masks]  # wide[k]: grown by k pixels to the left and right
    for step in range(1, radius + 1):
        wide.append(wide[-1] | _shift(masks, 0, step) | _shift(masks, 0, -step))
    grown = wide[radius].copy()
    for down in range(1, radius + 1):
        half = wide[round(np.sqrt(radius**2 - down**2))]
        grown |= _shift(half, down, 0) | _shift(half, -down, 0)
    return grown
