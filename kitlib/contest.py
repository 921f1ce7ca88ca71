"""Facts of the competition: its organs, the weights of its score, its names for scans and files, Kaggle's folders.

Height comes before width everywhere in this kit. File names have width first, and `parse_file_name` is the one place
that swaps them.
"""

import os
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

SLUG = "uw-madison-gi-tract-image-segmentation"
KAGGLE_INPUT = Path(os.environ.get("KITLIB_KAGGLE_INPUT", "/kaggle/input"))  # kaggle/check.py sets the variable

ORGANS = ("large_bowel", "small_bowel", "stomach")  # the order of train.csv and of every mask channel
BOWELS = ORGANS[:2]  # outlined down to one common slice
PRIOR_CHANNELS = len(ORGANS) + 1  # of a network's input: masks of another day, and where there are any

DICE_WEIGHT = 0.4
HAUSDORFF_WEIGHT = 0.6

SLICE_THICKNESS_MM = 3.0

# Scans that the hosts exclude because their annotation is wrong; seven of them are in the public training set.
SUSPECT_SCANS = (
    "case7_day0",
    "case9_day27",
    "case13_day0",
    "case34_day20",
    "case43_day18",
    "case43_day26",
    "case61_day14",
    "case81_day30",
    "case83_day11",
    "case124_day19",
    "case138_day0",
    "case144_day15",
)

_ID = re.compile(r"case([0-9]+)_day([0-9]+)_slice_([0-9]{4})")
_FILE = re.compile(r"slice_([0-9]{4})_([0-9]+)_([0-9]+)_([0-9]+\.[0-9]+)_([0-9]+\.[0-9]+)\.png")


class SliceId(NamedTuple):
    """The parts of a slice's id."""

    case: int
    day: int
    slice: int

    @property
    def scan(self) -> str:
        """The scan's name, one case on one day: `case123_day20`."""
        return f"case{self.case}_day{self.day}"


class FileName(NamedTuple):
    """The parts of an image's file name, height first."""

    slice: int
    height: int
    width: int
    spacing_mm: float


def parse_id(text: str) -> SliceId:
    """Split an id such as `case123_day20_slice_0001`; slices count from 1.

    Raises:
        ValueError: quotes a text that is not an id.

    >>> parse_id("case123_day20_slice_0001")
    SliceId(case=123, day=20, slice=1)
    """
    match = _ID.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a slice id; expected the form case123_day20_slice_0001")
    return SliceId(*map(int, match.groups()))


def parse_file_name(name: str) -> FileName:
    """Split a file name `slice_NUMBER_WIDTH_HEIGHT_SPACING_SPACING.png`, and put height before width.

    Raises:
        ValueError: quotes a name of another form, or one whose pixels are not square.

    >>> parse_file_name("slice_0007_360_310_1.50_1.50.png")
    FileName(slice=7, height=310, width=360, spacing_mm=1.5)
    """
    match = _FILE.fullmatch(name)
    if not match:
        raise ValueError(f"{name!r} is not an image name; expected the form slice_0001_360_310_1.50_1.50.png")
    number, width, height, across, down = match.groups()
    if across != down:
        raise ValueError(f"{name!r} has pixels of {down} x {across} mm; expected square pixels, as in all of this data")
    return FileName(int(number), int(height), int(width), float(down))


def scan_of(name: str) -> str:
    """The scan of a slice's id.

    >>> scan_of("case123_day20_slice_0001")
    'case123_day20'
    """
    return name.rsplit("_slice_", 1)[0]


def case_of(scan: str) -> str:
    """The case of a scan.

    >>> case_of("case123_day20")
    'case123'
    """
    return scan.split("_", 1)[0]


def attached(marker: str, roots: Sequence[str | os.PathLike] | None = None, depth: int = 8) -> list[Path]:
    """Find the folders that hold a marker file among a notebook's inputs, however deep Kaggle mounts them.

    Folders of images are never entered: those named "scans" or "oof", and everything in a competition.

    Args:
        marker: a file name or a pattern such as "kitlib-*.whl".
        roots: where to begin; None is KAGGLE_INPUT.
        depth: levels of folders below each root.
    """
    found = []

    def look(folder: Path, levels: int) -> None:
        try:
            with os.scandir(folder) as entries:
                entries = sorted(entries, key=lambda entry: entry.name)
        except OSError:  # a folder that may not be read
            return
        names = {entry.name for entry in entries}
        if any(fnmatch(name, marker) for name in names):
            found.append(folder)
        if "train.csv" in names or "sample_submission.csv" in names or not levels:
            return
        for entry in entries:
            hidden = entry.name.startswith((".", "__"))
            if entry.is_dir() and not hidden and entry.name not in ("scans", "oof", "checkpoint"):
                look(Path(entry.path), levels - 1)

    for root in (KAGGLE_INPUT,) if roots is None else map(Path, roots):
        if root.is_dir():
            look(root, depth)
    return found
