"""The part of every slice that the network sees: a box in mm around the centre of the image, measured from the masks.

Scanners differ in the size of their images and pixels, but the patient lies near the centre of each. A box in mm
therefore cuts the same part of the body out of every scan and leaves arms and air outside, and all scans get one scale.
"""

import math

import numpy as np
import pandas as pd

from kitlib import contest, rle

MARGIN_MM = 20.0  # around the masks of the training set, for scans whose organs are nearer to the edge
SIDES = 32  # pixels: five halvings, as the deepest networks of the kit need them

Box = tuple[float, float, float, float]  # top, bottom, left, right in mm from the centre of the image; y is downwards
Window = tuple[int, int, int, int]  # first row, end of rows, first column, end of columns; may lie outside the slice


def window(box_mm: Box | None, shape: tuple[int, int], spacing_mm: float | None) -> Window:
    """Find the pixels of a slice that a box covers, also those that it covers in part.

    Args:
        box_mm: the box; None is the whole slice.
        shape: (H, W) of the slice in pixels.
        spacing_mm: size of its pixels; only a box needs it.

    Raises:
        ValueError: for a box without a spacing.

    >>> window((-3, 6, -4, 4), (10, 12), 1.5)
    (3, 9, 3, 9)
    """
    height, width = shape
    if box_mm is None:
        return 0, height, 0, width
    if spacing_mm is None or not spacing_mm > 0:
        raise ValueError(
            f"box_mm={box_mm} needs the pixel spacing of the scan, got spacing_mm={spacing_mm}; give the column "
            "spacing_mm of the slice table"
        )
    first_row, first_column = (
        math.floor(round(size / 2 + edge / spacing_mm, 6)) for size, edge in zip(shape, box_mm[::2], strict=True)
    )
    end_row, end_column = (
        math.ceil(round(size / 2 + edge / spacing_mm, 6)) for size, edge in zip(shape, box_mm[1::2], strict=True)
    )
    return first_row, end_row, first_column, end_column


def box_for(slices: pd.DataFrame, margin_mm: float = MARGIN_MM) -> Box:
    """Measure the smallest box that holds every mask, and add a margin; whole mm.

    Args:
        slices: slice table with the masks, such as the training set.
        margin_mm: added on each side.

    Returns:
        (top, bottom, left, right) in mm from the centre of the image, for `InputSpec(box_mm=...)`.

    Raises:
        ValueError: when the table has no mask; names the slice and the organ of a malformed one.

    Cost: half a second on one core for 38,496 slices, because no mask is decoded.

    >>> one = {"id": ["a"], "height": [10], "width": [10], "spacing_mm": [2.0]}
    >>> box_for(pd.DataFrame(one | {"large_bowel": ["1 3"], "small_bowel": "", "stomach": ""}), margin_mm=5)
    (-15, -3, -15, 1)
    """
    edges = []
    for (height, width, spacing_mm), rows in slices.groupby(["height", "width", "spacing_mm"], sort=False):
        starts, lengths = _runs(rows, int(height * width))
        if starts.size:
            last = starts + lengths - 1
            top, bottom = starts.min() // width, last.max() // width + 1
            wraps = (starts // width != last // width).any()  # a run that goes on in the next row has both edges
            left = 0 if wraps else (starts % width).min()
            right = width if wraps else (last % width).max() + 1
            corner = np.array([top, bottom, left, right]) - np.repeat([height, width], 2) / 2
            edges.append(corner * spacing_mm)
    if not edges:
        raise ValueError(f"the {len(slices)} slices have no mask; a box is measured from a table with masks")
    edges = np.array(edges)
    low, high = edges[:, ::2].min(axis=0) - margin_mm, edges[:, 1::2].max(axis=0) + margin_mm
    (top, left), (bottom, right) = np.floor(low.round(6)).astype(int), np.ceil(high.round(6)).astype(int)
    return int(top), int(bottom), int(left), int(right)


def share(box_mm: Box, slices: pd.DataFrame) -> float:
    """Measure which share of the slices' area lies in a box, in [0, 1]."""
    sizes = slices.value_counts(["height", "width", "spacing_mm"])
    total = inside = 0
    for (height, width, spacing_mm), count in sizes.items():
        top, bottom, left, right = window(box_mm, (height, width), spacing_mm)
        rows, columns = min(bottom, height) - max(top, 0), min(right, width) - max(left, 0)
        inside += count * max(rows, 0) * max(columns, 0)
        total += count * height * width
    return inside / total


def grid_for(box_mm: Box, pixel_mm: float = 1.0) -> tuple[int, int]:
    """Suggest a grid for a box: height and width, multiples of 32, with pixels of about `pixel_mm`.

    >>> grid_for((-185, 72, -202, 192))
    (256, 384)
    """
    top, bottom, left, right = box_mm
    return tuple(max(1, round(side / pixel_mm / SIDES)) * SIDES for side in (bottom - top, right - left))


def advice(slices: pd.DataFrame, margin_mm: float = MARGIN_MM) -> str:
    """Say which box holds the masks of a table, which share of the slices it is, and which grid suits it.

    Raises:
        ValueError: when the table has no mask.
    """
    box = box_for(slices, margin_mm)
    down, across = box[1] - box[0], box[3] - box[2]
    height, width = grid_for(box)
    return (
        f"box_mm={box} holds every mask with a margin of {margin_mm:g} mm: {down} x {across} mm, "
        f"{share(box, slices):.0%} of the slices' area. "
        f"A grid of {height} x {width} pixels gives it {down / height:.2f} x {across / width:.2f} mm a pixel."
    )


def _runs(rows: pd.DataFrame, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Read the runs of all masks of slices of one size: first pixels from 0, and lengths."""
    texts = rows[list(contest.ORGANS)].fillna("")
    try:
        return rle.parse(texts.to_numpy(object).ravel().tolist(), size)[:2]
    except ValueError:
        for name, *masks in texts.set_axis(rows["id"]).itertuples():
            for organ, text in zip(contest.ORGANS, masks, strict=True):
                try:
                    rle.parse([text], size)
                except ValueError as error:
                    raise ValueError(f"{name} {organ}: {error}") from None
        raise
