"""The exact Hausdorff distance: `python benchmarks/metric.py [--parts kinds hard peers worth] [--save]`.

Seconds per scan of processor for three organs (144x310x360, both directions), on a phantom's masks and predictions made
from them; beside it the packages that measure the same or nearly the same. Sets of voxels and borders of masks have
different distances where one mask lies inside the other: `off by` is the largest difference from scipy's transform.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import importlib.metadata
import platform
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.distance import directed_hausdorff

import phantom
from kitlib import contest, rle
from kitlib.data import scans
from kitlib.scoring import distances, metric

RESULTS = Path(__file__).parent / "results" / "metric.md"
PLANE = ndimage.generate_binary_structure(3, 1) & (np.arange(3) == 1)[:, None, None]
WORTH = 274  # scans of the training set


# Predictions.


def blurred_noise(mask, random):
    """Blur the mask, add smooth noise, and threshold: islands appear far away."""
    noise = ndimage.gaussian_filter(random.standard_normal(mask.shape, np.float32), (1, 4, 4))
    return ndimage.gaussian_filter(mask.astype(np.float32), (0.7, 3, 3)) + 0.12 * noise / noise.std() > 0.5


def missing(mask, random):
    """Leave out the first three and the last six slices."""
    result, filled = mask.copy(), np.flatnonzero(mask.any(axis=(1, 2)))
    result[filled[:3]] = result[filled[-6:]] = False
    return result


def island(mask, random):
    """Add a small piece in a far corner."""
    result = mask.copy()
    result[10:13, 20:26, 20:26] = True
    return result


TYPICAL = {
    "eroded 2 px": lambda mask, random: ndimage.binary_erosion(mask, PLANE, 2),
    "dilated 1 px": lambda mask, random: ndimage.binary_dilation(mask, PLANE, 1),
    "dilated 3 px": lambda mask, random: ndimage.binary_dilation(mask, PLANE, 3),
    "shifted": lambda mask, random: np.roll(mask, (1, 4, -5), (0, 1, 2)),
    "far island": island,
    "missing slices": missing,
    "blurred, noisy": blurred_noise,
}
HARD = {
    "everything on": lambda mask, random: np.ones_like(mask),
    "1 % of voxels flipped": lambda mask, random: mask ^ (random.random(mask.shape) < 0.01),
    "half of all voxels": lambda mask, random: random.random(mask.shape) < 0.5,
}


# Peers: each takes two masks and the steps, and gives the larger of both directions.


def kit(one, other, steps):
    return distances.symmetric(one, other, steps).distance


def tree_of_border(one, other, steps):
    """A KD-tree of each border, asked for the voxels outside it."""
    farthest = 0.0
    for source, target in ((one, other), (other, one)):
        outside = np.argwhere(source & ~target)
        if len(outside):
            farthest = max(farthest, cKDTree(distances.border(target) * steps).query(outside * steps)[0].max())
    return farthest


def scipy_points(one, other, steps):
    points = [np.argwhere(mask) * steps for mask in (one, other)]
    return max(directed_hausdorff(*points)[0], directed_hausdorff(*points[::-1])[0])


def scipy_transform(one, other, steps):
    pairs = ((one, other), (other, one))
    return max(ndimage.distance_transform_edt(~target, steps)[source].max() for source, target in pairs)


def seung_edt(one, other, steps):
    import edt

    box = tuple(slice(side.min(), side.max() + 1) for side in np.nonzero(one | other))
    pairs = ((one[box], other[box]), (other[box], one[box]))
    return max(edt.edt(~target, anisotropy=steps, parallel=1)[source].max() for source, target in pairs)


def monai(one, other, steps):
    import torch
    from monai.metrics import compute_hausdorff_distance

    torch.set_num_threads(1)
    pair = [torch.from_numpy(mask)[None, None] for mask in (other, one)]
    return float(compute_hausdorff_distance(*pair, include_background=True, spacing=steps)[0, 0])


def surface_distance(one, other, steps):
    import surface_distance

    return surface_distance.compute_robust_hausdorff(surface_distance.compute_surface_distances(one, other, steps), 100)


def medpy(one, other, steps):
    from medpy.metric.binary import hd

    return hd(one, other, voxelspacing=steps)


PEERS = {
    "kitlib": (kit, "sets", ""),
    "KD-tree of the border": (tree_of_border, "sets", "scipy"),
    "scipy, all points": (scipy_points, "sets", "scipy"),
    "scipy, transform of the volume": (scipy_transform, "sets", "scipy"),
    "seung-lab edt, cropped": (seung_edt, "sets", "edt"),
    "MONAI": (monai, "borders", "monai"),
    "surface-distance": (surface_distance, "borders", "surface-distance-based-measures"),
    "medpy": (medpy, "borders", "medpy"),
}


def timed(search, pairs, steps):
    """Give seconds and distances of one scan's organs."""
    start = time.process_time()
    found = [float(search(one, other, steps)) for one, other in pairs if one.any() and other.any()]
    return time.process_time() - start, found


def remembered(search, pairs, steps):
    """Give seconds, distances, and the rise of the peak memory in MiB where the system tells it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        before = resident("VmRSS")
        return *timed(search, pairs, steps), (resident("VmHWM") - before) / 1024
    except OSError:
        return *timed(search, pairs, steps), float("nan")


def resident(name):
    """Read a line of the process' memory in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def installed(package):
    try:
        return importlib.metadata.version(package) if package else "this kit"
    except importlib.metadata.PackageNotFoundError:
        return None


def spoilt(volumes, kind):
    """Give the pairs of each scan's organs for one kind of prediction."""
    random, spoil = np.random.default_rng(0), (TYPICAL | HARD)[kind]
    return [[(mask, spoil(mask, random)) for mask in truth] for truth in volumes]


def kinds_table(volumes, steps):
    """Time this kit, the nearest exact peer and MONAI on every typical kind of prediction."""
    lines = []
    for kind in TYPICAL:
        sets = spoilt(volumes, kind)
        ours = [min(timed(kit, pairs, steps)[0] for _ in range(3)) for pairs in sets]
        line = {"prediction": kind, "kitlib s": np.median(ours), "slowest s": max(ours)}
        line["KD-tree s"] = np.median([timed(tree_of_border, pairs, steps)[0] for pairs in sets])
        if installed("monai"):
            timed(monai, sets[0], steps)
            line["MONAI s"] = timed(monai, sets[0], steps)[0]
            line["MONAI / kitlib"] = line["MONAI s"] / ours[0]
        lines.append(line)
    return pd.DataFrame(lines)


def hard_table(volumes, steps):
    """Time this kit on pathological predictions, and beside the nearest exact peer on one organ of one scan."""
    lines = []
    for kind in HARD:
        sets = spoilt(volumes, kind)
        ours = [min(timed(kit, pairs, steps)[0] for _ in range(3)) for pairs in sets]
        line = {"prediction": kind, "kitlib s": np.median(ours), "slowest s": max(ours)}
        one = sets[0][-1:]
        line["one organ: kitlib s"] = min(timed(kit, one, steps)[0] for _ in range(3))
        line["one organ: KD-tree s"] = timed(tree_of_border, one, steps)[0]
        lines.append(line)
    return pd.DataFrame(lines)


def peers_table(truth, steps, kind):
    """Time every peer on one scan, against scipy's transform."""
    random = np.random.default_rng(0)
    pairs = [(mask, TYPICAL[kind](mask, random)) for mask in truth]
    lines = {}
    for name, (search, what, package) in PEERS.items():
        version = installed(package)
        if version is None:
            print(f"{name} is left out: {package} is not installed")
            continue
        seconds, found, peak = remembered(search, pairs, steps)
        lines[name] = {
            "version": version,
            "measures": what,
            "s per scan": seconds,
            "found": found,
            "MiB": f"{peak:.0f}",
        }
    exact = lines["scipy, transform of the volume"]["found"]
    for line in lines.values():
        line["off by"] = f"{np.abs(np.subtract(line.pop('found'), exact)).max():.1e}"
    return pd.DataFrame(lines).T.rename_axis("peer").reset_index()


def worth(volumes):
    """Score as many scans as the training set has, from run-length text on: seconds."""
    random = np.random.default_rng(0)
    shape, kinds = volumes[0].shape[2:], list(TYPICAL.values())
    texts = []
    for number in range(len(volumes) * len(kinds)):
        truth = volumes[number % len(volumes)]
        spoilt = [kinds[number % len(kinds)](mask, random) for mask in truth]
        texts.append([[rle.encode_stack(mask) for mask in masks] for masks in (truth, spoilt)])
    rows = {"segmentation": [], "predicted": []}
    ids, depth = [], volumes[0].shape[1]
    for number in range(WORTH):
        ids += [f"case{number + 1}_day0_slice_{z + 1:04d}" for z in range(depth)]
        for column, organs in zip(rows, texts[number % len(texts)], strict=True):
            rows[column] += [organ[z] for z in range(depth) for organ in organs]
    slices = pd.DataFrame({"id": ids, "height": shape[0], "width": shape[1]})
    slices["scan"] = slices["id"].map(contest.scan_of)
    table = pd.DataFrame({"id": np.repeat(ids, 3), "class": list(contest.ORGANS) * len(ids), **rows})
    start, cpu = time.perf_counter(), time.process_time()
    metric.score(table.drop(columns="predicted"), table.drop(columns="segmentation"), slices)
    return time.perf_counter() - start, time.process_time() - cpu


def phantom_volumes(root, count):
    """Decode the organs of the wide scans of a competition: a list of (organs, D, H, W)."""
    slices = scans.read(root)
    wide = slices.loc[slices["width"] == 360, "scan"].unique()[:count]
    return [np.moveaxis(scans.masks(slices[slices["scan"] == scan]), -1, 0) for scan in wide]


def markdown(table):
    """Write a table with three decimals, and nothing where nothing was measured."""
    written = table.map(lambda cell: f"{cell:.3f}" if isinstance(cell, float) else str(cell)).replace("nan", "")
    rows = [list(table.columns), ["---"] * table.shape[1], *written.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def kinds(volumes, steps):
    return (
        "Processor seconds per scan of three organs, both directions, one thread. kitlib: best of three calls, median "
        "and slowest scan. KD-tree: of the border, asked for the difference only, median. MONAI: first scan, second "
        f"call.\n\n{markdown(kinds_table(volumes, steps))}"
    )


def hard(volumes, steps):
    return (
        "The same on predictions that no trained network makes; the KD-tree has one organ (stomach) of the first scan."
        f"\n\n{markdown(hard_table(volumes, steps))}"
    )


def peers(volumes, steps):
    kind = "blurred, noisy"
    return (
        f"On one scan, prediction {kind}; `off by` against scipy's transform of the volume, in units of the cube; MiB: "
        f"rise of the peak memory above "
        f"what the calls before had used (0: no more).\n\n{markdown(peers_table(volumes[0], steps, kind))}"
    )


def worth_of_training_set(volumes, steps):
    wall, cpu = worth(volumes)
    return (
        f"{WORTH} scans scored from run-length text to tables, typical predictions by turns: {wall:.1f} s on the clock "
        f"({cpu:.1f} s of processor), one process."
    )


PARTS = {
    "kinds": ("Typical predictions", kinds),
    "hard": ("Pathological predictions", hard),
    "peers": ("Peers", peers),
    "worth": ("A training set's worth", worth_of_training_set),
}


def machine(volumes):
    """Say what it ran on."""
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "scipy", "pandas"))
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python "
        f"{platform.python_version()}, {packages}; {len(volumes)} phantom scans of "
        f"{'x'.join(map(str, volumes[0].shape[1:]))}."
    )


def save(heading, text):
    """Put a section into the results and keep the others, in the order of PARTS."""
    old = RESULTS.read_text(encoding="utf-8").split("\n## ")[1:] if RESULTS.is_file() else []
    sections = dict(section.split("\n", 1) for section in old) | {heading: text}
    order = [name for name, _ in PARTS.values() if name in sections]
    written = [f"## {name}\n\n{sections[name].strip()}\n" for name in order]
    RESULTS.write_text("\n".join(["# Hausdorff distance and score\n", *written]), encoding="utf-8")


def main():
    """Measure, print as it goes, and save when asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a competition with wide scans; made when not given")
    parser.add_argument("--scans", type=int, default=3, help="number of scans to measure on")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="what to measure")
    parser.add_argument("--save", action="store_true", help="write into benchmarks/results/metric.md")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        wide = {"cases": given.scans + 1, "days": 1, "sizes": ((310, 360),)}
        root = given.data or phantom.write(Path(folder) / "phantom", **wide)
        volumes = phantom_volumes(root, given.scans)
    steps = tuple(1 / side for side in volumes[0].shape[1:])
    for part in given.parts:
        heading, measure = PARTS[part]
        text = f"{machine(volumes)}\n\n{measure(volumes, steps)}"
        print(f"## {heading}\n\n{text}\n", flush=True)
        if given.save:
            save(heading, text)


if __name__ == "__main__":
    main()
