"""Anatomy of the synthetic competition: one abdomen per case, moved and refilled from day to day.

Everything is in millimetres in the patient's frame: x to the right of the image, y to the back, z to the feet, with
z = 0 at the stop line where the annotators end both bowels. Bowels are tubes and the stomach is a sac: spheres of varying
radius along a random centre line. What is not annotated (vessels, more loops below the stop line) is modelled alike.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d, zoom

STEP_MM = 3.0  # distance of neighbouring points of a centre line
FAR_MM = 25.0  # signed distances are exact up to here and say "outside" beyond


@dataclass(frozen=True)
class Tube:
    """A centre line with a radius: `points` (N, 3) in mm as x, y, z; `radius` (N,) in mm."""

    points: np.ndarray
    radius: np.ndarray


@dataclass(frozen=True)
class Abdomen:
    """The anatomy of one case on one day.

    `width`, `depth`: half axes of the trunk; `tubes`: organs and other tubular tissue by name; `solids`: name -> rows of
    centre and half axes (x, y, z, a, b, c); `fat`: thickness of the fat under the skin; `dome`: z of the diaphragm's top.
    """

    width: float
    depth: float
    fat: float
    dome: float
    tubes: dict[str, Tube] = field(repr=False)
    solids: dict[str, np.ndarray] = field(repr=False)
    warp: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Grid:
    """Where a scan samples the patient: `shape` (D, h, w), `step` and `origin` (first voxel centre) in mm along z, y, x."""

    shape: tuple[int, int, int]
    step: tuple[float, float, float]
    origin: tuple[float, float, float]

    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates in mm, shaped to broadcast: (D, 1, 1), (1, h, 1), (1, 1, w)."""
        z, y, x = (
            o + s * np.arange(n, dtype=np.float32) for n, s, o in zip(self.shape, self.step, self.origin, strict=True)
        )
        return z[:, None, None], y[None, :, None], x[None, None, :]


def _line(knots) -> np.ndarray:
    """Points every STEP_MM along a smooth curve through the knots (K, 3)."""
    knots = np.asarray(knots, float)
    curve = CubicSpline(np.r_[0, np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1) + 1e-3)], knots)
    dense = curve(np.linspace(0, curve.x[-1], 40 * len(knots)))
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(dense, axis=0), axis=1))]
    steps = np.arange(0, length[-1], STEP_MM)
    return np.stack([np.interp(steps, length, dense[:, i]) for i in range(3)], axis=1)


def wander(rng, count: int, smooth: float) -> np.ndarray:
    """A smooth random curve of `count` values with mean 0 and deviation about 1; `smooth` in samples."""
    noise = gaussian_filter1d(rng.standard_normal(count + int(8 * smooth)), smooth)[int(4 * smooth) :][:count]
    return noise * np.sqrt(2 * np.sqrt(np.pi) * max(smooth, 0.3))


def _large_bowel(rng, width: float, depth: float) -> Tube:
    """The frame: caecum, ascending part, transverse part sagging in front, spleen's corner, descending part, sigmoid."""
    right, left = -0.60 * width + rng.normal(0, 10), 0.66 * width + rng.normal(0, 9)
    liver, spleen = rng.uniform(-150, -60), rng.uniform(-215, -150)
    sag = rng.uniform(-10, 110)
    front = -0.62 * depth + rng.normal(0, 7)
    back = 0.12 * depth + rng.normal(0, 10)
    knots = [
        (right + rng.normal(12, 10), -0.1 * depth, rng.uniform(25, 70)),
        (right + rng.normal(0, 8), back - 20, 0),
        (right - 2, back, 0.5 * liver),
        (right + 4, back - 10, liver),
        (0.6 * right, front + 18, liver + rng.uniform(5, 30)),
        (0.3 * right, front, 0.7 * liver + 0.5 * sag),
        (rng.normal(0, 15), front, 0.5 * (liver + spleen) + sag),
        (0.45 * left, front + 6, 0.35 * liver + 0.65 * spleen + 0.6 * sag),
        (0.85 * left, 0.5 * front, spleen + 25),
        (left - 4, back - 12, spleen),
        (left + 3, back, 0.7 * spleen),
        (left + rng.normal(0, 6), back - 4, 0.35 * spleen),
        (left + rng.normal(-6, 6), back - 14, 10),
        (left - 25, back - 20, 70),
        (rng.normal(10, 20), back + rng.normal(-20, 10), rng.uniform(20, 90)),
        (0, back + 20, 130),
    ]
    points = _line(np.array(knots) + rng.normal(0, 7, (len(knots), 3)))
    along = np.linspace(0, 1, len(points))
    caliber = np.interp(along, [0, 0.25, 0.5, 0.68, 1], [25, 23, 19, 15, 13]) * np.exp(
        0.16 * wander(rng, len(points), 12)
    )
    return Tube(points, caliber * rng.uniform(0.85, 1.15))


def _haustra(rng, tube: Tube) -> Tube:
    """Pouches: the radius swells and narrows every 25 to 40 mm."""
    phase = np.cumsum(2 * np.pi * STEP_MM / (32 * np.exp(0.25 * wander(rng, len(tube.radius), 10))))
    return replace(tube, radius=tube.radius * (1 + 0.15 * np.sin(phase)))


def _small_bowel(rng, width: float, depth: float, top: float) -> Tube:
    """Coils: a smooth random path kept inside an ellipsoid in front of the spine."""
    centre = np.array([rng.normal(8, 14), -0.28 * depth + rng.normal(0, 6), 0.5 * (top + 60)])
    half = np.array([0.50 * width, 0.36 * depth, 0.5 * (60 - top)])
    count = 520
    position, heading = centre + half * rng.uniform(-0.4, 0.4, 3), rng.standard_normal(3)
    turn = np.stack([wander(rng, count, 4) for _ in range(3)], axis=1)
    points = np.empty((count, 3))
    for i in range(count):
        inward = (centre - position) / half
        excess = max(0.0, np.linalg.norm(inward) - 0.75)
        heading = heading + 0.55 * turn[i] + 1.6 * excess * inward
        heading /= np.linalg.norm(heading)
        position = position + 1.6 * STEP_MM * heading * (1, 0.9, 0.8)
        points[i] = position
    return Tube(points, 11.5 * np.exp(0.18 * wander(rng, count, 6)))


def _stomach(rng, width: float, depth: float) -> Tube:
    """A sac from under the left dome to the pylorus near the middle."""
    top, end = rng.uniform(-205, -170), rng.uniform(-110, -75)
    side = 0.40 * width + rng.normal(0, 9)
    knots = [
        (side, 0.10 * depth + rng.normal(0, 8), top + 25),
        (side + 4, -0.12 * depth, 0.7 * top + 0.3 * end),
        (0.75 * side, -0.36 * depth + rng.normal(0, 8), 0.4 * top + 0.6 * end),
        (0.25 * side, -0.40 * depth, end - 14),
        (-0.12 * side, -0.34 * depth, end - 20 - rng.uniform(0, 14)),
    ]
    points = _line(np.array(knots) + rng.normal(0, 5, (5, 3)))
    along = np.linspace(0, 1, len(points))
    radius = np.interp(along, [0, 0.2, 0.5, 0.8, 1], [26, 32, 27, 19, 11]) * rng.uniform(0.8, 1.2)
    return Tube(points, radius * np.exp(0.08 * wander(rng, len(points), 6)))


def _others(rng, width: float, depth: float) -> dict[str, Tube]:
    """Tubes that nobody annotates and that look like bowel: great vessels, mesenteric vessels, pancreas."""
    spine = 0.30 * depth
    z = np.arange(-300, 200, STEP_MM)
    tubes = {}
    for name, x, radius in (("aorta", 12, 10), ("cava", -16, 11)):
        points = np.stack([x + 3 * wander(rng, len(z), 15), spine + 2 * wander(rng, len(z), 15), z], axis=1)
        tubes[name] = Tube(points, radius * np.exp(0.06 * wander(rng, len(z), 10)))
    pancreas = _line(
        np.array([(-30, -4, -95), (-5, -0.1 * depth, -105), (35, 0, -118), (70, 12, -130)]) + rng.normal(0, 6, (4, 3))
    )
    tubes["pancreas"] = Tube(pancreas, 10 * np.exp(0.15 * wander(rng, len(pancreas), 4)))
    branches = []
    for _ in range(26):
        start = np.array([rng.normal(0, 12), 0.05 * depth, rng.uniform(-90, 60)])
        end = start + np.array([rng.normal(0, 55), -rng.uniform(20, 0.6 * depth), rng.normal(20, 35)])
        middle = 0.5 * (start + end) + rng.normal(0, 14, 3)
        branches.append(_line([start, middle, end]))
    points = np.concatenate(branches)
    tubes["vessels"] = Tube(points, np.full(len(points), 2.6) * np.exp(0.3 * wander(rng, len(points), 10)))
    return tubes


def _solids(rng, width: float, depth: float, dome: float) -> dict[str, np.ndarray]:
    """Ellipsoids: rows of centre and half axes in mm."""

    def body(*rows):
        rows = np.array(rows, float)
        rows[:, :3] += rng.normal(0, 5, (len(rows), 3))
        rows[:, 3:] *= np.exp(rng.normal(0, 0.08, (len(rows), 3)))
        return rows

    low = rng.uniform(-110, -50)
    return {
        "liver": body((-0.48 * width, 0, 0.5 * (dome + low), 0.44 * width, 0.72 * depth, 0.5 * (low - dome) + 20),
                      (-0.05 * width, -0.3 * depth, dome + 45, 0.5 * width, 0.42 * depth, 55)),
        "spleen": body((0.70 * width, 0.32 * depth, dome + 70, 0.20 * width, 0.38 * depth, 52)),
        "kidneys": body((-0.40 * width, 0.42 * depth, -85, 29, 25, 55), (0.42 * width, 0.42 * depth, -100, 28, 25, 55)),
        "psoas": body((-42, 0.42 * depth, 20, 22, 24, 120), (42, 0.42 * depth, 20, 22, 24, 120)),
        "heart": body((18, -0.25 * depth, dome - 15, 55, 0.45 * depth, 40)),
        "gallbladder": body((-0.33 * width, -0.35 * depth, low - 20, 15, 18, 28)),
        "bladder": body((0, -0.2 * depth, 135, 40, 35, 40)),
    }  # fmt: skip


def case(rng) -> Abdomen:
    """Draw the anatomy of one case from a `numpy.random.Generator`."""
    width, depth = rng.uniform(150, 182), rng.uniform(105, 138)
    dome = rng.uniform(-245, -205)
    tubes = {
        "large_bowel": _large_bowel(rng, width, depth),
        "small_bowel": _small_bowel(rng, width, depth, rng.uniform(-165, -105)),
        "stomach": _stomach(rng, width, depth),
        **_others(rng, width, depth),
    }
    warp = rng.normal(0, 9, (3, 5, 4, 4))
    return Abdomen(width, depth, rng.uniform(10, 26), dome, tubes, _solids(rng, width, depth, dome), warp)


def move(abdomen: Abdomen, rng, share: float = 1.0) -> Abdomen:
    """The same case on another day: organs shifted, bent, filled and emptied; solid organs hardly move.

    `share` scales the motion: 0 gives the same organs (pouches apart).
    """
    tubes = dict(abdomen.tubes)
    habits = {"large_bowel": (9, 13, 0.12), "small_bowel": (12, 18, 0.12), "stomach": (5, 5, 0.10)}
    for name, (shift_mm, bend_mm, fill) in habits.items():
        tube = tubes[name]
        count = len(tube.points)
        bend = np.stack([wander(rng, count, 14) for _ in range(3)], axis=1) * bend_mm + rng.normal(0, shift_mm, 3)
        swell = np.exp(share * (fill * wander(rng, count, 10) + rng.normal(0, fill)))
        tubes[name] = Tube(tube.points + share * bend * (1, 0.6, 1), tube.radius * swell)
    tubes["large_bowel"] = _haustra(rng, tubes["large_bowel"])
    solids = {name: rows + share * np.r_[rng.normal(0, 3, 3), 0, 0, 0] for name, rows in abdomen.solids.items()}
    return replace(abdomen, tubes=tubes, solids=solids, fat=abdomen.fat * np.exp(share * rng.normal(0, 0.03)))


def paint(tube: Tube, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Signed distance to a tube (mm, FAR_MM beyond reach) and the index of the nearest centre point (-1: none).

    Shapes: both (D, h, w), float32 and int16.
    """
    distance = np.full(grid.shape, FAR_MM, np.float32)
    nearest = np.full(grid.shape, -1, np.int16)
    origin, step = np.array(grid.origin), np.array(grid.step)
    reach = tube.radius[:, None] + np.maximum(8.0, 1.5 * step)
    centres = tube.points[:, ::-1]
    first = np.clip(np.floor((centres - reach - origin) / step), 0, grid.shape).astype(int)
    last = np.clip(np.ceil((centres + reach - origin) / step) + 1, 0, grid.shape).astype(int)
    axes = [axis.ravel() for axis in grid.axes()]
    for i in np.flatnonzero((last > first).all(axis=1)):
        box = tuple(slice(a, b) for a, b in zip(first[i], last[i], strict=True))
        z, y, x = (np.square(axis[part] - centre) for axis, part, centre in zip(axes, box, centres[i], strict=True))
        here = np.sqrt(z[:, None, None] + y[:, None] + x) - np.float32(tube.radius[i])
        closer = here < distance[box]
        np.copyto(distance[box], here, where=closer)
        nearest[box][closer] = i
    return distance, nearest


def ellipsoids(rows: np.ndarray, coordinates) -> np.ndarray:
    """Rough signed distance (mm) to the union of ellipsoids at warped coordinates (z, y, x), each (D, h, w)."""
    z, y, x = coordinates
    distance = np.full(x.shape, FAR_MM, np.float32)
    for row in rows.astype(np.float32):
        cx, cy, cz, a, b, c = row
        rho = np.sqrt(np.square((x - cx) / a) + np.square((y - cy) / b) + np.square((z - cz) / c))
        np.minimum(distance, (rho - 1) * min(a, b), out=distance)
    return distance


def warped(abdomen: Abdomen, grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates bent by the case's smooth random field, so that no organ is an exact ellipsoid: z, y, x, each (D, h, w)."""
    factors = np.array(grid.shape) / abdomen.warp.shape[1:]
    coarse = [zoom(part, factors, order=1, mode="nearest", grid_mode=True).astype(np.float32) for part in abdomen.warp]
    return tuple(np.broadcast_to(axis, grid.shape) + part for axis, part in zip(grid.axes(), coarse, strict=True))


def rasterise(abdomen: Abdomen, grid: Grid) -> dict[str, np.ndarray]:
    """Signed distances (mm, negative inside) of everything in the body on a grid: name -> (D, h, w) float32.

    `<organ>_index` holds the nearest point of an organ's centre line, from which its contents are drawn.
    """
    fields = {}
    for name, tube in abdomen.tubes.items():
        fields[name], index = paint(tube, grid)
        if name in ("large_bowel", "small_bowel", "stomach"):
            fields[name + "_index"] = index
    z, y, x = coordinates = warped(abdomen, grid)
    for name, rows in abdomen.solids.items():
        fields[name] = ellipsoids(rows, coordinates)
    size = 1 + 0.04 * np.sin(z / 70)
    rho = (np.abs(x / (abdomen.width * size)) ** 2.5 + np.abs(y / (abdomen.depth * size)) ** 2.3) ** np.float32(0.42)
    fields["body"] = (rho - 1) * np.float32(abdomen.depth)
    cavity = fields["body"] + np.float32(abdomen.fat + 11)
    for name in [*abdomen.tubes, *abdomen.solids]:
        np.maximum(fields[name], cavity, out=fields[name])
    vault = abdomen.dome + 95 * np.square(x / abdomen.width) + 70 * np.square(y / abdomen.depth)
    fields["lungs"] = np.maximum((z - vault) * 0.6, fields["body"] + abdomen.fat + 14)
    spine = 0.45 * abdomen.depth
    fields["vertebra"] = np.hypot(x, (y - spine) * 1.1) - 23 - 1.5 * np.sin(z / 5.5)
    fields["back"] = np.maximum(np.hypot((np.abs(x) - 38) / 1.35, y - spine - 8) - 22, fields["body"] + abdomen.fat)
    for side, name in ((-1, "arm_right"), (1, "arm_left")):
        fields[name] = np.hypot(x - side * (abdomen.width + 42), y - 12) - 32
    return fields
