"""Pictures of scans with their masks: typical and overlapping masks, contact sheet, three planes, days of a case.

Every function takes the slice table of `scans.read`, reads its images and returns a figure. The paper's figures 4 and 5
are among them. The patient's right is on the left, as radiologists see it; slice 1 is nearest to the head.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from kitlib.contest import ORGANS, SLICE_THICKNESS_MM
from kitlib.data import inputs, scans
from kitlib.eda import statistics
from kitlib.eda.areas import COMBINATIONS
from kitlib.figures.style import LABELS, WIDTH, box, canvas, look, organ_legend, overlay, picture_axis

_OUTLINE = [withStroke(linewidth=1.5, foreground="black")]  # makes white letters readable on white fat
_GAP = 4  # pixels between the slices of a sheet
_BODY = 0.15  # brighter pixels are body, as a share of the 99th percentile


def views(slices: pd.DataFrame) -> Iterator[tuple[pd.Series, np.ndarray, np.ndarray]]:
    """Yield each row with its image (H, W) and masks (H, W, organs); the slices may differ in size."""
    for index, row in slices.iterrows():
        yield row, inputs.read_picture(row["path"]), scans.masks(slices.loc[[index]])[0]


@look
def typical_masks(slices: pd.DataFrame, count: int = 4) -> Figure:
    """Draw slices of several cases without and with contours (the paper's figure 4).

    The slice of a case is the one with the most mask pixels among those with the most organs.
    """
    measured = statistics.measured(slices)
    area = measured[[f"{organ}_px" for organ in ORGANS]]
    rank = (area > 0).sum(axis=1) * 1e6 + area.sum(axis=1)
    best = rank.groupby(slices["case"]).idxmax()
    best = best[rank[best].to_numpy() > 0]
    chosen = slices.loc[best.iloc[np.linspace(0, len(best) - 1, min(count, len(best))).round().astype(int)]]
    chosen = list(views(chosen))
    cuts = [_body(image, mask) for _, image, mask in chosen]
    tall = max((rows.stop - rows.start) / (columns.stop - columns.start) for rows, columns in cuts)
    width = min(WIDTH, 4 * len(chosen))
    figure, axes = canvas(2 * tall * width / len(chosen) + 0.7, rows=2, columns=len(chosen), width=width)
    for (above, below), (row, image, mask), cut in zip(axes.T, chosen, cuts, strict=True):
        overlay(above, image[cut], np.zeros_like(mask[cut]))
        above.set_title(f"case {row['case']}, day {row['day']}, slice {row['slice']}", size=9)
        overlay(below, image[cut], mask[cut])
        above.set_anchor("S")
        below.set_anchor("N")
    organ_legend(figure)
    return figure


@look
def overlapping_masks(slices: pd.DataFrame, count: int = 4, margin: int = 22) -> Figure:
    """Draw the largest overlaps, zoomed, with the shared pixels filled in white (the paper's figure 5).

    Args:
        count: number of pictures; the kinds of overlap take turns, and a scan is shown once per kind.
        margin: pixels around the overlap.
    """
    chosen = _largest_overlaps(slices, count)
    if not chosen:
        figure, axes = canvas(1.0)
        picture_axis(axes[0, 0]).text(0.5, 0.5, "No two masks of this data overlap.", ha="center")
        return figure
    width = min(WIDTH, 3.3 * len(chosen))
    figure, axes = canvas(width / len(chosen) + 0.8, columns=len(chosen), width=width)
    shown = views(slices.loc[[index for index, _, _ in chosen]])
    for axis, (_, name, pixels), (row, image, mask) in zip(axes[0], chosen, shown, strict=True):
        shared = mask[..., [ORGANS.index(organ) for organ in COMBINATIONS[name]]].all(axis=-1)
        cut = _square(box(_largest_piece(shared), margin), image.shape)
        overlay(axis, image[cut], mask[cut], line=1.8)
        white = np.zeros((*shared.shape, 4))
        white[shared] = (1, 1, 1, 0.85)
        axis.imshow(white[cut])
        kind = "all three" if name == statistics.ALL_THREE else " & ".join(LABELS[o] for o in COMBINATIONS[name])
        axis.set_title(f"{kind}: {pixels} px\n{row['scan']}, slice {row['slice']}", size=9)
    organ_legend(figure)
    return figure


@look
def contact_sheet(scan: pd.DataFrame, columns: int = 8, rows: int = 4) -> Figure:
    """Draw one scan as a sheet of slices from head to feet, with contours and slice numbers.

    Args:
        scan: rows of one scan.
        columns, rows: size of the sheet; its slices are spread over the annotated part and a margin.
    """
    annotated = np.flatnonzero(statistics.annotated(scan))
    first, last = (annotated[0], annotated[-1]) if len(annotated) else (0, len(scan) - 1)
    around = max(2, len(scan) // 30)
    span = max(first - around, 0), min(last + around, len(scan) - 1)
    chosen = scan.iloc[np.unique(np.linspace(*span, rows * columns).round().astype(int))]
    images, mask = inputs.load(chosen["path"].tolist()), scans.masks(chosen)
    cut = _body(images.mean(axis=0), mask.any(axis=0))
    bright = np.percentile(images, 99.5, axis=(1, 2)).clip(min=1)[:, None, None]
    images, mask = (images / bright)[:, cut[0], cut[1]], mask[:, cut[0], cut[1]]
    height, width = images.shape[1:]
    sheet, drawn = _tiled(images, columns), _tiled(mask, columns)
    figure, axes = canvas(WIDTH * sheet.shape[0] / sheet.shape[1] + 0.5)
    axis = overlay(axes[0, 0], sheet.clip(max=1), drawn, line=0.9)
    for index, number in enumerate(chosen["slice"]):
        row, column = divmod(index, columns)
        x, y = column * (width + _GAP) + 0.04 * width, row * (height + _GAP) + 0.03 * width
        axis.text(x, y, number, color="white", va="top", size=8, path_effects=_OUTLINE)
    organ_legend(figure)
    return figure


@look
def planes(scan: pd.DataFrame) -> Figure:
    """Draw one scan in three planes, in millimetres and true proportions.

    The planes go through the slice, row and column with the most mask pixels; dotted lines mark the other two planes.

    Args:
        scan: rows of one scan.
    """
    images, mask = inputs.load(scan["path"].tolist()), scans.masks(scan)
    spacing = float(scan["spacing_mm"].iloc[0])
    cut = _body(images.mean(axis=0), mask.any(axis=0), margin=4)
    images, mask = images[:, cut[0], cut[1]], mask[:, cut[0], cut[1]]
    sides = np.array(images.shape) * (SLICE_THICKNESS_MM, spacing, spacing)
    at = [
        int(mask.sum(axis=tuple({0, 1, 2, 3} - {axis})).argmax()) if mask.any() else images.shape[axis] // 2
        for axis in range(3)
    ]
    at_mm = (np.array(at) + 0.5) * (SLICE_THICKNESS_MM, spacing, spacing)
    depth, height, width = sides
    ratios = [width, width, height]
    tall = 9.4 * max(depth, height) / sum(ratios)
    figure, axes = canvas(tall + 1.0, columns=3, width_ratios=ratios)
    views = (
        ("axial", images[at[0]], mask[at[0]], (width, height), (at_mm[2], at_mm[1]), "RLAP"),
        ("coronal", images[:, at[1]], mask[:, at[1]], (width, depth), (at_mm[2], at_mm[0]), "RLHF"),
        ("sagittal", images[:, :, at[2]], mask[:, :, at[2]], (height, depth), (at_mm[1], at_mm[0]), "APHF"),
    )
    for axis, (name, image, drawn, (across, down), lines, letters) in zip(axes[0], views, strict=True):
        overlay(axis, image, drawn, extent=(0, across, down, 0), aspect="equal")
        axis.axvline(lines[0], color="white", linewidth=0.6, linestyle=":")
        axis.axhline(lines[1], color="white", linewidth=0.6, linestyle=":")
        _letters(axis, letters)
        axis.set_title(name, size=10)
        _scale_bar(axis, across, down)
    figure.suptitle(f"{scan['scan'].iloc[0]}, slice {scan['slice'].iloc[at[0]]}", size=10)
    organ_legend(figure)
    return figure


@look
def days(slices: pd.DataFrame, case: int, most: int = 5) -> Figure:
    """Draw one case on its days: the coronal plane with the most mask pixels, head up, all at one scale.

    Args:
        most: number of days at most, spread over all days.
    """
    of_case = slices[slices["case"] == case]
    chosen = sorted(of_case["day"].unique())
    chosen = [chosen[k] for k in np.unique(np.linspace(0, len(chosen) - 1, most).round().astype(int))]
    views = []
    for day in chosen:
        scan = of_case[of_case["day"] == day]
        images, mask = inputs.load(scan["path"].tolist()), scans.masks(scan)
        spacing = float(scan["spacing_mm"].iloc[0])
        row = int(mask.sum(axis=(0, 2, 3)).argmax()) if mask.any() else images.shape[1] // 2
        columns = _body(images.mean(axis=0), mask.any(axis=0))[1]
        views.append((f"day {day}", images[:, row, columns], mask[:, row, columns], spacing))
    widths = [image.shape[1] * spacing for _, image, _, spacing in views]
    tall = max(len(image) for _, image, _, _ in views) * SLICE_THICKNESS_MM
    width = min(WIDTH, 3.4 * len(views))
    figure, axes = canvas(width * tall / sum(widths) + 0.7, columns=len(views), width=width, width_ratios=widths)
    for axis, (title, image, drawn, _), across in zip(axes[0], views, widths, strict=True):
        overlay(axis, image, drawn, extent=(0, across, len(image) * SLICE_THICKNESS_MM, 0), aspect="equal")
        axis.set_title(f"case {case}, {title}", size=10)
    organ_legend(figure)
    return figure


def _tiled(slices: np.ndarray, columns: int) -> np.ndarray:
    """Arrange slices (n, H, W, ...) in rows on one sheet, with gaps of _GAP pixels."""
    count, height, width, *rest = slices.shape
    rows = -(-count // columns)
    paper = slices.dtype != bool  # gaps are white between images, and empty between masks
    sheet = np.full((rows, height + _GAP, columns, width + _GAP, *rest), paper, slices.dtype)
    for index, picture in enumerate(slices):
        row, column = divmod(index, columns)
        sheet[row, :height, column, :width] = picture
    return sheet.reshape(rows * (height + _GAP), columns * (width + _GAP), *rest)[:-_GAP, :-_GAP]


def _largest_overlaps(slices: pd.DataFrame, count: int) -> list[tuple[int, str, int]]:
    """Return index, combination and pixels of the largest overlaps; the combinations take turns."""
    table = statistics.overlap_areas(slices)
    queues = []
    for name in statistics.COMBINATIONS:
        largest = table[name][table[name] > 0].sort_values(ascending=False)
        once = ~slices.loc[largest.index, "scan"].duplicated()
        queues.append([(index, name, int(largest[index])) for index in largest.index[once][:count]])
    turns = [queue[turn] for turn in range(count) for queue in queues if turn < len(queue)]
    return turns[:count]


def _body(image: np.ndarray, mask: np.ndarray, margin: int = 3) -> tuple[slice, slice]:
    """Return the rows and columns that hold the trunk, without arms, and every mask (H, W, organs)."""
    smooth = cv2.blur(image.astype(np.float32), (7, 7))  # single pixels of noise in the air are as bright as lungs
    trunk = _largest_piece(smooth > _BODY * np.percentile(smooth, 99))
    return box(np.stack([trunk, mask.any(axis=-1)]), margin)


def _largest_piece(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected piece of a mask."""
    _, pieces, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return pieces == facts[1:, cv2.CC_STAT_AREA].argmax() + 1 if len(facts) > 1 else mask


def _square(cut: tuple[slice, slice], shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the cut widened to a square, as far as the image allows."""
    side = max(part.stop - part.start for part in cut)
    wide = []
    for part, size in zip(cut, shape, strict=True):
        first = max(0, min((part.start + part.stop - side) // 2, size - side))
        wide.append(slice(first, min(first + side, size)))
    return wide[0], wide[1]


def _letters(axis: Axes, letters: str) -> None:
    """Write a letter at the left, right, top and bottom: the patient's Right Left Anterior Posterior Head Feet."""
    corners = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"))
    corners += ((0.5, 0.99, "center", "top"), (0.5, 0.025, "center", "bottom"))
    for letter, (x, y, across, down) in zip(letters, corners, strict=True):
        text = axis.text(x, y, letter, transform=axis.transAxes, color="white", size=9, ha=across, va=down)
        text.set_path_effects(_OUTLINE)


def _scale_bar(axis: Axes, across: float, down: float) -> None:
    """Draw a bar of 10 cm into the lower right corner of a view in mm."""
    axis.plot([across - 110, across - 10], [down - 8, down - 8], color="white", linewidth=2.5, path_effects=_OUTLINE)
    text = axis.text(across - 60, down - 13, "10 cm", color="white", size=8, ha="center", va="bottom")
    text.set_path_effects(_OUTLINE)
