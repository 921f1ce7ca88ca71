"""A synthetic competition in the official layout, so that everything in this kit runs without an account.

`python -m phantom data/phantom --cases 6` writes `train/`, `train.csv`, `test/`, a filled
`sample_submission.csv` and, aside, `truth.csv` for the hidden part. `cohort` decides who is scanned, anatomy and motion
come from `anatomy`, voxels from `geometry`, grey values from `contrast`, outlines from `annotation`; here they become
scans, and scans become files.
It is not data of patients.
"""

import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy.stats import norm
from tqdm import tqdm

from kitlib import rle
from kitlib.contest import ORGANS, SLICE_THICKNESS_MM
from kitlib.eda import planted
from phantom import anatomy, experts, geometry, scanner
from phantom.cohort import Scan, plan, whole

MARKER = "phantom.json"  # a folder that holds it is a phantom and may be overwritten
PNG = [
    cv2.IMWRITE_PNG_COMPRESSION,
    1,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY,
]  # noise: fast, small
TISSUE_FACTOR = 1.5  # what is not annotated is drawn on a grid that much coarser
FIELD_MM = 432.0  # height of a full scan: 144 slices of 3 mm


def place(scan: Scan) -> tuple[geometry.Grid, int]:
    """The scan's coarse grid in the patient's frame, and the slice of the stop line.

    The grid is twice as coarse as the image (distances are smooth); fewer than 60 slices still cover the full height.
    The stop line, z = 0, lies at .80 (.70 to .88) of a real scan, and at .86 of a short one.
    """
    rng = scan.rng(scan.number, 1)
    thickness = SLICE_THICKNESS_MM if scan.slices >= 60 else FIELD_MM / scan.slices
    stop = 0.810 if scan.slices * thickness > 0.8 * FIELD_MM else 0.865
    stop += 0.042 * norm.ppf(scan.spread[2]) + rng.normal(0, 0.012)  # case, day
    stop = int(np.clip(stop, 0.64, 0.93) * scan.slices)
    factor = 2 if min(scan.height, scan.width) >= 128 else 1
    shape = (scan.slices, -(-scan.height // factor), -(-scan.width // factor))
    step = scan.spacing_mm * factor
    shift = scan.rng(6).normal(0, (13, 7)) + rng.normal(0, 3, 2)
    origin = (-stop * thickness, shift[0] - step * (shape[1] - 1) / 2, shift[1] - step * (shape[2] - 1) / 2)
    return geometry.Grid(shape, (thickness, step, step), origin), stop


def annotate(scan: Scan, organs: dict[str, np.ndarray], stop: int) -> np.ndarray:
    """Outline the organs of one scan: masks (D, H, W, organs) bool, faults included."""
    rng = scan.rng(scan.number, 4)
    expert = experts.habit(rng, scan.slices)
    masks = np.zeros((scan.slices, scan.height, scan.width, len(ORGANS)), bool)
    last = {name: scan.slices if name == "stomach" else stop + 1 for name in ORGANS}
    drawn = {name: experts.principal(organs[name][:end], experts.SMALLEST_SHARE[name]) for name, end in last.items()}
    for z in range(scan.slices):
        here = {
            name: cv2.resize(volume[z], (scan.width, scan.height)) for name, volume in drawn.items() if z < len(volume)
        }
        masks[z] = experts.outline(here, expert, z, rng)
    masks = experts.contiguous(masks)
    if scan.fault:
        try:
            masks = planted.spoil(masks, scan.fault, rng)
        except ValueError as problem:
            raise ValueError(f"{scan.name}: {problem}") from None
    return np.zeros_like(masks) if scan.empty else masks


def enlarge(plane: np.ndarray, scan: Scan) -> np.ndarray:
    """A plane of the coarse grid (h, w), linearly stretched to the slice's (H, W) float32."""
    return cv2.resize(plane.astype(np.float32, copy=False), (scan.width, scan.height))


def render(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """Make one scan: slices (D, H, W) uint16 and masks (D, H, W, organs) bool."""
    grid, stop = place(scan)
    abdomen = anatomy.move(anatomy.case(scan.rng(), *scan.spread[:2]), scan.rng(scan.number, 2))
    organs, indices = geometry.organs(abdomen, grid)
    masks = annotate(scan, organs, stop)
    rng = scan.rng(scan.number, 3)
    view = scanner.look(abdomen, indices, grid, rng)
    fields = {**geometry.rasterise(abdomen, grid.coarsened(TISSUE_FACTOR)), **organs, **view.fields}
    del organs, indices
    spots = scanner.hot_spots((scan.height, scan.width), rng)
    images = np.empty(masks.shape[:3], np.uint16)
    for z in range(scan.slices):
        here = {name: enlarge(volume[z], scan) for name, volume in fields.items()}
        coils = here["bias"] * spots * scanner.reach(here["body"])
        images[z] = scanner.expose(scanner.draw(here, view), view, z, coils, rng)
    return images, masks


def save(scan: Scan, root: Path) -> pd.DataFrame:
    """Render one scan and write its slices; returns its rows `id, class, segmentation`."""
    images, masks = render(scan)
    folder = root / ("test" if scan.test else "train") / f"case{scan.case}" / scan.name / "scans"
    folder.mkdir(parents=True)
    spacing = f"{scan.spacing_mm:.2f}"
    rows = []
    for number, (image, mask) in enumerate(zip(images, masks, strict=True), start=1):
        if number == scan.missing:
            continue
        path = folder / f"slice_{number:04d}_{scan.width}_{scan.height}_{spacing}_{spacing}.png"
        if not cv2.imwrite(str(path), image, PNG):
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
        cases: synthetic cases, hidden ones included: 2 to 159.
        seed: 0 or more; the same seed gives the same files, whatever `processes` is.
        days: scans per case; None for 3, 2, 3, 2, 2, 2 and over again.
        slices: slices per scan, None for 144 (80 at 276x276); fewer than 60 still span the whole abdomen.
        sizes: (height, width) of the n-th case, over and over; None for the four real sizes.
        faults: how many training scans get a badly drawn annotation, listed in `faults.csv`; each kind in turn.
        missing_slice, empty_scan: leave one slice out of the first training scan, all masks out of the last.
        processes: worker processes, at least 1.
        progress: show a bar.

    Raises:
        FileExistsError: `root` holds something that is not a phantom, or is a file.
        ValueError, TypeError: name the argument and the value that cannot be; or a scan that a planted fault leaves as
            it is, because too little is drawn on it.
    """
    given, root, processes = Path(root), Path(root).resolve(), whole("processes", processes, 1)  # a link stays one
    if root.exists() and (not root.is_dir() or (any(root.iterdir()) and not (root / MARKER).is_file())):
        raise FileExistsError(
            f"{given} exists and is not a phantom (no {MARKER} in it); choose another folder or remove it"
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
        made = {"what": "synthetic data, not of patients", "cases": int(cases), "seed": int(seed), "scans": len(scans)}
        (building / MARKER).write_text(json.dumps(made) + "\n", encoding="utf-8")
        if root.exists():
            shutil.rmtree(root)
        os.replace(building, root)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return given


def _saved(scans: list[Scan], root: Path, processes: int):
    """The rows of every scan, in order."""
    if processes == 1:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            yield from map(partial(save, root=root), scans)
        finally:
            cv2.setNumThreads(threads)
    else:
        with ProcessPoolExecutor(processes, get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
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
