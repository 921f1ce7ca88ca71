"""Turn an anatomy in millimetres into voxels: signed distances of everything in the body, negative inside.

Distances change slowly, so the raster is coarser than the image, and each slice is enlarged when it is drawn. A tube is
painted sphere by sphere, each in its own small box, so that a scan of 144 slices takes seconds.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from kitlib.contest import ORGANS
from phantom.anatomy import MUSCLE_MM, Abdomen, Tube

FAR_MM = 25.0  # signed distances are exact up to this value, which stands for "outside"
REACH_MM = 30.0  # margin around the half axes of an ellipsoid: the warp bends it by less
DENT_MM = 1.4  # depth of the dents in an organ
RIGHT_OF_WAY = (
    ("stomach", "large_bowel"),
    ("stomach", "small_bowel"),
    ("large_bowel", "small_bowel"),
)  # the second gives way


@dataclass(frozen=True)
class Raster:
    """The voxels of a scan: `shape` (D, h, w), `step` and first voxel centre `origin` in mm, all z, y, x."""

    shape: tuple[int, int, int]
    step: tuple[float, float, float]
    origin: tuple[float, float, float]

    def coarsened(self, factor: float) -> "Raster":
        """Return the same field with pixels `factor` times as wide, and the same slices."""
        sides = tuple(max(1, round(side / factor)) for side in self.shape[1:])
        wide = tuple(old * step / new for old, step, new in zip(self.shape[1:], self.step[1:], sides, strict=True))
        first = (o + (new - old) / 2 for o, old, new in zip(self.origin[1:], self.step[1:], wide, strict=True))
        return Raster((self.shape[0], *sides), (self.step[0], *wide), (self.origin[0], *first))

    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return coordinates in mm, shaped to broadcast: (D, 1, 1), (1, h, 1), (1, 1, w)."""
        z, y, x = (
            o + s * np.arange(n, dtype=np.float32) for n, s, o in zip(self.shape, self.step, self.origin, strict=True)
        )
        return z[:, None, None], y[None, :, None], x[None, None, :]


def paint(tube: Tube, raster: Raster) -> tuple[np.ndarray, np.ndarray]:
    """Return the signed distance to a tube (mm, FAR_MM far away) and the index of the nearest centre point, or -1.

    Shapes: both (D, h, w), float32 and int16.
    """
    distance = np.full(raster.shape, FAR_MM, np.float32)
    nearest = np.full(raster.shape, -1, np.int16)
    origin, step = np.array(raster.origin), np.array(raster.step)
    reach = tube.radius[:, None] + np.maximum(8.0, 1.5 * step)
    centres = tube.points[:, ::-1]
    first = np.clip(np.floor((centres - reach - origin) / step), 0, raster.shape).astype(int)
    last = np.clip(np.ceil((centres + reach - origin) / step) + 1, 0, raster.shape).astype(int)
    axes = [axis.ravel() for axis in raster.axes()]
    for i in np.flatnonzero((last > first).all(axis=1)):
        box = tuple(slice(a, b) for a, b in zip(first[i], last[i], strict=True))
        z, y, x = (np.square(axis[part] - centre) for axis, part, centre in zip(axes, box, centres[i], strict=True))
        here = np.sqrt(z[:, None, None] + y[:, None] + x) - np.float32(tube.radius[i])
        closer = here < distance[box]
        np.copyto(distance[box], here, where=closer)
        nearest[box][closer] = i
    return distance, nearest


def ellipsoids(rows: np.ndarray, coordinates, raster: Raster) -> np.ndarray:
    """Return the rough signed distance (mm) to a union of ellipsoids at bent coordinates (z, y, x), each (D, h, w)."""
    distance = np.full(raster.shape, FAR_MM, np.float32)
    for row in rows.astype(np.float32):
        centre, half = row[2::-1], row[:2:-1]
        low = np.floor((centre - half - REACH_MM - raster.origin) / raster.step).clip(0, raster.shape).astype(int)
        high = np.ceil((centre + half + REACH_MM - raster.origin) / raster.step).clip(0, raster.shape).astype(int)
        box = tuple(map(slice, low, high))
        rho = sum(np.square((axis[box] - c) / h) for axis, c, h in zip(coordinates, centre, half, strict=True))
        np.minimum(distance[box], (np.sqrt(rho) - 1) * half.min(), out=distance[box])
    return distance


def bent_axes(abdomen: Abdomen, raster: Raster) -> list[np.ndarray]:
    """Return coordinates z, y, x, each (D, h, w), bent by the case's field, so that no organ is an exact ellipsoid."""
    return [axis + stretch(part, raster.shape) for axis, part in zip(raster.axes(), abdomen.warp, strict=True)]


def stretch(coarse: np.ndarray, shape: tuple[int, int, int], method: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Stretch a coarse field to (D, h, w) by one of OpenCV's methods, float32."""
    planes = np.stack([cv2.resize(plane, shape[:0:-1], interpolation=method) for plane in coarse.astype(np.float32)])
    flat = cv2.resize(planes.reshape(len(planes), -1), (shape[1] * shape[2], shape[0]), interpolation=method)
    return flat.reshape(shape)


def rasterise(abdomen: Abdomen, raster: Raster) -> dict[str, np.ndarray]:
    """Return the signed distances (mm, negative inside) of everything in the body: name -> (D, h, w) float16.

    Half floats resolve tenths of a millimetre in half the memory.
    """
    bent = bent_axes(abdomen, raster)
    body, inner = _trunk(abdomen, raster)
    fields = {"body": body, "inner": inner, "cavity": inner + _wall(abdomen, raster)}
    parts = (_viscera(abdomen, raster, bent, inner), _skeleton(abdomen, raster, bent, inner), _arms(abdomen, bent))
    for name, volume in itertools.chain(fields.items(), *parts):
        fields[name] = volume.astype(np.float16)
    return fields


def _viscera(abdomen: Abdomen, raster: Raster, bent, inner: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield solid organs, vessels and lungs, inside the wall of the trunk."""
    inside = inner + MUSCLE_MM
    for name, rows in abdomen.solids.items():
        yield name, np.maximum(ellipsoids(rows, bent, raster), inside)
    for name in (name for name in abdomen.tubes if name not in ORGANS):
        border = inside
        if name == "portal":  # vessels that end in the liver
            border = np.maximum(inside, ellipsoids(abdomen.solids["liver"], bent, raster) + 4)
        yield name, np.maximum(paint(abdomen.tubes[name], raster)[0], border)
    z, y, x = bent
    vault = float(abdomen.dome) + 95 * np.square(x / abdomen.width) + 70 * np.square(y / abdomen.depth)
    yield "lungs", np.maximum((z - vault) * np.float32(0.6), inner + 14)


def _skeleton(abdomen: Abdomen, raster: Raster, bent, inner: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield bones, and the muscles between the spine and the fat of the back."""
    z, y, x = bent
    level = raster.axes()[0]
    for name, volume in _spine(abdomen, level, z, y, x).items():
        yield name, np.maximum(volume, inner + 2)
    ribs = np.full(raster.shape, FAR_MM, np.float32)
    high = slice(None, int((level < abdomen.dome + 175).sum()))  # no ribs below these slices
    ribs[high] = _ribs(abdomen, level[high], y[high], inner[high])
    yield "ribs", ribs
    ilium = np.full(raster.shape, FAR_MM, np.float32)
    low = slice(int((level < -FAR_MM - 10).sum()), None)  # no pelvis above these slices
    ilium[low] = np.maximum(_wings(abdomen, level[low], y[low], x[low]), inner[low] + 4)
    yield "ilium", ilium


def _arms(abdomen: Abdomen, bent) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arms beside the trunk, and the bone in each."""
    z, y, x = bent
    for side, name, (away, back, radius) in zip((-1, 1), ("arm_right", "arm_left"), abdomen.arms.tolist(), strict=True):
        across, down = x - side * (abdomen.width + away), y - back
        yield name, np.hypot(across, down * 0.85) - radius - 2 * np.sin(0.09 * y + 0.06 * z)
        yield name + "_bone", np.hypot(across + side * 4, down - 3) - 10


def _trunk(abdomen: Abdomen, raster: Raster) -> tuple[np.ndarray, np.ndarray]:
    """Return the signed distances (mm) to the skin and to the inner border of the fat under it.

    The belly is round. The back, on which the patient lies, is flat. Fat settles in the flanks.
    """
    _, y, x = raster.axes()
    across, down = np.abs(x / abdomen.width), y / abdomen.depth
    power = (2.75 + 0.5 * np.tanh(2 * down)).astype(np.float32)
    rho = (across**power + np.abs(down) ** power) ** (1 / power)
    bulges = stretch(abdomen.outline, raster.shape, cv2.INTER_CUBIC) - 4
    groove = 9 * np.exp(-np.square(x / 22)) * np.clip(2 * down - 1, 0, 1)  # along the spine
    body = (rho - 1) * np.float32(abdomen.depth) + bulges + groove
    flank = np.exp(-np.square((across - 0.75) / 0.25)) * np.clip(down + 0.3, 0, 1)
    hang = 0.65 + 0.1 * np.tanh(2 * down) + 0.5 * flank + stretch(0.04 * abdomen.outline[::-1], raster.shape)
    return body, body + np.float32(abdomen.fat) * np.maximum(hang, 0.25)


def _wall(abdomen: Abdomen, raster: Raster) -> np.ndarray:
    """Return the thickness (mm) of the abdominal wall: three layers of muscle at the sides, a thin sheet in front."""
    _, y, x = raster.axes()
    side = np.clip(1.8 * np.abs(x / abdomen.width) - 0.5, 0, 1)
    middle = np.exp(-np.square(x / 9)) * (y < 0)  # where the two straight muscles meet
    uneven = 1 + stretch(0.04 * abdomen.outline[:, ::-1], raster.shape)
    return MUSCLE_MM * (0.5 + 0.5 * side - 0.3 * middle) * uneven


def _spine(abdomen: Abdomen, level, z, y, x) -> dict[str, np.ndarray]:
    """Return the signed distances (mm) to vertebrae, canal, arches and the muscles of the back.

    `level` is z, (D, 1, 1); `z`, `y` and `x` are bent coordinates.
    """
    spine = 0.45 * abdomen.depth
    wide = 1 + np.clip((level - 12) / 60, 0, 0.9)  # the sacrum
    body = np.hypot(x / (1.15 * wide), y - spine - 10 * (wide - 1)) - 21 - 1.5 * np.sin(z / 5.5)
    arch = np.minimum(np.hypot(x / 0.5, y - spine - 48) - 14, np.hypot((np.abs(x) - 17) / 1.6, y - spine - 30) - 6)
    # beside the arches the two columns of muscle that hold the spine upright, beside those the square loin muscles
    lobes = np.hypot((np.abs(x) - 38) / 1.6, (y - spine - 36) / 1.1) - 25 + np.clip(level / -40, 0, 5)
    square = np.hypot(np.abs(x) - 66, (y - spine - 12) / 1.3) - 13 + np.clip(level / -12 - 9, 0, 20)
    return {
        "vertebra": body,
        "canal": np.hypot(x, 1.2 * (y - spine - 31)) - 9,
        "arch": arch - 2 * np.sin(z / 5.5),
        "back": np.minimum(lobes, square),
    }


def _ribs(abdomen: Abdomen, level, y, inner) -> np.ndarray:
    """Return the signed distance (mm) to the ribs: one every 30 mm, sloping, down to the costal arch."""
    slope = level + 0.35 * y
    across = (np.abs((slope / 30) % 1 - 0.5) * 30 - 6) * 0.8
    arch = (level - abdomen.dome - 120 - 0.5 * y) * 0.5
    return np.maximum.reduce([np.abs(inner + 6) - 4.5, across, arch])


def _wings(abdomen: Abdomen, z, y, x) -> np.ndarray:
    """Return the signed distance (mm) to the wings of the pelvis, two bent plates behind the bowels.

    Their crests lie 10 mm above the stop line, where the third and fourth lumbar vertebrae meet: an annotator can use
    them as a landmark.
    """
    rho = np.hypot(x / (0.66 * abdomen.width), (y - 0.1 * abdomen.depth) / (0.52 * abdomen.depth))
    plate = np.abs(rho - 1) * (0.6 * abdomen.depth) - 6
    crest = 0.22 * np.abs(y - 0.25 * abdomen.depth) - 10
    return np.maximum.reduce([plate, crest - z, -0.05 * abdomen.depth - y, 40 - np.abs(x)])


def organs(abdomen: Abdomen, raster: Raster) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the annotated organs: signed distances (mm) and the index of the nearest centre point, name -> (D, h, w).

    Organs never share a voxel: where two meet, one gives way (RIGHT_OF_WAY).
    """
    distances, indices = {}, {}
    dents = DENT_MM * stretch(abdomen.dents, raster.shape)
    for name in ORGANS:
        distances[name], indices[name] = paint(abdomen.tubes[name], raster)
        distances[name] += dents
    parted = dict(distances)
    for winner, loser in RIGHT_OF_WAY:
        parted[loser] = np.maximum(parted[loser], -distances[winner])
    return parted, indices
