"""Pictures of the layers: the network's stages (the paper's Figure 1), its mirrored border (Figure 2), augmentation."""

import re

import keras
import numpy as np
from keras import ops
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Rectangle

from kitlib.figures.style import INK, WIDTH, canvas, look, organ_legend, overlay, picture_axis
from kitlib.layers import elastic
from kitlib.layers.augment import Augment
from kitlib.models import padding

MAPS, SKIP, WINDOW, EXTERNAL = "#D6DEE6", "#8FA3B5", "#7B3294", "#008837"
LINE = "#7FE0C3"  # the grid: a colour that no organ has


@look
def network(model: keras.Model) -> Figure:
    """Draw a network of `unet.build_unet` as a U (paper, Figure 1), from the model itself.

    Each box is the output of a stage: its height is the log of the maps' side, its width the log of their channels. The
    size is above the box, the channels below it. Dots mark the attentions. For another encoder the drawing shows its
    skips and its last maps.

    Raises:
        ValueError: a model that `build_unet` has not built.
    """
    names = [layer.name for layer in model.layers]
    levels = sum(re.fullmatch(r"up\d+a", name) is not None for name in names)
    if not levels:
        raise ValueError(f"model {model.name!r} has no layer up0a; pass a model built by kitlib.models.build_unet")
    foreign = "down0b_relu" not in names
    down = [_skip_shape(model, stage, levels) for stage in range(levels + 1)]
    up = [_shape(model, f"up{stage}b_relu") for stage in range(levels)]
    figure, axes = canvas(0.95 * levels + 1.8)
    axis = picture_axis(axes[0, 0])
    step = 2.6
    for stage, shape in enumerate(down):
        if shape is None:
            continue
        left = _box(axis, stage * step, -stage, shape)
        if f"down{stage}_window" in names:
            _mark(axis, left, WINDOW)
        if stage == levels and "bottom_external" in names:
            _mark(axis, left + (0.3 if f"down{stage}_window" in names else 0), EXTERNAL)
    for stage, shape in enumerate(up):
        right = (2 * levels - stage) * step
        _box(axis, right, -stage, shape)
        if f"up{stage}_skip" in names:
            _arrow(axis, (stage * step + 0.9, -stage), (right - 0.9, -stage), SKIP, "dashed")
        _arrow(axis, (right - step + 0.75, -stage - 0.62), (right - 0.45, -stage - 0.42), INK)
        _arrow(axis, (stage * step + 0.45, -stage - 0.42), ((stage + 1) * step - 0.75, -stage - 0.62), INK)
    _ends(axis, model, levels * 2 * step)
    axis.set(xlim=(-3.4, levels * 2 * step + 3.4), ylim=(-levels - 0.75, 0.8))
    handles = [
        Line2D([], [], color=INK, label=f"{'encoder' if foreign else '2x2 pool'} down, 2x2 up-convolution up"),
        Line2D([], [], color=SKIP, ls="dashed", label="skip" + (", cropped" if "up0_crop" in names else "")),
    ]
    for color, label in ((WINDOW, "window attention"), (EXTERNAL, "external attention")):
        if any(line.get_color() == color for line in axis.lines):
            handles.append(Line2D([], [], color=color, marker="o", ls="", label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _skip_shape(model, stage: int, levels: int) -> tuple | None:
    """Find the shape of a stage's maps on the way down; None if another encoder gives no skip there."""
    names = [layer.name for layer in model.layers]
    if f"down{stage}b_relu" in names:
        return _shape(model, f"down{stage}b_relu")
    if stage == levels:
        return tuple(model.get_layer(f"up{stage - 1}_grow").input.shape[1:])
    if f"up{stage}_skip" in names:
        return tuple(model.get_layer(f"up{stage}_skip").input[0].shape[1:])
    return None


def _shape(model, name) -> tuple:
    return tuple(model.get_layer(name).output.shape[1:])


def _size(shape) -> str:
    return " x ".join("any" if side is None else str(side) for side in shape)


def _box(axis: Axes, x: float, y: float, shape) -> float:
    """Draw one stage's maps and their sizes; return the left edge."""
    height, _, channels = shape
    tall, wide = 0.06 * np.log2(height or 128) + 0.04, 0.13 * np.log2(channels) + 0.2
    axis.add_patch(Rectangle((x - wide / 2, y - tall / 2), wide, tall, facecolor=MAPS, edgecolor=SKIP))
    axis.text(x, y + tall / 2 + 0.04, _size(shape[:2]), ha="center", va="bottom", fontsize=8)
    axis.text(x, y - tall / 2 - 0.04, channels, ha="center", va="top", fontsize=8, color="#5B6B7A")
    return x - wide / 2 + 0.22


def _mark(axis: Axes, x: float, color: str) -> None:
    y = axis.patches[-1].get_y() + axis.patches[-1].get_height() / 2
    axis.plot(x, y, "o", color=color, markersize=6)


def _arrow(axis: Axes, start, end, color: str, style: str = "solid") -> None:
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=color, linestyle=style, lw=1))


def _ends(axis: Axes, model, right: float) -> None:
    """Label the input on the left and the output on the right."""
    shapes = tuple(model.input.shape[1:]), tuple(model.outputs[0].shape[1:])
    for x, turn, title, shape in zip((-2.4, right + 2.4), (1, -1), ("images", "organs"), shapes, strict=True):
        axis.text(
            x,
            0,
            f"{title}\n{_size(shape[:2])}\n{shape[2]} channel{'s' * (shape[2] > 1)}",
            ha="center",
            va="center",
            fontsize=9,
        )
        start, end = (x + turn * 1.1, 0), (turn * -0.75 + (0 if turn > 0 else right), 0)
        _arrow(axis, *((start, end) if turn > 0 else (end, start)), INK)


@look
def mirrored_border(image: np.ndarray, levels: int = 4) -> Figure:
    """Draw how "valid" padding mirrors a slice beyond its border (paper, Figure 2).

    Left is the slice, right the network's input. The yellow frame is the slice, which is also the output; the blue
    frame is the receptive field of its marked corner pixel, which reaches far into the mirrored part.

    Args:
        image: (H, W) grey values.
        levels: poolings of the network.
    """
    before, after = padding.mirrored_border(image.shape, levels)
    mirrored = keras.ops.convert_to_numpy(padding.MirrorBorder(before, after)(image[None, ..., None].astype("float32")))
    figure, axes = canvas(WIDTH / 2 + 0.3, columns=2)
    white = float(np.percentile(image, 99.5)) or 1.0
    for axis, picture, title in zip(
        axes[0], (image, mirrored[0, ..., 0]), ("The slice", "The network's input"), strict=True
    ):
        picture_axis(axis, f"{title}, {_size(picture.shape)} pixels").imshow(picture, vmin=0, vmax=white)
    frame = {"fill": False, "lw": 1.6}
    (top, left), (height, width) = before, image.shape
    axes[0, 1].add_patch(Rectangle((left - 0.5, top - 0.5), width, height, edgecolor="#FFC400", **frame))
    shrink = padding.skip_border(0, levels) + 4  # the output begins so far inside the input
    (first_row, last_row), (first, last) = (padding.context(corner - shrink, levels) for corner in (top, left))
    reach = Rectangle((first - 0.5, first_row - 0.5), last - first + 1, last_row - first_row + 1, **frame)
    reach.set_edgecolor("#4AA8F0")
    axes[0, 1].add_patch(reach)
    axes[0, 1].plot(left, top, "s", color="#4AA8F0", markersize=4)
    names = [
        Line2D([], [], color="#FFC400", label="the slice"),
        Line2D([], [], color="#4AA8F0", label="receptive field of its corner"),
    ]
    figure.legend(handles=names, loc="outside lower center", ncols=2)
    return figure


@look
def distortion(image: np.ndarray, masks: np.ndarray, fields: dict[str, np.ndarray], spacing_px: int = 12) -> Figure:
    """Draw what elastic fields do to a slice and its masks, as Figure 8 of the paper does.

    One row per field: the slice under a grid, both warped, the masks, the masks warped. The grid is warped by the same
    field, so it bends exactly as the anatomy.

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
        _grid_lines(overlay(line[0], image, masks & False), rows, columns, spacing_px)
        _grid_lines(overlay(line[1], moved, masks & False), rows + field[..., 0], columns + field[..., 1], spacing_px)
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
def warp_difference(image: np.ndarray, ours: np.ndarray, theirs: np.ndarray, name: str = "elasticdeform") -> Figure:
    """Draw a slice, the slice warped here and by another library with the same control grid, and their difference.

    Args:
        image, ours, theirs: (H, W) grey values.
        name: of the other library.
    """
    figure, axes = canvas(WIDTH / 4 * image.shape[0] / image.shape[1] + 0.5, columns=4)
    white = max(float(np.percentile(image, 99.5)), 1e-6)
    for axis, shown, title in zip(axes[0], (image, ours, theirs), ("slice", "kitlib", name), strict=False):
        picture_axis(axis, title).imshow(shown, vmin=0, vmax=white)
    apart = np.abs(ours.astype(float) - theirs) / max(float(np.ptp(image)), 1e-12)
    picture_axis(axes[0][3], f"difference: {apart.max():.0e} of the range").imshow(apart, vmin=0, vmax=1e-3)
    return figure


@look
def samples(layer: Augment, images: np.ndarray, masks: np.ndarray, seeds: np.ndarray) -> Figure:
    """Draw the middle slice of a stack, and the layer's output for each seed.

    Args:
        layer: the augmentation.
        images: (H, W, C) one stack of the network's input.
        masks: (H, W, organs) uint8 or bool.
        seeds: one integer per drawn sample.
    """
    seeds = np.asarray(seeds, "int32")
    stack, organs = (np.repeat(part[None], len(seeds), axis=0) for part in (images, masks.astype("uint8")))
    moved, moved_masks = map(ops.convert_to_numpy, layer(stack, organs, seeds, training=True))
    figure, axes = canvas(WIDTH / (len(seeds) + 1) * images.shape[0] / images.shape[1] + 0.6, columns=len(seeds) + 1)
    titles = ["original", *(f"seed {seed}" for seed in seeds)]
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


def _grid_lines(axis: Axes, rows: np.ndarray, columns: np.ndarray, spacing_px: int) -> Axes:
    """Draw grid lines where rows and columns are half a spacing off whole multiples of it."""
    for positions in (rows, columns):
        levels = np.arange(spacing_px / 2, positions.max(), spacing_px)
        axis.contour(positions, levels=levels, colors=[LINE], linewidths=0.6)
    return axis
