"""From a folder in the official layout to one table of slices; stacks and folds as columns of it.

What a model may see beside a slice, and which cases it may learn from, is decided here once, as numbers that can be
printed, so that leakage and the ends of scans are nobody else's concern.
"""

import os
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from kitlib import contest, rle

_KAGGLE = (contest.SLUG, f"competitions/{contest.SLUG}")
_LOCAL = (f"data/{contest.SLUG}", "data", "data/phantom")
_SMALLEST_PNG = 67  # bytes: signature, header, one empty block of data and the end

COLUMNS = ["id", "case", "day", "slice", "path", "height", "width", "spacing_mm", "scan"]


def find_root(path: str | os.PathLike | None = None) -> Path:
    """Find the folder that holds the competition: the one with a `train.csv` or a `sample_submission.csv`.

    Looked at, in order: `path`; the environment variable KITLIB_DATA; Kaggle's two mount points; `data/` with the
    competition's name, `data/` itself and `data/phantom`, each below this folder, the one above and the checkout. A
    path or a variable that is given must be right: nothing else is tried then.

    Raises:
        FileNotFoundError: lists every folder that was looked at.
    """
    given = path or os.environ.get("KITLIB_DATA")
    if given:
        places = [Path(given)]
    else:
        checkout = Path(__file__).resolve().parents[2]
        bases = dict.fromkeys([Path.cwd(), Path.cwd().parent, checkout])
        places = [contest.KAGGLE_INPUT / folder for folder in _KAGGLE]
        places += [base / folder for folder in _LOCAL for base in bases]
    for place in places:
        if (place / "train.csv").is_file() or (place / "sample_submission.csv").is_file():
            return place
    looked = "\n  ".join(map(str, places))
    raise FileNotFoundError(
        f"no train.csv or sample_submission.csv in any of\n  {looked}\n"
        "Attach the competition on Kaggle, set KITLIB_DATA to its folder, or write a synthetic one: "
        "python -m phantom data/phantom"
    )


def is_phantom(root: str | os.PathLike) -> bool:
    """Tell whether a competition is a synthetic one, by the mark that its writer leaves."""
    return (Path(root) / "phantom.json").is_file()


def read(
    root: str | os.PathLike,
    split: str = "train",
    problems: list[tuple[str, str]] | None = None,
    index: str | os.PathLike | None = None,
) -> pd.DataFrame:
    """Read a split as one table with a row per slice; no image is opened.

    Args:
        root: folder in the official layout.
        split: "train", whose rows carry the run-length text of each organ, or "test", which may be absent or empty.
        problems: faults are appended to this list as pairs (where, what), and the slices they touch are left out (a
            slice that lacks one organ's row stays, without that mask); None raises them instead.
        index: csv with columns id and image_path that stands for the folder of images when only tables are at hand.

    Returns:
        Columns id, case, day, slice, path, height, width (pixels), spacing_mm (of the pixels), scan, and for "train"
        one column per organ with its run-length text, empty without a mask; sorted by case, day and slice.

    Raises:
        ValueError: names every missing, doubled or unreadable file and every id without a file or a row.
        FileNotFoundError: names the train.csv that is missing.
    """
    root = Path(root)
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r} is neither 'train' nor 'test'")
    faults: list[tuple[str, str]] = []
    records = _from_index(Path(index), faults) if index else _from_folder(root / split, faults)
    slices = pd.DataFrame(records, columns=COLUMNS)
    slices = slices.sort_values(["case", "day", "slice"], ignore_index=True)
    doubled = slices["id"].duplicated()
    faults += [(path, "a second file for this slice") for path in slices.loc[doubled, "path"]]
    slices = slices[~slices["id"].duplicated(keep=False)]
    if split == "train":
        masks = _read_masks(root / "train.csv", faults)
        known = {record[0] for record in records}
        lost = [name for name in masks.index if name not in known]
        faults += [(str(root / "train.csv"), f"id {name} has no image below {root / split}") for name in lost]
        rowless = ~slices["id"].isin(masks.index)
        faults += [(path, "train.csv has no row for this slice") for path in slices.loc[rowless, "path"]]
        slices = slices[~rowless].join(masks, on="id")
    if faults and problems is None:
        raise ValueError(f"{root}: {len(faults)} faults in the {split} data\n  " + _shorten(faults))
    if problems is not None:
        problems += faults
    return slices.reset_index(drop=True)


def rows(slices: pd.DataFrame) -> pd.DataFrame:
    """Turn a table of slices into rows as train.csv has them: id, class, segmentation; three rows per slice."""
    texts = slices[list(contest.ORGANS)].to_numpy(object)
    return pd.DataFrame(
        {
            "id": np.repeat(slices["id"].to_numpy(), len(contest.ORGANS)),
            "class": np.tile(contest.ORGANS, len(slices)),
            "segmentation": texts.ravel(),
        }
    )


def with_masks(slices: pd.DataFrame, masks: pd.DataFrame) -> pd.DataFrame:
    """Put rows (id, class, and segmentation or predicted) beside the slices they belong to: the reverse of `rows`.

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
    """Sum up ids and masks, so that tables of other slices or other annotations are told apart: 8 hex digits."""
    columns = ["id", *(organ for organ in contest.ORGANS if organ in slices)]
    return f"{zlib.crc32(pd.util.hash_pandas_object(slices[columns], index=False).to_numpy()):08x}"


def organ_count(slices: pd.DataFrame) -> pd.Series:
    """Count the organs on each slice, 0 to 3: the label that folds are stratified by."""
    return (slices[list(contest.ORGANS)] != "").sum(axis=1).rename("organs")


def stacks(slices: pd.DataFrame, depth: int = 5, stride: int = 1) -> np.ndarray:
    """Find the neighbours of each slice: the 2.5D input of the paper (section II.B, where depth is 5).

    Args:
        slices: table of slices; the rows of a scan lie together, in order.
        depth: slices in a stack, odd; the middle one is the slice itself.
        stride: rows from one neighbour to the next.

    Returns:
        (rows, depth) int64: positions of rows. At the ends of a scan the last row is repeated; no stack leaves it.

    >>> table = pd.DataFrame({"scan": ["a", "a", "a", "b"]})
    >>> stacks(table, depth=3).tolist()
    [[0, 0, 1], [0, 1, 2], [1, 2, 2], [3, 3, 3]]
    """
    if depth < 1 or depth % 2 == 0:
        raise ValueError(f"a stack of {depth} slices has no middle; choose an odd depth")
    if stride < 1:
        raise ValueError(f"stride is {stride}; neighbours lie at least 1 row apart")
    scan, names = pd.factorize(slices["scan"])
    if np.count_nonzero(np.diff(scan)) + 1 > max(len(names), 1):
        raise ValueError("the rows of a scan do not lie together; sort the table by case, day and slice")
    first = np.searchsorted(scan, scan, side="left")
    last = np.searchsorted(scan, scan, side="right") - 1
    steps = (np.arange(depth) - depth // 2) * stride
    return np.clip(np.arange(len(slices))[:, None] + steps, first[:, None], last[:, None])


def _from_folder(folder: Path, faults: list[tuple[str, str]]) -> list[tuple]:
    """List folder/case*/case*_day*/scans/*.png as records; what does not fit is a fault."""
    records = []
    for case in _subfolders(folder, faults):
        for scan in _subfolders(case.path, faults):
            pictures = Path(scan.path) / "scans"
            if not pictures.is_dir():
                faults.append((scan.path, "has no folder scans/"))
                continue
            for entry in _entries(pictures, faults):
                if entry.name.endswith(".png"):
                    _add(records, faults, scan.name, entry.name, entry.path, _size(entry))
    return records


def _size(entry: os.DirEntry) -> int:
    """Ask for the bytes of a file; 0 for a link that leads nowhere."""
    try:
        return entry.stat().st_size
    except OSError:
        return 0


def _from_index(index: Path, faults: list[tuple[str, str]]) -> list[tuple]:
    """List the images that a table names, with no path, because there is no image."""
    records = []
    for name, image in pd.read_csv(index)[["id", "image_path"]].itertuples(index=False):
        _add(records, faults, name.rsplit("_slice_", 1)[0], image.rsplit("/", 1)[-1], "", _SMALLEST_PNG)
    return records


def _add(records: list[tuple], faults: list[tuple[str, str]], scan: str, name: str, path: str, size: int) -> None:
    """Append the record of one image, or say why there is none."""
    where = path or f"{scan}/{name}"
    try:
        number, height, width, spacing_mm = contest.parse_file_name(name)
        parts = contest.parse_id(f"{scan}_slice_{number:04d}")
    except ValueError as error:
        faults.append((where, str(error)))
        return
    if size < _SMALLEST_PNG:
        faults.append((where, f"{size} bytes are too few for a PNG; copy the file again"))
        return
    identity = f"{scan}_slice_{number:04d}"
    records.append((identity, parts.case, parts.day, number, path, height, width, spacing_mm, scan))


def _read_masks(path: Path, faults: list[tuple[str, str]]) -> pd.DataFrame:
    """Read train.csv as one row per id and one column per organ."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the folder of the competition holds it")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    wanted = ["id", "class", "segmentation"]
    if list(table.columns) != wanted:
        raise ValueError(f"{path}: columns are {list(table.columns)}, expected {wanted}")
    strange = ~table["class"].isin(contest.ORGANS)
    doubled = table.duplicated(["id", "class"])
    for wrong, what in ((strange, "is no organ of the competition"), (doubled, "has a second row for this slice")):
        faults += [
            (f"{path}, line {line + 2}", f"{organ} {what} ({name})")
            for line, name, organ in table.loc[wrong, ["id", "class"]].itertuples()
        ]
    masks = table[~strange & ~doubled].pivot(index="id", columns="class", values="segmentation")
    masks = masks.reindex(columns=list(contest.ORGANS))
    for name, organ in masks.isna().stack().loc[lambda missing: missing].index:
        faults.append((str(path), f"{name} has no row for {organ}"))
    return masks.fillna("").rename_axis(columns=None)


def _subfolders(folder: str | os.PathLike, faults: list[tuple[str, str]]) -> list[os.DirEntry]:
    """List the folders in a folder by name; none when it does not exist."""
    if not os.path.isdir(folder):
        return []
    return sorted((entry for entry in _entries(folder, faults) if entry.is_dir()), key=lambda entry: entry.name)


def _entries(folder: str | os.PathLike, faults: list[tuple[str, str]]) -> list[os.DirEntry]:
    """List what is in a folder; one that cannot be read is a fault, and costs what is in it."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        faults.append((str(folder), f"cannot be read: {error.strerror}"))
        return []


def _shorten(faults: list[tuple[str, str]], most: int = 20) -> str:
    """Join the first faults, and count the rest."""
    rest = [f"... and {len(faults) - most} more"] if len(faults) > most else []
    return "\n  ".join([f"{where}: {what}" for where, what in faults[:most]] + rest)
