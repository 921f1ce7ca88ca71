"""Probabilities made from the truth, for tests and benchmarks of score and tuning that need no network.

They have the errors of a real network: a border that is too tight and uneven, organs that start and end on the wrong
slice, far islands of low confidence, missing slices. No image is read.
"""

import zlib

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage

from kitlib.data import scans
from kitlib.data.inputs import InputSpec


class StandIn:
    """Make the probabilities of a scan by its name, like `runs.HeldOut`: (D, height, width, organs).

    Args:
        slices: the slice table, with the masks.
        height, width: size of the probabilities, in pixels.
        seed: together with the name of the scan it determines all random numbers.
    """

    def __init__(self, slices: pd.DataFrame, height: int = 128, width: int = 128, seed: int = 0):
        self.slices, self.size, self.seed = slices, (width, height), seed
        self.spec = InputSpec(height, width)
        self.scans = slices["scan"].unique().tolist()

    def __call__(self, scan: str) -> np.ndarray:
        rng = np.random.default_rng([self.seed, zlib.crc32(scan.encode())])
        masks = scans.masks(self.slices[self.slices["scan"] == scan])
        return np.stack([self._organ(masks[..., organ], rng) for organ in range(masks.shape[-1])], axis=-1)

    def spec_of(self, scan: str) -> InputSpec:
        """Return the grid of the probabilities, which covers whole slices."""
        return self.spec

    def _organ(self, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Make the probabilities of one organ from its mask, (D, H, W) bool."""
        soft = np.stack([cv2.resize(part.astype(np.float32), self.size, interpolation=cv2.INTER_AREA) for part in mask])
        scale = min(self.size) / 128
        soft = ndimage.gaussian_filter(soft, (0.8, 1.2 * scale, 1.2 * scale))
        waver = ndimage.gaussian_filter(rng.standard_normal(soft.shape, np.float32), (1, 4 * scale, 4 * scale))
        soft = soft - 0.15 + 0.08 * waver / max(float(waver.std()), 1e-6)
        filled = np.flatnonzero(mask.any(axis=(1, 2)))
        if filled.size:
            self._ends(soft, filled, rng)
        self._islands(soft, rng)
        return np.clip(soft, 0, 1)

    def _ends(self, soft: np.ndarray, filled: np.ndarray, rng: np.random.Generator) -> None:
        """Let the organ fade after its last slice, and weaken one of its slices."""
        beyond = int(rng.integers(0, 6))
        for step, index in enumerate(range(filled[-1] + 1, min(filled[-1] + 1 + beyond, len(soft)))):
            soft[index] = np.maximum(soft[index], soft[filled[-1]] * (0.95 - 0.07 * step))
        soft[rng.choice(filled)] *= 0.4

    def _islands(self, soft: np.ndarray, rng: np.random.Generator) -> None:
        """Add a few small blobs of low confidence anywhere."""
        for _ in range(rng.poisson(2)):
            z, y, x = (int(rng.integers(0, side)) for side in soft.shape)
            radius = rng.integers(1, 4)
            part = soft[z : z + 2, y : y + radius, x : x + radius]
            np.maximum(part, rng.uniform(0.4, 0.75), out=part)
