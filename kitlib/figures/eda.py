"""Pictures of the training set: organs per slice, co-occurrence, bells, overlaps, areas, stop lines, grey values.

Every function takes the slice table of `scans.read`, measured by `areas.measure` or not, and returns a figure. The
paper's figures 3, 6 and 12 are among them.
"""

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from kitlib.contest import ORGANS, SLICE_THICKNESS_MM
from kitlib.eda import annotators, statistics
from kitlib.eda.areas import COMBINATIONS
from kitlib.figures.style import COLORS, INK, LABELS, PALE, canvas, look


@look
def organs_per_slice(slices: pd.DataFrame) -> Figure:
    """Draw the number of slices with each combination of organs, a dot per organ (the paper's figure 3)."""
    table = statistics.organs_per_slice(slices)
    figure, axes = canvas(3.2, columns=2, width_ratios=[1, 6], sharey=True)
    dots, bars = axes[0]
    rows = np.arange(len(table))
    for column, organ in enumerate(ORGANS):
        held = np.array([organ in name.split("+") for name in table.index])
        dots.scatter(np.full(len(rows), column), rows, s=70, color=np.where(held, COLORS[organ], "#EBEBEB"))
    dots.set(xticks=range(len(ORGANS)), yticks=[], xlim=(-0.6, 2.6), ylim=(len(rows) - 0.4, -0.6))
    dots.set_xticklabels([LABELS[organ] for organ in ORGANS], rotation=40, ha="right")
    dots.spines[:].set_visible(False)
    dots.tick_params(length=0)
    bars.barh(rows, table["slices"], color=[PALE, *["#7D8793"] * 3, *["#5B6570"] * 3, INK], height=0.7)
    for row, (count, share) in enumerate(table[["slices", "share"]].itertuples(index=False)):
        bars.text(count, row, f"  {count:,}  ({share:.1%})", va="center")
    bars.set(xlabel="slices", xlim=(0, table["slices"].max() * 1.18), title="Organs per slice")
    bars.xaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
    bars.spines["left"].set_visible(False)
    bars.tick_params(axis="y", length=0)
    return figure


@look
def cooccurrence(slices: pd.DataFrame) -> Figure:
    """Draw how often organs share a slice, as counts and as shares of the row's organ (the paper's table 5)."""
    counts, shares = statistics.cooccurrence(slices), statistics.cooccurrence(slices, share=True)
    figure, axes = canvas(3.6, width=6.2)
    axis = axes[0, 0]
    shade = LinearSegmentedColormap.from_list("shade", ["#F4F6F8", "#4C6A85"])
    axis.imshow(shares.to_numpy(), cmap=shade, vmin=0, vmax=1, aspect="auto")
    for row, organ in enumerate(ORGANS):
        for column in range(len(ORGANS)):
            share = shares.iat[row, column]
            ink = "white" if share > 0.6 else INK
            axis.text(column, row - 0.1, f"{counts.iat[row, column]:,}", ha="center", color=ink, size=13, weight="bold")
            text = "all its slices" if row == column else f"{share:.0%} of {LABELS[organ]}"
            axis.text(column, row + 0.22, text, ha="center", color=ink, size=9)
    names = [LABELS[organ] for organ in ORGANS]
    axis.set(xticks=range(3), yticks=range(3), xticklabels=names, yticklabels=names)
    axis.set(title="Slices with both organs", ylabel="of the slices with", xlabel="share with")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    return figure


@look
def bells(slices: pd.DataFrame) -> Figure:
    """Draw the number of masks at each slice number, per organ (the paper's figure 6)."""
    counts, shape = statistics.slice_positions(slices), statistics.bells(slices)
    order = sorted(ORGANS, key=lambda organ: shape["mean"].fillna(0)[organ])
    figure, axes = canvas(4.4, rows=len(ORGANS), sharex=True, sharey=True)
    for axis, organ in zip(axes[:, 0], order, strict=True):
        axis.fill_between(counts.index, counts[organ], step="mid", color=COLORS[organ], alpha=0.3, linewidth=0)
        axis.step(counts.index, counts[organ], where="mid", color=COLORS[organ], linewidth=1.5)
        axis.set(ylabel="masks", xlim=(1, len(counts)), ylim=(0, max(1, counts.to_numpy().max()) * 1.1))
        if not counts[organ].any():
            axis.set_title(f"{LABELS[organ]}: no masks")
            continue
        peak, count, spread = shape.loc[organ, ["peak", "count", "spread"]]
        axis.axvline(peak, color=INK, linewidth=0.8, linestyle=":")
        axis.set_title(
            f"{LABELS[organ]}: peak at slice {peak:.0f} ({count:.0f} masks), spread {spread:.1f} slices", size=10
        )
    axes[-1, 0].set_xlabel("slice number, from head to feet")
    return figure


@look
def overlap_areas(slices: pd.DataFrame) -> Figure:
    """Draw how often organs on a slice overlap, and by how many pixels (the paper's figure 12)."""
    table, totals = statistics.overlap_areas(slices), statistics.overlaps(slices)
    figure, axes = canvas(3.4, columns=2, width_ratios=[2, 3])
    bars, curves = axes[0]
    names = [
        " & ".join(LABELS[organ] for organ in organs) if len(organs) == 2 else "all three"
        for organs in COMBINATIONS.values()
    ]
    colors = [_mixed(organs) for organs in COMBINATIONS.values()]
    bars.barh(range(len(names)), totals["share"], color=colors, height=0.65)
    for row, (count, together) in enumerate(totals[["overlapping", "together"]].itertuples(index=False)):
        bars.text(totals["share"].iat[row], row, f"  {count:,} of {together:,}", va="center")
    bars.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
    top = max(0.05, totals["share"].max())
    ticks = [tick for tick in MaxNLocator(4).tick_values(0, top) if tick <= 1]
    bars.set(xlim=(0, top * 1.6), xticks=ticks, xticklabels=[f"{tick:.0%}" for tick in ticks])
    bars.set_title("Slices with an overlap")
    for name, label, color in zip(COMBINATIONS, names, colors, strict=True):
        pixels = np.sort(table[name][table[name] > 0])
        if len(pixels):
            curves.step(pixels, np.arange(len(pixels), 0, -1), where="pre", color=color, linewidth=1.8, label=label)
            curves.plot(pixels[-1], 1, "o", color=color, markersize=4)
    curves.set(xscale="log", yscale="log", xlabel="overlap in pixels", ylabel="slices with at least this overlap")
    curves.set_title("Size of the overlaps")
    curves.grid(True)
    return figure


@look
def areas_along(slices: pd.DataFrame) -> Figure:
    """Draw the area of each organ along the body, a row per scan, with the days of a case together."""
    table = statistics.measured(slices)
    percent = (statistics.relative_position(table) * 99).round().astype(int)
    scans = table.drop_duplicates("scan")
    figure, axes = canvas(min(7.0, 1.6 + 0.16 * len(scans)), columns=len(ORGANS), sharey=True)
    for axis, organ in zip(axes[0], ORGANS, strict=True):
        cm2 = table[f"{organ}_px"] * table["spacing_mm"] ** 2 / 100
        along = cm2.groupby([table["scan"], percent]).mean().unstack().reindex(scans["scan"])
        along = along.reindex(columns=range(100)).interpolate(axis=1, limit_area="inside")
        shade = LinearSegmentedColormap.from_list(organ, ["white", COLORS[organ], _darker(COLORS[organ])])
        drawn = axis.imshow(along, cmap=shade, aspect="auto", extent=(0, 100, len(scans), 0), vmin=0)
        figure.colorbar(drawn, ax=axis, location="bottom", label=f"{LABELS[organ]}, cm²", aspect=30)
        axis.set(xlabel="% of the scan, from head to feet")
        axis.spines[:].set_visible(False)
    _name_cases(axes[0, 0], scans["case"].to_numpy())
    for axis in axes[0, 1:]:
        axis.tick_params(axis="y", length=0)
    return figure


@look
def case_over_days(slices: pd.DataFrame, case: int) -> Figure:
    """Draw the areas of the organs along the body on each day of one case."""
    table = statistics.measured(slices)
    table = table[table["case"] == case]
    along = table.groupby("scan").cumcount() * SLICE_THICKNESS_MM / 10
    days = sorted(table["day"].unique())
    figure, axes = canvas(3.0, columns=len(ORGANS), sharey=True)
    for number, day in enumerate(days):
        rows = table["day"] == day
        dark = 0.7 * number / max(len(days) - 1, 1)
        style = ("-", "--", "-.", ":")[number % 4]
        for axis, organ in zip(axes[0], ORGANS, strict=True):
            cm2 = table.loc[rows, f"{organ}_px"] * table.loc[rows, "spacing_mm"] ** 2 / 100
            color = np.array(to_rgb(COLORS[organ])) * (1 - dark)
            axis.plot(along[rows], cm2, color=color, linestyle=style, linewidth=1.6)
        axes[0, 0].plot([], [], color=str(0.7 - dark), linestyle=style, label=f"day {day}")
    for axis, organ in zip(axes[0], ORGANS, strict=True):
        axis.set(title=LABELS[organ], xlabel="cm from the first slice, head to feet", ylim=(0, None))
        axis.grid(True)
    axes[0, 0].set_ylabel(f"case {case}: area in cm²")
    figure.legend(loc="outside lower center", ncols=len(days))
    return figure


@look
def stop_lines(slices: pd.DataFrame) -> Figure:
    """Draw where each organ starts and ends in every scan, and its last area over its largest area."""
    table = annotators.extents(slices)
    order = table["ends"].groupby(level="scan").max().sort_values().index
    figure, axes = canvas(min(5.0, 2.0 + 0.1 * len(order)), columns=len(ORGANS) + 1, width_ratios=[2, 2, 2, 3])
    *spans, ends = axes[0]
    thick = min(4.0, 150 / len(order))
    for number, (axis, organ) in enumerate(zip(spans, ORGANS, strict=True)):
        extents = table.xs(organ, level="organ").reindex(order).dropna()
        rows = order.get_indexer(extents.index)
        axis.hlines(rows, extents["begins"] * 100, extents["ends"] * 100, color=COLORS[organ], linewidth=thick)
        axis.set(xlim=(0, 100), ylim=(-1, len(order)), yticks=[], xlabel="% of the scan", title=LABELS[organ])
        axis.grid(True, axis="x")
        spread = np.linspace(-0.3, 0.3, len(extents)) if len(extents) > 1 else np.zeros(len(extents))
        ends.scatter(extents["last_area"], number + spread, s=14, color=COLORS[organ], alpha=0.7, linewidths=0)
        ends.vlines(extents["last_area"].median(), number - 0.4, number + 0.4, color=INK, linewidth=1.5)
    spans[0].set_ylabel(f"{len(order)} scans, by their last mask")
    ends.set(xlim=(-0.03, 1.03), xlabel="area on the last slice / largest area", ylim=(2.6, -0.6))
    ends.set(yticks=range(len(ORGANS)), yticklabels=[LABELS[organ] for organ in ORGANS])
    ends.set_title("Area where the masks end")
    ends.grid(True, axis="x")
    return figure


@look
def intensities(samples: pd.DataFrame) -> Figure:
    """Draw the grey values of each scan: its profile along the body, and its median, 99th percentile and maximum.

    Args:
        samples: rows of `intensities.sample`.
    """
    order = samples.groupby("scan")["p99"].median().sort_values().index
    figure, axes = canvas(3.4, columns=2)
    profiles, ranges = axes[0]
    for scan, part in samples.groupby("scan"):
        shade = str(0.75 - 0.6 * order.get_loc(scan) / max(len(order) - 1, 1))
        along = (np.arange(len(part)) + 0.5) / len(part) * 100
        profiles.plot(along, part["p99"].clip(lower=1), color=shade, linewidth=1)
    ranges.set(xscale="log")
    profiles.set(yscale="log", xlabel="% of the scan, from head to feet", ylabel="99th percentile of the slice")
    profiles.set_title("Brightness along the body, a line per scan")
    profiles.grid(True)
    for axis in (profiles.yaxis, ranges.xaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    groups = samples.groupby("scan")
    rows = np.arange(len(order))
    for column, how, color, label in (
        ("p50", "median", PALE, "median"),
        ("p99", "median", "#3E6C94", "99th percentile"),
        ("max", "max", "#B0413E", "maximum"),
    ):
        values = groups[column].agg(how).reindex(order).clip(lower=1)
        ranges.plot(values, rows, "o", color=color, markersize=4 if len(order) < 60 else 2, label=label)
    ranges.set(yticks=[], ylabel=f"{len(order)} scans, dark to bright", xlabel="grey value")
    ranges.set_title("Range of grey values, a row per scan")
    ranges.grid(True, axis="x")
    ranges.legend(loc="upper left", fontsize=8)
    return figure


def _name_cases(axis, cases: np.ndarray) -> None:
    """Label the rows with their cases, at most 40, and separate the cases by lines."""
    first = np.flatnonzero(np.r_[True, cases[1:] != cases[:-1]])
    middle = (first + np.r_[first[1:], len(cases)]) / 2
    step = -(-len(first) // 40)
    axis.set(yticks=middle[::step], yticklabels=[f"case {case}" for case in cases[first[::step]]])
    axis.tick_params(axis="y", length=0, labelsize=8)
    for panel in axis.figure.axes[: len(ORGANS)]:
        panel.hlines(first[1:], 0, 100, color="#DDDDDD", linewidth=0.5)


def _mixed(organs: tuple[str, ...]):
    """Return the colour of a combination: the mean of its organs' colours, or ink for all three."""
    return INK if len(organs) == 3 else tuple(np.mean([to_rgb(COLORS[organ]) for organ in organs], axis=0))


def _darker(color: str) -> tuple[float, ...]:
    return tuple(0.45 * np.array(to_rgb(color)))
