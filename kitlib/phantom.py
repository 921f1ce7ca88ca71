"""A synthetic competition in the official layout, so that everything in this kit runs without an account.

`python -m kitlib.phantom data/phantom --cases 6` writes `train/`, `train.csv`, `test/`, a filled `sample_submission.csv`
and, aside, `truth.csv` for the hidden part: later days of some training cases and cases never seen. Anatomy and motion
come from `anatomy`, grey values from `contrast`, outlines from `annotation`; here they become scans and files.
It is not data of patients.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import anatomy, annotation, contrast, rle
from kitlib.contest import ORGANS, SLICE_THICKNESS_MM

MARKER = "phantom.json"  # a folder that holds it is a phantom and may be overwritten
FIELD_MM = 432.0  # height of a full scan: 144 slices of 3 mm
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


@dataclass(frozen=True)
class Scan:
    """The plan of one scan: its name, size and random numbers; `test` marks the hidden part.

    `faults` names the planted error, "" for none; `missing` is a slice number without file and rows, 0 for none.
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
    """Decide which scans there are: a fifth of the cases is unseen in training, a third of the others hides its last day.

    Args: see `write`.
    """
    if cases < 2:
        raise ValueError(f"cases={cases}: at least 2 are needed, one to train on and one to hide")
    rng = np.random.default_rng([seed, 77])
    numbers = np.sort(rng.choice(np.arange(1, 160), cases, replace=False))
    unseen = set(range(cases - max(1, round(0.2 * cases)), cases))
    scans = []
    for index, number in enumerate(numbers):
        count = days or DAYS[index % len(DAYS)]
        dates = np.r_[0, np.cumsum(rng.integers(1, 14, count))]
        for order, day in enumerate(dates[:count]):
            size = (sizes or ROTATION)[index % len(sizes or ROTATION)]
            if sizes is None and index % 6 == 2 and order > 0:
                size = (310, 360)  # a case that changes its size between days
            if sizes is None and index % 12 == 10 and order == 0:
                size = (234, 234)
            spacing, depth = FORMATS.get(size, (round(400 / max(size), 2), 144))
            hidden = index in unseen or (index % 3 == 0 and count > 1 and order == count - 1)
            scans.append(Scan(int(number), int(day), *size, slices or depth, spacing, seed, order, hidden))
    training = [i for i, scan in enumerate(scans) if not scan.test]
    if faults > len(training):
        raise ValueError(f"faults={faults}, but only {len(training)} scans are annotated for training")
    for turn, i in enumerate(rng.permutation(training)[:faults]):
        scans[i] = _with(scans[i], fault=annotation.FAULTS[turn % len(annotation.FAULTS)])
    if missing_slice:
        i = training[0]
        scans[i] = _with(scans[i], missing=max(1, scans[i].slices // 3))
    if empty_scan:
        scans[training[-1]] = _with(scans[training[-1]], empty=True)
    return scans


def _with(scan: Scan, **changes) -> Scan:
    return Scan(**{**scan.__dict__, **changes})


def place(scan: Scan) -> tuple[anatomy.Grid, int]:
    """The scan's coarse grid in the patient's frame, and the slice of the stop line.

    The grid is twice as coarse as the image (distances are smooth); fewer than 60 slices still cover the full height.
    """
    rng = scan.rng(scan.number, 1)
    thickness = SLICE_THICKNESS_MM if scan.slices >= 60 else FIELD_MM / scan.slices
    full = scan.slices * thickness > 0.8 * FIELD_MM
    stop = rng.normal(0.825, 0.03) if full else rng.normal(0.88, 0.03)
    stop = int(np.clip(stop, 0.72, 0.94) * scan.slices)
    factor = 2 if min(scan.height, scan.width) >= 128 else 1
    shape = (scan.slices, -(-scan.height // factor), -(-scan.width // factor))
    step = scan.spacing_mm * factor
    shift = rng.normal(0, 4, 2)
    origin = (-stop * thickness, shift[0] - step * (shape[1] - 1) / 2, shift[1] - step * (shape[2] - 1) / 2)
    return anatomy.Grid(shape, (thickness, step, step), origin), stop


def render(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """Make one scan: slices (D, H, W) uint16 and masks (D, H, W, organs) bool."""
    grid, stop = place(scan)
    abdomen = anatomy.move(anatomy.case(scan.rng()), scan.rng(scan.number, 2))
    fields = anatomy.rasterise(abdomen, grid)
    rng = scan.rng(scan.number, 3)
    view = contrast.look(abdomen, fields, grid, rng)
    for name in ORGANS:
        fields[name + "_contents"], fields[name + "_gas"] = view.contents[name], view.gas[name]
        del fields[name + "_index"]
    fields["texture"], fields["bias"] = view.texture, view.bias
    spots = contrast.hot_spots((scan.height, scan.width), rng)
    expert = annotation.habit(rng)
    images = np.empty((scan.slices, scan.height, scan.width), np.uint16)
    masks = np.zeros((*images.shape, len(ORGANS)), bool)
    for z in range(scan.slices):
        enlarge = partial(cv2.resize, dsize=(scan.width, scan.height), interpolation=cv2.INTER_LINEAR)
        here = {name: enlarge(volume[z]) for name, volume in fields.items()}
        images[z] = contrast.expose(contrast.draw(here, view, abdomen.fat), view, z, here["bias"], spots, rng)
        masks[z] = annotation.outline(here, expert, rng)
    masks[stop + 1 :, ..., :2] = False
    masks = annotation.contiguous(masks)
    if scan.fault:
        masks = annotation.spoil(masks, scan.fault, rng)
    if scan.empty:
        masks[:] = False
    return images, masks


def save(scan: Scan, root: Path) -> pd.DataFrame:
    """Render one scan and write its slices; returns its rows `id, class, segmentation`."""
    cv2.setNumThreads(1)
    images, masks = render(scan)
    folder = root / ("test" if scan.test else "train") / f"case{scan.case}" / scan.name / "scans"
    folder.mkdir(parents=True)
    spacing = f"{scan.spacing_mm:.2f}"
    rows = []
    for number, (image, mask) in enumerate(zip(images, masks, strict=True), start=1):
        if number == scan.missing:
            continue
        path = folder / f"slice_{number:04d}_{scan.width}_{scan.height}_{spacing}_{spacing}.png"
        if not cv2.imwrite(str(path), image, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
            raise OSError(f"{path} could not be written; is the disk full?")
        texts = rle.encode_stack(np.moveaxis(mask, -1, 0))
        rows += [(f"{scan.name}_slice_{number:04d}", organ, text) for organ, text in zip(ORGANS, texts, strict=True)]
    return pd.DataFrame(rows, columns=["id", "class", "segmentation"])


def write(
    root,
    cases: int = 8,
    seed: int = 0,
    *,
    days: int | None = None,
    slices: int | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    faults: int = 0,
    missing_slice: bool = False,
    empty_scan: bool = False,
    processes: int = 1,
    progress: bool = False,
) -> Path:
    """Write a synthetic competition to `root`; the whole folder appears at once, or not at all.

    Args:
        root: folder to make; a phantom that is there already is replaced, anything else is refused.
        cases: patients, hidden ones included.
        seed: the same seed gives the same files, whatever `processes` is.
        days: scans per case; None for 3, 2, 3, 2, 2, 2 and over again.
        slices: slices per scan, None for 144 (80 at 276x276); fewer than 60 still span the whole abdomen.
        sizes: (height, width) of the n-th case, over and over; None for the four real sizes.
        faults: how many training scans get a badly drawn annotation, listed in `faults.csv`.
        missing_slice, empty_scan: leave one slice out of the first training scan, all masks out of the last.
        processes: worker processes.
        progress: show a bar.

    Raises:
        FileExistsError: `root` holds something that is not a phantom.
    """
    root = Path(root)
    if root.exists() and any(root.iterdir()) and not (root / MARKER).is_file():
        raise FileExistsError(
            f"{root} exists and is not a phantom (no {MARKER} in it); choose another folder or remove it"
        )
    scans = plan(
        cases,
        seed,
        days=days,
        slices=slices,
        sizes=sizes,
        faults=faults,
        missing_slice=missing_slice,
        empty_scan=empty_scan,
    )
    building = root.with_name(f".{root.name}.{os.getpid()}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    for part in ("train", "test"):
        (building / part).mkdir(parents=True)
    try:
        with tqdm(
            total=sum(scan.slices for scan in scans), unit=" slices", desc="phantom", disable=not progress
        ) as bar:
            tables = []
            for scan, table in zip(scans, _saved(scans, building, processes), strict=True):
                tables.append(table)
                bar.update(scan.slices)
        _write_tables(building, scans, tables)
        made = {"what": "synthetic data, not of patients", "cases": cases, "seed": seed, "scans": len(scans)}
        (building / MARKER).write_text(json.dumps(made) + "\n")
        if root.exists():
            shutil.rmtree(root)
        os.replace(building, root)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return root


def _saved(scans: list[Scan], root: Path, processes: int):
    """The rows of every scan, in order."""
    if processes == 1:
        yield from map(partial(save, root=root), scans)
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            yield from pool.map(partial(save, root=root), scans)


def _write_tables(root: Path, scans: list[Scan], tables: list[pd.DataFrame]) -> None:
    """The four csv files."""
    empty = pd.DataFrame(columns=["id", "class", "segmentation"], dtype=str)
    train = pd.concat([empty, *(table for scan, table in zip(scans, tables, strict=True) if not scan.test)])
    truth = pd.concat([empty, *(table for scan, table in zip(scans, tables, strict=True) if scan.test)])
    train.to_csv(root / "train.csv", index=False)
    truth.to_csv(root / "truth.csv", index=False)
    sample = truth.assign(segmentation="").rename(columns={"segmentation": "predicted"})
    sample.to_csv(root / "sample_submission.csv", index=False)
    bad = pd.DataFrame([(scan.name, scan.fault) for scan in scans if scan.fault], columns=["scan", "fault"])
    bad.to_csv(root / "faults.csv", index=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: write a phantom, or `--report` how like the real data a folder is."""
    parser = argparse.ArgumentParser(prog="python -m kitlib.phantom", description="A synthetic competition.")
    parser.add_argument("root", type=Path, help="folder to write (or, with --report, to measure)")
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--days", type=int, help="scans per case (default: 2 or 3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=0, help="badly annotated training scans, listed in faults.csv")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--report", action="store_true", help="measure the folder instead of writing it")
    options = parser.parse_args(arguments)
    if options.report:
        from kitlib import likeness  # floor 1: needed for the report alone

        print(likeness.report(options.root))
        return 0
    try:
        write(
            options.root,
            options.cases,
            options.seed,
            days=options.days,
            faults=options.faults,
            processes=options.processes,
            progress=True,
        )
    except (FileExistsError, ValueError) as problem:
        print(problem, file=sys.stderr)
        return 2
    print(
        f"{options.root}: synthetic competition, not data of patients; train.csv, truth.csv and sample_submission.csv are beside train/ and test/"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
