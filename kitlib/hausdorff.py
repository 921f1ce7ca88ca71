"""The Hausdorff distance between two sets of voxels, exact, at a cost that follows the organs and not the volume.

    h(S, T) = max over s in S of min over t in T of |s - t|

Both sets are whole masks, not their outlines: the farthest voxel may lie deep inside. Only voxels of S outside T count
(the others are 0 away), and their nearest voxel of T lies on T's border. d(., T) is 1-Lipschitz, so a block of voxels
whose centre is d away holds nothing farther than d + half its diagonal: blocks are opened by falling bound until the
bound is below the best.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

BLOCK = (2, 8, 8)  # voxels: slices are two to three times as far apart as pixels


class Pair(NamedTuple):
    """A distance and the two voxels, (z, y, x) each, that it lies between."""

    distance: float
    source: tuple[int, int, int]
    target: tuple[int, int, int]


def directed(source: np.ndarray, target: np.ndarray, steps: tuple[float, float, float]) -> Pair:
    """Find the voxel of `source` that is farthest from `target`.

    Args:
        source, target: (D, H, W) bool, neither of them empty.
        steps: distance between neighbouring voxels along z, y and x.

    Returns:
        The distance, that voxel, and the voxel of `target` nearest to it.
    """
    steps = np.asarray(steps, float)
    corner, box = _box(source)
    difference = source[box] & ~target[box]
    if not difference.any():
        voxel = tuple(int(i) for i in np.argwhere(source[box])[0] + corner)
        return Pair(0.0, voxel, voxel)
    voxels = np.argwhere(difference) + corner
    outline = border(target)
    tree = cKDTree(outline * steps, balanced_tree=False, compact_nodes=False)
    block = np.asarray(BLOCK)
    blocks, member = np.unique(voxels // block, axis=0, return_inverse=True)
    order = np.argsort(member.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(member.ravel()))
    bounds = tree.query((blocks * block + (block - 1) / 2) * steps)[0] + np.linalg.norm((block - 1) / 2 * steps)
    best, found = -1.0, (0, 0)
    queue = np.argsort(-bounds)
    for first in range(0, len(queue), 16):
        group = queue[first : first + 16]
        group = group[bounds[group] > best]
        if not len(group):
            break
        rows = np.concatenate([order[(ends[b - 1] if b else 0) : ends[b]] for b in group])
        distances, nearest = tree.query(voxels[rows] * steps)
        top = int(distances.argmax())
        if distances[top] > best:
            best, found = float(distances[top]), (rows[top], nearest[top])
    return Pair(best, tuple(voxels[found[0]].tolist()), tuple(outline[found[1]].tolist()))


def border(mask: np.ndarray) -> np.ndarray:
    """List the voxels of a mask, (N, 3) int, that have one of their six neighbours outside it or outside the volume."""
    corner, box = _box(mask)
    inside = np.pad(mask[box], 1)
    core = inside[1:-1, 1:-1, 1:-1]
    inner = inside[:-2, 1:-1, 1:-1] & inside[2:, 1:-1, 1:-1]
    inner &= inside[1:-1, :-2, 1:-1]
    inner &= inside[1:-1, 2:, 1:-1]
    inner &= inside[1:-1, 1:-1, :-2]
    inner &= inside[1:-1, 1:-1, 2:]
    return np.argwhere(core & ~inner) + corner


def _box(mask: np.ndarray) -> tuple[np.ndarray, tuple[slice, slice, slice]]:
    """Bound a mask that is not empty: its first corner, and the slices that cut it out."""
    sides = []
    for _ in range(3):
        filled = np.flatnonzero(mask.reshape(len(mask), -1).any(axis=1) if not sides else _along(mask, sides))
        sides.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return np.array([side.start for side in sides]), tuple(sides)


def _along(mask: np.ndarray, sides: list[slice]) -> np.ndarray:
    """Say which rows, or which columns once rows are known, of the part found so far hold anything."""
    part = mask[tuple(sides)]
    return part.any(axis=(0, 2) if len(sides) == 1 else (0, 1))
