"""Masks and tables that the tests of the score share, and a slow readable reference of the Hausdorff distance."""

import numpy as np
import pandas as pd
from scipy.spatial.distance import directed_hausdorff

from kitlib import contest, rle

SHAPES = [(7, 11, 13), (5, 19, 6), (12, 10, 31)]


def reference_distance(source, target, steps):
    """Scipy's directed distance over all voxels."""
    return directed_hausdorff(np.argwhere(source) * steps, np.argwhere(target) * steps)[0]


def reference_hausdorff(truth, prediction, directed=False):
    """The host convention: unit cube, over sqrt(3); NaN for both empty, 1 for one empty."""
    if not truth.any() and not prediction.any():
        return float("nan")
    if not truth.any() or not prediction.any():
        return 1.0
    steps = 1 / np.array(truth.shape)
    there = reference_distance(prediction, truth, steps)
    return (there if directed else max(there, reference_distance(truth, prediction, steps))) / 3**0.5


def ball(shape, center, radius):
    """A ball of voxels, radius in voxels."""
    grid = np.indices(shape) - np.reshape(center, (3, 1, 1, 1))
    return (grid**2).sum(axis=0) <= radius**2


SHAPE = (15, 21, 27)
CUBE = ball(SHAPE, (7, 10, 13), 5)
EMPTY = np.zeros(SHAPE, bool)


def voxel(*place):
    mask = EMPTY.copy()
    mask[place] = True
    return mask


PAIRS = {
    "equal": (CUBE, CUBE),
    "nested": (ball(SHAPE, (7, 10, 13), 7), ball(SHAPE, (7, 10, 13), 3)),
    "hollow shell around a ball": (
        ball(SHAPE, (7, 10, 13), 7) & ~ball(SHAPE, (7, 10, 13), 6),
        ball(SHAPE, (7, 10, 13), 3),
    ),
    "hole": (CUBE, CUBE & ~ball(SHAPE, (7, 10, 13), 3)),
    "far island": (CUBE, CUBE | voxel(0, 0, 26)),
    "one voxel each": (voxel(3, 4, 5), voxel(14, 20, 26)),
    "one voxel in a full volume": (voxel(0, 0, 0), ~EMPTY),
    "touching the border": (ball(SHAPE, (0, 0, 0), 6), ball(SHAPE, (14, 20, 26), 6)),
    "touching each other": (CUBE, np.roll(CUBE, 11, 2)),
    "shifted": (CUBE, np.roll(CUBE, (1, 2, -3), (0, 1, 2))),
    "missing slices": (CUBE, CUBE & (np.arange(15) < 6)[:, None, None]),
}


def tables(truth, prediction):
    """Lists of (D, H, W, organs) masks as rows, rows and slice table; scan k is case k+1."""
    slices, lines = [], []
    for number, (one, other) in enumerate(zip(truth, prediction, strict=True), 1):
        for z in range(len(one)):
            name = f"case{number}_day0_slice_{z + 1:04d}"
            size = {"height": one.shape[1], "width": one.shape[2], "spacing_mm": 1.5}
            slices.append({"id": name, "scan": f"case{number}_day0", "slice": z + 1} | size)
            for k, organ in enumerate(contest.ORGANS):
                texts = {"segmentation": rle.encode(one[z, ..., k]), "predicted": rle.encode(other[z, ..., k])}
                lines.append({"id": name, "class": organ} | texts)
    rows = pd.DataFrame(lines)
    return rows.drop(columns="predicted"), rows.drop(columns="segmentation"), pd.DataFrame(slices)


def random_scans(seed=0):
    """Three scans of different sizes, with organs absent on both, one and no side."""
    random = np.random.default_rng(seed)
    truth, prediction = [], []
    for shape in SHAPES:
        blobs = np.stack([ball(shape, random.integers(2, 5, 3), random.integers(1, 4)) for _ in range(3)], axis=-1)
        truth.append(blobs)
        prediction.append(np.roll(blobs, random.integers(-1, 3, 3), (0, 1, 2)) | (random.random(blobs.shape) < 0.002))
    truth[0][..., 2] = prediction[0][..., 2] = False
    truth[1][..., 1] = False
    prediction[2][..., 0] = False
    return truth, prediction
