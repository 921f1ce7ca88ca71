import gzip
import shutil
import types
import zipfile

import numpy as np
import pandas as pd
import pytest

from kitlib import contest, rle
from kitlib.data import root, scans


@pytest.fixture
def copy(competition, tmp_path):
    """A competition that a test may spoil."""
    return shutil.copytree(competition, tmp_path / "copy")


def some_scan(root):
    return sorted((root / "train").glob("case*/*/scans"))[0]


def test_table_has_a_row_per_image(competition, slices):
    assert sorted(slices["path"]) == sorted(map(str, (competition / "train").rglob("*.png")))
    assert list(slices.columns) == [*scans.COLUMNS, *contest.ORGANS]
    assert slices.equals(slices.sort_values(["case", "day", "slice"], ignore_index=True))


def test_sizes_are_height_first(slices):
    import cv2

    firsts = slices.drop_duplicates("scan")
    assert {(310, 360), (61, 47)} <= set(zip(firsts["height"], firsts["width"], strict=True))
    for row in firsts.itertuples():
        assert cv2.imread(row.path, cv2.IMREAD_UNCHANGED).shape == (row.height, row.width)


def test_rows_give_back_train_csv(competition, slices):
    written = pd.read_csv(competition / "train.csv", dtype=str, keep_default_na=False)
    order = ["id", "class"]
    left = scans.rows(slices).sort_values(order, ignore_index=True).astype(object)
    pd.testing.assert_frame_equal(left, written.sort_values(order, ignore_index=True).astype(object))


def test_masks_join_their_slices(slices):
    again = scans.with_masks(slices, scans.rows(slices))
    pd.testing.assert_frame_equal(again.astype(object), slices.astype(object))


def test_test_split_has_no_masks(competition):
    hidden = scans.read(competition, "test")
    assert list(hidden.columns) == scans.COLUMNS
    assert len(hidden) == len(list((competition / "test").rglob("*.png"))) > 0


@pytest.mark.parametrize("empty", [True, False])
def test_empty_or_absent_test_folder_gives_an_empty_table(copy, empty):
    shutil.rmtree(copy / "test")
    if empty:
        (copy / "test").mkdir()
    hidden = scans.read(copy, "test")
    assert hidden.empty
    assert list(hidden.columns) == scans.COLUMNS


def test_missing_file_is_named(copy):
    lost = sorted(some_scan(copy).iterdir())[2]
    lost.unlink()
    identity = f"{lost.parents[1].name}_{lost.name[:10]}"
    with pytest.raises(ValueError, match=f"id {identity} has no image"):
        scans.read(copy)


def test_file_without_a_row_is_named(copy):
    rows = pd.read_csv(copy / "train.csv", keep_default_na=False)
    gone = rows["id"].iloc[0]
    rows[rows["id"] != gone].to_csv(copy / "train.csv", index=False)
    with pytest.raises(ValueError, match=f"{gone[-10:]}.*has no row"):
        scans.read(copy)


def test_row_missing_for_one_organ_is_named(copy):
    rows = pd.read_csv(copy / "train.csv", keep_default_na=False)
    rows.drop(index=1).to_csv(copy / "train.csv", index=False)
    with pytest.raises(ValueError, match=f"{rows['id'][1]} has no row for {rows['class'][1]}"):
        scans.read(copy)


def test_second_file_for_a_slice_is_named(copy):
    first = sorted(some_scan(copy).iterdir())[0]
    number = first.name[:10]
    double = shutil.copy(first, first.with_name(f"{number}_99_99_1.50_1.50.png"))
    with pytest.raises(ValueError, match="is a second file for this slice") as error:
        scans.read(copy)
    assert number in str(error.value)
    problems = []
    kept = scans.read(copy, problems=problems)
    assert not kept["path"].isin([str(first), str(double)]).any()


@pytest.mark.parametrize(("name", "reason"), [("slice_1.png", "is not an image name"), (None, "too few for a PNG")])
def test_unreadable_file_is_named(copy, name, reason):
    first = sorted(some_scan(copy).iterdir())[0]
    bad = first.with_name(name) if name else first
    bad.write_bytes(b"")
    with pytest.raises(ValueError, match=reason) as error:
        scans.read(copy)
    assert bad.name in str(error.value)


def test_doubled_row_and_unknown_organ_are_named(copy):
    rows = pd.read_csv(copy / "train.csv", keep_default_na=False)
    bad = pd.concat([rows, rows.iloc[[0]], rows.iloc[[1]].assign(**{"class": "liver"})])
    bad.to_csv(copy / "train.csv", index=False)
    with pytest.raises(ValueError, match="2 problems") as error:
        scans.read(copy)
    assert f"line {len(rows) + 2}: {rows['class'][0]} has a second row" in str(error.value)
    assert f"line {len(rows) + 3}: liver is not an organ" in str(error.value)


def test_problems_are_listed_when_asked(copy):
    sorted(some_scan(copy).iterdir())[0].unlink()
    problems = []
    kept = scans.read(copy, problems=problems)
    assert len(problems) == 1
    assert len(kept) == len(list((copy / "train").rglob("*.png")))


def test_wrong_columns_and_missing_tables_are_named(copy):
    (copy / "train.csv").write_text("id,segmentation\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"train\.csv, line 1: column class is missing"):
        scans.read(copy)
    (copy / "train.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.csv is missing"):
        scans.read(copy)


def test_split_is_train_or_test(competition):
    with pytest.raises(ValueError, match="'valid'"):
        scans.read(competition, "valid")


def test_root_is_found_by_argument_then_variable(competition, tmp_path, monkeypatch):
    monkeypatch.setenv("KITLIB_DATA", str(competition))
    assert scans.find_root() == competition
    assert scans.find_root("") == competition
    with pytest.raises(FileNotFoundError, match=r"DATA=.*elsewhere does not exist"):
        scans.find_root(tmp_path / "elsewhere")


def test_root_is_found_in_data_here_or_above(competition, tmp_path, monkeypatch):
    monkeypatch.delenv("KITLIB_DATA", raising=False)
    monkeypatch.setattr(root, "_KAGGLE", ())
    shutil.copytree(competition, tmp_path / "data/phantom")
    (tmp_path / "notebooks").mkdir()
    for here in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(here)
        assert scans.find_root().resolve() == (tmp_path / "data/phantom").resolve()
    real = tmp_path / "data" / contest.SLUG
    real.mkdir()
    (real / "sample_submission.csv").write_text("id,class,predicted\n", encoding="utf-8")
    assert scans.find_root().resolve() == real.resolve()
    assert not scans.is_phantom(real)
    assert scans.is_phantom(tmp_path / "data/phantom")


def test_error_lists_every_place_that_was_looked_at(tmp_path, monkeypatch):
    monkeypatch.delenv("KITLIB_DATA", raising=False)
    monkeypatch.setattr(root, "_LOCAL", ("nowhere",))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        scans.find_root()
    for folder in (
        f"/kaggle/input/{contest.SLUG}",
        f"/kaggle/input/competitions/{contest.SLUG}",
        f"{tmp_path}/nowhere",
    ):
        assert folder in str(error.value)


def test_stack_is_clamped_at_the_ends_of_a_scan():
    slices = pd.DataFrame({"scan": ["a"] * 4 + ["b"] * 2})
    expected = [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 3, 3], [4, 4, 4, 5, 5], [4, 4, 5, 5, 5]]
    assert scans.stacks(slices).tolist() == expected


def test_stack_strides_over_neighbours():
    slices = pd.DataFrame({"scan": ["a"] * 7})
    assert scans.stacks(slices, depth=3, stride=2)[3].tolist() == [1, 3, 5]


def test_no_stack_leaves_its_scan(slices):
    stacks = scans.stacks(slices, depth=7, stride=3)
    names = slices["scan"].to_numpy()
    assert (names[stacks] == names[:, None]).all()
    np.testing.assert_array_equal(stacks[:, 3], np.arange(len(slices)))


@pytest.mark.parametrize("depth", [1, 4, 7])
def test_volumes_show_each_slice_of_one_scan_once(slices, depth):
    volumes, names = scans.volumes(slices, depth), slices["scan"].to_numpy()
    assert (names[volumes] == names[:, None]).all()
    assert (np.diff(volumes, axis=1) == 1).all()
    assert (volumes == np.arange(len(slices))[:, None]).any(axis=1).all()


def test_a_scan_shorter_than_a_volume_repeats_its_last_slice(slices):
    rows = slices[slices["scan"] == slices["scan"].iloc[0]].iloc[:3]
    assert scans.volumes(rows, 5).tolist() == [[0, 1, 2, 2, 2]] * 3


def test_bad_stacks_are_refused():
    slices = pd.DataFrame({"scan": ["a", "b", "a"]})
    with pytest.raises(ValueError, match="depth is 4; choose an odd number"):
        scans.stacks(slices, depth=4)
    with pytest.raises(ValueError, match="stride is 0"):
        scans.stacks(slices, stride=0)
    with pytest.raises(ValueError, match="are not adjacent"):
        scans.stacks(slices)


def test_masks_of_a_scan_are_its_texts(slices):
    for _, rows in list(slices.groupby("scan"))[:3]:
        masks = scans.masks(rows)
        assert masks.shape == (len(rows), *scans.common_size(rows), 3)
        assert masks.dtype == bool
        for channel, organ in enumerate(contest.ORGANS):
            assert rle.encode_stack(masks[..., channel]) == rows[organ].tolist()


def test_masks_name_slice_and_organ_of_a_malformed_text_and_other_sizes(slices):
    rows = slices[slices["scan"] == slices["scan"].iloc[0]].copy()
    rows.loc[rows.index[3], "small_bowel"] = "3 1 2"
    with pytest.raises(ValueError, match=f"{rows['id'].iloc[3]} small_bowel: run-length text '3 1 2'"):
        scans.masks(rows)
    rows.loc[rows.index[3], "height"] += 1
    with pytest.raises(ValueError, match="differ in size"):
        scans.masks(rows)


def test_data_are_described_by_kind_counts_and_fingerprint(slices, copy):
    found = scans.describe(slices)
    assert found["kind"] == "phantom"
    assert (found["slices"], found["scans"], found["cases"]) == (
        len(slices),
        slices["scan"].nunique(),
        slices["case"].nunique(),
    )
    assert scans.describe(slices.iloc[1:])["fingerprint"] != found["fingerprint"]
    assert scans.describe(slices.assign(stomach=""))["fingerprint"] != found["fingerprint"]
    (copy / "phantom.json").unlink()
    assert scans.describe(scans.read(copy)) == found | {"kind": "competition"}
    assert scans.describe(slices.assign(path=""))["kind"] == "unknown"


STRAYS = {
    "": ("__MACOSX/train/case1/x", ".DS_Store", "._train.csv"),
    "train": (".ipynb_checkpoints/case1-checkpoint", "@eaDir/x", "Thumbs.db", "__MACOSX/case1/case1_day0/scans/x.png"),
    "train/case": ("._case_day0", ".ipynb_checkpoints/x", "@eaDir/scans/x.png", ".DS_Store"),
    "train/case/day": ("@eaDir/x", "._scans", "Thumbs.db"),
    "train/case/day/scans": ("._{first}", ".ipynb_checkpoints/{first}", "@eaDir/{first}", "desktop.ini", "~{first}"),
}


@pytest.mark.parametrize("level", STRAYS)
def test_stray_files_are_passed_over_and_named_once(level, copy, capsys):
    clean = scans.read(copy)
    folder = some_scan(copy)
    folders = {0: copy, 1: copy / "train", 2: folder.parents[1], 3: folder.parent, 4: folder}
    below = folders[len(level.split("/")) if level else 0]
    first = sorted(path.name for path in folder.iterdir())[0]
    for name in STRAYS[level]:
        path = below / name.format(first=first)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    capsys.readouterr()
    for _ in range(2):
        pd.testing.assert_frame_equal(scans.read(copy), clean)
        scans.read(copy, "test")
    printed = capsys.readouterr().out
    assert printed.count("ignored") == (1 if level else 0)
    if level:
        assert f"ignored {len(STRAYS[level])} files and folders of other programs, such as {below}" in printed
    (folder / first).write_bytes(b"")
    with pytest.raises(ValueError, match="too few for a PNG"):
        scans.read(copy)


CSVS = {
    "UTF-16": lambda text: text.encode("utf-16"),
    "gzip": lambda text: gzip.compress(text.encode()),
    "semicolons and CRLF": lambda text: text.replace(",", ";").replace("\n", "\r\n").encode(),
    "predicted": lambda text: text.replace("segmentation", "predicted").encode("utf-8-sig"),
    "the word nan": lambda text: text.replace(",\n", ",NaN\n").encode(),
    "an index": lambda text: "".join(f"{k},{line}\n" for k, line in enumerate(text.splitlines())).encode(),
}


@pytest.mark.parametrize("kind", CSVS)
def test_train_csv_is_read_in_other_forms(kind, copy, slices):
    text = (copy / "train.csv").read_text(encoding="utf-8")
    (copy / "train.csv").write_bytes(CSVS[kind](text))
    assert scans.read(copy)[list(contest.ORGANS)].equals(slices[list(contest.ORGANS)])


def named(monkeypatch, here, **given):
    """The error of find_root with a parameter or a variable."""
    monkeypatch.chdir(here)
    monkeypatch.delenv("KITLIB_DATA", raising=False)
    if "variable" in given:
        monkeypatch.setenv("KITLIB_DATA", str(given["variable"]))
    with pytest.raises(FileNotFoundError) as error:
        scans.find_root(given.get("path"))
    return str(error.value)


def test_folders_that_may_not_be_entered_are_passed_over(tmp_path, monkeypatch):
    for name in ("closed", "open"):
        (tmp_path / name).mkdir()

    def entries(folder, problems, given=root.contents):
        return [types.SimpleNamespace(name="sealed", path=f"{folder}/\0", is_dir=denied), *given(folder, problems)]

    def denied():
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(root, "contents", entries)
    assert {"closed", "open"} <= set(root._folders_below(tmp_path, levels=1))


def test_home_and_relative_paths_are_followed(copy, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KITLIB_DATA", "~/copy")
    monkeypatch.chdir(tmp_path)
    assert scans.find_root() == copy
    monkeypatch.delenv("KITLIB_DATA")
    for given in ("~/copy", "copy", "./copy/", copy):
        assert scans.find_root(given).resolve() == copy.resolve()
    monkeypatch.setattr(root, "_CHECKOUT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert scans.find_root("copy").resolve() == copy.resolve()
    text = named(monkeypatch, tmp_path / "notebooks", path="nowhere")
    assert f"DATA=nowhere: {tmp_path}/notebooks/nowhere does not exist (nor does {tmp_path}/nowhere)" in text
    assert "KITLIB_DATA=~/nowhere" in named(monkeypatch, tmp_path, variable="~/nowhere")


@pytest.mark.parametrize("by", ["path", "variable"])
def test_wrong_folders_are_named_with_what_is_there_and_what_to_do(by, copy, monkeypatch, tmp_path):
    name = {"path": "DATA", "variable": "KITLIB_DATA"}[by]
    (tmp_path / "zip").mkdir()
    (tmp_path / "zip/uw-madison.zip").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "deep/er").mkdir(parents=True)
    shutil.move(copy, tmp_path / "deep/er/copy")
    copy = tmp_path / "deep/er/copy"
    cases = {
        tmp_path / "deep": f"Set {name}={copy}",
        tmp_path / "deep/er": f"Set {name}={copy}",
        copy / "train": f"Set {name}={copy}",
        some_scan(copy): f"Set {name}={copy}",
        copy / "train.csv": f"is a file. Give the folder that holds train.csv: {name}={copy}",
        tmp_path / "zip/uw-madison.zip": f"is a zip file. Unpack it: unzip -q '{tmp_path}/zip/uw-madison.zip' -d",
        tmp_path / "zip": "holds uw-madison.zip, which is not unpacked. Unpack it: unzip -q",
        tmp_path / "empty": "it holds nothing. Give the folder that",
        tmp_path / "none/at/all": f"does not exist; {tmp_path} holds deep, empty, zip",
    }
    for folder, answer in cases.items():
        text = named(monkeypatch, tmp_path, **{by: folder})
        assert text.startswith(f"{name}={folder}: ")
        assert answer in text
    shutil.move(copy / "train", tmp_path / "kept")
    text = named(monkeypatch, tmp_path, **{by: copy})
    assert "has a train.csv, but no folder train/ with the images; it holds " in text
    assert text.endswith("Unpack the images there")
    with pytest.raises(FileNotFoundError, match="train has no images, such as case123"):
        scans.read(copy)
    (copy / "train").mkdir()
    problems = []
    assert scans.read(copy, problems=problems).empty
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("name", "member", "target"),
    [
        ("train.csv.zip", "train.csv", "data"),
        ("train.zip", "train/case1/case1_day0/scans/a.png", "data"),
        ("train.zip", "case1/case1_day0/scans/a.png", "data/train"),
        ("gi-tract.zip", "train.csv", "data/gi-tract"),
    ],
)
def test_a_zip_is_unpacked_to_where_it_belongs(tmp_path, name, member, target):
    (tmp_path / "data").mkdir()
    with zipfile.ZipFile(tmp_path / "data" / name, "w") as archive:
        archive.writestr(member, "")
    end = ", and give that folder" if name == "gi-tract.zip" else ""
    with pytest.raises(FileNotFoundError) as error:
        scans.find_root(tmp_path / "data")
    assert str(error.value).endswith(f"unzip -q '{tmp_path}/data/{name}' -d '{tmp_path}/{target}'{end}")


def test_a_zip_in_the_usual_place_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(root, "_CHECKOUT", tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / f"data/{contest.SLUG}.zip").touch()
    text = named(monkeypatch, tmp_path)
    assert f"{tmp_path}/data: holds {contest.SLUG}.zip, which is not unpacked" in text
    assert "python -m phantom data/phantom" in text
