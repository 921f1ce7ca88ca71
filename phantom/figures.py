"""Pictures of the synthetic competition, without and with its outlines.

`python -m phantom.figures data/phantom data/pictures` writes both. With `--beside REAL_ROOT` the command draws ten
slices of each root in random order instead, and prints which are which. A picture with slices of patients is never
written into a checkout.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kitlib.data import scans
from kitlib.figures.scans import views
from kitlib.figures.style import WIDTH, canvas, look, organ_legend, overlay, save

NAMES = ("phantom-six.png", "phantom-sheet.png")
MIXED = "phantom-beside.png"
SYNTHETIC = "synthetic slices, not of patients"
CHECKOUT = Path(__file__).resolve().parents[1]


def spread(slices: pd.DataFrame, count: int) -> pd.DataFrame:
    """Choose annotated slices of as many scans as possible.

    Their heights in the annotated range follow the golden ratio, so that a few slices show all heights.
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
    """Draw slices side by side, above without and below with their outlines."""
    chosen = spread(slices, count)
    figure, axes = canvas(2.2 * WIDTH / count + 0.4, rows=2, columns=count)
    for (above, below), (row, image, mask) in zip(axes.T, views(chosen), strict=True):
        overlay(above, image, np.zeros_like(mask)).set_title(f"{row['scan']}\nslice {row['slice']}", size=8)
        overlay(below, image, mask, fill=0.15, line=0.9)
    figure.suptitle(SYNTHETIC, size=9)
    organ_legend(figure)
    return figure


@look
def sheet(slices: pd.DataFrame, columns: int = 5, rows: int = 2) -> Figure:
    """Draw a sheet of small slices with outlines."""
    return _thumbnails(spread(slices, columns * rows), columns, SYNTHETIC)


@look
def mixed_sheet(
    slices: pd.DataFrame, others: pd.DataFrame, seed: int = 0, count: int = 10
) -> tuple[Figure, pd.DataFrame]:
    """Draw `count` slices of each of two roots, numbered from 1 in random order.

    Returns:
        The figure, and its key: index number, columns `root` (0 or 1) and `id`.
    """
    chosen = pd.concat([spread(slices, count).assign(root=0), spread(others, count).assign(root=1)])
    chosen = chosen.iloc[np.random.default_rng(seed).permutation(len(chosen))]
    key = chosen[["root", "id"]].set_index(pd.RangeIndex(1, len(chosen) + 1, name="number"))
    return _thumbnails(chosen, 5, "some of these slices are synthetic", numbered=True), key


def _thumbnails(chosen: pd.DataFrame, columns: int, title: str, numbered: bool = False) -> Figure:
    rows = -(-len(chosen) // columns)
    figure, axes = canvas(rows * WIDTH / columns + 0.4, rows=rows, columns=columns)
    for axis in axes.ravel()[len(chosen) :]:
        axis.remove()
    for number, (axis, (_, image, mask)) in enumerate(zip(axes.ravel(), views(chosen), strict=False), start=1):
        overlay(axis, image, mask, fill=0, line=0.9)
        axis.set_title(str(number) if numbered else "", size=8)
    figure.suptitle(title, size=9)
    organ_legend(figure)
    return figure


def read(root: Path) -> pd.DataFrame:
    """Read the slices of a phantom, and refuse any other root, because pictures in the checkout must not show patients.

    Raises:
        ValueError: `root` is not a phantom.
    """
    root = Path(root).expanduser()
    if not scans.is_phantom(root):
        raise ValueError(
            f"{root} is not a phantom, and pictures of patients must not be drawn; "
            "write a phantom: python -m phantom data/phantom"
        )
    return scans.read(root)


def draw(root: Path, folder: Path) -> list[Path]:
    """Write both pictures of a phantom's training part and return their paths."""
    slices = read(root)
    pictures = (six_slices(slices), sheet(slices))
    return [
        save(picture, Path(folder).expanduser() / name, dpi=100) for picture, name in zip(pictures, NAMES, strict=True)
    ]


def draw_mixed(root: Path, other: Path, folder: Path, seed: int = 0) -> tuple[Path, pd.DataFrame]:
    """Write the mixed sheet of two roots; returns its path and its key.

    Raises:
        ValueError: a root shows patients, and `folder` lies in a checkout.
    """
    root, other, folder = (path.expanduser() for path in (root, other, folder))
    parents = (folder.resolve(), *folder.resolve().parents)
    checkouts = [parent for parent in parents if parent == CHECKOUT or (parent / ".git").exists()]
    for source in (root, other):
        if checkouts and not scans.is_phantom(source):
            raise ValueError(
                f"{folder} is in the checkout {checkouts[0]}, but {source} is not a phantom; choose a folder outside"
            )
    figure, key = mixed_sheet(scans.read(root), scans.read(other), seed)
    return save(figure, folder / MIXED, dpi=100), key.assign(root=key["root"].map({0: root, 1: other}))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m phantom.figures", description="Draw pictures of a phantom.")
    parser.add_argument("root", type=Path, help="folder of the competition")
    parser.add_argument("folder", type=Path, help="folder for the pictures")
    parser.add_argument(
        "--beside", type=Path, metavar="ROOT", help="draw ten slices of this root and ten of the other on one sheet"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the order with --beside")
    options = parser.parse_args(arguments)
    try:
        if options.beside:
            path, key = draw_mixed(options.root, options.beside, options.folder, options.seed)
            print(key.to_string(), path, sep="\n")
            return 0
        for path in draw(options.root, options.folder):
            print(f"{path}  {path.stat().st_size / 1000:.0f} kB")
    except (OSError, ValueError) as problem:
        print(problem, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
