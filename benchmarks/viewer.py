"""The score viewer's page: `python benchmarks/viewer.py [--scans 12] [--root ROOT] [--save]`.

Prints the seconds that the page takes to write, its size, and the milliseconds from its opening in Chromium to the
first picture. The scans have 144 slices of 310 x 360, the largest size, and come from a phantom, whose noise compresses
worse than real slices; the predictions are made from the truth.
"""

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import phantom
from kitlib.data import scans
from kitlib.figures import viewer
from kitlib.postprocess import DEFAULT, rescoring
from kitlib.scoring import ledger
from phantom.standin import StandIn

RESULTS = Path(__file__).parent / "results" / "viewer.md"
OPENINGS = 5


def opening(path: Path) -> float | None:
    """Return the median milliseconds from opening the page to its first picture; None without a browser."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if chromium is None:
        return None
    taken = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(OPENINGS):
            page = browser.new_page()
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-state=complete]", state="attached")
            taken.append(float(page.get_attribute("html", "data-milliseconds")))
            page.close()
        browser.close()
    return statistics.median(taken)


def table(root: Path, count: int) -> str:
    """Write a page and lay out what it took."""
    slices = scans.read(root)
    slices = slices[slices["scan"].isin(slices["scan"].unique()[:count])].reset_index(drop=True)
    truth, made = scans.rows(slices), StandIn(slices)
    prediction = rescoring.rows(made, slices, DEFAULT)
    points = ledger.measure(truth, prediction, slices)
    with tempfile.TemporaryDirectory() as folder:
        start, used = time.perf_counter(), time.process_time()
        path = viewer.write(Path(folder) / "page.html", truth, prediction, slices, points=points)
        seconds, used = time.perf_counter() - start, time.process_time() - used
        size, first = path.stat().st_size / 1e6, opening(path)
    shown = "no browser" if first is None else f"{first:.0f}"
    return "\n".join(
        [
            "# The score viewer",
            "",
            f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
            f"Python {platform.python_version()}. Goals: below 25 MB, first picture within 1,000 ms. The ledger is "
            "measured before.",
            "",
            "| scans | slices | seconds | seconds of processor | MB | first picture, ms |",
            "| --- | --- | --- | --- | --- | --- |",
            f"| {slices['scan'].nunique()} | {len(slices):,} | {seconds:.0f} | {used:.0f} | {size:.1f} | {shown} |",
            "",
        ]
    )


def main():
    """Measure, print, and save when asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=12, help="scans in the page")
    parser.add_argument("--root", type=Path, help="a competition to take the scans from; default: a new phantom")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/viewer.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = given.root or phantom.write(Path(folder) / "phantom", 10, days=2, sizes=[(310, 360)], processes=2)
        text = table(root, given.scans)
    print(text)
    if given.save:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
