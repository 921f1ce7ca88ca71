"""Probabilities made from the truth, for want of a network: they show how score and tuning work, not how good they are.

The faults are those of a real network: a border that is too tight and wavers, organs that start and end on the wrong
slice, far islands of low confidence, slices that drop out. Nothing here looks at an image.
"""

import zlib

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage

from kitlib.scoring import metric


class StandIn:
    """Make the probabilities of a scan by its name, as `runs.Run.probabilities` gives them: (D, height, width, organs).

    Args:
        truth: rows `id class segmentation`.
        slices: the slice table.
        height, width: the grid, in pixels.
        seed: with the name of the scan it decides all numbers.
    """

    def __init__(self, truth: pd.DataFrame, slices: pd.DataFrame, height: int = 128, width: int = 128, seed: int = 0):
        self.truth, self.slices, self.size, self.seed = truth, slices, (width, height), seed
        self.scans = slices["scan"].unique().tolist()

    def __call__(self, scan: str) -> np.ndarray:
        rng = np.random.default_rng([self.seed, zlib.crc32(scan.encode())])
        ids = set(self.slices.loc[self.slices["scan"] == scan, "id"])
        masks = metric.scan_masks(self.truth[self.truth["id"].isin(ids)], self.slices, scan)
        return np.stack([self._organ(mask, rng) for mask in masks], axis=-1)

    def _organ(self, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Spoil one organ, (D, H, W) bool."""
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
        """Let the organ fade after its last slice, and drop a slice on the way."""
        beyond = int(rng.integers(0, 6))
        for step, place in enumerate(range(filled[-1] + 1, min(filled[-1] + 1 + beyond, len(soft)))):
            soft[place] = np.maximum(soft[place], soft[filled[-1]] * (0.95 - 0.07 * step))
        soft[rng.choice(filled)] *= 0.4

    def _islands(self, soft: np.ndarray, rng: np.random.Generator) -> None:
        """Put small blobs of low confidence anywhere, as many as a network forgets to exclude."""
        for _ in range(rng.poisson(2)):
            z, y, x = (int(rng.integers(0, side)) for side in soft.shape)
            radius = rng.integers(1, 4)
            place = soft[z : z + 2, y : y + radius, x : x + radius]
            np.maximum(place, rng.uniform(0.4, 0.75), out=place)
