"""Image sizes in a U-Net: which sizes fit, what "valid" padding crops, and the mirrored border."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers, ops


def mirrored_border(
    sides: Sequence[int | None], levels: int, stages: Sequence[int] = (), window: int = 1
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Compute the mirrored border that a "valid" network needs: pixels (above, left) and (below, right).

    Raises:
        ValueError: a side that is None.

    >>> mirrored_border((388, 388), 4)
    ((92, 92), (92, 92))
    """
    if None in sides:
        raise ValueError(f"mirror_border needs a fixed height and width, got {tuple(sides)}; set both")
    before, after = [], []
    for side in sides:
        grown = side + 2 * skip_border(0, levels) + 8
        while _misfit(grown, levels, stages, window, "valid"):
            grown += 1
        before.append((grown - side) // 2)
        after.append(grown - side - before[-1])
    return tuple(before), tuple(after)


def skip_border(stage: int, levels: int) -> int:
    """Count the pixels that "valid" crops from each border of a stage's skip: 4 at the coarsest, then 2 n + 8.

    >>> [skip_border(stage, 4) for stage in range(4)]  # Ronneberger et al., Figure 1: 568 to 392, ..., 64 to 56
    [88, 40, 16, 4]
    """
    return 12 * 2 ** (levels - 1 - stage) - 8


def context(pixel: int, levels: int) -> tuple[int, int]:
    """Find the first and last input pixel on which one output pixel of a "valid" network depends, along one side.

    Each stage up needs its skip and the stage below, which is twice as coarse; two convolutions need 4 pixels more.

    >>> context(0, 4), context(387, 4)
    ((0, 187), (384, 571))
    """
    needs = []
    first, last = pixel, pixel
    for stage in range(levels):
        border = skip_border(stage, levels)
        needs.append((first + border, last + 4 + border))
        first, last = first // 2, (last + 4) // 2
    for skip_first, skip_last in reversed(needs):
        first, last = min(2 * first, skip_first), max(2 * (last + 4) + 1, skip_last)
    return first, last + 4


def check_size(sides: Sequence[int | None], levels: int, stages: Sequence[int], window: int, padding: str) -> None:
    """Raise ValueError for a side that does not fit the network; the message names the nearest sides that do."""
    for name, side in zip(("height", "width"), sides, strict=True):
        reason = side is not None and _misfit(side, levels, stages, window, padding)
        if reason:
            near = [
                next((x for x in steps if not _misfit(x, levels, stages, window, padding)), None)
                for steps in (range(side, 0, -1), range(side, side + 4096))
            ]
            fits = " or ".join(str(x) for x in near if x)
            remedy = f"choose {fits}" if fits else "no size nearby fits"
            raise ValueError(f"the {name} {side} does not fit {levels} levels: {reason}; {remedy}")


def _misfit(side: int, levels: int, stages: Sequence[int], window: int, padding: str) -> str | None:
    """Follow a side down the network; give the reason why it does not fit, or None."""
    for stage in range(levels + 1):
        side -= 4 if padding == "valid" else 0
        if side < 1:
            return f"no pixel is left at stage {stage}"
        if stage in stages and side % window:
            return f"stage {stage} is {side} long, which is not divisible by the window {window}"
        if stage < levels and side % 2:
            return f"stage {stage} is {side} long, which is odd"
        side //= 2
    return None


@keras.saving.register_keras_serializable("kitlib")
class SizeCheck(layers.Layer):
    """Identity that raises ValueError for images whose size the network cannot take (`check_size`)."""

    def __init__(self, levels, stages, window, padding, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"levels": levels, "stages": tuple(stages), "window": window, "padding": padding}

    def call(self, images):
        check_size(images.shape[1:3], **self.settings)
        return images

    def compute_output_shape(self, input_shape):
        check_size(input_shape[1:3], **self.settings)
        return input_shape

    def get_config(self):
        return {**super().get_config(), **self.settings}


@keras.saving.register_keras_serializable("kitlib")
class MirrorBorder(layers.Layer):
    """Mirror the border of images about the centres of the outermost pixels (the paper's Figure 2).

    An image smaller than its border is mirrored repeatedly.

    Shapes: (B, H, W, C) -> (B, above + H + below, left + W + right, C).

    Args:
        before: pixels (above, left).
        after: pixels (below, right).
    """

    def __init__(self, before: Sequence[int], after: Sequence[int], **kwargs):
        super().__init__(**kwargs)
        self.before, self.after = tuple(before), tuple(after)

    def call(self, images):
        for axis, before, after in zip((1, 2), self.before, self.after, strict=True):
            side = images.shape[axis]
            index = np.abs((np.arange(-before, side + after) + side - 1) % (2 * side - 2) - side + 1)
            images = ops.take(images, index.astype("int32"), axis=axis)
        return images

    def compute_output_shape(self, input_shape):
        batch, *sides, channels = input_shape
        return (batch, *(sum(x) for x in zip(self.before, sides, self.after, strict=True)), channels)

    def get_config(self):
        return {**super().get_config(), "before": self.before, "after": self.after}
