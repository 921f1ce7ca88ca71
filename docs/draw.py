"""The pictures of the data in README.md: `python -P docs/draw.py ROOT FOLDER`.

They are made from a phantom, never from data of patients: a folder that is no phantom is refused.
"""

import argparse
from pathlib import Path

from kitlib.data import scans
from kitlib.eda import areas
from kitlib.figures import eda, style
from kitlib.figures import scans as figures_scans


def draw(root: Path, folder: Path) -> list[Path]:
    """Draw one scan in three planes, a contact sheet, the bells along the body, overlaps and organs per slice.

    Raises:
        ValueError: `root` is not a phantom.
    """
    if not scans.is_phantom(root):
        raise ValueError(f"{root} is not a phantom; pictures that travel with the kit show no data of patients")
    slices = scans.read(root)
    measured = areas.measure(slices)
    area = measured.groupby("scan")[[f"{organ}_px" for organ in areas.ORGANS]].sum()
    one = slices[slices["scan"] == area.min(axis=1).idxmax()]  # a scan with much of every organ
    pictures = {
        "planes": figures_scans.planes(one),
        "contact_sheet": figures_scans.contact_sheet(one),
        "typical_masks": figures_scans.typical_masks(slices),
        "overlapping_masks": figures_scans.overlapping_masks(slices),
        "bells": eda.bells(measured),
        "organs_per_slice": eda.organs_per_slice(measured),
    }
    return [style.save(picture, folder / f"{name}.png") for name, picture in pictures.items()]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -P docs/draw.py", description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="a phantom")
    parser.add_argument("folder", type=Path, help="where the PNG files go, such as docs/pictures")
    options = parser.parse_args()
    for path in draw(options.root, options.folder):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
