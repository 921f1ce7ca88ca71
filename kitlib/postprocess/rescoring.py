"""Score many post-processing settings on the same probabilities, each only where it differs from what is known.

The score of one organ on one scan depends on that organ's settings alone (on both bowels' when they share a stop line).
Each is taken once, in the host convention, and kept in a ledger: a file with one line per score, so that a search that
was interrupted goes on where it was. The key names the data too: other probabilities, another truth or other sizes are
scored anew, and so is everything once `_VERSION` has changed.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import contest, submission
from kitlib.data import inputs
from kitlib.postprocess import cleaning
from kitlib.postprocess.cleaning import Settings
from kitlib.scoring import bootstrap, conventions, metric

_PER_ORGAN = [field.name for field in fields(Settings) if field.name not in ("stop", "presence")]
_HOST = conventions.named("host")
_VERSION = 3  # to be raised whenever the same settings give other masks or another score than before

Totals = tuple[float, float, float, float]  # sum and number of the Dice values, sum and number of the distances


class Rescorer:
    """Totals of settings per case, for `bootstrap`.

    Args:
        probabilities: gives a scan's (D, h, w, organs) by its name, float in [0, 1] or uint8 in 255ths, on any grid.
        truth: rows `id class segmentation`.
        slices: the slice table of the scans to score.
        ledger: file of scores; None keeps them in memory.
        workers: scans scored at a time.
    """

    def __init__(
        self,
        probabilities: Callable[[str], np.ndarray],
        truth: pd.DataFrame,
        slices: pd.DataFrame,
        ledger: str | Path | None = None,
        workers: int = 2,
    ):
        self.probabilities, self.ledger, self.workers = probabilities, _Ledger(ledger), workers
        self.parts = dict(iter(slices.groupby("scan", sort=False)))
        scan_of = dict(zip(slices["id"], slices["scan"], strict=True))
        self.truth = dict(iter(truth.groupby(truth["id"].map(scan_of), sort=False)))
        self.scans = list(self.parts)
        absent = [scan for scan in self.scans if scan not in self.truth]
        if absent:
            raise ValueError(f"the truth has no row of {len(absent)} of {len(self.scans)} scans, first {absent[0]}")
        cases = [scan.split("_")[0] for scan in self.scans]
        self.cases = list(dict.fromkeys(cases))
        self.case_rows = [self.cases.index(case) for case in cases]
        self.marks: dict[str, str] = {}
        self.seen: set[Settings] = set()

    def fill(self, wanted: Iterable[Settings], bar: tqdm | None = None) -> None:
        """Score settings on all scans, but for what the ledger knows."""
        wanted = list(wanted)
        self.seen |= set(wanted)
        with ThreadPoolExecutor(self.workers) as pool:
            for scores in pool.map(lambda scan: self._score(scan, wanted), self.scans):
                self.ledger.add(scores)
                if bar is not None:
                    bar.update()

    def totals(self, settings: Settings) -> np.ndarray:
        """Sum what `fill` has scored: (cases, 4)."""
        totals = np.zeros((len(self.cases), 4))
        for row, scan in zip(self.case_rows, self.scans, strict=True):
            for organ in range(len(contest.ORGANS)):
                totals[row] += self.ledger.known[self._key(scan, organ, settings)]
        return totals

    def best(self, choices: list[Settings], chosen_on: np.ndarray) -> Settings:
        """Pick the settings with the highest score on some cases, (cases,) bool; the first of equals."""
        values = [bootstrap.value(self.totals(settings)[chosen_on].sum(axis=0)) for settings in choices]
        return choices[int(np.nan_to_num(np.round(values, 12), nan=-1.0).argmax())]

    def _key(self, scan: str, organ: int, settings: Settings) -> str:
        """Name all that a score depends on: scan, its data, organ, and the settings that reach that organ."""
        shared = settings.stop and organ in cleaning.BOWELS
        organs = cleaning.BOWELS if shared else [organ]
        values = [[getattr(settings, name)[k] for name in _PER_ORGAN] for k in organs]
        return json.dumps([scan, self.marks[scan], organ, values, settings.stop if shared else ""])

    def _score(self, scan: str, wanted: list[Settings]) -> dict[str, Totals]:
        """Score one scan: it is opened only when something is missing, and every organ only once."""
        part = self.parts[scan]
        if scan not in self.marks:
            self.marks[scan] = _mark(opened(self.probabilities, scan, len(part)), self.truth[scan], part)
        missing = {}
        for settings in wanted:
            for organ in range(len(contest.ORGANS)):
                key = self._key(scan, organ, settings)
                if key not in self.ledger.known:
                    missing[key] = organ, settings
        if not missing:
            return {}
        least = min(_least(settings) for _, settings in missing.values())
        volumes = _Volumes(self.probabilities(scan), metric.scan_masks(self.truth[scan], part, scan), least)
        return {key: volumes.score(organ, settings) for key, (organ, settings) in missing.items()}


def rows(
    probabilities: Callable[[str], np.ndarray], slices: pd.DataFrame, settings: Settings | None = None
) -> pd.DataFrame:
    """Turn the probabilities of all scans into rows id, class, predicted, as a submission has them.

    Args: as `Rescorer`; settings None means a plain threshold of 0.5.
    """
    lines = []
    for scan, part in slices.groupby("scan", sort=False):
        shape = int(part["height"].iloc[0]), int(part["width"].iloc[0])
        full = inputs.restore(as_float(opened(probabilities, scan, len(part))), shape)
        lines.append(submission.encode(part, cleaning.masks(full, settings)))
    return pd.concat(lines, ignore_index=True)


def _mark(grid: np.ndarray, truth: pd.DataFrame, part: pd.DataFrame) -> str:
    """Fingerprint all of a scan that its scores depend on: the version, its probabilities, slices, sizes and truth."""
    mark = hashlib.blake2b(digest_size=8)
    mark.update(f"{_VERSION} {grid.dtype} {grid.shape}".encode())
    mark.update(np.ascontiguousarray(grid))
    mark.update(part[["id", "height", "width"]].to_csv(index=False).encode())
    mark.update(truth.sort_values(["id", "class"])[["id", "class", "segmentation"]].to_csv(index=False).encode())
    return mark.hexdigest()


def _least(settings: Settings) -> float:
    """Find the lowest probability that any step looks at: no pixel below it can change a mask."""
    gates = zip(settings.gate_level, settings.gate_pixels, strict=True)
    return min(*settings.threshold, *(level for level, pixels in gates if pixels))


def opened(probabilities: Callable[[str], np.ndarray], scan: str, depth: int) -> np.ndarray:
    """Get the probabilities of a scan, (depth, h, w, organs); another shape is an error that names the scan."""
    grid = probabilities(scan)
    if grid.ndim != 4 or (len(grid), grid.shape[-1]) != (depth, len(contest.ORGANS)):
        raise ValueError(f"{scan}: expected probabilities ({depth}, h, w, {len(contest.ORGANS)}), got {grid.shape}")
    return grid


def as_float(grid: np.ndarray) -> np.ndarray:
    """Turn bytes, in 255ths, into probabilities; floats stay what they are."""
    return grid.astype(np.float32) / 255 if grid.dtype == np.uint8 else grid


class _Volumes:
    """One scan, its organs cut to the boxes that matter when they are first asked for."""

    def __init__(self, grid: np.ndarray, truth: np.ndarray, least: float):
        self.grid, self.truth, self.least, self.cuts = grid, truth, least, {}

    def score(self, organ: int, settings: Settings) -> Totals:
        """Post-process one organ and score it."""
        mask = self._mask(organ, settings)
        if settings.stop and organ in cleaning.BOWELS:
            ends = [cleaning.last_slice(self._mask(k, settings)) for k in cleaning.BOWELS]
            mask = cleaning.end_on(mask, cleaning.stop_line(*ends, settings.stop))
        truth = self._cut(organ)[1]
        areas = [[np.count_nonzero(part) for part in volume] for volume in (truth, mask, truth & mask)]
        dice = _HOST.dice(*np.array(areas))
        shape = self.truth.shape[2:]
        filled = truth.any(), mask.any()
        distance = float(any(filled))
        if all(filled):
            steps = conventions.unit_steps(len(mask), shape)
            distance = metric.hausdorff(truth, mask, steps=steps) / 3**0.5
        return float(np.nansum(dice)), int(np.sum(~np.isnan(dice))), distance, int(any(filled))

    def _mask(self, organ: int, settings: Settings) -> np.ndarray:
        return cleaning.organ_mask(self._cut(organ)[0], settings, organ)

    def _cut(self, organ: int) -> tuple[np.ndarray, np.ndarray]:
        """Bring one organ to the size of the slices; cut it and its truth to the rows and columns that either uses."""
        if organ not in self.cuts:
            truth = self.truth[organ]
            grid = as_float(self.grid[..., organ : organ + 1])
            restored = inputs.restore(grid, truth.shape[1:])[..., 0]
            used = (restored.max(axis=0) >= np.asarray(self.least, restored.dtype)) | np.logical_or.reduce(
                truth, axis=0
            )
            rows, columns = (np.flatnonzero(used.any(axis=axis)) for axis in (1, 0))
            box = slice(None), *(slice(s[0], s[-1] + 1) if s.size else slice(0, 1) for s in (rows, columns))
            self.cuts[organ] = np.ascontiguousarray(restored[box]), np.ascontiguousarray(truth[box])
        return self.cuts[organ]


class _Ledger:
    """Scores by key, in memory and, line by line, in a file."""

    def __init__(self, path: str | Path | None):
        self.path, self.known = Path(path) if path else None, {}
        if self.path and self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    key, totals = json.loads(line)
                    self.known[key] = tuple(map(float, totals))
                except (ValueError, TypeError):
                    continue  # an empty line, or the torn last one of a search that was killed

    def add(self, scores: dict[str, Totals]) -> None:
        """Keep scores; each write begins on a new line, so that a torn one before it costs itself only."""
        self.known |= scores
        if self.path and scores:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write("\n" + "\n".join(json.dumps(line) for line in scores.items()))
