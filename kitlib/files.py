"""Files: written whole or not at all, csv tables read as text, and the stray files of other programs passed over."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pandas as pd


@contextmanager
def replacing(path: str | os.PathLike, mode: str | None = "w") -> Iterator[IO | Path]:
    """Write a file or a folder under another name, and rename it to `path` when it is whole.

    After an error, or when the process is killed, what was at `path` before is still there. Missing parent folders are
    made.

    Args:
        path: what to write or to replace.
        mode: "w" gives an open text file (UTF-8, lines end with a line feed), "wb" a binary one. None gives a Path of
            the same name in a folder of its own, where a file or a folder is to be made.

    >>> with replacing("/tmp/kitlib-doctest/notes.txt") as file:
    ...     _ = file.write("one line")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    _remove(draft)
    try:
        if mode is None:
            draft.mkdir()
            yield draft / path.name
            _swap(draft / path.name, path, draft / "old")
        else:
            text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
            with open(draft, mode, **text) as file:
                yield file
            os.replace(draft, path)
    finally:
        _remove(draft)


def read_csv(path: str | os.PathLike, columns: Sequence[str]) -> pd.DataFrame:
    """Read a csv file as text, empty fields as empty text; `columns` is what its first line should be.

    Raises:
        FileNotFoundError: names the file that is missing.
        ValueError: names the file, and the line where there is one, that is no such table.
    """
    first = ",".join(columns)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path} is empty; it begins with the line {first}") from None
    except pd.errors.ParserError as error:
        raise ValueError(f"{path}: {str(error).strip()}; a row has {len(columns)} fields: {first}") from None
    except UnicodeDecodeError as error:
        lines = Path(path).read_bytes().split(b"\n")
        line = next(number for number, text in enumerate(lines, 1) if text != text.decode(errors="ignore").encode())
        raise ValueError(f"{path}, line {line}: no UTF-8 text ({error.reason}); save it as UTF-8 csv") from None
    if not isinstance(table.index, pd.RangeIndex):
        row = ",".join(map(str, [table.index[0], *table.iloc[0]]))
        raise ValueError(f"{path}: row {row!r} has more fields than the first line; runs are parted by spaces")
    return table


def is_stray(name: str) -> bool:
    """Whether a file or folder of this name was left by another program, and is never part of a data set.

    >>> is_stray("._slice_0001.png"), is_stray("__MACOSX"), is_stray("slice_0001.png")
    (True, True, False)
    """
    return name.startswith((".", "@", "__MACOSX")) or name.lower() in ("thumbs.db", "desktop.ini")


def _swap(new: Path, path: Path, aside: Path) -> None:
    """Put a file or folder in the place of another; a folder that is there is moved aside first."""
    if path.is_dir():
        os.replace(path, aside)
    os.replace(new, path)


def _remove(path: Path) -> None:
    """Remove a file or folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
