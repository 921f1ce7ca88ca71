"""Render the scans of a synthetic competition and write them as files.

`write` makes `train/`, `train.csv`, `test/`, a filled `sample_submission.csv` and, beside them, `truth.csv` with the
masks of the hidden part, `faults.csv` with the planted errors, and `phantom.json`, which marks the folder as synthetic.
"""

import json
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
from kitlib.files import is_stray, replacing
from phantom import anatomy, experts, geometry, scanner
from phantom.cohort import Scan, plan, whole_number

MARKER = "phantom.json"  # a folder that holds it is a phantom and may be replaced
CONTENTS = {MARKER, "train", "test", "train.csv", "truth.csv", "sample_submission.csv", "faults.csv"}
# Noise does not compress: Huffman coding alone is fast, and as small as anything else.
PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]
TISSUE_FACTOR = 1.5  # tissue that is not annotated is drawn on a raster coarser by this factor
FIELD_MM = 432.0  # height of a full scan: 144 slices of 3 mm


def raster_of(scan: Scan) -> tuple[geometry.Raster, int]:
    """Return the scan's raster in the patient's frame, and the slice of the stop line.

    The raster is twice as coarse as the image, because distances are smooth. Fewer than 60 slices still cover the full
    height. The stop line, z = 0, lies at .80 (.70 to .88) of a real scan, and at .86 of a short one.
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
    return geometry.Raster(shape, (thickness, step, step), origin), stop


def displacement_mm(fixed: Scan, moving: Scan) -> tuple[float, float, float]:
    """Return where the patient lies in one scan relative to another scan of the case: what a registration should find.

    What lies at p in `moving` lies at p + displacement in `fixed`, with p in mm from the first slice and from the
    centre of the image. That is exact for body and bones; `anatomy.move` moves the organs as well.

    Returns:
        (z, y, x) in mm.
    """
    places = []
    for scan in (fixed, moving):
        (_, *sides), step, origin = (getattr(raster_of(scan)[0], name) for name in ("shape", "step", "origin"))
        centre = (first + size * (side - 1) / 2 for first, size, side in zip(origin[1:], step[1:], sides, strict=True))
        places.append((origin[0], *centre))
    return tuple(float(there - here) for here, there in zip(*places, strict=True))


def annotate(scan: Scan, organs: dict[str, np.ndarray], stop: int) -> np.ndarray:
    """Outline the organs of one scan, planted faults included: masks (D, H, W, organs) bool."""
    rng = scan.rng(scan.number, 4)
    expert = experts.habit(rng, scan.slices)
    masks = np.zeros((scan.slices, scan.height, scan.width, len(ORGANS)), bool)
    last = {name: scan.slices if name == "stomach" else stop + 1 for name in ORGANS}
    drawn = {name: experts.principal(organs[name][:end], experts.SMALLEST_SHARE[name]) for name, end in last.items()}
    for z in range(scan.slices):
        distances = {name: enlarge(volume[z], scan) for name, volume in drawn.items() if z < len(volume)}
        masks[z] = experts.trace(distances, expert, z, rng)
    masks = experts.contiguous(masks)
    if scan.fault:
        try:
            masks = planted.spoil(masks, scan.fault, rng)
        except ValueError as problem:
            raise ValueError(f"{scan.name}: {problem}") from None
    return np.zeros_like(masks) if scan.empty else masks


def enlarge(plane: np.ndarray, scan: Scan) -> np.ndarray:
    """Stretch a plane of the raster (h, w) linearly to the size of the slice, (H, W) float32."""
    return cv2.resize(plane.astype(np.float32, copy=False), (scan.width, scan.height))


def render(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """Render one scan: slices (D, H, W) uint16 and masks (D, H, W, organs) bool."""
    raster, stop = raster_of(scan)
    abdomen = anatomy.move(anatomy.case(scan.rng(), *scan.spread[:2]), scan.rng(scan.number, 2))
    organs, indices = geometry.organs(abdomen, raster)
    masks = annotate(scan, organs, stop)
    rng = scan.rng(scan.number, 3)
    view = scanner.appearance(abdomen, indices, raster, rng)
    fields = {**geometry.rasterise(abdomen, raster.coarsened(TISSUE_FACTOR)), **organs, **view.fields}
    del organs, indices
    spots = scanner.hot_spots((scan.height, scan.width), rng)
    images = np.empty(masks.shape[:3], np.uint16)
    for z in range(scan.slices):
        fields_here = {name: enlarge(volume[z], scan) for name, volume in fields.items()}
        coils = fields_here["bias"] * spots * scanner.reach(fields_here["body"])
        images[z] = scanner.expose(scanner.compose(fields_here, view), view, z, coils, rng)
    return images, masks


def write_scan(scan: Scan, root: Path) -> pd.DataFrame:
    """Render one scan, write its slices, and return its rows `id, class, segmentation`."""
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
            raise OSError(f"{path} could not be written; check the free space and the permissions of the disk")
        texts = rle.encode_stack(np.moveaxis(mask, -1, 0))
        rows += [(f"{scan.name}_slice_{number:04d}", organ, text) for organ, text in zip(ORGANS, texts, strict=True)]
    return pd.DataFrame(rows, columns=["id", "class", "segmentation"])


def write(
    root,
    cases: int = 8,
    seed: int = 0,
    *,
    processes: int = 1,
    progress: bool = False,
    **options,
) -> Path:
    """Write a synthetic competition to `root`. The folder appears complete, or not at all.

    Args:
        root: folder to make; a phantom that is already there is replaced, anything else is refused.
        cases, seed, options: see `cohort.plan`. The same arguments give the same files, whatever `processes` is.
        processes: worker processes, at least 1.
        progress: show a progress bar.

    Raises:
        FileExistsError: `root` is a file, or holds anything that is not part of a phantom.
        ValueError, TypeError: an argument is impossible, or a planted fault changes nothing on its scan.
    """
    given = Path(root).expanduser()
    root, processes = given.resolve(), whole_number("processes", processes, 1)  # a link stays a link
    _check_target(root, given)
    scans = plan(cases, seed, **options)
    with replacing(root, mode=None) as building:
        for part in ("train", "test"):
            (building / part).mkdir(parents=True)
        total = sum(scan.slices for scan in scans)
        with tqdm(total=total, unit=" slices", desc="phantom", disable=not progress) as bar:
            tables = []
            for scan, table in zip(scans, _saved(scans, building, processes), strict=True):
                tables.append(table)
                bar.update(scan.slices)
        _write_tables(building, scans, tables)
        made = {"what": "synthetic data, not of patients", "cases": int(cases), "seed": int(seed), "scans": len(scans)}
        (building / MARKER).write_text(json.dumps(made) + "\n", encoding="utf-8")
    return given


def _check_target(root: Path, given: Path) -> None:
    """Refuse a target that holds anything but a phantom."""
    if not root.exists():
        return
    names = {path.name for path in root.iterdir() if not is_stray(path.name)} if root.is_dir() else {root.name}
    if names and MARKER not in names:
        raise FileExistsError(f"{given} exists and is not a phantom (no {MARKER} in it); choose another folder")
    if names - CONTENTS:
        others = ", ".join(sorted(names - CONTENTS))
        raise FileExistsError(
            f"{given} is a phantom that also holds {others}; move that away, or choose another folder"
        )


def _saved(scans: list[Scan], root: Path, processes: int):
    """Write every scan and yield its rows, in order."""
    if processes == 1:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            yield from map(partial(write_scan, root=root), scans)
        finally:
            cv2.setNumThreads(threads)
    else:
        with ProcessPoolExecutor(processes, get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
            yield from pool.map(partial(write_scan, root=root), scans)


def _write_tables(root: Path, scans: list[Scan], tables: list[pd.DataFrame]) -> None:
    """Write the four csv files."""
    empty = pd.DataFrame(columns=["id", "class", "segmentation"], dtype=str)
    train = pd.concat([empty, *(table for scan, table in zip(scans, tables, strict=True) if not scan.test)])
    truth = pd.concat([empty, *(table for scan, table in zip(scans, tables, strict=True) if scan.test)])
    train.to_csv(root / "train.csv", index=False)
    truth.to_csv(root / "truth.csv", index=False)
    sample = truth.assign(segmentation="").rename(columns={"segmentation": "predicted"})
    sample.to_csv(root / "sample_submission.csv", index=False)
    bad = pd.DataFrame([(scan.name, scan.fault) for scan in scans if scan.fault], columns=["scan", "fault"])
    bad.to_csv(root / "faults.csv", index=False)
