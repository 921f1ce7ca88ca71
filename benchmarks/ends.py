"""Where organs start and end: a threshold, habits and one run of slices, on the ends of real scans.

`KITLIB_REAL_DATA=FOLDER python benchmarks/ends.py [--draws 20] [--save]`. FOLDER/masks.csv has rows
`id class segmentation` of whole scans, as train.csv has them. Only the first and last slice of each organ are used; the
presence that a network would give is made up:

    logit of the presence = +-a * min(1, distance to the nearest end / ramp) + noise, positive on the organ's slices

With a ramp, a network is unsure near the ends: the bowel goes on where the annotators stopped. The noise is normal,
with a standard deviation and a correlation between neighbouring slices, and independent between organs. Every way to
find the ends sees the same curves, and runs through `cleaning.masks`. There is no peer that does this.
"""

import argparse
import importlib.metadata
import os
import platform
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from kitlib import contest
from kitlib.postprocess import cleaning, intervals
from kitlib.postprocess.cleaning import Settings

RESULTS = Path(__file__).parent / "results" / "ends.md"
CURVES = ((3.0, 0, 1.5, 0.8), (3.0, 6, 1.5, 0.8))  # a, ramp in slices, standard deviation, correlation of neighbours
FAR = 8  # slices
ALONE, MEAN = "runs of slices, each bowel alone", "the same, mean of both ends"
PIECE = {"largest": (True,) * 3, "smoothing": (3,) * 3}
WAYS = {
    "threshold 0.5": Settings(),
    "threshold 0.9": Settings(threshold=(0.9,) * 3),
    "largest component": Settings(largest=(True,) * 3),
    "smoothing": Settings(smoothing=(3,) * 3),
    "smoothing, stop line earlier": Settings(smoothing=(3,) * 3, stop="earlier"),
    "largest component, smoothing, stop line earlier": Settings(**PIECE, stop="earlier"),
    "largest component, smoothing, stop line mean": Settings(**PIECE, stop="mean"),
    "largest component, smoothing, stop line later": Settings(**PIECE, stop="later"),
    ALONE: Settings(ends="interval"),
    MEAN: Settings(ends="interval"),
    "runs of slices": Settings(ends="interval"),
}


def read(path):
    """Read the true slices of each organ: for each scan (D, organs) bool."""
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    filled = (rows["segmentation"] != "").groupby([rows["id"], rows["class"]]).first().unstack("class")
    return [part[list(contest.ORGANS)].to_numpy() for _, part in filled.groupby(filled.index.map(contest.scan_of))]


def simulate(truth, a, ramp, deviation, correlation, rng):
    """Make the presence that a network gives, (D, organs): noise in which each slice resembles the one before."""
    inside, outside = (distances(each) for each in (truth, ~truth))
    sure = np.minimum(np.where(truth, inside, outside) / max(ramp, 0.5), 1)
    fresh = rng.normal(0, deviation, truth.shape)
    noise = fresh.copy()
    for index in range(1, len(noise)):
        noise[index] = correlation * noise[index - 1] + np.sqrt(1 - correlation**2) * fresh[index]
    return 1 / (1 + np.exp(-(np.where(truth, a, -a) * sure + noise)))


def distances(slices):
    """Measure how far inside its run each slice is: 0.5 on the first and last; (D, organs)."""
    columns = [ndimage.distance_transform_edt(np.pad(line, 1, "edge"))[1:-1] - 0.5 for line in slices.T]
    return np.stack(columns, axis=1)


def found_slices(presence, name):
    """Find the slices of each organ, (D, organs) bool; each slice is one grey of as many pixels as presence needs."""
    if name == ALONE:
        apart = [np.where(np.arange(len(contest.ORGANS)) == k, presence, 0) for k in range(len(contest.ORGANS))]
        return np.logical_or.reduce([found_slices(part, "runs of slices") for part in apart])
    if name == MEAN:
        found = found_slices(presence, ALONE)
        bowels = cleaning.common_stop(*(found[:, k, None, None] for k in intervals.BOWELS), "mean")
        found[:, list(intervals.BOWELS)] = np.concatenate(bowels, axis=1)[..., 0]
        return found
    slices = np.tile(presence[:, None, None], (1, 1, intervals.PIXELS, 1))
    return cleaning.masks(slices, WAYS[name]).any(axis=(1, 2))


def errors(truth, found):
    """Compare one organ: error of its first slice and of its last in slices, and whether it has holes."""
    if not found.any():
        return np.nan, np.nan, np.nan
    (first, last), (start, end) = (np.flatnonzero(each)[[0, -1]] for each in (truth, found))
    return abs(start - first), abs(end - last), not found[start : end + 1].all()


def measure(scans, draws, curve, seed=0):
    """Measure each way on the same curves: one row per way."""
    rng, lines = np.random.default_rng(seed), {name: [] for name in WAYS}
    for _ in range(draws):
        for truth in scans:
            presence = simulate(truth, *curve, rng)
            for name in WAYS:
                found = found_slices(presence, name)
                lines[name] += [(k, *errors(truth[:, k], found[:, k])) for k in range(truth.shape[1])]
    return {name: summary(np.array(part, float)) for name, part in lines.items()}


def summary(lines):
    """Average the errors: start, end of the bowels, of the stomach, far ends, holes and organs that are missing."""
    organ, start, end, holes = lines.T
    bowel = np.isin(organ, intervals.BOWELS)
    there = ~np.isnan(start)
    return (
        f"{start[there].mean():.2f}",
        f"{end[there & bowel].mean():.2f}",
        f"{end[there & ~bowel].mean():.2f}",
        f"{(end[there & bowel] > FAR).mean():.1%}",
        f"{holes[there].mean():.1%}",
        f"{(~there).mean():.1%}",
    )


def report(scans, draws):
    """Write the tables as text."""
    started, organs = time.perf_counter(), sum(truth.any(axis=0).sum() for truth in scans)
    whole = sum((np.diff(np.flatnonzero(line)) == 1).all() for truth in scans for line in truth.T)
    together = sum(len({np.flatnonzero(truth[:, k])[-1] for k in intervals.BOWELS}) == 1 for truth in scans)
    tables = []
    for curve in CURVES:
        a, ramp, deviation, correlation = curve
        found = measure(scans, draws, curve)
        tables += [
            f"\nLogit {a:+g} inside, {-a:+g} outside, {f'from {ramp} slices from the ends on' if ramp else 'at once'}; "
            f"noise of {deviation:g}, correlation {correlation:g}.\n",
            f"| | start | end of the bowels | end of the stomach | bowels beyond {FAR} | with holes | missing |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *(f"| {name} | {' | '.join(values)} |" for name, values in found.items()),
        ]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "scipy", "pandas"))
    head = [
        "# Ends of organs\n",
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}; "
        f"{time.perf_counter() - started:.0f} s.\n",
        f"{len(scans)} real scans, {draws} draws of the noise for each. {whole} of {organs} organs have one run of "
        f"slices, and in {together} of {len(scans)} scans both bowels end on one slice. Mean errors in slices.",
    ]
    return "\n".join([*head, *tables, ""])


def main():
    """Measure, print, and save when asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20, help="draws of the noise for each scan")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/ends.md")
    given = parser.parse_args()
    if "KITLIB_REAL_DATA" not in os.environ:
        print("KITLIB_REAL_DATA is not set: there are no real ends to measure")
        return
    text = report(read(Path(os.environ["KITLIB_REAL_DATA"]) / "masks.csv"), given.draws)
    print(text)
    if given.save:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
