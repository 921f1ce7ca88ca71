"""How far two scans of a patient lie apart: a whole-voxel shift, found by normalised cross-correlation.

On another day the patient lies elsewhere in the scanner. For every shift s, the correlation of both volumes over the
part where they overlap,

    r(s) = sum (f - mean f)(m - mean m) / sqrt(sum (f - mean f)^2 * sum (m - mean m)^2),

with f = fixed[p + s], m = moving[p] and means over the overlap, is largest where they match. FFTs give the products for
all shifts at once; an overlap is a box, so its sums are differences of cumulative sums. This is Padfield, "Masked
object registration in the Fourier domain", IEEE Transactions on Image Processing 21(5), 2012, for masks that are full.

`register` compares local contrast, not grey values: the coils shade the image, and their shading stays with the scanner
when the patient moves.
"""

from collections.abc import Sequence
from functools import reduce

import cv2
import numpy as np
from scipy import fft

from kitlib.data import inputs

# Holds every mask of the real scans we have seen, and lies inside their images; pixels of 4.5 mm.
SPEC = inputs.InputSpec(height=64, width=80, box_mm=(-192.0, 96.0, -180.0, 180.0))
ROWS = 64  # of the coarse grid on which scans are registered
SIGMA = 3.0  # pixels of that grid: the size of the neighbourhood of the local contrast
NOISE = 0.05  # of the grey values, whose 99th percentile is 1; fainter contrast does not count
MOST_SLICES = 24  # of 3 mm
MOST_SHARE = 8  # of the grid's sides: a shift in the plane is at most an eighth of them
LEAST_OVERLAP = 0.5  # of the smaller volume
FLAT = 1e-6  # least variance of an overlap, of the whole volume's

Shift = tuple[int, int, int]  # slices, rows and columns


def shift(fixed: np.ndarray, moving: np.ndarray, most: int | Sequence[int]) -> Shift:
    """Find the shift between two volumes: what lies at p in `moving` lies at p + shift in `fixed`.

    Args:
        fixed: (D, H, W) grey values.
        moving: (D, H, W) grey values; its sides may differ.
        most: largest shift along each axis, one number or three. Shifts with an overlap of less than half of the
            smaller volume are not considered.

    Returns:
        (dz, dy, dx) in voxels; zeros where no shift correlates, such as for a flat volume.

    Raises:
        ValueError: volumes without three axes or with values that are not finite, and a negative `most`.

    Cost: three FFTs of (D, H, W) + most.

    >>> moving = np.zeros((6, 8, 8))
    >>> moving[2, 3, 3] = 1.0
    >>> fixed = np.zeros((7, 8, 8))
    >>> fixed[4, 3, 2] = 1.0
    >>> shift(fixed, moving, most=3)
    (2, 0, -1)
    """
    fixed, moving = _standard("fixed", fixed), _standard("moving", moving)
    reach = np.broadcast_to(np.asarray(most, int), 3)
    if (reach < 0).any():
        raise ValueError(f"most={most!r}: must be 0 or more along each axis")
    lags = [np.arange(-each, each + 1) for each in reach]
    sides = list(zip(fixed.shape, moving.shape, lags, strict=True))
    here = [_overlap(size, other, lag) for size, other, lag in sides]
    there = [_overlap(other, size, -lag) for size, other, lag in sides]
    voxels = reduce(np.multiply.outer, [end - first for first, end in here])
    count = np.maximum(voxels, 1)
    sums, other_sums = _box_sums(fixed, here), _box_sums(moving, there)
    squares = _box_sums(fixed**2, here) - sums**2 / count
    other_squares = _box_sums(moving**2, there) - other_sums**2 / count
    products = _products(fixed, moving, lags) - sums * other_sums / count
    usable = voxels >= LEAST_OVERLAP * min(fixed.size, moving.size)
    usable &= np.minimum(squares, other_squares) > FLAT * count
    scale = np.sqrt(np.where(usable, squares * other_squares, 1))
    correlation = np.where(usable, products / scale, 0)
    best = np.unravel_index(correlation.argmax(), correlation.shape)
    if correlation[best] <= 0:
        return 0, 0, 0
    return tuple(int(lag[index]) for lag, index in zip(lags, best, strict=True))


def register(fixed: np.ndarray, moving: np.ndarray) -> Shift:
    """Find the shift between two scans of a patient that `inputs.prepare` brought to one grid, with one spec.

    The search is done on a grid of about 64 rows, a quarter of the networks' usual ones, and reaches 24 slices and an
    eighth of the sides. Days of a case may differ in the size of their images: only with a box in mm has the grid one
    scale for both.

    Args:
        fixed: (D, height, width), such as the later day.
        moving: (D, height, width), such as the earlier day; its number of slices may differ.

    Returns:
        (dz, dy, dx) in slices and pixels of the given grid: what lies at p in `moving` lies at p + shift in `fixed`.

    Raises:
        ValueError: for scans on different grids.
    """
    if fixed.shape[1:] != moving.shape[1:]:
        raise ValueError(
            f"the scans have slices of {fixed.shape[1:]} and {moving.shape[1:]}; prepare both with one spec"
        )
    sides = fixed.shape[1:]
    coarse = tuple(max(1, round(side * min(1, ROWS / sides[0]))) for side in sides)
    most = MOST_SLICES, *(side // MOST_SHARE for side in coarse)
    dz, *plane = shift(*(local_contrast(inputs.resize(scan, coarse)) for scan in (fixed, moving)), most)
    return dz, *(round(each * side / small) for each, side, small in zip(plane, sides, coarse, strict=True))


def local_contrast(slices: np.ndarray) -> np.ndarray:
    """Remove the local mean of each slice and divide by the local deviation, sqrt(variance + NOISE^2).

    Both are Gaussian means over the plane with `SIGMA`, so that smooth shading and the scale of the grey values go.

    Args:
        slices: (D, H, W) float32.

    Returns:
        (D, H, W) float32, a new array.
    """
    contrast = np.empty_like(slices)
    for image, result in zip(slices, contrast, strict=True):
        np.subtract(image, cv2.GaussianBlur(image, (0, 0), SIGMA), out=result)
        result /= np.sqrt(cv2.GaussianBlur(result * result, (0, 0), SIGMA) + NOISE**2)
    return contrast


def _standard(name: str, volume: np.ndarray) -> np.ndarray:
    """Bring a volume to mean 0 and variance 1, for which 32 bits are enough; a flat one becomes zeros."""
    volume = np.asarray(volume)
    if volume.ndim != 3 or not volume.size or not np.isfinite(volume).all():
        raise ValueError(f"{name} has shape {volume.shape}, or values that are not finite; expected a volume (D, H, W)")
    volume = volume - volume.mean(dtype=float)
    return (volume / (volume.std() or 1)).astype(np.float32)


def _overlap(size: int, other: int, lag: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find, along one axis, first and end of the part of a volume that overlaps another, which is moved by `lag`."""
    return np.clip(lag, 0, size), np.clip(other + lag, 0, size)


def _box_sums(volume: np.ndarray, edges: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Sum a volume over boxes, given by their firsts and ends along each axis: one number per lag of each axis."""
    for axis, (first, end) in enumerate(edges):
        sums = np.insert(np.cumsum(volume, axis, dtype=float), 0, 0, axis)
        volume = sums.take(end, axis) - sums.take(first, axis)
    return volume


def _products(fixed: np.ndarray, moving: np.ndarray, lags: Sequence[np.ndarray]) -> np.ndarray:
    """Sum fixed[p + lag] * moving[p] over p for every lag; padded so that no lag wraps round."""
    largest = np.maximum(fixed.shape, moving.shape) + [lag[-1] for lag in lags]
    shape = [fft.next_fast_len(int(size), real=True) for size in largest]
    spectrum = fft.rfftn(fixed, shape) * fft.rfftn(moving, shape).conj()
    return fft.irfftn(spectrum, shape)[np.ix_(*lags)]
