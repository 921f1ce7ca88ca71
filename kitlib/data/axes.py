"""Stacks along other axes: a scan turned so that its pictures are coronal or sagittal, and turned back.

    axis   a picture shows         its rows   its columns   pictures of a scan
    z      one slice (axial)       y          x             its slices
    y      one row (coronal)       slices     x             height of the grid
    x      one column (sagittal)   slices     y             width of the grid

Along y and x an organ's first and last slice are edges within the picture. Packed scans lie slice by slice for all
three: a batch takes the same rows or columns of every slice.
"""

import numpy as np
import pandas as pd

from kitlib.data.boxes import SIDES
from kitlib.data.inputs import InputSpec

_ORDER = {"z": (0, 1, 2), "y": (1, 0, 2), "x": (2, 0, 1)}


def length_for(slices: pd.DataFrame, step: int = SIDES) -> int:
    """Return the `length` of an InputSpec that holds the longest scan of a table: a multiple of `step`.

    >>> length_for(pd.DataFrame({"scan": ["a"] * 144 + ["b"] * 80}))
    160
    """
    return -(-int(slices["scan"].value_counts().max()) // step) * step


def turn(volume: np.ndarray, axis: str) -> np.ndarray:
    """Turn a scan (slices, height, width, ...) so that its pictures along an axis come first: a view.

    >>> turn(np.zeros((144, 96, 128)), "x").shape
    (128, 144, 96)
    """
    return volume.transpose(*_ORDER[axis], *range(3, volume.ndim))


def turn_back(pictures: np.ndarray, axis: str) -> np.ndarray:
    """Turn pictures along an axis back to (slices, height, width, ...), a view: the inverse of `turn`."""
    return pictures.transpose(*np.argsort(_ORDER[axis]), *range(3, pictures.ndim))


def places(count: int, spec: InputSpec) -> np.ndarray:
    """Find the neighbours of each of `count` pictures of a scan: (count, depth); at the ends the last is repeated.

    >>> places(3, InputSpec(depth=3)).tolist()
    [[0, 0, 1], [0, 1, 2], [1, 2, 2]]
    """
    steps = (np.arange(spec.depth) - spec.depth // 2) * spec.stride
    return np.clip(np.arange(count)[:, None] + steps, 0, count - 1)


def pictures(
    slices: pd.DataFrame, packed: pd.DataFrame, masks: np.ndarray, spec: InputSpec, seed: int | None = None
) -> np.ndarray:
    """List pictures along y or x of the scans that some slices belong to.

    Args:
        slices: the slices to learn from.
        packed: the slice table of the masks, whole scans.
        masks: (rows, height, width) uint8, a bit per organ, of the packed slices.
        spec: the axis.
        seed: of the draw among pictures without an organ: the share of them that the scans' empty slices have in
            `slices`, since a training leaves some out. None lists all pictures.

    Returns:
        (pictures, 3) int32: the scan's first row among the packed slices, its number of slices, and the place of the
        picture along the axis; scan by scan.
    """
    wanted, listed, filled = set(slices["scan"]), [], []
    empty = np.zeros(len(packed), bool)
    for scan, rows in packed.groupby("scan", sort=False).indices.items():
        if scan in wanted:
            shown = masks[rows[0] : rows[0] + len(rows)] > 0
            empty[rows] = ~shown.any(axis=(1, 2))
            filled.append(turn(shown, spec.axis).any(axis=(1, 2)))
            place = np.arange(len(filled[-1]))
            listed.append(np.stack([np.full_like(place, rows[0]), np.full_like(place, len(rows)), place], axis=1))
    listed, filled = np.concatenate(listed).astype(np.int32), np.concatenate(filled)
    if seed is None:
        return listed
    share = empty[packed["id"].isin(slices["id"])].sum() / max(empty.sum(), 1)
    return listed[filled | (np.random.default_rng(seed).random(len(listed)) < share)]


def cutter(tensors: tuple, pictures: np.ndarray, spec: InputSpec, training: bool):
    """Make the function that cuts stacks along y or x out of packed slices.

    Args:
        tensors: images and masks of packed slices, as `Packed.tensors`.
        pictures: from `pictures`.
        spec: grid and axis.
        training: begin anywhere in a scan that has more slices than a picture; otherwise with its first.

    Returns:
        From numbers of pictures and seeds, (B,) each, to images (B, depth, length, columns) and bits of the middle
        pictures (B, length, columns).
    """
    import tensorflow as tf

    images, masks = tensors
    firsts, counts, middles = (tf.constant(column, tf.int64) for column in pictures.T)
    near = tf.constant(places(spec.height if spec.axis == "y" else spec.width, spec), tf.int64)
    lines, numbers = tf.range(spec.length, dtype=tf.int64), tf.range(spec.height, dtype=tf.int64)

    def cut(rows, seeds):
        count, middle = tf.gather(counts, rows)[:, None], tf.gather(middles, rows)
        begins = tf.math.floormod(tf.cast(seeds, tf.int64)[:, None], tf.maximum(count - spec.length, 0) + 1)
        line = begins * int(training) + lines
        inside = (line < count)[:, None, :, None]
        line = (tf.gather(firsts, rows)[:, None] + tf.minimum(line, count - 1))[:, None]  # (B, 1, length)

        def take(packed, lined):
            if spec.axis == "y":
                table, index = tf.reshape(packed, [-1, spec.width]), line * spec.height + lined[..., None]
            else:
                table = tf.reshape(packed, [-1])
                index = (line[..., None] * spec.height + numbers) * spec.width + lined[..., None, None]
            found = tf.gather(table, index)
            return tf.where(inside, found, tf.zeros([], found.dtype))

        return take(images, tf.gather(near, middle)), take(masks, middle[:, None])[:, 0]

    return cut
