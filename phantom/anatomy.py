"""Anatomy of the synthetic competition: one abdomen per case, which moves and fills from day to day.

Everything is in millimetres in the patient's frame: x to the right of the image, y to the back, z to the feet, z = 0 at
the stop line where the annotators end both bowels. Bowels and stomach are tubes: spheres of varying radius along a
random centre line. Vessels, and the loops below the stop line, are tubes too. Sizes and positions of the organs were
fitted to the outlines of 13 real scans; everything else follows an atlas of the body.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d
from scipy.stats import norm

STEP_MM = 3.0  # distance between neighbouring points of a centre line
MUSCLE_MM = 13.0  # thickness of the abdominal wall below the fat
DENTS = (36, 32, 32)  # shape of the field that dents the organs: a value every 12 mm of 432 mm
MOTION = {"large_bowel": (13, 14, 0.045), "small_bowel": (15, 15, 0.13), "stomach": (4, 6, 0.10)}  # mm, mm, log radius


@dataclass(frozen=True)
class Tube:
    """A centre line with a radius: `points` (N, 3) as x, y, z and `radius` (N,), both in mm."""

    points: np.ndarray
    radius: np.ndarray


@dataclass(frozen=True)
class Abdomen:
    """The anatomy of one case on one day, in mm.

    Attributes:
        width, depth: half axes of the trunk.
        fat: thickness of the fat under the skin.
        dome: z of the diaphragm's top.
        tubes: organs and other tubular tissue by name.
        solids: name -> rows of centre and half axes (x, y, z, a, b, c).
        warp: coarse field (3, ...) that bends all solids along z, y and x.
        outline: coarse field of the trunk's bulges.
        arms: for right and left: distance from the trunk, y and radius.
        dents: coarse field that dents the organs, with deviation 1.
    """

    width: float
    depth: float
    fat: float
    dome: float
    tubes: dict[str, Tube] = field(repr=False)
    solids: dict[str, np.ndarray] = field(repr=False)
    warp: np.ndarray = field(repr=False)
    outline: np.ndarray = field(repr=False)
    arms: np.ndarray = field(repr=False)
    dents: np.ndarray = field(repr=False)


def _line(knots) -> np.ndarray:
    """Return points every STEP_MM along a smooth curve through the knots (K, 3)."""
    knots = np.asarray(knots, float)
    curve = CubicSpline(
        np.r_[0, np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1) + 1e-3)], knots, bc_type="natural"
    )
    dense = curve(np.linspace(0, curve.x[-1], 40 * len(knots)))
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(dense, axis=0), axis=1))]
    steps = np.arange(0, length[-1], STEP_MM)
    return np.stack([np.interp(steps, length, dense[:, i]) for i in range(3)], axis=1)


def wander(rng, count: int, smooth: float) -> np.ndarray:
    """Return a smooth random curve of `count` values, mean 0 and deviation about 1; `smooth` in samples."""
    noise = gaussian_filter1d(rng.standard_normal(count + int(8 * smooth)), smooth)[int(4 * smooth) :][:count]
    return noise * np.sqrt(2 * np.sqrt(np.pi) * max(smooth, 0.3))


def _large_bowel(rng, size: tuple[float, float], liver: float, spleen: float) -> Tube:
    """Draw the large bowel: caecum, ascending part, sagging transverse part, descending part, sigmoid.

    `liver`, `spleen`: z of the bends below these two.
    """
    width, depth = size
    right, left = -0.56 * width + rng.normal(0, 17), 0.60 * width + rng.normal(0, 15)
    low = rng.uniform(-70, 20)
    front, back = -0.64 * depth + rng.normal(0, 10), -0.12 * depth + rng.normal(0, 22)
    knots = [
        (right + rng.normal(25, 14), back - 35, rng.uniform(25, 60)),
        (right + rng.normal(0, 12), back - 20, 0),
        (right - 2, back, 0.5 * liver),
        (right + 4, back - 8, liver),
        (0.62 * right, front + 14, 0.9 * liver),
        (0.35 * right, front, 0.45 * liver + 0.55 * low),
        (rng.normal(0, 25), front, low),
        (0.40 * left, front + 4, 0.55 * low + 0.45 * spleen),
        (0.72 * left, 0.75 * front, spleen + 30),
        (left - 4, back + 6, spleen),
        (left + 3, back + 12, 0.7 * spleen),
        (left + rng.normal(0, 8), back + 10, 0.35 * spleen),
        (left + rng.normal(-6, 8), back - 4, 10),
        (left - 25, back - 20, 60),
        (rng.normal(30, 25), back + rng.normal(-25, 15), rng.uniform(10, 80)),
        (0, back + 20, 130),
    ]
    points = _line(np.array(knots) + rng.normal(0, 12, (len(knots), 3)))
    along = np.linspace(0, 1, len(points))
    caliber = np.interp(along, [0, 0.25, 0.5, 0.68, 1], [21, 18, 15, 12.5, 11]) * np.exp(
        0.16 * wander(rng, len(points), 12)
    )
    return Tube(points, caliber * np.exp(rng.normal(0, 0.15)))


def _haustra(rng, tube: Tube) -> Tube:
    """Give a tube pouches: its radius swells and narrows every 25 to 40 mm."""
    phase = np.cumsum(2 * np.pi * STEP_MM / (32 * np.exp(0.25 * wander(rng, len(tube.radius), 10))))
    return replace(tube, radius=tube.radius * (1 + 0.15 * np.sin(phase)))


def _small_bowel(rng, size: tuple[float, float], top: float) -> Tube:
    """Draw the small bowel: a smooth random path inside an ellipsoid in front of the spine, mostly on the left."""
    width, depth = size
    centre = np.array([rng.normal(28, 16), -0.46 * depth + rng.normal(0, 6), 0.5 * (top + 45)])
    half = np.array([0.62 * width, 0.42 * depth, 0.5 * (45 - top)])
    count = 840
    position, heading = centre + half * rng.uniform(-0.4, 0.4, 3), rng.standard_normal(3)
    turn = np.stack([wander(rng, count, 4) for _ in range(3)], axis=1)
    points = np.empty((count, 3))
    for i in range(count):
        inward = (centre - position) / half
        excess = max(0.0, (np.abs(inward) ** 4).sum() ** 0.25 - 0.75)
        heading = heading + 0.55 * turn[i] + 1.6 * excess * inward
        heading /= np.linalg.norm(heading)
        position = position + 1.6 * STEP_MM * heading * (1, 0.9, 0.8)
        points[i] = position
    return Tube(points, 10.5 * np.exp(0.14 * wander(rng, count, 6)))


def _stomach(rng, size: tuple[float, float], top: float, fill: float) -> Tube:
    """Draw the stomach: a sac from under the left dome forwards and across to the pylorus near the middle."""
    side, depth = 0.36 * size[0] + rng.normal(0, 13), size[1]
    knots = [
        (side, rng.normal(0, 14), top),
        (side, -0.36 * depth, top + rng.uniform(8, 24)),
        (0.70 * side, -0.62 * depth + rng.normal(0, 5), top + rng.uniform(20, 45)),
        (0.15 * side, -0.66 * depth + rng.normal(0, 5), top + rng.uniform(30, 52)),
        (-0.15 * side + rng.normal(0, 8), -0.50 * depth, top + rng.uniform(12, 45)),
    ]
    points = _line(np.array(knots) + rng.normal(0, 4, (5, 3)))
    along = np.linspace(0, 1, len(points))
    radius = np.interp(along, [0, 0.2, 0.5, 0.8, 1], [19, 26, 23, 16, 12]) * np.exp(0.26 * norm.ppf(fill))
    return Tube(points, radius * np.exp(0.10 * wander(rng, len(points), 4)))


def _others(rng, width: float, depth: float, dome: float) -> dict[str, Tube]:
    """Draw tubes that look like bowel and are not annotated: great vessels, mesenteric vessels, pancreas."""
    spine = 0.30 * depth
    z = np.arange(-300, 200, STEP_MM)
    tubes = {}
    for name, x, radius in (("aorta", 12, 10), ("cava", -16, 11)):
        points = np.stack([x + 3 * wander(rng, len(z), 15), spine + 2 * wander(rng, len(z), 15), z], axis=1)
        tubes[name] = Tube(points, radius * np.exp(0.06 * wander(rng, len(z), 10)))
    z = dome + 223
    knots = [(-30, -4, z - 95), (-5, -0.1 * depth, z - 105), (35, 0, z - 118), (70, 12, z - 130)]
    pancreas = _line(np.array(knots) + rng.normal(0, 6, (4, 3)))
    tubes["pancreas"] = Tube(pancreas, 10 * np.exp(0.15 * wander(rng, len(pancreas), 4)))
    for name, grow in (("vessels", _mesentery), ("portal", _liver_vessels)):
        tubes[name] = grow(rng.spawn(1)[0], width, depth, dome)
    return tubes


def _mesentery(rng, width: float, depth: float, dome: float) -> Tube:
    """Draw the vessels in the fat between the spine and the bowels."""
    branches = []
    for _ in range(60):
        start = np.array([rng.normal(0, 12), 0.05 * depth, rng.uniform(-90, 60)])
        end = start + np.array([rng.normal(0, 0.35 * width), -rng.uniform(20, 0.6 * depth), rng.normal(20, 35)])
        branches.append(_line([start, 0.5 * (start + end) + rng.normal(0, 14, 3), end]))
    points = np.concatenate(branches)
    return Tube(points, 2.4 * np.exp(0.3 * wander(rng, len(points), 10)))


def _liver_vessels(rng, width: float, depth: float, dome: float) -> Tube:
    """Draw the large vessels of the liver: branches that spread from its middle and thin out."""
    root = np.array([-0.2 * width, 0.05 * depth, dome + 75])
    branches = []
    for _ in range(14):
        end = root + rng.normal((-0.28 * width, 0, 0), (0.22 * width, 0.35 * depth, 35))
        branches.append(_line([root, 0.5 * (root + end) + rng.normal(0, 9, 3), end]))
    return Tube(np.concatenate(branches), np.concatenate([np.linspace(5.0, 1.8, len(line)) for line in branches]))


def _solids(rng, width: float, depth: float, dome: float, low: float) -> dict[str, np.ndarray]:
    """Draw the solid organs as ellipsoids, name -> rows of centre and half axes in mm; `low`: z of the liver's edge."""

    def body(*rows):
        rows = np.array(rows, float)
        rows[:, :3] += rng.normal(0, 5, (len(rows), 3))
        rows[:, 3:] *= np.exp(rng.normal(0, 0.08, (len(rows), 3)))
        return rows

    hang = 0.6 * (dome + 223)  # kidneys follow the diaphragm part of the way
    side, back = 0.41 * width, 0.42 * depth
    return {
        "liver": body((-0.48 * width, 0, 0.5 * (dome + low), 0.44 * width, 0.72 * depth, 0.5 * (low - dome) + 20),
                      (-0.05 * width, -0.3 * depth, dome + 45, 0.5 * width, 0.42 * depth, 55)),
        "spleen": body((0.70 * width, 0.32 * depth, dome + 70, 0.20 * width, 0.38 * depth, 52)),
        "kidneys": body((-side, back, hang - 85, 29, 25, 55), (side, back, hang - 100, 28, 25, 55)),
        "psoas": body((-42, back, 20, 22, 24, 120), (42, back, 20, 22, 24, 120)),
        "heart": body((18, -0.25 * depth, dome - 15, 55, 0.45 * depth, 40)),
        "gallbladder": body((-0.33 * width, -0.35 * depth, low - 20, 15, 18, 28)),
        "bladder": body((0, -0.2 * depth, 85, 48, 40, 45)),
    }  # fmt: skip


def case(rng, height: float = 0.5, fill: float = 0.5) -> Abdomen:
    """Draw the anatomy of one case.

    Args:
        rng: a `numpy.random.Generator`.
        height, fill: quantiles over cases, in (0, 1), of how low the upper organs lie and how large the stomach is.
            Evenly spread quantiles make a dozen cases vary as much as real ones do.
    """
    size = width, depth = rng.uniform(158, 190), rng.uniform(120, 150)
    dome = -223 + 34 * norm.ppf(height)  # the upper organs hang below the diaphragm
    low = dome + rng.uniform(120, 175)
    tubes = {
        "large_bowel": _large_bowel(rng, size, low + rng.normal(2, 8), dome + rng.normal(74, 8)),
        "small_bowel": _small_bowel(rng, size, dome + rng.normal(107, 10)),
        "stomach": _stomach(rng, size, dome + rng.normal(68, 7), fill),
        **_others(rng, width, depth, dome),
    }
    warp = rng.normal(0, 8, (3, 5, 4, 4))
    outline = gaussian_filter1d(rng.normal(0, 10, (12, 4, 4)), 1.0, axis=0)  # mm, long bulges of the trunk
    arms = rng.uniform((36, -20, 26), (85, 55, 36), (2, 3))  # distance from the trunk, y, radius; right and left
    fat, solids = rng.uniform(10, 26), _solids(rng, width, depth, dome, low)
    return Abdomen(width, depth, fat, dome, tubes, solids, warp, outline, arms, rng.standard_normal(DENTS))


def move(abdomen: Abdomen, rng, share: float = 1.0) -> Abdomen:
    """Return the same case on another day: bowels and stomach shift, bend, fill and empty; solid organs hardly move.

    `share` scales the motion: 0 leaves all organs as they are, except the pouches of the large bowel.
    """
    tubes = dict(abdomen.tubes)
    fat = abdomen.fat * np.exp(share * rng.normal(0, 0.03))
    lift = np.array([0, 0, share * rng.normal(0, 6)])  # breath, and full organs below, push all of them up or down
    for name, (shift_mm, bend_mm, fill) in MOTION.items():
        tube = tubes[name]
        count = len(tube.points)
        bend = np.stack([wander(rng, count, 14) for _ in range(3)], axis=1) * bend_mm + rng.normal(0, shift_mm, 3)
        swell = np.exp(share * (fill * wander(rng, count, 10) + rng.normal(0, fill)))
        tubes[name] = Tube(tube.points + lift + share * bend * (1, 0.6, 1), tube.radius * swell)
    tubes["large_bowel"] = _haustra(rng, tubes["large_bowel"])
    for name in MOTION:
        tubes[name] = _collapsed(_inside(tubes[name], abdomen, fat + MUSCLE_MM))
    solids = {name: rows + np.r_[lift + share * rng.normal(0, 3, 3), 0, 0, 0] for name, rows in abdomen.solids.items()}
    dents = abdomen.dents + share * (rng.standard_normal(DENTS) - abdomen.dents)
    return replace(abdomen, tubes=tubes, solids=solids, fat=fat, dents=dents)


def _collapsed(tube: Tube) -> Tube:
    """Narrow the loops in the pelvis, where bone and muscle leave little room."""
    return replace(tube, radius=tube.radius * np.interp(tube.points[:, 2], [7, 26], [1, 0.5]))


def _inside(tube: Tube, abdomen: Abdomen, wall_mm: float) -> Tube:
    """Push a tube towards the middle until it fits into the abdominal wall."""
    room = np.array([[abdomen.width, abdomen.depth]]) - wall_mm - 0.9 * tube.radius[:, None]
    rho = (np.abs(tube.points[:, :2] / room) ** (2.5, 2.3)).sum(axis=1) ** 0.42
    points = tube.points.copy()
    points[:, :2] /= np.maximum(1, gaussian_filter1d(rho, 1))[:, None]
    return replace(tube, points=points)
