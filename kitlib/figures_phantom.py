"""Pictures of the synthetic competition: what it looks like, without and with the outlines.

`python -m kitlib.figures_phantom data/phantom data/pictures` writes both. The slices are not of patients.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kitlib import intensities, scans
from kitlib.figures import WIDTH, canvas, look, organ_legend, overlay, save
from kitlib.figures_scans import masks

NAMES = ("phantom-six.png", "phantom-sheet.png")


def choose(slices: pd.DataFrame, count: int) -> pd.DataFrame:
    """Pick annotated slices, each from another scan as long as there are scans, and from changing heights.

    The n-th slice lies at a relative height of the scan's annotated range that jumps along it (golden ratio), so that
    few slices show all heights.
    """
    marked = slices[scans.organ_count(slices) > 0]
    names = marked["scan"].unique()
    rows = []
    for turn in range(count):
        scan = marked[marked["scan"] == names[turn % len(names)]]
        rows.append(scan.iloc[int((0.15 + 0.8 * (turn * 0.618 % 1)) * (len(scan) - 1))])
    return pd.DataFrame(rows)


@look
def six_slices(slices: pd.DataFrame, count: int = 6) -> Figure:
    """Draw slices beside each other, above without and below with the outlines; slices as from `scans.read`."""
    chosen = choose(slices, count)
    figure, axes = canvas(2.2 * WIDTH / count + 0.4, rows=2, columns=count)
    for (above, below), (_, row) in zip(axes.T, chosen.iterrows(), strict=True):
        image, mask = intensities.image(row["path"]), masks(row.to_frame().T)[0]
        overlay(above, image, np.zeros_like(mask)).set_title(f"{row['scan']}\nslice {row['slice']}", size=8)
        overlay(below, image, mask, fill=0.15, line=0.9)
    organ_legend(figure)
    return figure


@look
def sheet(slices: pd.DataFrame, columns: int = 5, rows: int = 2) -> Figure:
    """Draw columns x rows slices with outlines, as thumbnails."""
    chosen = choose(slices, columns * rows)
    figure, axes = canvas(rows * WIDTH / columns + 0.4, rows=rows, columns=columns)
    for axis, (_, row) in zip(axes.ravel(), chosen.iterrows(), strict=True):
        overlay(axis, intensities.image(row["path"]), masks(row.to_frame().T)[0], fill=0, line=0.9)
    organ_legend(figure)
    return figure


def draw(root: Path, folder: Path) -> list[Path]:
    """Write both pictures of a phantom's training part; gives their paths.

    Raises:
        ValueError: `root` is not a phantom.
    """
    if not scans.is_phantom(root):
        raise ValueError(f"{root} is not a phantom; pictures that travel with the kit show no data of patients")
    slices = scans.read(root)
    pictures = (six_slices(slices), sheet(slices))
    return [save(picture, folder / name, dpi=100) for picture, name in zip(pictures, NAMES, strict=True)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m kitlib.figures_phantom", description="Pictures of a phantom.")
    parser.add_argument("root", type=Path, help="folder of the competition")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    options = parser.parse_args()
    for path in draw(options.root, options.folder):
        print(f"{path}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
