"""The Hausdorff distance between two sets of voxels, exact, at a cost that grows with the organs, not the volume.

    h(S, T) = max over s in S of min over t in T of |s - t|

Both sets are whole masks, not their outlines: the farthest voxel may lie deep inside. The search is confined to a box
around both masks and to the voxels of S outside T (the others are 0 away). It has two parts:

* Rings, for short distances. A voxel's distance is the first hit in a table of offsets sorted by length. Some voxels
  are measured in this way, which gives a lower bound. Then every voxel that meets T at ANY offset shorter than the
  bound is dropped, long offsets first because organs are thick. After a few rounds none is left: the bound is exact.
* A tree, for distances beyond the table. d(., T) is 1-Lipschitz, so a block of voxels whose centre is d away holds none
  farther than d + half its diagonal: blocks are opened by falling bound until the bound is below the best distance.
  The nearest voxel of T always lies on T's 6-border, so the tree holds only the border.

The directed distance with early stopping is after Taha & Hanbury, "An efficient algorithm for calculating the exact
Hausdorff distance", IEEE TPAMI 37 (2015); blocks, table and rounds are ours.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

Steps = tuple[float, float, float]

_TABLE = 4000  # offsets in the table: about 12 pixels or 5 slices far in a 144x310x360 unit cube
_SAMPLE = 32  # voxels measured per round
_SHELL = 48  # long offsets tried per round
_GATHER = 1 << 16  # elements per look-up, so that it stays in the cache
_PATIENCE = 1_000_000  # look-ups that a last, complete pass over the table may cost before the tree is cheaper
_MANY = 300_000  # voxels from which listing them costs more than cutting the box into blocks
_BLOCKS = ((16, 32, 32), (4, 8, 8))  # coarse and fine; slices are two to four times as far apart as pixels


class Pair(NamedTuple):
    """A distance, and the two voxels (z, y, x) between which it is measured.

    `target` is the voxel of its mask that is nearest to `source`; `forward` is True when the source lies in the first
    of the two masks given.
    """

    distance: float
    source: tuple[int, int, int]
    target: tuple[int, int, int]
    forward: bool


def unit_steps(size: tuple[int, int, int]) -> Steps:
    """Return the distance of neighbouring voxels when a volume (D, H, W) fills the unit cube: (1/D, 1/H, 1/W)."""
    return tuple(1 / side for side in size)


class _Box(NamedTuple):
    """The part of the volume that contains both masks, padded by the reach of the offsets."""

    corner: np.ndarray  # of the padded box in the volume; may be negative
    shape: tuple[int, ...]
    steps: np.ndarray
    offsets: np.ndarray  # in the flat box
    lengths: np.ndarray

    def points(self, flat: np.ndarray) -> np.ndarray:
        """Turn flat positions into (N, 3) positions in the box."""
        return np.stack(np.unravel_index(flat, self.shape), axis=1)


def directed(source: np.ndarray, target: np.ndarray, steps: Steps) -> Pair:
    """Find the voxel of `source` that is farthest from `target`, and the voxel of `target` nearest to it.

    Args:
        source, target: (D, H, W) bool, neither of them empty.
        steps: distance between neighbouring voxels along z, y and x: in mm, or those of `unit_steps`.

    >>> line = np.zeros((1, 1, 9), bool); line[0, 0, 2:7] = True
    >>> directed(line, np.arange(9)[None, None] < 3, (1, 1, 1))
    Pair(distance=4.0, source=(0, 0, 6), target=(0, 0, 2), forward=True)
    """
    box, first, second = _cut(source, target, steps)
    return _pair(box, _farthest(first, second, box), first, True)


def symmetric(one: np.ndarray, other: np.ndarray, steps: Steps) -> Pair:
    """Find the larger of both directed distances; the source of the pair is the farthest voxel of either mask.

    The search in the second direction starts at the distance of the first and only looks for something farther.
    """
    box, first, second = _cut(one, other, steps)
    there = _farthest(first, second, box)
    back = _farthest(second, first, box, there.distance)
    return _pair(box, back, second, False) if back.found else _pair(box, there, first, True)


def border(mask: np.ndarray) -> np.ndarray:
    """Return the voxels of a mask, (N, 3) int, that have one of their six neighbours outside it or the volume."""
    if not mask.any():
        return np.empty((0, 3), int)
    low, high = _bounds(mask)
    part = np.pad(mask[tuple(map(slice, low, high))], 1)
    # In the flat array a neighbour is a shift, and the padding keeps one row from meeting the next.
    flat, slab = part.ravel(), part.shape[1] * part.shape[2]
    middle = flat[slab:-slab]
    inner = middle.copy()
    for shift in (1, part.shape[2], slab):
        inner &= flat[slab + shift : flat.size - slab + shift]
        inner &= flat[slab - shift : flat.size - slab - shift]
    edge = np.flatnonzero(middle ^ inner) + slab
    return np.stack(np.unravel_index(edge, part.shape), axis=1) + low - 1


def _pair(box: _Box, best: "_Best", source: np.ndarray, forward: bool) -> Pair:
    """Return the voxels by their position in the volume; nothing found means that the source lies inside the target."""
    ends = (best.source, best.target) if best.found else [int(source.argmax())] * 2
    voxels = box.points(np.array(ends)) + box.corner
    return Pair(best.distance if best.found else 0.0, *(tuple(voxel.tolist()) for voxel in voxels), forward)


def _cut(one: np.ndarray, other: np.ndarray, steps: Steps) -> tuple[_Box, np.ndarray, np.ndarray]:
    """Copy both masks into one padded box."""
    reach, table, lengths = _offsets(tuple(map(float, steps)), one.shape)
    (low, high), (other_low, other_high) = _bounds(one), _bounds(other)
    low, high = np.minimum(low, other_low), np.maximum(high, other_high)
    shape = tuple((high - low + 2 * reach).tolist())
    inner = tuple(slice(pad, pad + side) for pad, side in zip(reach, high - low, strict=True))
    parts = []
    for mask in (one, other):
        part = np.zeros(shape, bool)
        part[inner] = mask[tuple(map(slice, low, high))]
        parts.append(part)
    flat = table @ np.array([shape[1] * shape[2], shape[2], 1])
    return _Box(low - reach, shape, np.asarray(steps, float), flat, lengths), *parts


@functools.lru_cache(64)
def _offsets(steps: Steps, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the reach per axis of the shortest offsets, the offsets (n, 3) sorted by length, and their lengths.

    The table is a complete ball: every other offset is longer than each of these.
    """
    radius = (_TABLE * np.prod(steps) * 3 / 4 / np.pi) ** (1 / 3)
    reach = np.clip(np.floor(radius / np.array(steps)).astype(int), 1, None)
    radius = max(radius, min(steps))
    reach = np.minimum(reach, np.maximum(np.array(shape) - 1, 1))
    table = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    lengths = np.sqrt(((table * np.array(steps)) ** 2).sum(axis=1))
    inside = (lengths <= radius) & (lengths > 0)
    order = np.argsort(lengths[inside], kind="stable")
    return reach, table[inside][order], lengths[inside][order]


def _bounds(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounding box of a mask that is not empty: first corner, and last corner plus one."""
    deep = np.flatnonzero(mask.reshape(len(mask), -1).any(axis=1))
    flat = np.logical_or.reduce(mask[deep[0] : deep[-1] + 1], axis=0)
    filled = deep, np.flatnonzero(flat.any(axis=1)), np.flatnonzero(flat.any(axis=0))
    return np.array([side[0] for side in filled]), np.array([side[-1] + 1 for side in filled])


class _Best:
    """The farthest voxel so far and its nearest in the target, as flat positions; it must be farther than `floor`."""

    def __init__(self, floor: float):
        self.distance, self.source, self.target = floor, -1, -1

    @property
    def found(self) -> bool:
        return self.source >= 0

    def offer(self, distance: float, source: int, target: int) -> None:
        if distance > self.distance:
            self.distance, self.source, self.target = float(distance), int(source), int(target)


def _farthest(source: np.ndarray, target: np.ndarray, box: _Box, floor: float = 0.0) -> _Best:
    """Search one direction for a voxel farther away than `floor`."""
    best, outside = _Best(floor), source > target
    count = np.count_nonzero(outside)
    if count > _MANY:
        search = _Tree(target, box, best)
        low, high = _coarse_blocks(outside)
        for row in search.falling(low, high):
            block = tuple(map(slice, low[row], high[row] + 1))
            search.open(np.argwhere(outside[block]) + low[row], _BLOCKS[1:])
    elif count:
        left = _rings(np.flatnonzero(outside), target.ravel(), box, best)
        if left.size:
            _Tree(target, box, best).open(box.points(left), _BLOCKS)
    return best


def _rings(left: np.ndarray, target: np.ndarray, box: _Box, best: _Best) -> np.ndarray:
    """Measure and drop voxels with the table of offsets; return those that need the tree."""
    table = box.offsets
    while left.size:
        few = left[:: max(1, left.size // _SAMPLE)]
        hits = _first_hit(few, target, table)
        top = int(np.where(hits < table.size, hits, -1).argmax())
        if hits[top] < table.size:
            best.offer(box.lengths[hits[top]], few[top], few[top] + table[hits[top]])
        if few.size == left.size:
            return left[hits == table.size]
        # A voxel beyond the table is farther away than every offset in it.
        beyond = (hits == table.size).any()
        known = table.size if beyond else int(np.searchsorted(box.lengths, best.distance, side="right"))
        before = left.size
        shell = table[np.linspace(known // 2, known - 1, _SHELL).astype(int)]
        left = _drop(left, target, shell[::6])
        if beyond and left.size > 0.7 * before:
            return left
        left = _drop(left, target, shell)
        if beyond:
            return left
        if left.size > 0.7 * before:
            if left.size * known > _PATIENCE:
                return left
            left = _drop(left, target, table[:known][::-1])
    return left


def _first_hit(voxels: np.ndarray, target: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return for each voxel the index of the first offset that leads into the target; `offsets.size` if none does."""
    hit_index = np.full(voxels.size, offsets.size)
    rows, start = np.arange(voxels.size), 0
    while rows.size and start < offsets.size:
        chunk = offsets[start : start + max(1, _GATHER // rows.size)]
        hits = target[voxels[rows, None] + chunk]
        first = hits.argmax(axis=1)
        hit = hits[np.arange(rows.size), first]
        hit_index[rows[hit]] = start + first[hit]
        rows, start = rows[~hit], start + chunk.size
    return hit_index


def _drop(voxels: np.ndarray, target: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Keep the voxels from which no offset leads into the target."""
    start = 0
    while voxels.size and start < offsets.size:
        chunk = offsets[start : start + max(1, min(8, _GATHER // voxels.size))]
        voxels = voxels[~target[chunk[:, None] + voxels].any(axis=0)]
        start += chunk.size
    return voxels


class _Tree:
    """Branch and bound over blocks of voxels, with a tree on the target's border."""

    def __init__(self, target: np.ndarray, box: _Box, best: _Best):
        self.box, self.best = box, best
        self.edge = border(target)
        self.tree = cKDTree(self.edge * box.steps, balanced_tree=False, compact_nodes=False)

    def falling(self, low: np.ndarray, high: np.ndarray) -> Iterator[int]:
        """Yield the rows of boxes [low, high] by falling bound, as long as the bound is above the best distance."""
        bounds = self._bounds(low, high)
        for row in np.argsort(-bounds):
            if bounds[row] <= self.best.distance:
                return
            yield row

    def open(self, voxels: np.ndarray, blocks: tuple) -> None:
        """Measure voxels, (N, 3) in the box, or their blocks that may hold something farther."""
        if not blocks or len(voxels) <= 100:
            distances, nearest = self.tree.query(voxels * self.box.steps)
            top = int(distances.argmax())
            ends = np.stack([voxels[top], self.edge[nearest[top]]], axis=1)
            self.best.offer(distances[top], *np.ravel_multi_index(ends, self.box.shape))
            return
        keys = np.ravel_multi_index((voxels // blocks[0]).T, self.box.shape)
        order = np.argsort(keys, kind="stable")
        voxels, keys = voxels[order], keys[order]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        ends = np.r_[starts[1:], len(keys)]
        low, high = np.minimum.reduceat(voxels, starts), np.maximum.reduceat(voxels, starts)
        for row in self.falling(low, high):
            self.open(voxels[starts[row] : ends[row]], blocks[1:])

    def _bounds(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Bound the distances of all voxels in boxes [low, high]; an approximate query errs upwards."""
        distances, _ = self.tree.query((low + high) / 2 * self.box.steps, eps=0.1)
        return distances + np.linalg.norm((high - low) / 2 * self.box.steps, axis=1)


def _coarse_blocks(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and last voxels of the coarse blocks of a mask that are not empty."""
    filled = mask
    for axis, size in enumerate(_BLOCKS[0]):
        filled = np.logical_or.reduceat(filled, np.arange(0, mask.shape[axis], size), axis=axis)
    low = np.argwhere(filled) * _BLOCKS[0]
    return low, np.minimum(low + _BLOCKS[0], mask.shape) - 1
