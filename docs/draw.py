"""Draw the pictures of README.md: `python -P docs/draw.py ROOT FOLDER [--viewer PAGE]`.

ROOT is a phantom, and PAGE the score viewer of a run on one (`python -m kitlib.figures RUN ROOT --viewer`), which the
system's Chromium opens: the pictures never show patients.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from kitlib.eda import areas
from kitlib.figures import eda, style, viewer
from kitlib.figures import scans as figures_scans
from phantom.figures import read


def draw(root: Path, folder: Path) -> list[Path]:
    """Draw a scan in three planes, a contact sheet, the bells along the body, overlaps and organs per slice."""
    slices = read(root)
    measured = areas.measure(slices)
    area = measured.groupby("scan")[[f"{organ}_px" for organ in areas.ORGANS]].sum()
    scan = slices[slices["scan"] == area.min(axis=1).idxmax()]  # a scan with much of every organ
    pictures = {
        "planes": figures_scans.planes(scan),
        "contact_sheet": figures_scans.contact_sheet(scan),
        "typical_masks": figures_scans.typical_masks(slices),
        "overlapping_masks": figures_scans.overlapping_masks(slices),
        "bells": eda.bells(measured),
        "organs_per_slice": eda.organs_per_slice(measured),
    }
    return [style.save(picture, folder / f"{name}.png") for name, picture in pictures.items()]


def photograph(page: Path, path: Path) -> Path:
    """Take a picture of a score viewer, on the worst slice of its worst scan.

    Raises:
        ValueError: the page may show patients.
    """
    if viewer.SYNTHETIC not in page.read_text(encoding="utf-8"):
        raise ValueError(f"{page} does not say that its slices are synthetic; make the page from a phantom")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver, TemporaryDirectory() as folder:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1280, "height": 1000})
        view.goto(page.resolve().as_uri())
        view.wait_for_selector("html[data-state=complete]", state="attached")
        view.wait_for_timeout(500)
        view.screenshot(path=f"{folder}/view.png")
        browser.close()
        return style.save_small(f"{folder}/view.png", path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -P docs/draw.py", description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="a phantom")
    parser.add_argument("folder", type=Path, help="folder for the PNG files, such as docs/pictures")
    parser.add_argument("--viewer", type=Path, metavar="PAGE", help="a score viewer to photograph too")
    options = parser.parse_args(arguments)
    try:
        paths = draw(options.root, options.folder)
        if options.viewer:
            paths.append(photograph(options.viewer, options.folder / "viewer.png"))
        for path in paths:
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    except (OSError, ValueError) as problem:
        print(problem, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
