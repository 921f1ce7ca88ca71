"""The speed of the phantom: `python benchmarks/synthesis.py [--save]`.

Prints slices per second on one core, seconds for 12 cases of three days on two, and the memory of a process.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import importlib.metadata
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from phantom import cohort

RESULTS = Path(__file__).parent / "results"
MEASURED = """
import resource, sys, time
import phantom
if __name__ == "__main__":
    cases, days, processes = map(int, sys.argv[2:])
    start = time.perf_counter()
    phantom.write(sys.argv[1], cases, days=days, slices=144, processes=processes)
    seconds = time.perf_counter() - start
    who = resource.RUSAGE_SELF if processes == 1 else resource.RUSAGE_CHILDREN
    print(seconds, resource.getrusage(who).ru_maxrss / 1024)
"""  # runs in its own process, whose peak of memory is that of the phantom alone


def measure(cases: int, days: int, processes: int) -> tuple[int, float, float]:
    """Write a phantom in a fresh process: slices, seconds, and the largest resident memory of one process in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "measured.py"
        script.write_text(MEASURED, encoding="utf-8")
        command = [sys.executable, str(script), str(Path(folder) / "phantom"), *map(str, (cases, days, processes))]
        seconds, memory = map(float, subprocess.check_output(command, text=True).split())
    return sum(scan.slices for scan in cohort.plan(cases, days=days, slices=144)), seconds, memory


def table() -> str:
    """Measure both and return the table."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "scipy"))
    lines = [
        "# The phantom",
        "",
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}, "
        f"OpenCV {importlib.metadata.version('opencv-python-headless')}. Writing included; goals: above 40 slices per "
        "second and core, 12 cases in under 120 s on two, below 1,024 MiB a process.",
        "",
        "| what | slices | processes | seconds | slices per second | memory of a process, MiB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, cases, days, processes in (("2 cases of one day", 2, 1, 1), ("12 cases of three days", 12, 3, 2)):
        start = time.perf_counter()
        slices, seconds, memory = measure(cases, days, processes)
        print(f"{name}: {time.perf_counter() - start:.0f} s in all", file=sys.stderr)
        lines.append(f"| {name} | {slices:,} | {processes} | {seconds:.1f} | {slices / seconds:.0f} | {memory:.0f} |")
    return "\n".join(lines) + "\n"


def main():
    """Measure, print, and save when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/phantom.md")
    given = parser.parse_args()
    text = table()
    print(text)
    if given.save:
        (RESULTS / "phantom.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
