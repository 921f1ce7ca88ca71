import shutil

import numpy as np
import pandas as pd
import pytest

from kitlib import contest
from kitlib.data import scans


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
    with pytest.raises(ValueError, match="a second file for this slice") as error:
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
    with pytest.raises(ValueError, match="2 faults") as error:
        scans.read(copy)
    assert f"line {len(rows) + 2}: {rows['class'][0]} has a second row" in str(error.value)
    assert f"line {len(rows) + 3}: liver is no organ" in str(error.value)


def test_problems_are_listed_when_asked(copy):
    sorted(some_scan(copy).iterdir())[0].unlink()
    problems = []
    kept = scans.read(copy, problems=problems)
    assert len(problems) == 1
    assert len(kept) == len(list((copy / "train").rglob("*.png")))


def test_wrong_columns_and_missing_tables_are_named(copy):
    (copy / "train.csv").write_text("id,segmentation\n", encoding="utf-8")
    with pytest.raises(ValueError, match="columns are"):
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
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        scans.find_root(tmp_path / "elsewhere")


def test_root_is_found_in_data_here_or_above(competition, tmp_path, monkeypatch):
    monkeypatch.delenv("KITLIB_DATA", raising=False)
    monkeypatch.setattr(scans, "_KAGGLE", ())
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
    monkeypatch.setattr(scans, "_LOCAL", ("nowhere",))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        scans.find_root()
    for place in (f"/kaggle/input/{contest.SLUG}", f"/kaggle/input/competitions/{contest.SLUG}", f"{tmp_path}/nowhere"):
        assert place in str(error.value)


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


def test_bad_stacks_are_refused():
    slices = pd.DataFrame({"scan": ["a", "b", "a"]})
    with pytest.raises(ValueError, match="odd depth"):
        scans.stacks(slices, depth=4)
    with pytest.raises(ValueError, match="stride is 0"):
        scans.stacks(slices, stride=0)
    with pytest.raises(ValueError, match="do not lie together"):
        scans.stacks(slices)
