"""Grey values of the synthetic competition: what an MR scanner would make of an anatomy.

Grey values must not give the organs away: contents of stomach and bowels vary along each tube from gas to fluid to
food, walls are as grey as muscle, and liver, kidneys, vessels and muscles share the same greys. The scanner adds a scale
per scan, uneven coils, dark ends, hot spots, blur and Rician noise.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from kitlib.anatomy import FAR_MM, Abdomen, Grid, wander
from kitlib.contest import ORGANS

EDGE_MM = 1.6  # over this distance one tissue passes into the next
TISSUE = {
    "liver": 0.37,
    "spleen": 0.31,
    "kidneys": 0.35,
    "psoas": 0.27,
    "heart": 0.36,
    "gallbladder": 0.33,
    "bladder": 0.30,
    "aorta": 0.28,
    "cava": 0.30,
    "pancreas": 0.42,
    "vessels": 0.33,
    "vertebra": 0.45,
    "back": 0.29,
    "wall": 0.30,
    "muscle": 0.27,
    "lungs": 0.03,
}
CONTENTS = {
    "large_bowel": (0.42, 0.16),
    "small_bowel": (0.35, 0.13),
    "stomach": (0.36, 0.14),
}  # mean and deviation along the tube
GAS = {"large_bowel": 0.22, "small_bowel": 0.10, "stomach": 0.3}  # share of the tube with a gas bubble


@dataclass(frozen=True)
class Look:
    """The grey values of one scan: tissue greys, contents on the grid, textures and the scanner's flaws."""

    tissue: dict[str, float]
    contents: dict[str, np.ndarray]
    gas: dict[str, np.ndarray]
    texture: np.ndarray
    gain: np.ndarray
    bias: np.ndarray
    scale: float
    noise: float
    blur_px: float
    fat: float


def look(abdomen: Abdomen, fields: dict, grid: Grid, rng) -> Look:
    """Draw how one scan looks; greys are relative to bright fat, noise to the 99th percentile."""
    tissue = {name: float(grey * np.exp(rng.normal(0, 0.10))) for name, grey in TISSUE.items()}
    contents, gas = {}, {}
    for name in ORGANS:
        tube, index = abdomen.tubes[name], fields[name + "_index"]
        mean, spread = CONTENTS[name]
        along = np.clip(mean + rng.normal(0, 0.06) + spread * wander(rng, len(tube.radius), 7), 0.08, 0.95).astype(
            np.float32
        )
        contents[name] = along[index]
        level = (
            np.where(wander(rng, len(tube.radius), 5) > 1.3 - 2.2 * GAS[name], 0.35, -1.3) + 0.2 * rng.standard_normal()
        )
        surface = (tube.points[:, 1] + (level - 0.35) * tube.radius).astype(np.float32)
        gas[name] = np.where(index < 0, FAR_MM, grid.axes()[1] - surface[index])
    depth = grid.shape[0]
    ends = 1 / (1 + np.exp(-(np.minimum(np.arange(depth), np.arange(depth)[::-1]) + 2) / (0.035 * depth)))
    coarse = rng.normal(0, 0.16, (4, 4, 4))
    bias = np.exp(zoom(coarse, np.array(grid.shape) / 4, order=1, mode="nearest", grid_mode=True)).astype(np.float32)
    return Look(
        tissue,
        contents,
        gas,
        gaussian_filter(rng.standard_normal(grid.shape, dtype=np.float32), 1.0) * 4,
        (2 * ends - 1) * np.exp(0.18 * wander(rng, depth, 0.09 * depth)),
        bias,
        float(np.exp(rng.uniform(np.log(600), np.log(9000)))),
        float(rng.uniform(0.010, 0.015)),
        float(rng.uniform(0.5, 0.8)),
        float(rng.uniform(0.75, 0.95)),
    )


def _over(image: np.ndarray, distance: np.ndarray, grey) -> None:
    """Lay a tissue over the image where its signed distance is negative, with a soft edge."""
    if distance.min() < 0.5 * EDGE_MM:
        weight = np.clip(np.float32(0.5) - distance * np.float32(1 / EDGE_MM), 0, 1)
        image += weight * (grey - image)


def draw(here: dict, view: Look, fat_mm: float) -> np.ndarray:
    """Compose one slice from the upsampled fields `here` (name -> (H, W)): relative grey, before the scanner."""
    texture, tissue = here["texture"], view.tissue
    image = np.zeros_like(texture)
    _over(image, here["body"], 1.0)
    _over(image, here["body"] + fat_mm, tissue["muscle"] + 0.03 * texture)
    _over(image, here["body"] + fat_mm + 12, view.fat + 0.05 * texture)
    for name in ("back", "vertebra", "psoas", "lungs", "heart", "liver", "spleen", "kidneys", "gallbladder", "bladder"):
        _over(image, here[name], tissue[name] * (1 + 0.06 * texture))
    _over(image, here["kidneys"] + 15, view.fat)
    for name in ("vessels", "pancreas", "aorta", "cava"):
        _over(image, here[name], tissue[name] * (1 + 0.10 * texture))
    for name in ORGANS:
        distance = here[name]
        _over(image, distance, tissue["wall"] * (1 + 0.10 * texture))
        lumen = distance + 2.5
        _over(image, lumen, here[name + "_contents"] * (1 + 0.22 * texture))
        _over(image, np.maximum(lumen, here[name + "_gas"]), 0.04)
    for name in ("arm_right", "arm_left"):
        _over(image, here[name], 1.0)
        _over(image, here[name] + 7, tissue["muscle"])
    return image


def expose(image: np.ndarray, view: Look, z: int, bias: np.ndarray, spots: np.ndarray, rng) -> np.ndarray:
    """Scanner: gain and coils, blur, hot spots at the edge of the field, Rician noise, scale; (H, W) uint16."""
    signal = cv2.GaussianBlur(image * bias * spots * np.float32(view.gain[z]), (0, 0), view.blur_px)
    noise = view.noise * rng.standard_normal((2, *image.shape), dtype=np.float32)
    magnitude = np.hypot(signal + noise[0], noise[1])
    return np.clip(magnitude * view.scale, 0, 15_865).astype(np.uint16)


def hot_spots(shape: tuple[int, int], rng) -> np.ndarray:
    """Multiplier (H, W) that rises at the left and right edge of the field, where the arms lie."""
    across = np.abs(np.linspace(-1, 1, shape[1], dtype=np.float32))
    down = np.linspace(-1, 1, shape[0], dtype=np.float32) - np.float32(rng.uniform(-0.4, 0.4))
    return 1 + np.float32(rng.uniform(0.3, 1.5)) * np.exp(8 * (across - 1))[None] * np.exp(-4 * down**2)[:, None]
