"""Draw the pictures of the data in README.md: `python -P docs/draw.py ROOT FOLDER`.

ROOT is a phantom; the pictures never show patients.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kitlib.eda import areas
from kitlib.figures import eda, style
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -P docs/draw.py", description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="a phantom")
    parser.add_argument("folder", type=Path, help="folder for the PNG files, such as docs/pictures")
    options = parser.parse_args(arguments)
    try:
        for path in draw(options.root, options.folder):
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    except (OSError, ValueError) as problem:
        print(problem, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
