"""Pictures of the experiments: curves with all seeds, means beside the paper's, border bias, ranking of scans."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kitlib.contest import ORGANS
from kitlib.figures.style import COLORS, INK, LABELS, PALE, TRAIN, WIDTH, canvas, look

_LINES = ("#1B6CA8", "#D1495B", "#2E8B57", "#EDAE49", "#7A5195", "#5C6B73")
_PANELS = {"loss": "Loss", "dice": "Dice", "iou": "IoU"}


@look
def curves(histories: dict[str, list[pd.DataFrame]]) -> Figure:
    """Draw loss, Dice and IoU over the epochs (paper, Figures 7, 9 and 10), a row per training.

    Thin lines are seeds, thick lines their mean, the dotted line is the mean best epoch.
    """
    figure, axes = canvas(2.2 * len(histories) + 0.6, rows=len(histories), columns=3, sharex=True)
    for row, (name, tables) in zip(axes, histories.items(), strict=True):
        best = np.mean([table["epoch"][table["val_loss"].idxmin()] for table in tables])
        for axis, (column, title) in zip(row, _PANELS.items(), strict=True):
            for prefix, color, label in (("", TRAIN, "training"), ("val_", INK, "validation")):
                _seeds(axis, tables, prefix + column, color, label)
            axis.axvline(best, color=TRAIN, linewidth=0.8, linestyle=":")
            axis.set_title(f"{name}: {title}" if axis is row[0] else title)
            axis.grid(axis="y")
            if column != "loss":
                axis.set_ylim(0, 1)
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
        axis.locator_params(axis="x", integer=True)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@look
def together(histories: dict[str, list[pd.DataFrame]], columns: dict[str, str]) -> Figure:
    """Draw several trainings in one axis per measure.

    Args:
        histories: label -> one table per seed.
        columns: column of the history -> title.
    """
    figure, axes = canvas(3.4, columns=len(columns))
    for axis, (column, title) in zip(axes[0], columns.items(), strict=True):
        for color, (name, tables) in zip(_LINES, histories.items(), strict=False):
            _seeds(axis, tables, column, color, name)
        axis.set(title=title, xlabel="epoch")
        axis.locator_params(axis="x", integer=True)
        axis.grid(axis="y")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _seeds(axis, tables, column, color, label) -> None:
    """Draw a thin line per seed, and a thick one for their mean over the epochs that all seeds have."""
    for table in tables:
        axis.plot(table["epoch"], table[column], color=color, linewidth=0.7, alpha=0.5)
    length = min(map(len, tables))
    mean = np.mean([table[column].to_numpy()[:length] for table in tables], axis=0)
    axis.plot(tables[0]["epoch"][:length], mean, color=color, linewidth=1.8, label=label)


@look
def beside_paper(table: pd.DataFrame, paper: pd.DataFrame, columns: tuple[str, ...] = ("Dice", "IoU")) -> Figure:
    """Draw means with their intervals beside the paper's values, which are hollow where they are in doubt.

    Args:
        table: of `experiments.table`.
        paper: of `published.cells`, with the same row names; a missing row has no published value.
    """
    figure, axes = canvas(0.42 * len(table) + 1.3, columns=len(columns), sharey=True)
    rows = np.arange(len(table))
    for axis, column in zip(axes[0], columns, strict=True):
        axis.errorbar(table[column], rows, xerr=table[f"{column} +-"], fmt="o", color=INK, capsize=3, label="this kit")
        for certain, face in ((True, "#D1495B"), (False, "none")):
            part = paper[(paper["column"] == column) & (paper["doubt"].eq("") == certain)]
            shown = [
                (value, table.index.get_loc(name))
                for name, value in part[["row", "value"]].to_numpy()
                if name in table.index
            ]
            label = "the paper" if certain else "the paper, in doubt"
            axis.plot(*(zip(*shown, strict=True) if shown else ([], [])), "D", mfc=face, mec="#D1495B", label=label)
        axis.set(title=column, yticks=rows, yticklabels=table.index, ylim=(len(table) - 0.5, -0.5), xlim=(0, 1))
        axis.grid(axis="x")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@look
def border_by_loss(table: pd.DataFrame) -> Figure:
    """Draw the median signed distance of the border over the threshold, a line per loss, a panel per organ.

    Islands far from any organ change the mean, and hardly the median.
    """
    figure, axes = canvas(3.4, columns=len(ORGANS), sharey=True)
    for axis, organ in zip(axes[0], ORGANS, strict=True):
        part = table[table["organ"] == organ]
        for color, (name, line) in zip(_LINES, part.groupby("trained with", sort=False), strict=False):
            axis.plot(line["threshold"], line["median_px"].astype(float), "o-", ms=4, color=color, label=name)
        axis.axhline(0, color=INK, linewidth=0.8)
        axis.set(title=LABELS[organ], xlabel="threshold")
        axis.grid(axis="y")
    axes[0][0].set_ylabel("predicted border outside\nthe true one, pixels (median)")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@look
def ranking(ranked: pd.DataFrame) -> Figure:
    """Draw the scans ranked by disagreement, planted faults in colour, with precision and recall along the ranking."""
    figure, axes = canvas(3.6, columns=2, width=WIDTH, gridspec_kw={"width_ratios": [2, 1]})
    bars, lines = axes[0]
    planted = ranked["fault"] != ""
    bars.bar(ranked.index, ranked["disagreement"], color=np.where(planted, COLORS["stomach"], PALE))
    for rank, row in ranked[planted].iterrows():
        bars.text(rank, row["disagreement"] + 0.01, row["fault"], rotation=90, ha="center", va="bottom", fontsize=8)
    bars.set(title="Disagreement with the annotation, out of fold", xlabel="rank of the scan", ylim=(0, 1.25))
    bars.set_ylabel("1 - Dice of the volume")
    lines.plot(ranked.index, ranked["precision"], color=INK, label="precision")
    lines.plot(ranked.index, ranked["recall"], color=COLORS["stomach"], label="recall")
    lines.axhline(planted.mean(), color=PALE, linestyle=":", label="precision by chance")
    lines.set(title="Faults among the first scans", xlabel="number of scans", ylim=(0, 1.05))
    lines.legend()
    return figure
