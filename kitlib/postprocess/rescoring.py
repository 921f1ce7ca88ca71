"""Score many post-processing settings on the same probabilities, without computing anything twice.

The totals of one organ on one scan depend only on that organ's settings (on both bowels' when they share a stop line,
and on both bowels' offsets and the line of an earlier day when they share the end of their runs). They are computed
once, by `scoring.host`, and cached. A cache file has one line per volume and setting, so that an interrupted search
resumes where it stopped. The key includes the data: other probabilities, another presence, another truth or other sizes
are scored anew, and so is everything after a change of `_VERSION`.
"""

import copy
import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import contest, submission
from kitlib.data import inputs, scans
from kitlib.postprocess import cleaning, intervals
from kitlib.postprocess.cleaning import Settings
from kitlib.postprocess.intervals import BOWELS
from kitlib.scoring import borders, host

_PER_ORGAN = [field.name for field in fields(Settings) if field.name not in (*cleaning.FOR_ALL, "offset")]
_VERSION = 5  # raise it whenever the same settings give other masks or another score than before

Totals = tuple[float, float, float, float]  # of `host.totals`
Presence = Callable[[str], np.ndarray | None]
Lines = Callable[[str], int | None]


class Source(Protocol):
    """Probabilities by the name of a scan, such as `runs.HeldOut`, or a function with its spec (`Probabilities`)."""

    def __call__(self, scan: str) -> np.ndarray:
        """Return the scan's (D, height, width, organs), float in [0, 1] or uint8 in 255ths, on the grid of its spec."""

    def spec_of(self, scan: str) -> inputs.InputSpec:
        """Return the spec, which says the grid and the part of the slices that it covers."""


@dataclass(frozen=True)
class Probabilities:
    """A function that returns the probabilities of a scan by its name, all on the grid of one spec."""

    read: Callable[[str], np.ndarray]
    spec: inputs.InputSpec

    def __call__(self, scan: str) -> np.ndarray:
        """Return the probabilities of a scan."""
        return self.read(scan)

    def spec_of(self, scan: str) -> inputs.InputSpec:
        """Return the spec, whatever the scan."""
        return self.spec


class Rescorer:
    """Host score totals of settings, per case.

    Args:
        probabilities: of every scan.
        truth: rows `id class segmentation`.
        slices: the slice table of the scans to score.
        cache: file of totals; None keeps them in memory.
        workers: number of scans scored in parallel.
        presence: function that returns a scan's (D, organs) by its name, such as a gate's, or None where there is none.
            Then, and without a function, it is measured on the probabilities, as `cleaning.masks` does.
        lines: function that returns the slice on which the bowels of a scan are expected to end by its name, or None,
            such as `earlier.stop_lines`. It is called only for settings with `line_weight`, possibly often.
    """

    def __init__(
        self,
        probabilities: Source,
        truth: pd.DataFrame,
        slices: pd.DataFrame,
        cache: str | Path | None = None,
        workers: int = 2,
        presence: Presence | None = None,
        lines: Lines | None = None,
    ):
        self.probabilities, self.cache, self.workers = probabilities, _Cache(cache), workers
        self.presence = presence or (lambda scan: None)
        self.lines = lines or (lambda scan: None)
        known = set(truth["id"])
        lost = slices.loc[~slices["id"].isin(known), "scan"].unique()
        if len(lost):
            raise ValueError(
                f"the truth lacks slices of {len(lost)} scans, first {lost[0]}; add their rows, or leave "
                "these scans out"
            )
        self.parts = dict(iter(scans.with_masks(slices, truth).groupby("scan", sort=False)))
        self.cases = list(dict.fromkeys(contest.case_of(scan) for scan in self.parts))
        self.marks: dict[str, str] = {}
        self.tables: dict[str, np.ndarray | None] = {}  # presence by scan, measured only when a setting needs it
        self.scored: set[Settings] = set()

    def only(self, cases: Collection[str]) -> "Rescorer":
        """Return a scorer of some of the cases, which shares the cache."""
        part = copy.copy(self)
        part.parts = {scan: rows for scan, rows in self.parts.items() if contest.case_of(scan) in cases}
        part.cases = [case for case in self.cases if case in cases]
        return part

    def fill(self, wanted: Iterable[Settings], bar: tqdm | None = None) -> None:
        """Score settings on all scans, except those in the cache; the bar counts one for each scan and setting."""
        wanted = list(wanted)
        self.scored |= set(wanted)
        with ThreadPoolExecutor(self.workers) as pool:
            for scores in pool.map(lambda scan: self._score(scan, wanted), self.parts):
                self.cache.add(scores)
                if bar is not None:
                    bar.update(len(wanted))

    def pace(self, settings: Settings) -> tuple[float, float]:
        """Measure the seconds that one organ of the first scan takes: to be brought to its size, and to be scored.

        The cache is not used.
        """
        scan, seconds = next(iter(self.parts)), []
        self._read(scan)
        volumes = self._volumes(scan, [settings])
        for _ in range(2):  # the second time, the organs are already at their size
            started = time.perf_counter()
            for organ in range(len(contest.ORGANS)):
                volumes.score(organ, settings)
            seconds.append((time.perf_counter() - started) / len(contest.ORGANS))
        return max(0.0, seconds[0] - seconds[1]), seconds[1]

    def totals(self, settings: Settings) -> np.ndarray:
        """Return the totals of settings that `fill` has scored: (cases, 4)."""
        totals = np.zeros((len(self.cases), 4))
        for scan in self.parts:
            row = self.cases.index(contest.case_of(scan))
            for organ in range(len(contest.ORGANS)):
                totals[row] += self.cache.known[self._key(scan, organ, settings)]
        return totals

    def best(self, choices: list[Settings], cases: np.ndarray) -> Settings:
        """Return the settings with the highest score on some cases, (cases,) bool; the first if several are equal."""
        values = [host.value(self.totals(settings)[cases].sum(axis=0)) for settings in choices]
        return choices[int(np.nan_to_num(np.round(values, 12), nan=-1.0).argmax())]

    def _key(self, scan: str, organ: int, settings: Settings) -> str:
        """Return all that the totals depend on: scan, its data, organ, and the settings that affect that organ."""
        together = BOWELS if organ in BOWELS else [organ]
        values = [[getattr(settings, name)[k] for name in _PER_ORGAN] for k in (together if settings.stop else [organ])]
        ends = [float(settings.offset[k]) for k in together] if settings.ends else []
        line = self._line(scan, [settings]) if organ in BOWELS else None
        if line is not None:
            ends += [float(settings.line_weight), int(line)]
        return json.dumps([scan, self.marks[scan], organ, values, settings.stop * (len(together) > 1), ends])

    def _line(self, scan: str, wanted: Iterable[Settings]) -> int | None:
        """Return the scan's line, if one of the settings looks at it."""
        return self.lines(scan) if any(settings.line_weight for settings in wanted) else None

    def _score(self, scan: str, wanted: list[Settings]) -> dict[str, Totals]:
        """Score one scan. It is read only when totals are missing, and each organ only once."""
        self._read(scan)
        missing = {}
        for settings in wanted:
            for organ in range(len(contest.ORGANS)):
                key = self._key(scan, organ, settings)
                if key not in self.cache.known:
                    missing[key] = organ, settings
        if not missing:
            return {}
        volumes = self._volumes(scan, [settings for _, settings in missing.values()])
        return {key: volumes.score(organ, settings) for key, (organ, settings) in missing.items()}

    def _read(self, scan: str) -> None:
        """Read a scan once, for its fingerprint and the presence that is given."""
        if scan in self.marks:
            return
        part = self.parts[scan]
        self.tables[scan] = given = self.presence(scan)
        if given is not None and np.shape(given) != (len(part), len(contest.ORGANS)):
            raise ValueError(
                f"{scan}: presence has shape {np.shape(given)}; expected ({len(part)}, {len(contest.ORGANS)})"
            )
        grid, spec = opened(self.probabilities, scan, len(part)), self.probabilities.spec_of(scan)
        self.marks[scan] = _mark(grid, given, part, spec)

    def _volumes(self, scan: str, wanted: list[Settings]) -> "_Volumes":
        """Open a scan for some settings."""
        part, probabilities = self.parts[scan], self.probabilities(scan)
        restore = _restoring(self.probabilities.spec_of(scan), part)
        if self.tables[scan] is None and any(map(cleaning.needs_presence, wanted)):
            self.tables[scan] = _measured(probabilities, restore)
        table, line = self.tables[scan], self._line(scan, wanted)
        return _Volumes(probabilities, scans.masks(part), min(map(_least, wanted)), table, line, restore)


def rows(
    probabilities: Source,
    slices: pd.DataFrame,
    settings: Settings,
    presence: Presence | None = None,
    lines: Lines | None = None,
) -> pd.DataFrame:
    """Turn the probabilities of all scans into rows `id class predicted` of a submission.

    Args: as `Rescorer`.
    """
    encoded = []
    for scan, part in slices.groupby("scan", sort=False):
        given = presence(scan) if presence else None
        line = lines(scan) if lines and settings.line_weight else None
        found = cleaning.masks(_restored(probabilities, scan, part), settings, given, line)
        encoded.append(submission.encode(part, found))
    return pd.concat(encoded, ignore_index=True)


def measure_presence(probabilities: Source, scan: str, part: pd.DataFrame) -> np.ndarray:
    """Measure the presence of the organs of a scan as `Rescorer` and `cleaning.masks` do: at the size of its slices.

    Args:
        probabilities: as `Rescorer`.
        scan: its name.
        part: the scan's rows of the table of slices.

    Returns:
        (D, organs) in [0, 1].
    """
    return _measured(opened(probabilities, scan, len(part)), _restoring(probabilities.spec_of(scan), part))


def bias_by_threshold(
    probabilities: Source,
    truth: pd.DataFrame,
    slices: pd.DataFrame,
    thresholds: Sequence[float] = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
) -> pd.DataFrame:
    """Measure how the threshold moves the predicted border.

    Args: as `Rescorer`.

    Returns:
        `borders.bias` for every threshold: index threshold and organ.
    """
    measured = {threshold: [] for threshold in thresholds}
    for scan, part in scans.with_masks(slices, truth).groupby("scan", sort=False):
        masks, full = scans.masks(part), _restored(probabilities, scan, part)
        for threshold, entries in measured.items():
            distances = borders.organ_distances(masks, full >= np.float32(threshold))
            entries.append((distances, float(part["spacing_mm"].iloc[0])))
    tables = [borders.summarise(entries) for entries in measured.values()]
    # Not pd.concat: pandas 2 warns where a table without any border is all NaN.
    index = pd.MultiIndex.from_product([measured, contest.ORGANS], names=["threshold", "organ"])
    return pd.DataFrame(np.concatenate([table.to_numpy(float) for table in tables]), index, tables[0].columns)


def _restored(probabilities: Source, scan: str, part: pd.DataFrame) -> np.ndarray:
    """Bring the probabilities of a scan to the size of its slices."""
    return _restoring(probabilities.spec_of(scan), part)(opened(probabilities, scan, len(part)))


def _restoring(spec: inputs.InputSpec, part: pd.DataFrame) -> Callable[[np.ndarray], np.ndarray]:
    """Make the function that brings probabilities of a scan, of some organs, to the size of its slices."""
    shape, spacing_mm = scans.common_size(part), scans.spacing_mm(part)
    return lambda grid: inputs.restore(as_float(grid), shape, spec, spacing_mm)


def _measured(probabilities: np.ndarray, restore: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Measure the presence on probabilities at the size of the slices, organ by organ to save memory: (D, organs)."""
    organs = np.split(probabilities, probabilities.shape[-1], axis=-1)
    return np.concatenate([intervals.presence(restore(part)) for part in organs], axis=1)


def _mark(probabilities: np.ndarray, presence: np.ndarray | None, part: pd.DataFrame, spec: inputs.InputSpec) -> str:
    """Fingerprint what a scan's totals depend on: version, probabilities, given presence, slices, sizes, truth, box."""
    mark = hashlib.blake2b(digest_size=8)
    mark.update(f"{_VERSION} {probabilities.dtype} {probabilities.shape}".encode())
    mark.update(np.ascontiguousarray(probabilities))
    if presence is not None:
        mark.update(np.ascontiguousarray(presence, float))
    mark.update(part[["id", "height", "width", *contest.ORGANS]].to_csv(index=False).encode())
    if spec.box_mm is not None:
        mark.update(f"{spec.box_mm} {scans.spacing_mm(part)}".encode())
    return mark.hexdigest()


def _least(settings: Settings) -> float:
    """Return the lowest probability that any step looks at: no pixel below it can change a mask."""
    gates = zip(settings.gate_level, settings.gate_pixels, strict=True)
    return min(*settings.threshold, *(level for level, pixels in gates if pixels))


def opened(probabilities: Source, scan: str, depth: int) -> np.ndarray:
    """Read the probabilities of a scan, (depth, h, w, organs); another shape raises ValueError."""
    read = probabilities(scan)
    if read.ndim != 4 or (len(read), read.shape[-1]) != (depth, len(contest.ORGANS)):
        raise ValueError(
            f"{scan}: probabilities have shape {read.shape}; expected ({depth}, h, w, {len(contest.ORGANS)})"
        )
    return read


def as_float(probabilities: np.ndarray) -> np.ndarray:
    """Turn bytes, in 255ths, into probabilities; floats are returned unchanged."""
    return probabilities.astype(np.float32) / 255 if probabilities.dtype == np.uint8 else probabilities


class _Volumes:
    """One scan, whose organs are cut to the boxes that matter when they are first used."""

    def __init__(
        self,
        probabilities: np.ndarray,
        truth: np.ndarray,
        least: float,
        presence: np.ndarray | None,
        line: int | None,
        restore: Callable[[np.ndarray], np.ndarray],
    ):
        self.probabilities, self.truth, self.least, self.cuts = probabilities, truth, least, {}
        self.presence, self.line, self.restore = presence, line, restore

    def score(self, organ: int, settings: Settings) -> Totals:
        """Post-process one organ and score it."""
        mask = self._mask(organ, settings)
        if settings.stop and organ in BOWELS:
            ends = [cleaning.last_slice(self._mask(k, settings)) for k in BOWELS]
            mask = cleaning.end_on(mask, cleaning.stop_line(*ends, settings.stop))
        return tuple(host.totals(self._cut(organ)[1], mask, self.truth.shape[:3]).tolist())

    def _mask(self, organ: int, settings: Settings) -> np.ndarray:
        allowed = cleaning.allowed_slices(self.presence, settings, self.line)[organ]
        return cleaning.organ_mask(self._cut(organ)[0], settings, organ, allowed)

    def _cut(self, organ: int) -> tuple[np.ndarray, np.ndarray]:
        """Bring one organ to the size of the slices; cut it and its truth to the rows and columns that either uses."""
        if organ not in self.cuts:
            truth = self.truth[..., organ]
            restored = self.restore(self.probabilities[..., organ : organ + 1])[..., 0]
            used = (restored.max(axis=0) >= np.asarray(self.least, restored.dtype)) | np.logical_or.reduce(
                truth, axis=0
            )
            rows, columns = (np.flatnonzero(used.any(axis=axis)) for axis in (1, 0))
            box = slice(None), *(slice(s[0], s[-1] + 1) if s.size else slice(0, 1) for s in (rows, columns))
            self.cuts[organ] = np.ascontiguousarray(restored[box]), np.ascontiguousarray(truth[box])
        return self.cuts[organ]


class _Cache:
    """Totals by key, in memory and in a file, one per line."""

    def __init__(self, path: str | Path | None):
        self.path, self.known = Path(path) if path else None, {}
        if self.path and self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    key, totals = json.loads(line)
                    self.known[key] = tuple(map(float, totals))
                except (ValueError, TypeError):
                    continue  # an empty line, or the incomplete last line of an interrupted search

    def add(self, scores: dict[str, Totals]) -> None:
        """Keep totals; each write begins on a new line, so that an incomplete line before it spoils no other."""
        self.known |= scores
        if self.path and scores:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write("\n" + "\n".join(json.dumps(line) for line in scores.items()))
