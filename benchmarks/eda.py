"""Time for all tables of the data set: measured on runs, and the usual way, by decoding every mask.

`python benchmarks/eda.py [--save]`. The 115,488 mask rows are as many as in the public training set, in its image
sizes: 274 scans, made from twelve synthetic ones by shifting each copy by a few pixels. No image is written.
"""

import argparse
import os
import platform
import sys
import time
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from kitlib import rle
from kitlib.contest import ORGANS
from kitlib.data import scans
from kitlib.eda import annotators, areas, published, statistics
from phantom import cohort, files

SCANS = {(266, 266): 180, (310, 360): 78, (276, 276): 15, (234, 234): 1}
TABLES = (
    statistics.summary,
    statistics.scans_per_case,
    statistics.organ_counts,
    statistics.cooccurrence,
    statistics.organs_per_slice,
    statistics.image_sizes,
    statistics.slice_positions,
    statistics.bells,
    statistics.overlap_areas,
    statistics.overlaps,
    statistics.containment,
    statistics.organ_areas,
    statistics.centroids,
    annotators.stop_lines,
    annotators.annotated_ranges,
    annotators.suspects,
    annotators.days,
    annotators.daily_changes,
    published.compare,
    published.claims,
)
RESULTS = Path(__file__).parent / "results" / "eda.md"


def masks_of(scan: cohort.Scan) -> np.ndarray:
    """Render the masks of one synthetic scan, (D, H, W, organs) bool."""
    return files.render(scan)[1]


def synthesise() -> pd.DataFrame:
    """Make a slice table of 38,496 slices with masks of the phantom."""
    plans = list({scan.case: scan for scan in reversed(cohort.plan(12))}.values())
    with ProcessPoolExecutor() as pool:
        made = list(pool.map(masks_of, plans))
    rng = np.random.default_rng(0)
    parts = []
    for (height, width), count in SCANS.items():
        models = [masks for masks in made if masks.shape[1:3] == (height, width)]
        for number in range(count):
            masks = np.roll(models[number % len(models)], rng.integers(-9, 10, 2), axis=(1, 2))
            parts.append(rows_of(masks, len(parts)))
    return pd.concat(parts, ignore_index=True).sort_values(["case", "day", "slice"], ignore_index=True)


def rows_of(masks: np.ndarray, number: int) -> pd.DataFrame:
    """Make the rows of the scan with this number; three consecutive scans are a case."""
    depth, height, width, _ = masks.shape
    scan = f"case{number // 3 + 1}_day{number % 3}"
    table = pd.DataFrame({"slice": np.arange(1, depth + 1)})
    table["id"] = [f"{scan}_slice_{k:04d}" for k in table["slice"]]
    table = table.assign(case=number // 3 + 1, day=number % 3, path="", height=height, width=width)
    table = table.assign(spacing_mm=1.63 if depth == 80 else 1.5, scan=scan)[scans.COLUMNS]
    return table.assign(**{organ: rle.encode_stack(masks[..., k]) for k, organ in enumerate(ORGANS)})


def decode(text: str, shape: tuple[int, int]) -> np.ndarray:
    """Decode one mask as most public notebooks do: a loop over its runs."""
    numbers = np.asarray(text.split(), dtype=int)
    mask = np.zeros(shape[0] * shape[1], dtype=np.uint8)
    for start, length in zip(numbers[0::2] - 1, numbers[1::2], strict=True):
        mask[start : start + length] = 1
    return mask.reshape(shape)


def decode_and_loop(slices: pd.DataFrame, centroids: bool = True) -> pd.DataFrame:
    """Measure what `areas.measure` does in the usual way: decode every mask and loop over the slices."""
    rows = []
    for row in slices.itertuples(index=False):
        masks = {organ: decode(getattr(row, organ), (row.height, row.width)) for organ in ORGANS if getattr(row, organ)}
        values = {}
        for organ in ORGANS:
            mask = masks.get(organ)
            values[f"{organ}_px"] = 0 if mask is None else int(mask.sum())
            values[f"{organ}_row"] = values[f"{organ}_column"] = np.nan
            if centroids and mask is not None:
                down, across = np.nonzero(mask)
                values[f"{organ}_row"], values[f"{organ}_column"] = down.mean(), across.mean()
        for name, organs in areas.COMBINATIONS.items():
            together = all(organ in masks for organ in organs)
            values[name] = int(np.logical_and.reduce([masks[o] for o in organs]).sum()) if together else 0
        rows.append(values)
    return pd.concat([slices.drop(columns=list(ORGANS)), pd.DataFrame(rows)], axis=1)


def with_pycocotools(slices: pd.DataFrame) -> pd.DataFrame:
    """Measure areas and overlaps with pycocotools. Its runs go down the columns, so it gets the transposed image."""
    from pycocotools import mask as coco

    def read(text: str, height: int, width: int):
        numbers = np.asarray(text.split(), dtype=int)
        edges = np.stack([numbers[0::2] - 1, numbers[0::2] - 1 + numbers[1::2]], axis=1).ravel()
        counts = np.diff(edges, prepend=0, append=height * width).tolist()
        return coco.frPyObjects({"size": [width, height], "counts": counts}, width, height)

    rows = []
    for row in slices.itertuples(index=False):
        found = {o: read(getattr(row, o), row.height, row.width) for o in ORGANS if getattr(row, o)}
        values = {}
        for organ in ORGANS:
            values[f"{organ}_px"] = int(coco.area(found[organ])) if organ in found else 0
            values[f"{organ}_row"] = values[f"{organ}_column"] = np.nan
        for name, organs in areas.COMBINATIONS.items():
            together = all(organ in found for organ in organs)
            values[name] = int(coco.area(coco.merge([found[o] for o in organs], intersect=True))) if together else 0
        rows.append(values)
    return pd.concat([slices.drop(columns=list(ORGANS)), pd.DataFrame(rows)], axis=1)


def machine() -> str:
    """Name the processor and the number of its cores."""
    try:
        name = next(
            x for x in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if x.startswith("model name")
        ).split(": ")[1]
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name} x {os.cpu_count()}"


def tables(slices: pd.DataFrame, measure) -> list[pd.DataFrame]:
    """Measure the masks once, then make every table."""
    measured = measure(slices)
    return [make(measured) for make in TABLES]


def timed(slices: pd.DataFrame, measure, repeats: int) -> float:
    """Return the best wall time of measuring and making all tables."""
    best = np.inf
    for _ in range(repeats):
        started = time.perf_counter()
        tables(slices, measure)
        best = min(best, time.perf_counter() - started)
    return best


def peak_mib(slices: pd.DataFrame, measure) -> float:
    """Return the peak memory beyond the slice table, in MiB."""
    tracemalloc.start()
    tables(slices, measure)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def main() -> None:
    """Print the table of times, and save it with --save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    slices = synthesise()
    texts = pd.concat([slices[organ] for organ in ORGANS])
    runs = int(texts[texts != ""].str.count(" ").floordiv(2).add(1).sum())
    peers = {"runs (kitlib)": areas.measure, "decode and loop": decode_and_loop}
    peers["decode and loop, no centroids"] = lambda table: decode_and_loop(table, centroids=False)
    try:
        import pycocotools

        version = f", pycocotools {getattr(pycocotools, '__version__', '')}".rstrip()
        peers["pycocotools, no centroids"] = with_pycocotools
    except ImportError:
        version = ""
        print("pycocotools is not installed and is left out")
    reference = areas.measure(slices)
    numbers = [name for name in reference if name.endswith("_px") or name in areas.COMBINATIONS]
    seconds = {}
    for name, measure in peers.items():
        pd.testing.assert_frame_equal(measure(slices.iloc[:3000])[numbers], reference[numbers].iloc[:3000])
        seconds[name] = timed(slices, measure, repeats=5 if measure is areas.measure else 2)
    ours = seconds["runs (kitlib)"]
    peak = peak_mib(slices, areas.measure)
    started = time.perf_counter()
    areas.measure(slices)
    alone = time.perf_counter() - started
    lines = [
        f"# {len(TABLES)} tables of the data set over {len(texts):,} mask rows",
        "",
        f"{(texts != '').sum():,} masks with {runs:,} runs, {len(slices):,} slices. {machine()}, one process; "
        f"Python {platform.python_version()}, NumPy {np.__version__}, pandas {pd.__version__}{version}.",
        "",
        "| way | seconds | times as long |",
        "|---|---|---|",
        *(f"| {name} | {value:.2f} | {value / ours:.1f} |" for name, value in seconds.items()),
        "",
        f"Of the first row, {alone:.2f} s are `areas.measure`, the rest the tables. "
        f"Peak memory beyond the slice table: {peak:.0f} MiB.",
    ]
    text = "\n".join(lines)
    print(text)
    if options.save:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
