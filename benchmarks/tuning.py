"""Tuning of post-processing: `python benchmarks/tuning.py [--data ROOT] [--save]`.

The full grid on eight phantom cases with stand-in probabilities at 128x128, from probabilities to settings; there is no
peer that does this.
"""

import argparse
import importlib.metadata
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

from kitlib import phantom, scans, standin, tuning

RESULTS = Path(__file__).parent / "results"
CASES = 8


def measure(root):
    """Search, and say what it took."""
    slices = scans.read(root)
    slices = slices[slices["case"].isin(slices["case"].unique()[:CASES])].reset_index(drop=True)
    truth = scans.rows(slices)
    made = standin.StandIn(truth, slices)
    kept = {scan: np.rint(made(scan) * 255).astype(np.uint8) for scan in made.scans}
    wall, cpu = time.perf_counter(), time.process_time()
    found = tuning.tune(kept.__getitem__, truth, slices)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "scipy", "pandas"))
    gain = found.gain
    return (
        "# Tuning of post-processing\n\n"
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, {versions}.\n\n"
        "| cases | scans | settings | s | s of processor | score, held out | gain, 95 % |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        f"| {slices['case'].nunique()} | {len(kept)} | {found.evaluated} | {wall:.0f} | {cpu:.0f} | "
        f"{found.before.value:.3f} -> {found.after.value:.3f} | "
        f"{gain.value:.3f} ({gain.low:.3f} to {gain.high:.3f}) |\n\n"
        f"{found.steps['kept'].sum()} of {len(found.steps)} steps kept; the probabilities are made from the truth, so "
        "that the gain says what tuning can mend and not what it brings a network.\n"
    )


def main():
    """Measure, print, and save when asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a competition with eight training cases; made when not given")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/tuning.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = measure(given.data or phantom.write(Path(folder) / "phantom", cases=10))
    print(text)
    if given.save:
        (RESULTS / "tuning.md").write_text(text)


if __name__ == "__main__":
    main()
