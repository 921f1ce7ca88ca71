"""Speed of run-length text: slices of three masks per second on one core, on a phantom's masks.

`python benchmarks/rle.py [--save]`. Compares this kit, called for each slice and for blocks of slices, with the
NumPy functions of most public notebooks and with pycocotools, which is column-major and gets transposed masks.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import importlib.metadata
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

import phantom
from kitlib import contest, files, rle
from kitlib.data import scans

BLOCK = 16  # slices per call
RESULTS = Path(__file__).parent / "results"


def usual_decode(text, shape):
    """Fill run after run, as public notebooks do."""
    numbers = text.split()
    starts, lengths = (np.asarray(some, dtype=int) for some in (numbers[::2], numbers[1::2]))
    starts = starts - 1
    mask = np.zeros(shape[0] * shape[1], dtype=np.uint8)
    for low, high in zip(starts, starts + lengths, strict=True):
        mask[low:high] = 1
    return mask.reshape(shape)


def usual_encode(mask):
    """Find the changes along the whole slice, as public notebooks do."""
    pixels = np.concatenate([[0], mask.ravel(), [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(number) for number in runs)


def rate(work, slices, seconds=2.0):
    """Measure slices per second: the best of the repetitions that fit into some seconds."""
    best, begun = np.inf, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return slices / best


def measure(root):
    """Measure each code on the masks of a competition."""
    scan_list = []
    for _, rows in scans.read(root).groupby("scan"):
        shape = int(rows["height"].iloc[0]), int(rows["width"].iloc[0])
        texts = rows[list(contest.ORGANS)].to_numpy(object).tolist()
        scan_list.append((shape, texts))
    count = sum(len(texts) for _, texts in scan_list)

    def blocks(size):
        return [
            (shape, [text for three in texts[start : start + size] for text in three])
            for shape, texts in scan_list
            for start in range(0, len(texts), size)
        ]

    single, several = blocks(1), blocks(BLOCK)
    masks = [rle.decode_stack(texts, shape) for shape, texts in single]
    bytewise = [some.astype(np.uint8) for some in masks]
    found = {
        "usual notebook code": (
            rate(lambda: [usual_decode(text, shape) for shape, texts in single for text in texts], count),
            rate(lambda: [usual_encode(mask) for some in bytewise for mask in some], count),
        ),
        "kitlib, a slice a call": (
            rate(lambda: [rle.decode_stack(texts, shape) for shape, texts in single], count),
            rate(lambda: [rle.encode_stack(some) for some in masks], count),
        ),
        f"kitlib, {BLOCK} slices a call": (
            rate(lambda: [rle.decode_stack(texts, shape) for shape, texts in several], count),
            None,
        ),
    }
    try:
        from pycocotools import mask as coco
    except ImportError:
        print("pycocotools is not installed: left out")
    else:
        fortran = [np.asfortranarray(some.transpose(2, 1, 0)) for some in bytewise]
        packed = [coco.encode(some) for some in fortran]
        found["pycocotools"] = (
            rate(lambda: [coco.decode(some) for some in packed], count),
            rate(lambda: [coco.encode(some) for some in fortran], count),
        )
    return found, count


def table(found, count):
    """Write the rates as Markdown, with ratios to the usual code."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "pandas"))
    lines = [
        "# Run-length text",
        "",
        f"{count:,} slices of three masks (phantom), slices per second, one core of {platform.machine()}, "
        f"Python {platform.python_version()}, {versions}.",
        "",
        "| code | decode | ratio | encode | ratio |",
        "|---|---:|---:|---:|---:|",
    ]
    usual = found["usual notebook code"]
    for name, rates in found.items():
        pairs = zip(rates, usual, strict=True)
        cells = [f"{one:,.0f} | {one / base:.1f}" if one else "as above | " for one, base in pairs]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main():
    """Measure, print and, with --save, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of a competition; without it, a phantom is written")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/rle.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = given.data or phantom.write(Path(folder) / "phantom", cases=6)
        text = table(*measure(root))
    print(text)
    if given.save:
        with files.replacing(RESULTS / "rle.md") as file:
            file.write(text)


if __name__ == "__main__":
    main()
