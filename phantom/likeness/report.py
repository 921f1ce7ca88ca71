"""Compare a competition folder with the real data: every figure, the real value and the band it should meet.

The real values come from the masks of 13 scans, from all 38,496 slices (share of annotated slices) and, for grey
values, from two scans with degraded pixels and five original slices. `python -m phantom ROOT --report` is the command.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kitlib.data import scans
from phantom.likeness.measures import gather, measure


@dataclass(frozen=True)
class Figure:
    """One line of the report: `real` values and, for each, the lowest and highest value that passes.

    Where real scans differ too much for one value, `real` is the lowest and `upto` the highest of them.
    """

    row: int
    name: str
    real: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    upto: tuple[float, ...] = ()


def _between(row: int, name: str, real: tuple[float, float], low: float, high: float, organs: int = 1) -> Figure:
    """Make a figure from the range of the real scans and the band around it."""
    return Figure(row, name, *((value,) * organs for value in (real[0], low, high, real[1])))


def _within(row: int, name: str, real, plus=None, share=None, low=None, high=None) -> Figure:
    """Make a figure with a band of `plus`, of a `share` of the real value, or from `low` to `high`."""
    real = np.atleast_1d(np.asarray(real, float))
    if plus is not None:
        low, high = real - plus, real + plus
    elif share is not None:
        low, high = real * (1 - np.asarray(share)), real * (1 + np.asarray(share))
    low, high = (np.broadcast_to(np.asarray(bound, float), real.shape) for bound in (low, high))
    return Figure(row, name, tuple(real.tolist()), tuple(low.tolist()), tuple(high.tolist()))


FIGURES = (
    _within(1, "area px, 5 %", (434, 274, 131), share=0.5),
    _within(1, "area px, 25 %", (936, 1268, 558), share=(0.25, 0.25, 0.4)),
    _within(1, "area px, 50 %", (1536, 1903, 1775), share=(0.25, 0.25, 0.4)),
    _within(1, "area px, 75 %", (2442, 2628, 2749), share=(0.25, 0.25, 0.4)),
    _within(1, "area px, 95 %", (3741, 3945, 4805), share=0.5),
    _within(2, "first slice, relative, median", (0.385, 0.51, 0.35), plus=0.05),
    _within(2, "last slice, relative, median", (0.83, 0.83, 0.58), plus=0.05),
    _within(2, "mean span", (0.41, 0.34, 0.21), plus=0.05),
    _within(2, "bowels end on the same slice", 1.0, low=0.95, high=1.0),
    _within(2, "area on the last slice over the maximum", (0.70, 0.67, 0.04), plus=0.15),
    _within(2, "area on the first slice over the maximum", (0.05, 0.04, 0.11), plus=0.15),
    _within(2, "annotated share, mean of scans", 0.435, plus=0.05),
    _within(2, "annotated share, 144-slice scans", 0.426, plus=0.05),
    _within(2, "annotated share, 80-slice scans", 0.598, plus=0.05),
    _within(2, "share of slices with 0/1/2/3 organs", (0.569, 0.064, 0.284, 0.083), plus=0.05),
    _within(3, "pieces per slice, mean", (2.43, 3.50, 1.14), share=0.2),
    _within(3, "share of slices in one piece", (0.17, 0.12, 0.86), share=0.2),
    _within(3, "pieces in 3D, most (95 % of scans)", (2, 4, 1), low=0.8, high=(2.4, 4.8, 1.2)),
    _within(3, "share of slices with holes", (0.013, 0.038, 0.0), share=0.2),
    _within(3, "inner border over sqrt(area), median", (5.4, 7.3, 4.0), share=0.2),
    _within(4, "Dice of neighbouring slices, median", (0.909, 0.876, 0.913), plus=0.02),
    _within(4, "Dice of neighbouring slices, 5 %", (0.796, 0.733, 0.656), plus=0.07),
    _within(4, "area jitter, median", (0.025, 0.040, 0.028), low=0.015, high=0.06),
    _within(5, "Dice of two days of a case", (0.31, 0.21, 0.57), plus=0.10),
    _within(5, "Dice of two days, centroids aligned", (0.41, 0.32, 0.76), plus=0.10),
    _within(5, "Dice of two cases", (0.05, 0.14, 0.06), plus=0.10),
    _within(5, "Dice of two cases, centroids aligned", (0.18, 0.21, 0.53), plus=0.10),
    _within(5, "centroid shift between days, mm", (33, 31, 19), low=(19.8, 18.6, 11.4), high=(52.8, 49.6, 30.4)),
    _within(
        5, "abs log volume ratio of days", (0.19, 0.32, 0.23), low=(0.114, 0.192, 0.138), high=(0.304, 0.512, 0.368)
    ),
    _within(6, "overlap L-S / S-St / L-St, share of slices with both", (0.29, 0.28, 0.026), plus=0.10),
    _within(6, "overlap px, 95 %", (107, 219, 5), low=(53, 109, 2.5), high=(214, 438, 10)),
    _between(7, "share of air", (0.45, 0.68), low=0.45 * 0.8, high=0.68 * 1.2),
    _between(7, "p95 over p99", (0.63, 0.66), low=0.63 * 0.8, high=0.66 * 1.2),
    _between(7, "p99.9 over p99", (1.2, 1.45), low=1.2 * 0.8, high=1.45 * 1.2),
    _within(7, "correlation of slices, 1 apart", 0.99, plus=0.03),
    _within(7, "correlation of slices, 5 apart", 0.90, plus=0.06),
    _within(7, "correlation of slices, 10 apart", 0.82, plus=0.08),
    _between(7, "noise over p99", (0.010, 0.016), low=0.005, high=0.024),
    _between(7, "AUC of grey, organ against its rim", (0.23, 0.31), low=0.20, high=0.40, organs=3),
    _between(7, "AUC of grey, organ against the rest of the body", (0.34, 0.53), low=0.30, high=0.60, organs=3),
    _within(8, "host score of an atlas of other cases", 0.545, low=0.50, high=0.60),
    _within(8, "host score of another day copied", 0.650, low=0.60, high=0.72),
)
OTHERWISE = ("share of slices with 0/1/2/3 organs", "noise over p99")  # not comparable on a few real scans
FOOTNOTE = """*: not comparable on these real data: the real share of slices with 0/1/2/3 organs is that of all 38,496
slices, not of a few scans, and pixels rebuilt from 8 bits have lost their noise."""
GUESS = "host score of grey value and slice position"


def lies_in_band(figure: Figure, values: tuple[float, ...]) -> bool:
    """Return whether every value of a figure lies in its band."""
    return all(low <= value <= high for low, value, high in zip(figure.low, values, figure.high, strict=True))


def table(values: dict[str, tuple[float, ...]]) -> pd.DataFrame:
    """Put measured and real values and bands side by side: columns `row figure measured real band inside`."""
    lines = []
    for figure in FIGURES:
        measured = values[figure.name]
        shown = _text(measured), _real(figure), _band(figure)
        lines.append((figure.row, figure.name, *shown, lies_in_band(figure, measured)))
    return pd.DataFrame(lines, columns=["row", "figure", "measured", "real", "band", "inside"])


def _text(values) -> str:
    return " / ".join(f"{value:.0f}" if abs(value) >= 10 else f"{value:.3g}" for value in values)


def _real(figure: Figure) -> str:
    if not figure.upto:
        return _text(figure.real)
    return " / ".join(dict.fromkeys(f"{a:.3g}-{b:.3g}" for a, b in zip(figure.real, figure.upto, strict=True)))


def _band(figure: Figure) -> str:
    spans = [f"{low:.3g}..{high:.3g}" for low, high in zip(figure.low, figure.high, strict=True)]
    return spans[0] if len(set(spans)) == 1 else " / ".join(spans)


def side_by_side(roots, progress: bool = False) -> str:
    """Measure several roots and return them side by side as a Markdown table.

    Values in brackets lie outside their band; those with a star are not comparable on a real root. Columns have the
    name of their root, or its path where two roots have one name.
    """
    measured = [measure(gather(root, progress)) for root in roots]
    tables = [table(values) for values in measured]
    names = [Path(root).resolve().name for root in roots]
    names = [str(root) if names.count(name) > 1 else name for root, name in zip(roots, names, strict=True)]
    columns = [[_marked(line, root) for line in part.itertuples()] for part, root in zip(tables, roots, strict=True)]
    lines = [f"| row | figure | real | band | {' | '.join(names)} |", "|---|---|---|---|" + "---|" * len(names)]
    for i, (row, figure, real, band) in enumerate(tables[0][["row", "figure", "real", "band"]].itertuples(index=False)):
        lines.append(f"| {row} | {figure} | {real} | {band} | {' | '.join(column[i] for column in columns)} |")
    guesses = " | ".join(f"{values[GUESS][0]:.3g}" for values in measured)
    counts = " | ".join(f"{int(part['inside'].sum())} of {len(part)}" for part in tables)
    lines += [f"| | {GUESS} | | far below the atlas | {guesses} |", f"| | inside | | | {counts} |"]
    return "\n".join(lines + ["", FOOTNOTE] * any("*" in cell for column in columns for cell in column))


def _marked(line, root) -> str:
    """Return the measured values, in brackets where they lie outside their band."""
    return line.measured if line.inside else f"({line.measured})" + "*" * _otherwise(line.figure, root)


def _otherwise(figure: str, root) -> bool:
    """Return whether a figure of this root is not comparable with the real value."""
    return figure in OTHERWISE and not scans.is_phantom(Path(root).expanduser())


def as_text(root, progress: bool = False) -> str:
    """Measure a root and return the table; organs in the order large bowel / small bowel / stomach."""
    values = measure(gather(root, progress))
    lines = table(values)
    marks = ["yes" if line.inside else "*" if _otherwise(line.figure, root) else "NO" for line in lines.itertuples()]
    text = [
        lines.assign(inside=marks).to_string(index=False),
        f"{GUESS}, should be far below the atlas: {values[GUESS][0]:.3g}",
        f"{int(lines['inside'].sum())} of {len(lines)} figures inside their bands",
    ]
    return "\n".join(text + [FOOTNOTE] * ("*" in marks))
