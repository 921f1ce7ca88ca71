"""The score ledger of a training set: `python benchmarks/ledger.py [--scans 274] [--save]`.

Processor seconds and peak memory of the ledger of as many scans as the training set has, on one core. The scans are
those of a phantom, repeated under new names; the predictions are made from the truth, and cleaned with the default
settings or not at all. There is no peer that does this.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import platform
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

import phantom
from kitlib import contest
from kitlib.data import scans
from kitlib.postprocess import DEFAULT, PLAIN, rescoring
from kitlib.scoring import ledger, metric
from phantom.standin import StandIn

TRAINING_SET = 274  # scans
RESULTS = Path(__file__).parent / "results" / "ledger.md"


def repeated(table, count, names):
    """Repeat the scans of a table until there are `count`, each with a case of its own."""
    parts = []
    groups = dict(iter(table.groupby(table["id"].map(contest.scan_of), sort=False)))
    for number in range(count):
        part = groups[names[number % len(names)]]
        scan = f"case{number + 1}_day0"
        part = part.assign(id=scan + "_slice_" + part["id"].str.rsplit("_slice_", n=1).str[1])
        parts.append(part.assign(scan=scan) if "scan" in part else part)
    return pd.concat(parts, ignore_index=True)


def measure(slices, settings, count):
    """Take the ledger of `count` scans: processor seconds of the score and the ledger, and the rows of the ledger."""
    names = slices["scan"].unique()
    prediction = repeated(rescoring.rows(StandIn(slices), slices, settings), count, names)
    truth = repeated(scans.rows(slices), count, names)
    table = repeated(slices[["id", "scan", "slice", "height", "width"]], count, names)
    start = time.process_time()
    score = metric.score(truth, prediction, table).value
    between = time.process_time()
    found = ledger.measure(truth, prediction, table, progress=True)
    assert abs(found.table["points"].sum() + score - 1) < 1e-9
    return between - start, time.process_time() - between, found


def main():
    """Measure, print, and save when asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=TRAINING_SET, help="number of scans")
    parser.add_argument("--save", action="store_true", help="write into benchmarks/results/ledger.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = phantom.write(Path(folder) / "phantom", cases=6, days=1, sizes=((310, 360), (266, 266)))
        slices = scans.read(root)
    columns = "prediction | host score | rows | score, s a scan | ledger, s a scan | ledger of the training set, min"
    lines = [f"| {columns} |", "| --- " * 6 + "|"]
    for name, settings in (("threshold 0.5", PLAIN), ("default cleaning", DEFAULT)):
        score, seconds, found = measure(slices, settings, given.scans)
        score, seconds = score / given.scans, seconds / given.scans
        cells = [name, f"{found.score:.4f}", len(found.table), f"{score:.3f}", f"{seconds:.3f}"]
        lines.append("| " + " | ".join(map(str, [*cells, f"{seconds * TRAINING_SET / 60:.1f}"])) + " |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    text = (
        f"# Score ledger\n\n{given.scans} scans of 144 slices, repeated from {slices['scan'].nunique()}; one "
        f"process, peak memory {peak:.0f} MiB; seconds are of processor. {platform.machine()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, numpy {np.__version__}, pandas "
        f"{pd.__version__}.\n\n"
    )
    text += "\n".join(lines)
    print(text)
    if given.save:
        RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
