"""A sliding window in any number of dimensions: what a network says of overlapping windows becomes one volume.

Neighbouring windows overlap, and a voxel's value is the mean over its windows, weighted by a Gaussian around the centre
of each: near its rim a network sees one side only. The Gaussian is the product of one per axis, and windows lie on a
grid, so the weights are normalised axis by axis.

Source: nnU-Net (Isensee et al., 2021) and MONAI's `SlidingWindowInferer`, which have the same Gaussian, of a standard
deviation of an eighth of the window.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

OVERLAP = 0.5  # least share of a window that it has in common with the next, as in nnU-Net
SIGMA = 1 / 8  # standard deviation of the Gaussian, as a share of the window's side


def slide(
    run: Callable[[np.ndarray], np.ndarray],
    volume: np.ndarray,
    window: Sequence[int],
    overlap: float = OVERLAP,
    batch_size: int = 1,
) -> np.ndarray:
    """Run a network over the windows of a volume.

    A volume with a side shorter than the window is extended by its last row.

    Shapes: volume (*sides, ...), window as many numbers as there are sides; `run` maps (batch_size, *window, ...) to
        (batch_size, *window, *more); result (*sides, *more) float32.

    Args:
        run: the network. The last batch is filled up with copies, so that one compiled graph serves all.
        volume: further axes behind the sides, such as channels, are never cut.
        window: sides of a window, in voxels.
        overlap: see `shares`.
        batch_size: windows per call.

    Cost: about 1 / (1 - overlap) calls of `run` per window and axis that is longer than the window; memory for the
        result, the volume and one batch.

    >>> slide(lambda batch: batch, np.arange(5.0), (2,)).tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    sides = volume.shape[: len(window)]
    short = [(0, max(length - side, 0)) for side, length in zip(sides, window, strict=True)]
    padded = np.pad(volume, short + [(0, 0)] * (volume.ndim - len(window)), mode="edge")
    axes = [shares(side, length, overlap) for side, length in zip(padded.shape, window, strict=False)]
    places, total = list(itertools.product(*(range(len(starts)) for starts, _ in axes))), None

    def cut(place: tuple[int, ...]) -> tuple[slice, ...]:
        starts = (int(starts[number]) for number, (starts, _) in zip(place, axes, strict=True))
        return tuple(slice(start, start + length) for start, length in zip(starts, window, strict=True))

    for first in range(0, len(places), batch_size):
        some = places[first : first + batch_size]
        filled = some + some[-1:] * (batch_size - len(some))
        found = np.asarray(run(np.stack([padded[cut(place)] for place in filled])))
        more = found.shape[1 + len(window) :]
        if total is None:
            total = np.zeros((*padded.shape[: len(window)], *more), np.float32)
        for place, part in zip(some, found, strict=False):
            share = np.ones((), np.float32)
            for number, (_, weights) in zip(place, axes, strict=True):
                share = share[..., None] * weights[number]
            total[cut(place)] += part * share.reshape(*window, *(1,) * len(more))
    return total[tuple(slice(side) for side in sides)]


def shares(side: int, window: int, overlap: float = OVERLAP) -> tuple[np.ndarray, np.ndarray]:
    """Place windows evenly along an axis; give each its share of the voxels in it.

    share_k(x) = g(x - start_k) / sum over windows j of g(x - start_j), g(x) = exp(-(x - centre)^2 / (2 sigma^2)).

    Args:
        side: of the axis, in voxels; at least the window.
        window: side of a window.
        overlap: least share of a window that it has in common with the next, from 0 to below 1.

    Returns:
        First voxels (windows,) int, the first window at the start and the last at the end; and shares (windows, window)
        float32, which add up to 1 at each voxel.

    >>> shares(10, 4, overlap=0.5)[0].tolist()
    [0, 2, 4, 6]
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap is {overlap}; choose a share from 0 to below 1")
    step = max(1, int(window * (1 - overlap)))
    starts = np.rint(np.linspace(0, side - window, -(-(side - window) // step) + 1)).astype(int)
    offsets = np.arange(window) - (window - 1) / 2
    gaussian = np.exp(-0.5 * (offsets / (SIGMA * window)) ** 2)
    inside = starts[:, None] + np.arange(window)
    total = np.bincount(inside.ravel(), np.tile(gaussian, len(starts)))
    return starts, (gaussian / total[inside]).astype(np.float32)
