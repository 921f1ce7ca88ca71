"""The look of every picture: one colour per organ, contours with a light fill over grey slices.

A function with the decorator `look` draws in this style, whatever the notebook has set. `canvas` makes the figure,
`overlay` draws a slice with its masks, and `save` writes a small PNG.
"""

from functools import wraps
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from kitlib.contest import ORGANS
from kitlib.files import replacing

# Amber, blue and crimson stay apart for the three kinds of colour blindness, on white paper and on dark slices.
COLORS = {"large_bowel": "#E8A200", "small_bowel": "#4AA8F0", "stomach": "#C8286A"}
LABELS = {organ: organ.replace("_", " ") for organ in ORGANS}
INK, PALE, TRAIN = "#333333", "#B8B8B8", "#9AA5B1"

WIDTH = 10.0  # inches: a notebook's column
STYLE = {
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": PALE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "image.cmap": "gray",
    "image.interpolation": "nearest",
}


def look(picture):
    """Decorator of functions that draw a figure: applies STYLE, whatever the notebook has set."""

    @wraps(picture)
    def drawn(*arguments, **options):
        with plt.rc_context(STYLE):
            return picture(*arguments, **options)

    return drawn


def canvas(
    height: float, rows: int = 1, columns: int = 1, width: float = WIDTH, **options
) -> tuple[Figure, np.ndarray]:
    """Make a figure of (rows, columns) axes; the axes are a two-dimensional array.

    The figure is closed at once, so that a notebook shows it only where it is returned.

    Args:
        height, width: inches.
        options: further ones of `plt.subplots`.
    """
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False, **options)
    plt.close(figure)
    return figure, axes


def picture_axis(axis: Axes, title: str = "") -> Axes:
    """Remove ticks and frame from an axis that shows a slice."""
    axis.set(xticks=[], yticks=[], title=title)
    axis.spines[:].set_visible(False)
    return axis


def overlay(axis: Axes, image: np.ndarray, masks: np.ndarray, fill: float = 0.25, line: float = 1.2, **options) -> Axes:
    """Draw a slice in grey and each organ over it, as a contour and a light fill that lets overlaps show.

    Args:
        image: (H, W) grey values; its 99.5th percentile becomes white.
        masks: (H, W, organs) bool, in the order of ORGANS.
        fill: opacity of the fill, 0 for contours alone.
        line: width of the contours in points.
        options: `extent` and `aspect` of `Axes.imshow`, where pixels are not square.
    """
    axis.imshow(image, vmin=0, vmax=max(float(np.percentile(image, 99.5)), 1.0), **options)
    rows, columns = _pixel_centres(image.shape, options.get("extent"))
    for organ, mask in zip(ORGANS, np.moveaxis(masks, -1, 0), strict=True):
        if mask.any():
            if fill:
                rgba = np.zeros((*mask.shape, 4))
                rgba[mask] = (*to_rgb(COLORS[organ]), fill)
                axis.imshow(rgba, **options)
            axis.contour(columns, rows, mask, levels=[0.5], colors=[COLORS[organ]], linewidths=line)
    return picture_axis(axis)


def organ_legend(figure: Figure, where: str = "outside lower center", organs=ORGANS, **options):
    """Add a legend of the organs' colours outside the axes."""
    handles = [Line2D([], [], color=COLORS[organ], linewidth=3, label=LABELS[organ]) for organ in organs]
    return figure.legend(handles=handles, loc=where, ncols=len(handles), **options)


def box(mask: np.ndarray, margin: int = 0) -> tuple[slice, slice]:
    """Return the rows and columns that hold a mask (..., H, W), with a margin in pixels; an empty mask gives all.

    >>> box(np.eye(5, dtype=bool)[:3])
    (slice(0, 3, None), slice(0, 3, None))
    """
    flat = mask.reshape(-1, *mask.shape[-2:]).any(axis=0)
    if not flat.any():
        return slice(0, flat.shape[0]), slice(0, flat.shape[1])
    cut = []
    for size, line in zip(flat.shape, (flat.any(axis=1), flat.any(axis=0)), strict=True):
        first, last = np.flatnonzero(line)[[0, -1]]
        cut.append(slice(max(int(first) - margin, 0), min(int(last) + 1 + margin, size)))
    return cut[0], cut[1]


def save(figure: Figure, path, dpi: int = 80, colors: int = 256) -> Path:
    """Write a figure as a small PNG, complete or not at all.

    Args:
        dpi: pixels per inch.
        colors: size of the palette; greys and three organs need few, and the file is a third as large.
    """
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi, bbox_inches="tight")
    return save_small(drawn, path, colors)


def save_small(picture, path, colors: int = 256) -> Path:
    """Write a PNG, a file or its path, again with a small palette."""
    with Image.open(picture) as opened, replacing(path, "wb") as file:
        # Of Pillow's methods, this one keeps rare strong colours: the organs' contours.
        few = opened.convert("RGB").quantize(colors, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(file, format="png", optimize=True)
    return Path(path)


def _pixel_centres(shape: tuple[int, int], extent) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of the pixel centres along rows and columns, in the units of the extent."""
    height, width = shape
    left, right, bottom, top = extent or (-0.5, width - 0.5, height - 0.5, -0.5)
    rows = top + (np.arange(height) + 0.5) * (bottom - top) / height
    return rows, left + (np.arange(width) + 0.5) * (right - left) / width
