"""From a folder in the official layout to one table with a row per slice, and from its rows to masks and stacks."""

import os
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from kitlib import contest, files, rle
from kitlib.data.root import contents, listing
from kitlib.data.root import find_root as find_root

_IMAGE = "case123/case123_day20/scans/slice_0001_266_266_1.50_1.50.png"
_SMALLEST_PNG = 67  # bytes: signature, header, one empty block of data and the end

COLUMNS = ["id", "case", "day", "slice", "path", "height", "width", "spacing_mm", "scan"]


def is_phantom(root: str | os.PathLike) -> bool:
    """Whether a competition is synthetic: its writer adds the file phantom.json."""
    return (Path(root) / "phantom.json").is_file()


def read(
    root: str | os.PathLike,
    split: str = "train",
    problems: list[tuple[str, str]] | None = None,
    index: str | os.PathLike | None = None,
) -> pd.DataFrame:
    """Read a split as one table with a row per slice; no image is opened.

    Files and folders that other programs leave behind (`files.is_stray`) are ignored, and named once.

    Args:
        root: folder in the official layout.
        split: "train", whose rows carry the run-length text of each organ, or "test", which may be absent or empty.
        problems: problems are appended to this list as pairs (where, what), and the slices they concern are left out
            (a slice that lacks one organ's row stays, without that mask); None raises them instead.
        index: csv with columns id and image_path, in place of the folder of images, when only tables are at hand.

    Returns:
        Columns id, case, day, slice, path, height, width (pixels), spacing_mm (of the pixels), scan, and for "train"
        one column per organ with its run-length text, empty without a mask; sorted by case, day and slice.

    Raises:
        ValueError: names every missing, doubled or unreadable file and every id without a file or a row.
        FileNotFoundError: names the train.csv that is missing, or the folder train/ that is missing or has no images.
    """
    root, found = Path(root).expanduser(), [] if problems is None else problems
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; expected 'train' or 'test'")
    masks = _read_masks(root / "train.csv", found) if split == "train" else None
    records = _from_index(Path(index), found) if index else _from_folder(root / split, found)
    if masks is not None and len(masks) and not records:
        folder = root / split
        what = f"it holds {listing(folder)}" if folder.is_dir() else f"{root} holds {listing(root)}"
        what = f"has no images, such as {_IMAGE}; {what}. Unpack the competition's images there"
        if problems is None:
            raise FileNotFoundError(f"{folder} {what}")
        found.append((str(folder), what))
        masks = masks.iloc[:0]
    slices = pd.DataFrame(records, columns=COLUMNS)
    slices = slices.sort_values(["case", "day", "slice"], ignore_index=True)
    doubled = slices["id"].duplicated()
    found += [(path, "is a second file for this slice; remove one") for path in slices.loc[doubled, "path"]]
    slices = slices[~slices["id"].duplicated(keep=False)]
    if masks is not None:
        known = {record[0] for record in records}
        lost = [name for name in masks.index if name not in known]
        found += [(str(root / "train.csv"), f"id {name} has no image below {root / split}") for name in lost]
        rowless = ~slices["id"].isin(masks.index)
        found += [(path, "has no row in train.csv") for path in slices.loc[rowless, "path"]]
        slices = slices[~rowless].join(masks, on="id")
    if found and problems is None:
        lines = [f"{where}: {what}" for where, what in found[:20]]
        lines += [f"... and {len(found) - 20} more"] if len(found) > 20 else []
        raise ValueError(f"{root}: {len(found)} problems in the {split} data\n  " + "\n  ".join(lines))
    return slices.reset_index(drop=True)


def rows(slices: pd.DataFrame) -> pd.DataFrame:
    """Turn a slice table into the rows of train.csv: id, class, segmentation; three rows per slice."""
    texts = slices[list(contest.ORGANS)].to_numpy(object)
    return pd.DataFrame(
        {
            "id": np.repeat(slices["id"].to_numpy(), len(contest.ORGANS)),
            "class": np.tile(contest.ORGANS, len(slices)),
            "segmentation": texts.ravel(),
        }
    )


def with_masks(slices: pd.DataFrame, masks: pd.DataFrame) -> pd.DataFrame:
    """Add rows (id, class, and segmentation or predicted) to their slices as one column per organ; reverses `rows`.

    Slices without rows get empty masks.
    """
    column = "predicted" if "predicted" in masks else "segmentation"
    wide = masks.pivot(index="id", columns="class", values=column)
    bare = slices.drop(columns=list(contest.ORGANS), errors="ignore")
    joined = bare.join(wide.reindex(columns=list(contest.ORGANS)), on="id")
    return joined.fillna(dict.fromkeys(contest.ORGANS, ""))


def masks(rows: pd.DataFrame) -> np.ndarray:
    """Decode the masks of one scan: (D, H, W, organs) bool.

    Args:
        rows: the scan's rows of a slice table with a column of run-length text per organ; its slices have one size.

    Raises:
        ValueError: names the slice and the organ of a malformed text, or the scan whose slices differ in size.
    """
    shape = common_size(rows)
    if (rows[["height", "width"]].to_numpy() != shape).any():
        raise ValueError(f"the slices of {rows['scan'].iloc[0]} differ in size; decode those of one size at a time")
    texts = rows[list(contest.ORGANS)].to_numpy(object).T
    try:
        full = rle.decode_stack(texts.ravel().tolist(), shape)
    except ValueError:
        for organ, name in zip(contest.ORGANS, texts, strict=True):
            for slice_id, text in zip(rows["id"], name, strict=True):
                try:
                    rle.parse([text], shape[0] * shape[1])
                except ValueError as error:
                    raise ValueError(f"{slice_id} {organ}: {error}") from None
        raise
    return np.moveaxis(full.reshape(*texts.shape, *shape), 0, -1)


def common_size(rows: pd.DataFrame) -> tuple[int, int]:
    """Find the height and width that most slices of a scan have; of several, the first in the table."""
    sizes = list(zip(rows["height"], rows["width"], strict=True))
    height, width = max(dict.fromkeys(sizes), key=sizes.count)
    return int(height), int(width)


def spacing_mm(rows: pd.DataFrame) -> float | None:
    """Find the pixel spacing that most slices of a scan have; None for a table without spacings."""
    found = rows["spacing_mm"].mode() if "spacing_mm" in rows else ()
    return float(found.iloc[0]) if len(found) else None


def describe(slices: pd.DataFrame) -> dict[str, str | int]:
    """Describe the data that a run is trained on: its kind, its fingerprint, and numbers of slices, scans and cases.

    The kind is "phantom" or "competition", told by the folder that the images lie in, or "unknown" for a table without
    images.
    """
    kind = "unknown"
    paths = slices["path"][slices["path"] != ""] if "path" in slices else []
    if len(paths):
        kind = "phantom" if is_phantom(Path(paths.iloc[0]).parents[4]) else "competition"
    counts = {"slices": len(slices), "scans": slices["scan"].nunique(), "cases": slices["case"].nunique()}
    return {"kind": kind, "fingerprint": fingerprint(slices)} | counts


def fingerprint(slices: pd.DataFrame) -> str:
    """Hash ids and masks to 8 hex digits, which differ for tables with other slices or other annotations."""
    columns = ["id", *(organ for organ in contest.ORGANS if organ in slices)]
    return f"{zlib.crc32(pd.util.hash_pandas_object(slices[columns], index=False).to_numpy()):08x}"


def presence(rows: pd.DataFrame) -> np.ndarray:
    """Tell which organs the masks of some slices show: (D, organs) bool."""
    return (rows[list(contest.ORGANS)] != "").to_numpy()


def organ_count(slices: pd.DataFrame) -> pd.Series:
    """Count the organs on each slice, 0 to 3; folds are stratified by it."""
    return pd.Series(presence(slices).sum(axis=1), slices.index, name="organs")


def stacks(slices: pd.DataFrame, depth: int = 5, stride: int = 1) -> np.ndarray:
    """Find the neighbours of each slice: the 2.5D input of the paper (section II.B, where depth is 5).

    Args:
        slices: slice table; the rows of a scan are adjacent and in order.
        depth: slices in a stack, odd; the middle one is the slice itself.
        stride: rows from one neighbour to the next.

    Returns:
        (rows, depth) int64: row numbers. At the ends of a scan its last row is repeated; no stack leaves its scan.

    >>> table = pd.DataFrame({"scan": ["a", "a", "a", "b"]})
    >>> stacks(table, depth=3).tolist()
    [[0, 0, 1], [0, 1, 2], [1, 2, 2], [3, 3, 3]]
    """
    if depth < 1 or depth % 2 == 0:
        raise ValueError(f"depth is {depth}; choose an odd number, so that a stack has a middle slice")
    if stride < 1:
        raise ValueError(f"stride is {stride}; choose 1 or more rows")
    first, last = _ends(slices)
    steps = (np.arange(depth) - depth // 2) * stride
    return np.clip(np.arange(len(slices))[:, None] + steps, first[:, None], last[:, None])


def volumes(slices: pd.DataFrame, depth: int) -> np.ndarray:
    """Find the rows of a volume around each slice: the input of a network that labels all of them.

    Near an end of its scan the volume is moved inwards: repeated slices would teach that organs go on there, and a
    sliding window never sees them. A slice at the end is still in half as many volumes as one in the middle.

    Args:
        slices: as for `stacks`.
        depth: slices in a volume.

    Returns:
        (rows, depth) int64: row numbers. Only a scan with fewer slices than `depth` repeats its last row.

    >>> table = pd.DataFrame({"scan": ["a", "a", "a", "b"]})
    >>> volumes(table, depth=2).tolist()
    [[0, 1], [0, 1], [1, 2], [3, 3]]
    """
    first, last = _ends(slices)
    start = np.clip(np.arange(len(slices)) - depth // 2, first, np.maximum(first, last - depth + 1))
    return np.minimum(start[:, None] + np.arange(depth), last[:, None])


def _ends(slices: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Find the first and last row of each slice's scan, (rows,) each."""
    scan, names = pd.factorize(slices["scan"])
    if np.count_nonzero(np.diff(scan)) + 1 > max(len(names), 1):
        raise ValueError("the rows of a scan are not adjacent; sort the table by case, day and slice")
    return np.searchsorted(scan, scan, side="left"), np.searchsorted(scan, scan, side="right") - 1


def _from_folder(folder: Path, problems: list[tuple[str, str]]) -> list[tuple]:
    """List folder/case*/case*_day*/scans/*.png as records; whatever does not fit is a problem."""
    records, strays = [], []
    for case in _subfolders(folder, problems, strays):
        for scan in _subfolders(case.path, problems, strays):
            images = [entry for entry in _subfolders(scan.path, problems, strays) if entry.name == "scans"]
            if not images:
                problems.append((scan.path, "has no folder scans/"))
            for entry in contents(images[0].path, problems, strays) if images else ():
                if entry.name.endswith(".png"):
                    _add(records, problems, scan.name, entry.name, entry.path, _size(entry))
    if strays:
        _say_once(f"{folder}: ignored {len(strays)} files and folders of other programs, such as {strays[0]}")
    return records


@cache
def _say_once(text: str) -> None:
    print(text)


def _size(entry: os.DirEntry) -> int:
    """Ask for the bytes of a file; 0 for a link that leads nowhere."""
    try:
        return entry.stat().st_size
    except OSError:
        return 0


def _from_index(index: Path, problems: list[tuple[str, str]]) -> list[tuple]:
    """List the images that a table names; their paths are empty, because there are no files."""
    records = []
    for name, image in files.read_csv(index, ["id", "image_path"]).itertuples(index=False):
        _add(records, problems, contest.scan_of(name), image.rsplit("/", 1)[-1], "", _SMALLEST_PNG)
    return records


def _add(records: list[tuple], problems: list[tuple[str, str]], scan: str, name: str, path: str, size: int) -> None:
    """Append the record of one image, or a problem."""
    where = path or f"{scan}/{name}"
    try:
        number, height, width, spacing_mm = contest.parse_file_name(name)
        parts = contest.parse_id(f"{scan}_slice_{number:04d}")
    except ValueError as error:
        problems.append((where, str(error)))
        return
    if size < _SMALLEST_PNG:
        problems.append((where, f"has {size} bytes, which is too few for a PNG; copy the file again"))
        return
    identity = f"{scan}_slice_{number:04d}"
    records.append((identity, parts.case, parts.day, number, path, height, width, spacing_mm, scan))


def _read_masks(path: Path, problems: list[tuple[str, str]]) -> pd.DataFrame:
    """Read train.csv as one row per id and one column per organ."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {path.parent} holds {listing(path.parent)}")
    table = files.read_csv(path, ["id", "class", "segmentation"])
    table["segmentation"] = table["segmentation"].where(table["segmentation"].str.lower() != "nan", "")
    strange = ~table["class"].isin(contest.ORGANS)
    doubled = table.duplicated(["id", "class"])
    for wrong, what in ((strange, "is not an organ of the competition"), (doubled, "has a second row for this slice")):
        problems += [
            (f"{path}, line {line}", f"{organ} {what} ({name})")
            for line, name, organ in table.loc[wrong, ["id", "class"]].itertuples()
        ]
    masks = table[~strange & ~doubled].pivot(index="id", columns="class", values="segmentation")
    masks = masks.reindex(columns=list(contest.ORGANS))
    for name, organ in masks.isna().stack().loc[lambda missing: missing].index:
        problems.append((str(path), f"{name} has no row for {organ}"))
    return masks.fillna("").rename_axis(columns=None)


def _subfolders(folder: str | os.PathLike, problems: list[tuple[str, str]], strays: list[str]) -> Sequence[os.DirEntry]:
    """List the folders in a folder by name; none when it does not exist."""
    if not os.path.isdir(folder):
        return []
    entries = contents(folder, problems, strays)
    return sorted((entry for entry in entries if entry.is_dir()), key=lambda entry: entry.name)
