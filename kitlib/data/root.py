"""Where the competition lies on this machine, and what to do where it is not found."""

import os
import zipfile
from pathlib import Path

from kitlib import contest, files

_KAGGLE = (contest.SLUG, f"competitions/{contest.SLUG}")
_LOCAL = (f"data/{contest.SLUG}", "data", "data/phantom")
_TABLES = ("train.csv", "sample_submission.csv")
_CHECKOUT = Path(__file__).resolve().parents[2]


def find_root(path: str | os.PathLike | None = None, name: str = "DATA") -> Path:
    """Find the folder of the competition: the one that holds `train.csv` or `sample_submission.csv`.

    The first of these that is given is the folder, and nothing else is tried: `path`; the environment variable
    KITLIB_DATA. Both may begin with ~; a relative one is looked up in the current folder, then in the checkout. Without
    them, the folders searched are Kaggle's two mount points and `data/<competition>`, `data/` and `data/phantom`, each
    below the current folder, the folder above it and the checkout.

    Args:
        path: the folder; None or empty searches.
        name: what the user calls that argument, for the error.

    Raises:
        FileNotFoundError: names the argument or the variable, what is there, and what to do; or lists every folder
            that was searched, and gives the command that writes a synthetic competition.
    """
    variable = os.environ.get("KITLIB_DATA", "").strip()
    if path or variable:
        name, given = (name, os.fspath(path).strip()) if path else ("KITLIB_DATA", variable)
        return _given_root(name, given)
    bases = dict.fromkeys([Path.cwd(), Path.cwd().parent, _CHECKOUT])
    folders = [contest.KAGGLE_INPUT / folder for folder in _KAGGLE]
    folders += [base / folder for folder in _LOCAL for base in bases]
    for folder in folders:
        if _holds_tables(folder):
            return folder
    lines = [f"  {folder}" + (f": {_zips(folder)}" if _zips(folder) else "") for folder in folders]
    raise FileNotFoundError(
        "The competition was not found: no train.csv or sample_submission.csv in any of\n"
        + "\n".join(lines)
        + f"\nAttach the competition on Kaggle, or give its folder as {name} or in the environment variable "
        "KITLIB_DATA, or write a synthetic one: python -m phantom data/phantom"
    )


def contents(
    folder: str | os.PathLike, problems: list[tuple[str, str]], strays: list[str] | None = None
) -> list[os.DirEntry]:
    """List the contents of a folder without stray files; a folder that cannot be read is a problem."""
    try:
        with os.scandir(folder) as entries:
            entries = list(entries)
    except OSError as error:
        problems.append((str(folder), f"cannot be read: {error.strerror}"))
        return []
    if strays is not None:
        strays += [entry.path for entry in entries if files.is_stray(entry.name)]
    return [entry for entry in entries if not files.is_stray(entry.name)]


def _given_root(name: str, given: str) -> Path:
    """Check the folder that an argument or a variable names, or say what is there instead."""
    path = Path(os.path.expanduser(given))
    tried = list(dict.fromkeys([Path.cwd() / path, _CHECKOUT / path]))  # one and the same for an absolute path
    for folder in tried:
        if (folder / "train.csv").is_file() and not (folder / "train").is_dir():
            what = f"{folder} has a train.csv, but no folder train/ with the images; it holds {listing(folder)}"
            remedy = f"It {_zips(folder)}" if _zips(folder) else "Unpack the images there"
            raise FileNotFoundError(f"{name}={given}: {what}. {remedy}")
        if _holds_tables(folder):
            return folder
    folder = next((folder for folder in tried if folder.exists()), tried[0])
    also = f" (nor does {tried[1]})" if len(tried) > 1 and not folder.exists() else ""
    raise FileNotFoundError(f"{name}={given}: {_diagnose(name, folder, also)}")


def _holds_tables(folder: Path) -> bool:
    return any(os.path.isfile(folder / table) for table in _TABLES)


def _diagnose(name: str, folder: Path, also: str) -> str:
    """Say why a path is not the competition's folder, and what to do."""
    if not folder.exists():
        parent = next(above for above in folder.parents if above.is_dir())
        return f"{folder} does not exist{also}; {parent} holds {listing(parent)}. Give the folder that holds train.csv"
    if folder.is_file():
        if folder.suffix.lower() == ".zip":
            return f"{folder} is a zip file. {_unzip(folder)}"
        return f"{folder} is a file. Give the folder that holds train.csv: {name}={folder.parent}"
    for above in folder.parents[:4]:
        if _holds_tables(above):
            return f"{folder} has no train.csv, but {above} has one. Set {name}={above}"
    for below in map(folder.joinpath, _folders_below(folder)):
        if _holds_tables(below):
            return f"{folder} has no train.csv, but {below} has one. Set {name}={below}"
    if zips := _zips(folder):
        return f"{folder} {zips}"
    return (
        f"{folder} has neither train.csv nor sample_submission.csv; it holds {listing(folder)}. Give the folder that "
        "the competition's files were unpacked to, or write a synthetic competition: python -m phantom data/phantom"
    )


def _folders_below(folder: Path, levels: int = 3, most: int = 500) -> list[str]:
    """List the first folders below a folder that may hold a competition; those of cases are not entered."""
    found, level = [], [""]
    for _ in range(levels):
        level = [
            os.path.join(above, entry.name)
            for above in level
            for entry in contents(folder / above, [])
            if os.path.isdir(entry.path) and not entry.name.startswith("case")  # False where permission is denied
        ][:most]
        found += level
    return found


def _zips(folder: Path) -> str:
    """Say which zip file waits in a folder, and how to unpack it."""
    entries = contents(folder, []) if folder.is_dir() else []
    zips = sorted((entry.path for entry in entries if entry.name.endswith(".zip")), key=lambda path: "train" in path)
    return f"holds {Path(zips[0]).name}, which is not unpacked. {_unzip(Path(zips[0]))}" if zips else ""


def _unzip(path: Path) -> str:
    """Say how to unpack a zip file: the whole competition, or a part of it, such as train.zip or train.csv.zip."""
    part = path.stem in ("train", "test") or path.stem.endswith(".csv")
    target = path.parent if part and _holds_itself(path) else path.with_suffix("")
    return f"Unpack it: unzip -q '{path}' -d '{target}'{'' if part else ', and give that folder'}"


def _holds_itself(path: Path) -> bool:
    """Whether a zip file of a part holds it by its name: train.csv, or train/ around the cases."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[0] == path.stem for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return path.stem.endswith(".csv")


def listing(folder: Path, most: int = 6) -> str:
    """Name the first entries of a folder."""
    names = sorted(entry.name for entry in contents(folder, []))
    return ", ".join(names[:most] + ["..."] * (len(names) > most)) or "nothing"
