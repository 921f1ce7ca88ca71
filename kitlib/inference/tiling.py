"""Overlapping tiles: a network of fixed size over a larger grid.

Each tile's probabilities are weighted by a tent that falls from its middle to its borders, where a network sees least,
and the weighted sum is divided by the sum of the weights; a constant therefore stays what it is.
"""

from collections.abc import Callable

import numpy as np


def starts(length: int, tile: int, overlap: float = 0.5) -> list[int]:
    """Place tiles along one side so that they cover it, overlap by at least a share, and lie evenly.

    >>> starts(256, 128), starts(128, 128), starts(200, 128, overlap=0.25)
    ([0, 64, 128], [0], [0, 72])
    """
    if length < tile:
        raise ValueError(f"a grid of {length} pixels is smaller than a tile of {tile}; tiles cover larger grids only")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap {overlap}: a share of the tile from 0 up to, not including, 1")
    step = max(1, int(tile * (1 - overlap)))
    count = 1 + -(-(length - tile) // step)
    return [int(start) for start in np.rint(np.linspace(0, length - tile, count))]


def tent(height: int, width: int) -> np.ndarray:
    """Make the weights of a tile: (height, width) float32, 1 in the middle, above 0 at the borders."""
    down, across = (
        1 - np.abs(2 * (np.arange(side, dtype=np.float32) + 0.5) / side - 1) * (1 - 1 / side)
        for side in (height, width)
    )
    return np.outer(down, across)


def run(
    predict: Callable[[np.ndarray], np.ndarray], images: np.ndarray, tile: tuple[int, int], overlap: float = 0.5
) -> np.ndarray:
    """Run a network of fixed size over images of any larger size.

    Args:
        predict: from (B, height, width, C) to (B, height, width, organs).
        images: (B, H, W, C).
        tile: height and width that the network takes.
        overlap: share of a tile that the next one covers again, at least.

    Returns:
        (B, H, W, organs) float32.
    """
    if images.shape[1:3] == tuple(tile):
        return predict(images)
    height, width = tile
    total, weight, shares = 0.0, np.zeros((*images.shape[1:3], 1), np.float32), tent(height, width)[..., None]
    for top in starts(images.shape[1], height, overlap):
        for left in starts(images.shape[2], width, overlap):
            box = slice(top, top + height), slice(left, left + width)
            part = predict(np.ascontiguousarray(images[:, box[0], box[1]]))
            if isinstance(total, float):
                total = np.zeros((*images.shape[:3], part.shape[-1]), np.float32)
            total[:, box[0], box[1]] += part * shares
            weight[box] += shares
    return total / weight
