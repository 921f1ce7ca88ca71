"""A network over one prepared scan: its stacks or volumes, so many per call, and what it says of them as one array."""

from collections.abc import Callable

import keras
import numpy as np

from kitlib import contest
from kitlib.data import axes, inputs
from kitlib.inference import windows

BATCH_SIZE = 16  # slices to label per call
PIXELS = 16 * 128 * 128  # most pixels of all pictures in a call on a CPU


def inputs_per_call(spec: inputs.InputSpec, slices: int) -> int:
    """Return how many inputs label some slices in one call: a stack labels one, a volume all of its own.

    On a CPU it takes fewer of large pictures: more at once are no faster there, and take memory.

    >>> inputs_per_call(inputs.InputSpec(depth=8, volume=True), 16), inputs_per_call(inputs.InputSpec(depth=5), 16)
    (2, 16)
    """
    if spec.volume:
        return max(1, slices // spec.depth)
    if keras.backend.backend() != "tensorflow" or keras.distribution.list_devices("gpu"):
        return slices
    height, width = spec.picture
    return max(1, min(slices, PIXELS // (height * width)))


def predict_scan(
    network,
    prepared: np.ndarray,
    spec: inputs.InputSpec,
    batch_size: int = BATCH_SIZE,
    prior: np.ndarray | None = None,
    flipped: bool = False,
) -> np.ndarray:
    """Run a network over the stacks of one prepared scan, along any axis, or over overlapping volumes.

    Args:
        network: keras.Model from (B, *spec.shape) to (B, *spec.labelled, organs).
        prepared: (D, height, width) as inputs.prepare gives it.
        spec: the stack, its axis, or the volume.
        batch_size: slices to label per call, see `inputs_per_call`; the last batch is filled up, so that one
            compiled graph serves all.
        prior: (D, height, width, 4), the masks of the earlier day as `priors.channels` makes them; None is no such day.
            A network without a prior ignores it.
        flipped: mirror each input left to right, and what the network gives back again.

    Returns:
        (D, height, width, organs) float32.
    """

    def run(images: np.ndarray) -> np.ndarray:
        return np.asarray(network.predict_on_batch(images))

    return run_scan(run, prepared, spec, inputs_per_call(spec, batch_size), prior, flipped)


def run_scan(
    network: Callable[[np.ndarray], np.ndarray],
    prepared: np.ndarray,
    spec: inputs.InputSpec,
    count: int,
    prior: np.ndarray | None = None,
    flipped: bool = False,
) -> np.ndarray:
    """Run a function over the stacks or volumes of one prepared scan, `count` of them per call.

    Args:
        network: from (count, *spec.shape) float32 to (count, *spec.labelled, organs).
        prepared, spec, prior, flipped: as in `predict_scan`.
        count: stacks or volumes per call; the last call is filled up.

    Returns:
        (D, height, width, organs) float32.
    """

    def label(slices: np.ndarray, *more: np.ndarray) -> np.ndarray:
        batch = np.concatenate([slices.transpose(0, 2, 3, 1), *more], axis=-1)  # (B, height, width, depth)
        found = network(np.ascontiguousarray(batch[:, :, ::-1] if flipped else batch, np.float32))
        return found[:, :, ::-1] if flipped else found

    def along(pictures: np.ndarray) -> np.ndarray:
        near, rows, found = axes.places(len(pictures), spec), pictures.shape[1], None
        below = [(0, 0), (0, 0), (0, 0 if spec.axis == "z" else spec.length - rows), (0, 0)]
        for first in range(0, len(pictures), count):
            some = np.minimum(np.arange(first, first + count), len(pictures) - 1)
            part = label(np.pad(pictures[near[some]], below), *([prior[some]] if spec.prior else []))[:, :rows]
            if found is None:
                found = np.empty((len(pictures), *part.shape[1:]), np.float32)
            found[first : first + count] = part[: len(pictures) - first]
        return found

    def turned(scan: np.ndarray) -> np.ndarray:
        return axes.turn_back(along(axes.turn(scan, spec.axis)), spec.axis)

    if spec.volume:
        sides = spec.depth, spec.height, spec.width
        return windows.slide(lambda batch: np.moveaxis(label(batch), 3, 1), prepared, sides, batch_size=count)
    if spec.axis != "z" and len(prepared) > spec.length:
        return windows.slide(lambda one: turned(one[0])[None], prepared, (spec.length,))
    if spec.prior and prior is None:
        prior = np.zeros((*prepared.shape, contest.PRIOR_CHANNELS), np.uint8)
    return turned(prepared)
