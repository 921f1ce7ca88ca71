"""Pictures of a score: conventions, the waterfall of its ledger, the distance's voxels, tuning, presence, border."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kitlib import contest
from kitlib.data import inputs, scans
from kitlib.figures.style import (
    COLORS,
    INK,
    LABELS,
    PALE,
    WIDTH,
    box,
    canvas,
    look,
    organ_legend,
    overlay,
    picture_axis,
)
from kitlib.postprocess import cleaning
from kitlib.scoring import host


@look
def conventions(panel: pd.DataFrame) -> Figure:
    """Draw the score of a prediction in every convention, its interval, and the score of a perfect file."""
    figure, axes = canvas(0.45 * len(panel) + 1)
    axis, rows = axes[0, 0], np.arange(len(panel))
    axis.barh(rows, panel["perfect"], color="#EEEEEE", height=0.62, label="a perfect file")
    axis.barh(rows, panel["value"], color="#7A8CA3", height=0.62, label="this prediction")
    spread = np.abs(panel[["low", "high"]].sub(panel["value"], axis=0)).T.to_numpy()
    axis.errorbar(panel["value"], rows, xerr=spread, fmt="none", ecolor=INK, capsize=3, label="95 % over cases")
    for row, value in zip(rows, panel["value"], strict=True):
        axis.text(0.01, row, f"{value:.3f}", va="center", color="white")
    axis.set(yticks=rows, yticklabels=panel.index, xlim=(0, 1.02), xlabel="score")
    axis.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@look
def worst(truth: pd.DataFrame, prediction: pd.DataFrame, slices: pd.DataFrame, picks: pd.DataFrame) -> Figure:
    """Mark the pair of voxels that makes the Hausdorff distance: a row per scan and organ.

    The left slice holds the farthest voxel, the right one its nearest voxel in the other mask; they may be the same.

    Args:
        truth, prediction: rows of run-length text.
        slices: the slice table, whose `path` gives the images.
        picks: rows with `scan` and `organ`, such as the worst of `Score.scans`.
    """
    if picks.empty:
        figure, axes = canvas(0.6)
        picture_axis(axes[0, 0], "no volume in which truth and prediction both have a mask")
        return figure
    figure, axes = canvas(WIDTH / 2.3 * len(picks), rows=len(picks), columns=2)
    for row, scan, organ in zip(axes, picks["scan"], picks["organ"], strict=True):
        _pair(row, truth, prediction, slices[slices["scan"] == scan], scan, organ)
    marks = "solid: truth, dashed: prediction, dot: farthest voxel, ring: its nearest in the other mask"
    organ_legend(figure, title=marks)
    return figure


def _pair(row, truth, prediction, part, scan, organ) -> None:
    """Draw both voxels of one distance."""
    channel = contest.ORGANS.index(organ)
    true, predicted = (scans.masks(scans.with_masks(part, rows))[..., channel] for rows in (truth, prediction))
    if not (true.any() and predicted.any()):
        empty = "truth" if not true.any() else "prediction"
        for axis in row:
            picture_axis(axis, f"{scan} {LABELS[organ]}: the {empty} is empty")
        return
    pair = host.farthest(true, predicted)
    owner = "truth" if pair.forward else "prediction"
    ends = pair.source, pair.target
    shown = (true | predicted)[[z for z, _, _ in ends]]
    for _, y, x in ends:
        shown[0, y, x] = True
    rows, columns = box(shown, margin=20)
    for axis, (z, _, _) in zip(row, ends, strict=True):
        image = inputs.load([part["path"].iloc[z]])[0].astype(float)
        masks = np.zeros((*image.shape, len(contest.ORGANS)), bool)
        masks[..., channel] = true[z]
        overlay(axis, image, masks, fill=0)
        if predicted[z].any():
            axis.contour(predicted[z], levels=[0.5], colors=[COLORS[organ]], linewidths=1.2, linestyles="dashed")
        for (depth, y, x), filled in zip(ends, (True, False), strict=True):
            here = depth == z
            axis.plot(x, y, "o", ms=9, mew=2, mfc="white" if filled else "none", mec="white", alpha=1 if here else 0.45)
        axis.plot([x for _, _, x in ends], [y for _, y, _ in ends], color="white", linewidth=1, linestyle=":")
        axis.set(xlim=(columns.start, columns.stop), ylim=(rows.stop, rows.start))
    row[0].set_title(f"{scan} {LABELS[organ]}: {pair.distance:.3f}\nfarthest, in the {owner}, slice {ends[0][0] + 1}")
    row[1].set_title(f"\nnearest in the other mask, slice {ends[1][0] + 1}")


@look
def waterfall(table: pd.DataFrame, score: float, least: float = 0.001) -> Figure:
    """Draw the points lost between a score and 1: one bar per class of error.

    Args:
        table: of `scoring.ledger`.
        score: the host score that it explains.
        least: points of the smallest class with a bar of its own; the others share the last one.
    """
    points = table.pivot_table(index="error", columns="organ", values="points", aggfunc="sum", fill_value=0.0)
    points = points.reindex(columns=list(contest.ORGANS), fill_value=0.0).astype(float)
    totals = points.sum(axis=1).sort_values(ascending=False)
    bars = points.loc[totals[totals >= least].index]
    if len(bars) < len(points):
        bars.loc["all others"] = points.loc[totals[totals < least].index].sum()
    figure, axes = canvas(0.33 * (len(bars) + 1) + 1.1)
    axis, start = axes[0, 0], score
    axis.barh(0, score, color="#7A8CA3", height=0.62)
    for row, (_, organs) in enumerate(bars.iterrows(), 1):
        left = start
        for organ, width in organs.items():
            axis.barh(row, width, left=left, color=COLORS[organ], height=0.62)
            left += width
        axis.plot([start, start], [row - 1, row], color=PALE, linewidth=0.8, zorder=0)
        axis.annotate(
            f"{organs.sum():.3f}", (max(start, left), row), xytext=(4, 0), textcoords="offset points", va="center"
        )
        start = left
    axis.axvline(1, color=INK, linewidth=0.8, linestyle=":")
    low = max(0.0, score - 0.25 * (1 - score) - 0.01)
    axis.set(yticks=range(len(bars) + 1), yticklabels=[f"host score {score:.3f}", *bars.index])
    axis.set(xlim=(low, 1 + 0.12 * (1 - low)), xlabel="host score, from this prediction to a perfect one")
    axis.invert_yaxis()
    axis.grid(axis="x")
    organ_legend(figure)
    return figure


@look
def tuning_steps(steps: pd.DataFrame) -> Figure:
    """Draw the gain of each step on held-out cases with its interval; steps that were kept are filled."""
    figure, axes = canvas(0.22 * len(steps) + 1)
    axis = axes[0, 0]
    for row, step in enumerate(steps.itertuples()):
        color = COLORS.get(step.organ, INK)
        axis.plot([step.low, step.high], [row, row], color=color, linewidth=1.5)
        axis.plot(step.gain, row, "o", color=color, mfc=color if step.kept else "white")
    labels = [f"{step.setting.replace('_', ' ')} → {step.value}" for step in steps.itertuples()]
    axis.axvline(0, color=PALE, zorder=0)
    axis.set(yticks=range(len(steps)), yticklabels=labels, ylim=(len(steps) - 0.5, -0.5))
    axis.set(xlabel="gain in host score on held-out cases", title="filled: kept")
    axis.grid(axis="x")
    organ_legend(figure)
    return figure


@look
def presence_curves(scan: str, presence: np.ndarray, settings: cleaning.Settings, line: int | None = None) -> Figure:
    """Draw the presence of each organ over the slices of a scan, and the slices that the settings allow it.

    Args:
        scan: its name.
        presence: (D, organs) in [0, 1].
        settings: with `ends="interval"` the run of slices is shaded, otherwise the slices from a threshold on.
        line: the slice on which the earlier day predicts the end of the bowels, from 0; drawn where the settings look
            at it.
    """
    figure, axes = canvas(1.5 * len(contest.ORGANS) + 0.6, rows=len(contest.ORGANS), sharex=True, sharey=True)
    neutral = 1 / (1 + np.exp(-np.array(settings.offset))) if settings.ends else settings.presence
    allowed = cleaning.allowed_slices(presence, settings, line)
    line = line if settings.line_weight else None
    for axis, organ, curve, level, slices in zip(axes[:, 0], contest.ORGANS, presence.T, neutral, allowed, strict=True):
        numbers = np.arange(1, len(curve) + 1)
        title = "every slice"
        if slices is not None:
            axis.bar(numbers[slices], 1, width=1, color=COLORS[organ], alpha=0.18, linewidth=0)
            axis.axhline(level, color=INK, linewidth=0.8, linestyle=":")
            title = _numbers(slices)
        axis.plot(numbers, curve, color=COLORS[organ], linewidth=1.6)
        if line is not None and organ in contest.BOWELS:
            axis.axvline(line + 1, color=INK, linewidth=1.2, linestyle="--")
        axis.set(title=f"{LABELS[organ]}: {title}", ylim=(0, 1.03), xlim=(0.5, len(curve) + 0.5))
        axis.grid(axis="y")
    axes[1, 0].set_ylabel("presence (probability)")
    axes[-1, 0].set_xlabel(f"slice of {scan}, from head to feet")
    styles = [Line2D([], [], color=INK), Line2D([], [], color=INK, linewidth=0.8, linestyle=":")]
    labels = ["presence", "neutral presence" if settings.ends else "threshold", "slices that the organ may be on"]
    handles = [*styles, Patch(color=INK, alpha=0.18)]
    if line is not None:
        handles.append(Line2D([], [], color=INK, linewidth=1.2, linestyle="--"))
        labels.append("end of the bowels by the earlier day")
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(handles), 3))
    return figure


def _numbers(slices: np.ndarray) -> str:
    """Name slices by their first and last, counted from 1."""
    filled = np.flatnonzero(slices) + 1
    if not filled.size:
        return "no slice"
    whole = filled[-1] - filled[0] + 1 == filled.size
    return f"slices {filled[0]} to {filled[-1]}" + ("" if whole else f", {filled.size} of these")


@look
def border_bias(table: pd.DataFrame, chosen: float = 0.5) -> Figure:
    """Draw the signed distance of the border over the threshold: median, mean and the range from 5 to 95 %.

    A false piece far away changes the mean, and hardly the median.

    Args:
        table: of `rescoring.bias_by_threshold`.
        chosen: the threshold to mark.
    """
    figure, axes = canvas(3.4, columns=len(contest.ORGANS), sharey=True)
    for axis, organ in zip(axes[0], contest.ORGANS, strict=True):
        part = table.xs(organ, level="organ")
        axis.fill_between(part.index, part["low_px"], part["high_px"], color=COLORS[organ], alpha=0.18, linewidth=0)
        axis.plot(part.index, part["median_px"], "o-", color=COLORS[organ], ms=4)
        axis.plot(part.index, part["mean_px"], "--", color=COLORS[organ], linewidth=1)
        axis.axhline(0, color=INK, linewidth=0.8)
        axis.axvline(chosen, color=PALE, linewidth=0.8, linestyle=":")
        axis.set(title=LABELS[organ], xlabel="threshold")
        axis.grid(axis="y")
    axes[0, 0].set_ylabel("predicted border outside\nthe true one, pixels")
    styles = [Line2D([], [], color=INK, marker="o", ms=4), Line2D([], [], color=INK, linestyle="--", linewidth=1)]
    labels = ["median", "mean", "5 to 95 %"]
    figure.legend([*styles, Patch(color=INK, alpha=0.18)], labels, loc="outside lower center", ncols=3)
    return figure
