"""Measurements of masks and slices, on which a synthetic competition is compared with the real one.

Each function takes masks or slices of one scan and returns plain numbers or arrays; `measures` gathers them over scans.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

RIM_PX = 6  # width of the ring around an organ with which its grey values are compared
AIR = 0.05  # share of the 99th percentile below which a pixel is air


def contour(mask: np.ndarray) -> tuple[int, bool, float]:
    """Return the number of pieces (8-connected), whether there is a hole, and the inner border over sqrt(area).

    The inner border is the number of pixels with a 4-neighbour outside. For a disc the ratio is about 3.5.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    part = np.pad(part, 1).astype(np.uint8)
    pieces = cv2.connectedComponents(part, connectivity=8)[0] - 1
    holes = cv2.connectedComponents(1 - part, connectivity=4)[0] > 2
    inner = cv2.erode(part, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)), borderValue=0)
    return pieces, holes, float(int(part.sum()) - int(inner.sum())) / float(part.sum()) ** 0.5


def pieces_3d(mask: np.ndarray) -> int:
    """Count the 26-connected pieces of a mask (D, H, W)."""
    return ndimage.label(mask[bounds(mask)], np.ones((3, 3, 3)))[1]


def bounds(mask: np.ndarray) -> tuple[slice, slice, slice]:
    """Return the smallest box that holds a mask (D, H, W), which must not be empty."""
    flat = mask.any(axis=0)
    lines = (np.flatnonzero(line) for line in (mask.any(axis=(1, 2)), flat.any(axis=1), flat.any(axis=0)))
    return tuple(slice(line[0], line[-1] + 1) for line in lines)


def neighbour_dice(mask: np.ndarray) -> np.ndarray:
    """Return the Dice of each pair of neighbouring slices that both hold the organ; mask (D, H, W)."""
    area = mask.sum(axis=(1, 2))
    both = (area[1:] > 0) & (area[:-1] > 0)
    shared = (mask[1:] & mask[:-1]).sum(axis=(1, 2))
    return 2 * shared[both] / (area[1:] + area[:-1])[both]


def jitter(area: np.ndarray) -> np.ndarray:
    """Return abs(a - m) / m, with m the mean area of both neighbours, where all three slices hold the organ."""
    mean = (area[2:] + area[:-2]) / 2
    inside = (area[2:] > 0) & (area[:-2] > 0) & (area[1:-1] > 0)
    return np.abs(area[1:-1] - mean)[inside] / mean[inside]


@dataclass(frozen=True)
class Volume:
    """One organ of one scan, cut to its box: `mask` (d, h, w), `corner` of the box and `centre` of mass in voxels."""

    mask: np.ndarray
    corner: np.ndarray
    centre: np.ndarray
    size: int

    @classmethod
    def cut(cls, mask: np.ndarray) -> "Volume | None":
        """Cut a volume out of a mask (D, H, W); None when it is empty."""
        if not mask.any():
            return None
        box = bounds(mask)
        corner = np.array([side.start for side in box])
        part = mask[box].copy()
        return cls(part, corner, corner + np.array(ndimage.center_of_mass(part)), int(part.sum()))


def volume_dice(one: Volume, two: Volume, aligned: bool = False) -> float:
    """Return the Dice of two volumes; `aligned` first shifts the second by whole voxels so that the centroids meet."""
    shift = np.rint(one.centre - two.centre).astype(int) if aligned else 0
    first, second = one.corner, two.corner + shift
    low = np.maximum(first, second)
    high = np.minimum(first + one.mask.shape, second + two.mask.shape)
    if (high <= low).any():
        return 0.0
    cuts = [tuple(map(slice, low - corner, high - corner)) for corner in (first, second)]
    return 2 * float(np.count_nonzero(one.mask[cuts[0]] & two.mask[cuts[1]])) / (one.size + two.size)


def auc(one: np.ndarray, other: np.ndarray) -> float:
    """Return the chance that a value of `one` is larger than a value of `other`; ties count half."""
    edges = np.linspace(0, max(one.max(), other.max()) + 1.0, 513)
    first, second = np.histogram(one, edges)[0].astype(float), np.histogram(other, edges)[0]
    return float(((np.cumsum(second) - second / 2) * first).sum() / first.sum() / second.sum())


def grey_auc(images: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the AUC of grey values: each organ against its rim of RIM_PX px, and against the rest of the body.

    Pixels are pooled over the scan's slices. The rim holds no organ. The body is all that is brighter than air, closed
    and filled.

    Args:
        images: (D, H, W).
        masks: (D, H, W, organs).

    Returns:
        Two (organs,) arrays, NaN for an organ that the scan lacks.
    """
    top = np.percentile(images, 99)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * RIM_PX + 1, 2 * RIM_PX + 1))
    results = np.full((2, masks.shape[-1]), np.nan)
    for channel in range(masks.shape[-1]):
        organ, rim, rest = [], [], []
        for z in np.flatnonzero(masks[..., channel].any(axis=(1, 2))):
            image, mask = images[z], masks[z, ..., channel]
            near = cv2.dilate(mask.astype(np.uint8), disc).astype(bool) & ~masks[z].any(axis=-1)
            body = cv2.morphologyEx((image > AIR * top).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
            organ.append(image[mask])
            rim.append(image[near])
            rest.append(image[ndimage.binary_fill_holes(body) & ~mask])
        if organ:
            organ = np.concatenate(organ)
            results[:, channel] = auc(organ, np.concatenate(rim)), auc(organ, np.concatenate(rest))
    return results[0], results[1]


def grey_levels(images: np.ndarray) -> tuple[float, float, float]:
    """Return the share of air, and the 95th and 99.9th percentile over the 99th; images (D, H, W)."""
    p95, p99, p999 = np.percentile(images, [95, 99, 99.9])
    return float((images < AIR * p99).mean()), p95 / p99, p999 / p99


def slice_correlation(images: np.ndarray, lag: int) -> float:
    """Return the median correlation of slices `lag` apart, at 128 x 128; images (D, H, W)."""
    small = np.stack(
        [cv2.resize(image.astype(np.float32), (128, 128), interpolation=cv2.INTER_AREA) for image in images]
    )
    flat = small.reshape(len(small), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True) + 1e-9
    return float(np.median((flat[lag:] * flat[:-lag]).sum(axis=1))) if len(flat) > lag else float("nan")


def noise(images: np.ndarray) -> float:
    """Return the median residual of a 3 x 3 median in the body, over the scan's 99th percentile; images (D, H, W)."""
    top = np.percentile(images, 99)
    residuals = [np.abs(image.astype(np.float32) - cv2.medianBlur(image, 3))[image > 2 * AIR * top] for image in images]
    return float(np.median(np.concatenate(residuals)) / top)
