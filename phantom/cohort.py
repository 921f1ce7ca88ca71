"""The plan of a synthetic competition: cases, days, image sizes, planted faults and the hidden part.

The real data have 85 training cases with 1 to 6 days each, in four sizes. About 50 cases are hidden: some are later
days of training cases, the others are new. A phantom has the same kinds of scans, and fewer of each.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kitlib.eda.planted import FAULTS

FORMATS = {(266, 266): (1.50, 144), (310, 360): (1.50, 144), (276, 276): (1.63, 80), (234, 234): (1.50, 144)}
# Sizes and scans of the first six cases; both repeat after that. Six cases have 14 scans.
ROTATION = ((266, 266), (310, 360), (266, 266), (276, 276), (266, 266), (310, 360))
DAYS = (3, 2, 3, 2, 2, 2)
MOST_CASES = 159  # case numbers run from 1 to this


@dataclass(frozen=True)
class Scan:
    """The plan of one scan: its name, size and random numbers.

    Attributes:
        test: the scan is in the hidden part.
        spread: quantiles of the case among all cases: height of its organs, size of its stomach, its stop line.
        fault: the planted error, "" for none.
        empty: the scan has no masks.
        missing: number of a slice without file and rows, 0 for none.
    """

    case: int
    day: int
    height: int
    width: int
    slices: int
    spacing_mm: float
    seed: int
    number: int
    test: bool = False
    spread: tuple[float, float, float] = (0.5, 0.5, 0.5)
    fault: str = ""
    empty: bool = False
    missing: int = 0

    @property
    def name(self) -> str:
        """`case123_day20`."""
        return f"case{self.case}_day{self.day}"

    def rng(self, *purpose: int) -> np.random.Generator:
        """Return a generator that depends on seed, case and purpose only, not on the order of work."""
        return np.random.default_rng([self.seed, self.case, *purpose])


def plan(
    cases: int = 8,
    seed: int = 0,
    *,
    days: int | None = None,
    slices: int | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    faults: int = 0,
    missing_slice: bool = False,
    empty_scan: bool = False,
) -> list[Scan]:
    """Plan all scans. A fifth of the cases is hidden, and the last day of a third of the others.

    Args:
        cases: synthetic cases, hidden ones included: 2 to 159.
        seed: 0 or more.
        days: scans per case; None for 3, 2, 3, 2, 2, 2, repeated.
        slices: slices per scan, None for 144 (80 at 276x276); fewer than 60 still span the whole abdomen.
        sizes: (height, width) of the n-th case, repeated; None for the four real sizes.
        faults: number of training scans with a bad annotation; the kinds of `planted.FAULTS` take turns.
        missing_slice, empty_scan: the first training scan lacks a slice, the last one has no masks.

    Raises:
        ValueError, TypeError: name the argument and its value.
    """
    cases, seed = (
        whole_number("cases", cases, 2, MOST_CASES),
        whole_number("seed", seed, 0),
    )  # one case to train on, one to hide
    days = None if days is None else whole_number("days", days, 1)
    slices = None if slices is None else whole_number("slices", slices, 1)
    faults, sizes = whole_number("faults", faults, 0), ROTATION if sizes is None else _sizes(sizes)
    rng = np.random.default_rng([seed, 77])
    numbers = np.sort(rng.choice(np.arange(1, MOST_CASES + 1), cases, replace=False))
    spread = np.stack([(rng.permutation(cases) + 0.5) / cases for _ in range(3)], axis=1)
    short = [i for i in range(cases) if FORMATS.get(sizes[i % len(sizes)], (0, 144))[1] < 144]
    spread[short, 0] = 0.65 + 0.33 * spread[short, 0]  # a field of 240 mm is for short abdomens
    unseen = set(range(cases - max(1, round(0.2 * cases)), cases))
    scans = []
    for index, number in enumerate(numbers):
        count = DAYS[index % len(DAYS)] if days is None else days
        dates = np.r_[0, np.cumsum(rng.integers(1, 14, count))]
        for order, day in enumerate(dates[:count]):
            size = sizes[index % len(sizes)]
            if sizes is ROTATION and index % 6 == 2 and order > 0:
                size = (310, 360)  # a case that changes its size between days
            if sizes is ROTATION and cases >= 12 and index == 6 and order == 0:
                size = (234, 234)
            spacing, depth = FORMATS.get(size, (round(400 / max(size), 2), 144))
            depth = depth if slices is None else slices
            hidden = index in unseen or (index % 3 == 0 and count > 1 and order == count - 1)
            scans.append(Scan(int(number), int(day), *size, depth, spacing, seed, order, hidden, tuple(spread[index])))
    training = [i for i, scan in enumerate(scans) if not scan.test]
    drawn = training[: len(training) - bool(empty_scan)]  # a fault cannot show on the empty scan
    if faults > len(drawn):
        raise ValueError(f"faults={faults}: must be at most {len(drawn)}, the number of annotated training scans")
    for turn, i in enumerate(rng.permutation(drawn)[:faults]):
        scans[i] = replace(scans[i], fault=FAULTS[turn % len(FAULTS)])
    if missing_slice:
        i = training[0]
        scans[i] = replace(scans[i], missing=max(1, scans[i].slices // 3))
    if empty_scan:
        scans[training[-1]] = replace(scans[training[-1]], empty=True)
    return scans


def whole_number(name: str, value, least: int, most: int | None = None) -> int:
    """Return a value as an int between `least` and `most`.

    Raises:
        TypeError: the value is not a whole number.
        ValueError: the value is out of range.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r}: must be a whole number") from None
    if number < least or (most is not None and number > most):
        allowed = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}={number}: must be {allowed}")
    return number


def _sizes(sizes) -> tuple[tuple[int, int], ...]:
    """Return sizes as pairs of whole numbers."""
    pairs = tuple(tuple(whole_number("sizes", side, 1) for side in np.atleast_1d(size).tolist()) for size in sizes)
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(
            f"sizes={list(sizes)}: must be pairs (height, width), at least one, or None for the real sizes"
        )
    return pairs
