"""Pictures of the augmentation: elastic fields on a slice and its masks, the same beside elasticdeform, and samples."""

import numpy as np
from keras import ops
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kitlib.figures.style import WIDTH, canvas, look, organ_legend, overlay, picture_axis
from kitlib.layers import elastic
from kitlib.layers.augment import Augment

LINE = "#7FE0C3"  # the grid: a colour that no organ has


@look
def distortion(image: np.ndarray, masks: np.ndarray, fields: dict[str, np.ndarray], spacing_px: int = 12) -> Figure:
    """Draw what elastic fields do to a slice and its masks, as Figure 8 of the paper does.

    A row per field: the slice under a grid, slice and grid warped, the masks, the masks warped. The grid's warped lines
    are where the field reads from the straight ones, so they bend exactly as the anatomy under them.

    Args:
        image: (H, W) grey values.
        masks: (H, W, organs) bool.
        fields: title -> field (H, W, 2) in pixels.
        spacing_px: between two lines of the grid.
    """
    figure, axes = canvas(WIDTH / 4 * len(fields) * image.shape[0] / image.shape[1] + 0.6, len(fields), 4)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]].astype("float32")
    for line, (title, field) in zip(axes, fields.items(), strict=True):
        moved, moved_masks = warped(image, masks, field)
        grid(overlay(line[0], image, masks & False), rows, columns, spacing_px)
        grid(overlay(line[1], moved, masks & False), rows + field[..., 0], columns + field[..., 1], spacing_px)
        overlay(line[2], np.zeros_like(image), masks, fill=0.9)
        overlay(line[3], np.zeros_like(image), moved_masks, fill=0.9)
        length = np.hypot(field[..., 0], field[..., 1])
        line[0].set_title(title)
        line[1].set_title(f"steps of {length.mean():.1f} px, at most {length.max():.1f}")
        line[2].set_title("masks")
        line[3].set_title("masks, warped")
    organ_legend(figure)
    return figure


@look
def beside(image: np.ndarray, ours: np.ndarray, theirs: np.ndarray, name: str = "elasticdeform") -> Figure:
    """Draw a slice, the slice warped here and by another library with the same control grid, and what is between them.

    Args:
        image, ours, theirs: (H, W) grey values.
        name: of the other library.
    """
    figure, axes = canvas(WIDTH / 4 * image.shape[0] / image.shape[1] + 0.5, columns=4)
    white = max(float(np.percentile(image, 99.5)), 1e-6)
    for axis, shown, title in zip(axes[0], (image, ours, theirs), ("slice", "kitlib", name), strict=False):
        picture_axis(axis, title).imshow(shown, vmin=0, vmax=white)
    apart = np.abs(ours.astype(float) - theirs) / max(float(np.ptp(image)), 1e-12)
    picture_axis(axes[0][3], f"apart: {apart.max():.0e} of the range").imshow(apart, vmin=0, vmax=1e-3)
    return figure


@look
def samples(layer: Augment, images: np.ndarray, masks: np.ndarray, seeds: np.ndarray) -> Figure:
    """Draw one stack's middle as it is, and as the layer would deliver it for each seed.

    Args:
        layer: the augmentation.
        images: (H, W, C) one stack as the network gets it.
        masks: (H, W, organs) uint8 or bool.
        seeds: one integer per drawn sample.
    """
    seeds = np.asarray(seeds, "int32")
    stack, organs = (np.repeat(part[None], len(seeds), axis=0) for part in (images, masks.astype("uint8")))
    moved, moved_masks = map(ops.convert_to_numpy, layer(stack, organs, seeds, training=True))
    figure, axes = canvas(WIDTH / (len(seeds) + 1) * images.shape[0] / images.shape[1] + 0.6, columns=len(seeds) + 1)
    titles = ["as it is", *(f"seed {seed}" for seed in seeds)]
    shown = [(images, masks.astype(bool)), *zip(moved, moved_masks > 0.5, strict=True)]
    for axis, (image, mask), title in zip(axes[0], shown, titles, strict=True):
        overlay(axis, image[..., image.shape[-1] // 2] * 255.0, mask)
        axis.set_title(title)
    organ_legend(figure)
    return figure


def warped(image: np.ndarray, masks: np.ndarray, field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Warp one slice linearly and its masks by nearest pixel."""
    moved = elastic.warp(image[None, ..., None].astype("float32"), field[None])
    moved_masks = elastic.warp(masks[None].astype("uint8"), field[None], order=0)
    return ops.convert_to_numpy(moved)[0, ..., 0], ops.convert_to_numpy(moved_masks)[0].astype(bool)


def grid(axis: Axes, rows: np.ndarray, columns: np.ndarray, spacing_px: int) -> Axes:
    """Draw the lines on which the positions read are whole multiples of a spacing."""
    for positions in (rows, columns):
        levels = np.arange(spacing_px / 2, positions.max(), spacing_px)
        axis.contour(positions, levels=levels, colors=[LINE], linewidths=0.6)
    return axis
