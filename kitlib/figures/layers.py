"""Pictures of the network: its stages (the paper's Figure 1) and the mirrored border (its Figure 2)."""

import re

import keras
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Rectangle

from kitlib.figures.style import INK, WIDTH, canvas, look, picture_axis
from kitlib.models import padding

MAPS, SKIP, WINDOW, EXTERNAL = "#D6DEE6", "#8FA3B5", "#7B3294", "#008837"


@look
def network(model: keras.Model) -> Figure:
    """Draw a network of `unet.build_unet` as a U (paper, Figure 1), from the model itself.

    Each box is what a stage puts out: its height goes by the side of the maps, its width by their channels, both as
    logarithms. Sizes stand above a box, channels below it. Marks show where the attentions sit. Of another encoder the
    maps are drawn that it hands over; a stage without a skip has none.

    Raises:
        ValueError: when `build_unet` has not built the model.
    """
    names = [layer.name for layer in model.layers]
    levels = sum(re.fullmatch(r"up\d+a", name) is not None for name in names)
    if not levels:
        raise ValueError(
            f"model {model.name!r} has no layer up0a: only what unet.build_unet builds can be drawn as a U"
        )
    foreign = "down0b_relu" not in names
    down = [_handed_over(model, stage, levels) for stage in range(levels + 1)]
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
        place = (2 * levels - stage) * step
        _box(axis, place, -stage, shape)
        if f"up{stage}_skip" in names:
            _arrow(axis, (stage * step + 0.9, -stage), (place - 0.9, -stage), SKIP, "dashed")
        _arrow(axis, (place - step + 0.75, -stage - 0.62), (place - 0.45, -stage - 0.42), INK)
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


def _handed_over(model, stage: int, levels: int) -> tuple | None:
    """Find the maps that a stage on the way down hands over; None where another encoder gives none."""
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
    """Draw one stage's maps and their sizes; give the left edge."""
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
    """Name what comes in on the left and what goes out on the right."""
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
    """Draw how "valid" continues a slice beyond its border (paper, Figure 2).

    Left the slice; right what the network gets: the yellow frame is the slice, which is also what comes out; the blue
    frame is all that the outlined corner pixel of it depends on, and it reaches far into the mirrored part.

    Args:
        image: (H, W) grey values.
        levels: poolings of the network.
    """
    before, after = padding.mirrored_border(image.shape, levels)
    mirrored = keras.ops.convert_to_numpy(padding.MirrorBorder(before, after)(image[None, ..., None].astype("float32")))
    figure, axes = canvas(WIDTH / 2 + 0.3, columns=2)
    white = float(np.percentile(image, 99.5)) or 1.0
    for axis, picture, title in zip(
        axes[0], (image, mirrored[0, ..., 0]), ("The slice", "What the network gets"), strict=True
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
        Line2D([], [], color="#4AA8F0", label="what its corner sees"),
    ]
    figure.legend(handles=names, loc="outside lower center", ncols=2)
    return figure
