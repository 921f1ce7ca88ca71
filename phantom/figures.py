"""Pictures of the synthetic competition: what it looks like, without and with the outlines.

`python -m phantom.figures data/phantom data/pictures` writes both. The slices are not of patients. With
`--beside REAL_ROOT` it draws ten slices of each root in random order instead and prints which are which; a picture with
slices of patients is written outside any checkout only.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kitlib.data import inputs, scans
from kitlib.figures.scans import masks
from kitlib.figures.style import WIDTH, canvas, look, organ_legend, overlay, save

NAMES = ("phantom-six.png", "phantom-sheet.png")
BESIDE = "phantom-beside.png"
SYNTHETIC = "synthetic slices, not of patients"
CHECKOUT = Path(__file__).resolve().parents[1]


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
        image, mask = inputs.read_picture(row["path"]), masks(row.to_frame().T)[0]
        overlay(above, image, np.zeros_like(mask)).set_title(f"{row['scan']}\nslice {row['slice']}", size=8)
        overlay(below, image, mask, fill=0.15, line=0.9)
    figure.suptitle(SYNTHETIC, size=9)
    organ_legend(figure)
    return figure


@look
def sheet(slices: pd.DataFrame, columns: int = 5, rows: int = 2) -> Figure:
    """Draw columns x rows slices with outlines, as thumbnails."""
    return _thumbnails(choose(slices, columns * rows), columns, SYNTHETIC)


@look
def beside(one: pd.DataFrame, other: pd.DataFrame, seed: int = 0, count: int = 10) -> tuple[Figure, pd.DataFrame]:
    """Draw `count` slices of each of two roots, numbered from 1 in random order: which are which?

    Returns:
        The figure, and the answer: index number, columns `root` (0 or 1) and `id`.
    """
    chosen = pd.concat([choose(one, count).assign(root=0), choose(other, count).assign(root=1)])
    chosen = chosen.iloc[np.random.default_rng(seed).permutation(len(chosen))]
    answer = chosen[["root", "id"]].set_index(pd.RangeIndex(1, len(chosen) + 1, name="number"))
    return _thumbnails(chosen, 5, "some of these slices are synthetic", numbered=True), answer


def _thumbnails(chosen: pd.DataFrame, columns: int, title: str, numbered: bool = False) -> Figure:
    rows = -(-len(chosen) // columns)
    figure, axes = canvas(rows * WIDTH / columns + 0.4, rows=rows, columns=columns)
    for axis in axes.ravel()[len(chosen) :]:
        axis.remove()
    for number, (axis, (_, row)) in enumerate(zip(axes.ravel(), chosen.iterrows(), strict=False), start=1):
        overlay(axis, inputs.read_picture(row["path"]), masks(row.to_frame().T)[0], fill=0, line=0.9)
        axis.set_title(str(number) if numbered else "", size=8)
    figure.suptitle(title, size=9)
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


def draw_beside(root: Path, other: Path, folder: Path, seed: int = 0) -> tuple[Path, pd.DataFrame]:
    """Write the sheet of two roots; gives its path and which number is of which root.

    Raises:
        ValueError: a root is of patients, and `folder` lies in this checkout or another one.
    """
    whole = folder.resolve()
    tracked = [place for place in (whole, *whole.parents) if place == CHECKOUT or (place / ".git").exists()]
    for source in (root, other):
        if tracked and not scans.is_phantom(source):
            raise ValueError(f"{folder} lies in the checkout {tracked[0]}, and {source} is no phantom; choose another")
    figure, answer = beside(scans.read(root), scans.read(other), seed)
    return save(figure, folder / BESIDE, dpi=100), answer.assign(root=answer["root"].map({0: root, 1: other}))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m phantom.figures", description="Pictures of a phantom.")
    parser.add_argument("root", type=Path, help="folder of the competition")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--beside", type=Path, metavar="ROOT", help="draw ten slices of this one among ten, instead")
    parser.add_argument("--seed", type=int, default=0, help="of the order of --beside")
    options = parser.parse_args(arguments)
    try:
        if options.beside:
            path, answer = draw_beside(options.root, options.beside, options.folder, options.seed)
            print(answer.to_string(), path, sep="\n")
            return 0
        for path in draw(options.root, options.folder):
            print(f"{path}  {path.stat().st_size / 1000:.0f} kB")
    except (OSError, ValueError) as problem:
        print(problem, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
