"""Grey values of the synthetic competition, as an MR scanner would see the anatomy.

Grey values alone must not identify the organs. Along each tube there is gas, fluid brighter than fat, or food and stool
as grey as liver and muscle. Texture says more: stool is clumpy, the small bowel is folded, the stomach's wall is thick.
The scanner adds a scale per scan, uneven coils, dark ends, hot spots, blur and Rician noise.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import norm

from kitlib.contest import ORGANS
from phantom.anatomy import Abdomen, Tube, wander
from phantom.geometry import FAR_MM, Raster, stretch

# Greys are shares of bright fat. Their order is that of a balanced steady-state sequence at low field, where fluid and
# fat are bright and muscle is dark. Their values were chosen so that row 7 of the report is inside its bands.
EDGE_MM = 1.6  # width of the transition between two tissues
TISSUE = {
    "liver": 0.37,
    "spleen": 0.33,
    "kidneys": 0.42,
    "psoas": 0.28,
    "heart": 0.36,
    "gallbladder": 0.40,
    "bladder": 0.36,
    "aorta": 0.28,
    "cava": 0.30,
    "pancreas": 0.42,
    "vessels": 0.32,
    "portal": 0.45,
    "vertebra": 0.45,
    "ilium": 0.50,
    "back": 0.28,
    "wall": 0.34,
    "muscle": 0.27,
    "lungs": 0.03,
}
GRAIN = {"back": 0.28, "psoas": 0.14, "heart": 0.2}  # how grainy a tissue is; 0.08 for the others
CONTENTS = {"large_bowel": 0.48, "small_bowel": 0.35, "stomach": 0.41}  # darker than fat, as grey as other organs
BRIGHT = {"large_bowel": 0.04, "small_bowel": 0.30, "stomach": 0.14}  # share of the tube with fluid brighter than fat
ROUGH = {"large_bowel": 0.30, "small_bowel": 0.06, "stomach": 0.12}  # stool is grainy, chyme is smooth
CLUMPS = {"large_bowel": 0.34, "small_bowel": 0.0, "stomach": 0.08}  # stool lies in clumps
FOLDS = {"large_bowel": 0.0, "small_bowel": 0.36, "stomach": 0.0}  # folds of the small bowel, across the tube
WALL_MM = {"large_bowel": 2.5, "small_bowel": 2.0, "stomach": 4.0}
CORTEX, CORTEX_MM = 0.14, 2.0  # grey and thickness of the hard shell of bones
SHEET_MM = 3.5  # fat between an organ and its neighbours
FALL_SHARE = 0.5  # share of scans that darken towards the feet,
FALL_FROM_MM = (-10.0, 60.0)  # starting at a z in this range,
FALL_MM = 55.0  # to 1/e over this length
DEEP, REACH_MM = 0.82, 35.0  # share of the signal left deep in the body, and the depth over which it falls
GAS = {"large_bowel": 0.30, "small_bowel": 0.12, "stomach": 0.15}  # share of the tube with a gas bubble


@dataclass(frozen=True)
class Appearance:
    """Greys of tissues and inner fat, `fields` (contents, gas, texture, coils), and the scanner's settings."""

    tissue: dict[str, float]
    fat: float
    fields: dict[str, np.ndarray]
    gain: np.ndarray
    scale: float
    noise: float
    blur_px: float


def appearance(abdomen: Abdomen, indices: dict[str, np.ndarray], raster: Raster, rng) -> Appearance:
    """Draw the appearance of one scan; `indices` come from `geometry.organs`."""
    fields = {}
    for name in ORGANS:
        index = indices[name]
        contents, surface = _filling(name, abdomen.tubes[name], rng)
        fields[name + "_contents"] = contents.astype(np.float16)[index]
        below = raster.axes()[1].astype(np.float16) - surface.astype(np.float16)[index]
        fields[name + "_gas"] = np.where(index < 0, np.float16(FAR_MM), below)
    fields["texture"] = gaussian_filter(rng.standard_normal(raster.shape, dtype=np.float32), 1.0, truncate=2) * 4
    clumps = [max(2, round(side * step / 12)) for side, step in zip(raster.shape, raster.step, strict=True)]
    fields["clumps"] = stretch(rng.standard_normal(clumps), raster.shape).astype(np.float16)
    coils = rng.normal(0, 0.24, (10, 4, 4)) + rng.normal(0.1, 0.2, (10, 1, 1)) * np.array([-1, -0.3, 0.3, 1])[:, None]
    fields["bias"] = np.exp(stretch(coils, (raster.shape[0], 32, 32)))
    depth = raster.shape[0]
    edge = np.minimum(np.arange(depth), np.arange(depth)[::-1])
    gain = np.tanh((edge + 2) / (0.07 * depth)) * np.exp(0.18 * wander(rng, depth, 0.09 * depth))
    below = np.maximum(raster.axes()[0].ravel() - rng.uniform(*FALL_FROM_MM), 0)
    gain *= np.exp(-below / FALL_MM * (rng.random() < FALL_SHARE))
    return Appearance(
        tissue={name: float(grey * np.exp(rng.normal(0, 0.10))) for name, grey in TISSUE.items()},
        fat=float(rng.uniform(0.56, 0.70)),
        fields=fields,
        gain=gain.astype(np.float32),
        scale=float(np.exp(rng.uniform(np.log(600), np.log(9000)))),
        noise=float(rng.uniform(0.022, 0.036)),
        blur_px=float(rng.uniform(0.5, 0.8)),
    )


def _filling(name: str, tube: Tube, rng) -> tuple[np.ndarray, np.ndarray]:
    """Return the grey of a tube's contents at each centre point, and the y (mm) above which there is gas."""
    count = len(tube.radius)
    fluid = wander(rng, count, 7) > norm.isf(BRIGHT[name])
    contents = np.where(fluid, 0.9, CONTENTS[name] + rng.normal(0, 0.04)) + 0.05 * wander(rng, count, 7)
    folds = np.arange(count) % 4 < 2  # one every 12 mm
    contents[folds] *= 1 - FOLDS[name] * rng.uniform(0.2, 1, folds.sum())
    bubble = wander(rng, count, 5) > norm.isf(GAS[name])
    level = np.where(bubble, 0.1, -1.4) + 0.3 * rng.standard_normal()
    return np.clip(contents, 0.08, 0.95), tube.points[:, 1] + level * tube.radius


def _over(image: np.ndarray, distance: np.ndarray, grey) -> None:
    """Draw a tissue over the image where its signed distance is negative, with a soft edge."""
    if distance.min() < 0.5 * EDGE_MM:
        weight = np.clip(np.float32(0.5) - distance * np.float32(1 / EDGE_MM), 0, 1)
        image += weight * (grey - image)


def compose(here: dict, view: Appearance) -> np.ndarray:
    """Compose one slice, (H, W) in shares of bright fat, from its enlarged fields `here`, name -> (H, W)."""
    texture, tissue = here["texture"], view.tissue
    streaks = 0.22 * np.maximum(np.abs(np.roll(texture, 7, axis=0)) - 1.1, 0)  # fibres, septa and small vessels
    image = np.zeros_like(texture)
    _over(image, here["body"], 1.0 - 0.5 * streaks)
    _over(image, here["inner"], tissue["muscle"] + streaks)
    layers = np.maximum(here["inner"] + 5 + texture, 9 + here["inner"] - here["cavity"])
    _over(image, layers, view.fat * 0.9)
    _over(image, np.maximum(layers, here["inner"] + 6.5 + texture), tissue["muscle"] + streaks)
    _over(image, here["cavity"], view.fat * (1 + 0.07 * texture + 0.07 * here["clumps"]) - streaks)
    for name in ("back", "psoas", "lungs", "heart", "liver", "spleen", "kidneys", "gallbladder", "bladder"):
        _over(image, here[name], tissue[name] * (1 + GRAIN.get(name, 0.08) * texture) + 0.3 * streaks)
    for name in ("arch", "vertebra", "ribs"):
        _over(image, here[name], CORTEX)
        _over(image, here[name] + CORTEX_MM, tissue["vertebra"] * (1 + 0.12 * texture))
    _over(image, here["ilium"] - 8, tissue["muscle"] + streaks)
    _over(image, here["ilium"], tissue["muscle"] - 0.15)
    _over(image, here["ilium"] + 2.5, tissue["ilium"] * (1 + 0.15 * texture))
    _over(image, here["kidneys"] + 14 + 2 * texture, view.fat)
    _over(image, here["canal"], tissue["muscle"] - 0.1)
    _over(image, here["canal"] + 4, tissue["liver"])
    for name in ("vessels", "portal", "pancreas", "aorta", "cava"):
        _over(image, here[name], tissue[name] * (1 + 0.10 * texture))
    for name in ORGANS:
        _over(image, here[name] - SHEET_MM, view.fat + 0.05 * texture)
    for name in ORGANS:
        distance = here[name]
        _over(image, distance, tissue["wall"] * (1 + 0.10 * texture))
        lumen = distance + WALL_MM[name] * (1 + 0.4 * texture)
        _over(image, lumen, here[name + "_contents"] * (1 + ROUGH[name] * texture + CLUMPS[name] * here["clumps"]))
        _over(image, np.maximum(lumen, here[name + "_gas"]), 0.04)
    for name in ("arm_right", "arm_left"):
        _over(image, here[name], 0.75)
        _over(image, here[name] + 5 + texture, tissue["muscle"] * (1 + 0.3 * here["clumps"]) + streaks)
        _over(image, here[name + "_bone"], CORTEX)
        _over(image, here[name + "_bone"] + 3.5, tissue["vertebra"])
    return image


def expose(image: np.ndarray, view: Appearance, z: int, coils: np.ndarray, rng) -> np.ndarray:
    """Apply the scanner to a slice: gain of slice and coils, blur, Rician noise, scale; (H, W) uint16."""
    signal = cv2.GaussianBlur(image * (coils * view.gain[z]), (0, 0), view.blur_px)
    level = 0.35 + 0.65 * cv2.blur(np.minimum(4 * image, 1), (21, 21))  # reconstruction smooths the air
    noise = view.noise * level * rng.standard_normal((2, *image.shape), dtype=np.float32)
    magnitude = np.sqrt(np.square(signal + noise[0]) + np.square(noise[1]))
    return np.clip(magnitude * np.float32(view.scale), 0, 15_865).astype(np.uint16)


def reach(body: np.ndarray) -> np.ndarray:
    """Return a multiplier (H, W) that falls with the depth below the skin, where the coils lie; `body` in mm."""
    return np.float32(DEEP) + np.float32(1 - DEEP) * np.exp(np.minimum(body, 0) / np.float32(REACH_MM))


def hot_spots(shape: tuple[int, int], rng) -> np.ndarray:
    """Return a multiplier (H, W) that rises at the left and right edge of the field, where the arms lie."""
    across = np.abs(np.linspace(-1, 1, shape[1], dtype=np.float32))
    down = np.linspace(-1, 1, shape[0], dtype=np.float32) - np.float32(rng.uniform(-0.4, 0.4))
    return 1 + np.float32(rng.uniform(0.3, 1.5)) * np.exp(8 * (across - 1))[None] * np.exp(-4 * down**2)[:, None]
