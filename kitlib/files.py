"""Files: atomic writes, csv tables read as text, and recognising files that other programs leave in a folder."""

import bz2
import csv
import gzip
import io
import lzma
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pandas as pd

# What else a column is called in files of the same content.
_ALIASES = {"segmentation": "predicted", "predicted": "segmentation"}
_ENCODINGS = {  # by the byte order mark; UTF-32 first, whose mark begins as that of UTF-16
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": "utf-8-sig",
}
_DELIMITERS = ",;\t|"
_STRAY_PREFIXES = (".", "@", "#", "$", "~", "__MACOSX", "__pycache__")
_STRAY_NAMES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "system volume information", "lost+found", "icon\r")


class Problem(ValueError):
    """An error that knows where it is: `where` names a file, a line of it or a scan, and `what` says what is wrong."""

    def __init__(self, where: str, what: str):
        super().__init__(f"{where}: {what}")
        self.where, self.what = where, what


@contextmanager
def replacing(path: str | os.PathLike, mode: str | None = "w") -> Iterator[IO | Path]:
    """Write a file or a folder under another name, and rename it to `path` when it is complete.

    After an error, or when the process is killed, what was at `path` before is still there. Missing parent folders are
    made.

    Args:
        path: the file or folder to write or to replace.
        mode: "w" gives an open text file (UTF-8, lines end with a line feed), "wb" a binary one. None gives a Path of
            the same name in a folder of its own, where a file or a folder is to be made.

    >>> import tempfile
    >>> with replacing(Path(tempfile.mkdtemp()) / "notes.txt") as file:
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
            if path.is_dir():  # a folder cannot be renamed over another one
                os.replace(path, draft / "before")
            os.replace(draft / path.name, path)
        else:
            text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
            with open(draft, mode, **text) as file:
                yield file
            os.replace(draft, path)
    finally:
        _remove(draft)


def read_csv(path: str | os.PathLike, columns: Sequence[str], optional: Sequence[str] = ()) -> pd.DataFrame:
    """Read the named columns of a csv file as text, whatever program wrote it; empty fields are empty text.

    Accepted, because nothing is lost: UTF-8, UTF-16 and UTF-32, with or without a byte order mark; Latin-1 where the
    named columns are ASCII; a file compressed by gzip, zip, bzip2 or xz; semicolons, tabs or bars between the fields;
    any line ends; blank lines; blanks around a field; capital letters in the first line; other columns, such as an
    index; another order of the columns; `predicted` for `segmentation` and the reverse.

    Args:
        path: the file.
        columns: names that the first line must hold.
        optional: names to take along where the first line holds them.

    Returns:
        One column of text per name; the index, named "line", is each row's line in the file.

    Raises:
        FileNotFoundError: names the file that is missing.
        Problem: a ValueError that names the file, the line and the remedy.
    """
    text, guessed = _decode(path, _unpack(path, _read(path)))
    numbers, rows = _rows(path, text, columns)
    if not rows or not any(map(str.strip, rows[0])):
        raise Problem(str(path), f"the file is empty; expected columns {','.join(columns)}")
    header = rows[0]
    positions = _positions(f"{path}, line {numbers[0]}", header, columns, optional)
    kept = [(number, row) for number, row in zip(numbers[1:], rows[1:], strict=True) if any(row)]
    needed, most = max(positions.values()), len(header)
    for number, row in kept:
        if len(row) != most and (len(row) <= needed or any(row[most:])):
            what = f"has {len(row)} fields, but the first line has {most}: {_shorten(','.join(row))}"
            remedy = "copy or save the file again, with spaces between the numbers of a mask"
            raise Problem(f"{path}, line {number}", f"{what}; {remedy}")
    table = {name: [row[position].strip() for _, row in kept] for name, position in positions.items()}
    for name, fields in table.items() if guessed else ():
        for (number, _), field in zip(kept, fields, strict=True):
            if not field.isascii():
                what = f"{name} {_shorten(field)} is not UTF-8 text; save the file as UTF-8 csv"
                raise Problem(f"{path}, line {number}", what)
    index = pd.Index([number for number, _ in kept], dtype=int, name="line")
    return pd.DataFrame(table, index=index, dtype=str)


def header(path: str | os.PathLike) -> list[str]:
    """Read the names of the columns of a csv file of masks, in small letters; as `read_csv` does, without aliases."""
    _, rows = _rows(path, _decode(path, _unpack(path, _read(path)))[0], ["id", "class", *_ALIASES])
    return list(map(_name, rows[0])) if rows else []


def is_stray(name: str) -> bool:
    """Whether a file or folder of this name was left by another program, such as a file manager or a network drive.

    >>> is_stray("._slice_0001.png"), is_stray("__MACOSX"), is_stray("slice_0001.png")
    (True, True, False)
    """
    return name.startswith(_STRAY_PREFIXES) or name.endswith("~") or name.lower() in _STRAY_NAMES


def _read(path: str | os.PathLike) -> bytes:
    """Read a file; where there is none, name the csv files beside or in it."""
    path = Path(path)
    if path.is_file() or not (path.is_dir() or path.parent.is_dir()):
        return path.read_bytes()
    place = path if path.is_dir() else path.parent
    beside = ", ".join(sorted(other.name for other in place.glob("*.csv"))[:6]) or "no csv file"
    if path.is_dir():
        raise Problem(str(path), f"is a folder, with {beside} in it; name a file")
    raise FileNotFoundError(f"{path} does not exist; {place} holds {beside}")


def _unpack(path: str | os.PathLike, data: bytes) -> bytes:
    """Undo the compression of a file, which its first bytes tell; its name may say nothing of it."""
    readers: dict[bytes, Callable[[bytes], bytes]] = {
        b"\x1f\x8b": gzip.decompress,
        b"BZh": bz2.decompress,
        b"\xfd7zXZ\x00": lzma.decompress,
        b"PK\x03\x04": lambda data: _only_member(path, data),
    }
    for mark, reader in readers.items():
        if data.startswith(mark):
            try:
                return reader(data)
            except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError) as error:
                raise Problem(str(path), f"cannot be decompressed ({error}); copy the file again") from None
    return data


def _only_member(path: str | os.PathLike, data: bytes) -> bytes:
    """Read the one file of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [name for name in archive.namelist() if not any(map(is_stray, name.split("/"))) and name[-1] != "/"]
        if len(names) != 1:
            what = (
                f"is an archive or workbook of {len(names)} files ({', '.join(names[:3])}, ...); save it as a csv file"
            )
            raise Problem(str(path), what)
        return archive.read(names[0])


def _decode(path: str | os.PathLike, data: bytes) -> tuple[str, bool]:
    """Turn bytes into text; True with it where Latin-1 had to be guessed."""
    encoding = next((name for mark, name in _ENCODINGS.items() if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\x00" in data[:2]:  # UTF-16 without a mark: ASCII has a zero in each pair
        encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"
    try:
        return data.decode(encoding), False
    except UnicodeDecodeError as error:
        if encoding == "utf-8":
            return data.decode("latin-1"), True
        what = f"is not valid {encoding.upper()} text ({error.reason}); save the file as UTF-8 csv"
        raise Problem(str(path), what) from None


def _rows(path: str | os.PathLike, text: str, columns: Sequence[str]) -> tuple[Sequence[int], list[list[str]]]:
    """Split text into rows of fields, with their line numbers, by the delimiter that finds the columns."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if "\x00" in text:
        line = text[: text.index("\x00")].count("\n") + 1
        raise Problem(
            f"{path}, line {line}",
            "has a zero byte, so the file is damaged or not csv; copy it again, or save it as csv",
        )
    start = len(text) - len(text.lstrip("\n"))
    first, _, rest = text[start:].partition("\n")
    if first.lower().startswith("sep=") and len(first) == 5:  # a line that Excel reads and writes
        delimiter, start = first[4], len(text) - len(rest)
    else:
        found = {mark: len(set(columns) & set(map(_name, first.split(mark)))) for mark in _DELIMITERS}
        delimiter = max(found, key=found.get)
    skipped, text = text[:start].count("\n"), text[start:]
    if '"' not in text:
        rows = [line.split(delimiter) for line in text.split("\n")]
        return range(skipped + 1, skipped + 1 + len(rows)), rows
    limit = csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    numbers, rows = [skipped + 1], []
    try:
        for row in reader:
            rows.append(row)
            numbers.append(skipped + 1 + reader.line_num)
    except csv.Error as error:
        what = f"has a quotation mark in the wrong place ({error}); remove it"
        raise Problem(f"{path}, line {numbers[-1]}", what) from None
    finally:
        csv.field_size_limit(limit)
    return numbers[:-1], rows


def _positions(where: str, header: Sequence[str], columns: Sequence[str], optional: Sequence[str]) -> dict[str, int]:
    """Find the position of each column in the first line."""
    names, positions = list(map(_name, header)), {}
    for column in [*columns, *optional]:
        name = column if column in names else _ALIASES.get(column, column)
        if names.count(name) == 1:
            positions[column] = names.index(name)
        elif names.count(name) > 1 or column in columns:
            problem = "occurs twice" if name in names else "is missing"
            what = f"column {column} {problem} in {_shorten(','.join(header))}; expected {','.join(columns)}"
            raise Problem(where, what)
    return positions


def _name(field: str) -> str:
    """A column's name without blanks, quotation marks and capital letters."""
    return field.strip().strip('"').strip().lower()


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "...")


def _remove(path: Path) -> None:
    """Remove a file or folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
