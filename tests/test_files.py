import bz2
import contextlib
import gzip
import io
import lzma
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kitlib import files

COLUMNS = ["id", "class", "segmentation"]
ROWS = [["case1_day0_slice_0001", "stomach", "1 2 5 3"], ["case1_day0_slice_0002", "stomach", ""]]
PLAIN = "\n".join(",".join(row) for row in [COLUMNS, *ROWS]) + "\n"


def zipped(text, *others):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name in ("train.csv", *others):
            archive.writestr(name, text)
    return memory.getvalue()


ACCEPTED = {
    "plain": PLAIN.encode(),
    "UTF-8 with a mark": PLAIN.encode("utf-8-sig"),
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-16 big end first": b"\xfe\xff" + PLAIN.encode("utf-16-be"),
    "UTF-16 without a mark": PLAIN.encode("utf-16-le"),
    "UTF-16 big end first without a mark": PLAIN.encode("utf-16-be"),
    "UTF-32": PLAIN.encode("utf-32"),
    "Latin-1 in another column": PLAIN.replace("\n", ",M\xfcller\n")
    .replace(",M\xfcller", ",author", 1)
    .encode("latin-1"),
    "gzip": gzip.compress(PLAIN.encode()),
    "bzip2": bz2.compress(PLAIN.encode()),
    "xz": lzma.compress(PLAIN.encode()),
    "zip": zipped(PLAIN, "__MACOSX/._train.csv"),
    "gzip of UTF-16": gzip.compress(PLAIN.encode("utf-16")),
    "index column": "".join(f"{k},{row}\n" for k, row in zip(["", 0, 1], PLAIN.splitlines(), strict=True)).encode(),
    "extra columns": PLAIN.replace("\n", ",x,y\n").encode(),
    "another order": "\n".join(",".join(row[::-1]) for row in [COLUMNS, *ROWS]).encode(),
    "predicted": PLAIN.replace("segmentation", "predicted").encode(),
    "capital letters": PLAIN.replace("id,class,seg", "Id, CLASS ,Seg").encode(),
    "semicolons": PLAIN.replace(",", ";").encode(),
    "tabs": PLAIN.replace(",", "\t").encode(),
    "a line for Excel": b"sep=;\n" + PLAIN.replace(",", ";").encode(),
    "CRLF": PLAIN.replace("\n", "\r\n").encode(),
    "CR": PLAIN.replace("\n", "\r").encode(),
    "no last line end": PLAIN.rstrip("\n").encode(),
    "blank lines": ("\n" + PLAIN.replace("\n", "\n\n")).encode(),
    "rows of delimiters": (PLAIN + ",,\n,,\n").encode(),
    "delimiters at the ends": PLAIN.replace("\n", ",\n").encode(),
    "blanks around fields": PLAIN.replace(",", " , ").encode(),
    "quoted": "\n".join(",".join(f'"{field}"' for field in row) for row in [COLUMNS, *ROWS]).encode(),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_csv_is_read_where_nothing_is_lost(kind, tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(ACCEPTED[kind])
    table = files.read_csv(path, COLUMNS)
    assert list(table.columns) == COLUMNS
    assert table.to_numpy().tolist() == ROWS
    first = {"blank lines": 4, "a line for Excel": 3}.get(kind, 2)
    assert table.index[0] == first


REFUSED = {
    "empty": (b"", "the file is empty; expected columns id,class,segmentation"),
    "blank": (b"\n\n", "the file is empty"),
    "no column": (b"id,segmentation\na,\n", "line 1: column class is missing in 'id,segmentation'"),
    "no first line": (PLAIN.encode().partition(b"\n")[2], "line 1: column id is missing in 'case1_day0_slice_0001"),
    "a column twice": (PLAIN.replace("id,class", "id,id,class").encode(), "line 1: column id occurs twice"),
    "too many fields": (PLAIN.replace("1 2 5 3", "1,2").encode(), "line 2: has 4 fields, but the first line has 3"),
    "cut off": (PLAIN.encode()[:-10], "line 3: has 1 fields, but the first line has 3"),
    "Latin-1 in a column": (
        PLAIN.replace("stomach,1", "est\xf3mago,1").encode("latin-1"),
        "line 2: class 'est\xf3mago' is not UTF-8 text",
    ),
    "half a gzip file": (gzip.compress(PLAIN.encode())[:-20], "cannot be decompressed"),
    "zip of two files": (zipped(PLAIN, "b.csv"), "is an archive or workbook of 2 files (train.csv, b.csv"),
    "half a character": (PLAIN.encode("utf-16")[:-1], "is not valid UTF-16 text"),
    "zero bytes": (PLAIN.replace("5 3", "5 \x00").encode(), "line 2: has a zero byte"),
    "open quotation mark": (PLAIN.replace(",1 2", ',"1 2').encode(), "line 2: has a quotation mark in the wrong place"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_csv_that_lost_something_names_file_line_and_remedy(kind, tmp_path):
    path, (data, named) = tmp_path / "train.csv", REFUSED[kind]
    path.write_bytes(data)
    with pytest.raises(files.Problem) as error:
        files.read_csv(path, COLUMNS)
    assert named in str(error.value)
    assert str(error.value) == f"{error.value.where}: {error.value.what}"
    assert error.value.where.startswith(str(path))
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        files.read_csv(tmp_path / "elsewhere.csv", COLUMNS)


def test_optional_columns_are_read_where_they_are_and_long_fields_are_whole(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f'b,"a",c\n1,{"7 " * 100_000},"x,\ny"\n', encoding="utf-8")
    table = files.read_csv(path, ["a"], optional=["c", "d"])
    assert list(table.columns) == ["a", "c"]
    assert len(table.iloc[0, 0]) == 199_999
    assert table.iloc[0, 1] == "x,\ny"


@pytest.mark.parametrize(
    "name",
    "._slice_0001.png .ipynb_checkpoints @eaDir __MACOSX .DS_Store Thumbs.db desktop.ini $RECYCLE.BIN #recycle".split(),
)
def test_stray_files_are_known_by_their_names(name):
    assert files.is_stray(name)
    assert not any(map(files.is_stray, ("train", "case1", "case1_day0", "scans", "slice_0001_266_266_1.50_1.50.png")))


@pytest.mark.parametrize("mode", ["w", "wb", None])
def test_replacing_writes_whole_files_or_none(tmp_path, mode):
    path, text = tmp_path / "new/folder/file.txt", "caf\xe9\n"

    def write(target, text):
        if mode is None:
            target.write_text(text, encoding="utf-8")
        else:
            target.write(text if mode == "w" else text.encode())

    with files.replacing(path, mode) as target:
        write(target, text)
        assert not path.exists()
    assert path.read_bytes() == text.encode()
    with contextlib.suppress(KeyboardInterrupt), files.replacing(path, mode) as target:
        write(target, "half")
        raise KeyboardInterrupt
    assert path.read_bytes() == text.encode()
    assert os.listdir(path.parent) == ["file.txt"]


def test_replacing_replaces_a_folder_and_keeps_it_after_an_error(tmp_path):
    folder = tmp_path / "bundle"
    for name in ("old", "new"):
        with files.replacing(folder, None) as draft:
            draft.mkdir()
            (draft / name).touch()
        assert os.listdir(folder) == [name]
    with contextlib.suppress(ZeroDivisionError), files.replacing(folder, None) as draft:
        draft.mkdir()
        _ = 1 / 0
    assert os.listdir(folder) == ["new"]
    assert os.listdir(tmp_path) == ["bundle"]


ROUND_TRIP = """
import locale, sys, warnings
from pathlib import Path
warnings.filterwarnings("error", category=EncodingWarning, module="kitlib")
from kitlib import files, submission
from kitlib.data import scans
import pandas as pd
assert locale.getpreferredencoding(False).lower() not in ("utf-8", "utf8"), locale.getpreferredencoding(False)
folder = Path(sys.argv[1])
with files.replacing(folder / "notes.txt") as file:
    file.write("caf\\u00e9 \\u0394\\n")
assert (folder / "notes.txt").read_bytes() == "caf\\u00e9 \\u0394\\n".encode()
(folder / "t.csv").write_bytes("id,class,predicted,who\\na,stomach,1 2,\\u0394\\n".encode())
assert files.read_csv(folder / "t.csv", ["id", "who"]).iloc[0].tolist() == ["a", "\\u0394"]
slices = scans.read(scans.find_root(sys.argv[2]))
order = submission.expected_rows(slices)
path = submission.write(folder / "s.csv", scans.rows(slices).rename(columns={"segmentation": "predicted"}), order)
assert submission.check(path, slices) == []
"""


def test_text_is_utf8_in_any_locale(competition, tmp_path):
    names = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout.split()
    latin = next((name for name in names if "8859" in name), "C")
    variables = {"LC_ALL": latin, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONWARNDEFAULTENCODING": "1"}
    command = [sys.executable, "-c", ROUND_TRIP, tmp_path, competition]
    environment = {**os.environ, **variables, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
