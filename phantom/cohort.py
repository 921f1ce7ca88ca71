"""Who is scanned when and how in the synthetic competition: cases, days, image sizes and the hidden part.

The real data have 85 training cases with 1 to 6 days each, in four sizes; about 50 hidden cases are partly later days
of these and partly never seen. A phantom keeps the kinds and needs fewer of each.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kitlib.eda.planted import FAULTS

FORMATS = {(266, 266): (1.50, 144), (310, 360): (1.50, 144), (276, 276): (1.63, 80), (234, 234): (1.50, 144)}
ROTATION = (
    (266, 266),
    (310, 360),
    (266, 266),
    (276, 276),
    (266, 266),
    (310, 360),
)  # size of the n-th case, over and over
DAYS = (3, 2, 3, 2, 2, 2)  # scans of the n-th case, over and over: 14 for 6 cases
MOST_CASES = 159  # case numbers run from 1 to this


@dataclass(frozen=True)
class Scan:
    """The plan of one scan: its name, size and random numbers; `test` marks the hidden part.

    `spread`: where the case stands among all cases, as quantiles, in the height of its organs, the size of its stomach
    and the place of its stop line; `fault`: the planted error, "" for none; `empty`: no masks at all; `missing`: number
    of a slice without file and rows, 0 for none.
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
        """Random numbers that depend on seed, case and purpose alone, not on the order of work."""
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
    """Decide which scans there are: a fifth of the cases is hidden whole, a third of the others hides its last day.

    Args: see `phantom.write`.

    Raises:
        ValueError, TypeError: name the argument and the value that make no plan.
    """
    cases, seed = whole("cases", cases, 2, MOST_CASES), whole("seed", seed, 0)  # one case to train on, one to hide
    days = None if days is None else whole("days", days, 1)
    slices = None if slices is None else whole("slices", slices, 1)
    faults, sizes = whole("faults", faults, 0), ROTATION if sizes is None else _sizes(sizes)
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
    drawn = training[: len(training) - bool(empty_scan)]  # the last one stays empty, and no fault shows there
    if faults > len(drawn):
        raise ValueError(f"faults={faults}, but only {len(drawn)} scans are annotated for training")
    for turn, i in enumerate(rng.permutation(drawn)[:faults]):
        scans[i] = replace(scans[i], fault=FAULTS[turn % len(FAULTS)])
    if missing_slice:
        i = training[0]
        scans[i] = replace(scans[i], missing=max(1, scans[i].slices // 3))
    if empty_scan:
        scans[training[-1]] = replace(scans[training[-1]], empty=True)
    return scans


def whole(name: str, value, least: int, most: int | None = None) -> int:
    """A whole number of any kind, as an int.

    Raises:
        TypeError: it is no whole number.
        ValueError: it lies below `least` or above `most`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r}: a whole number is needed") from None
    if number < least or (most is not None and number > most):
        wanted = f"at least {least}" if most is None else f"a number from {least} to {most}"
        raise ValueError(f"{name}={number}: {wanted} is needed")
    return number


def _sizes(sizes) -> tuple[tuple[int, int], ...]:
    """Sizes as pairs of whole numbers."""
    pairs = tuple(tuple(whole("sizes", side, 1) for side in np.atleast_1d(size).tolist()) for size in sizes)
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"sizes={list(sizes)}: (height, width) of at least one case is needed; None for the real ones")
    return pairs
