"""The files of the synthetic competition: layout, reproducibility and what may be replaced."""

import hashlib
import json

import cv2
import numpy as np
import pandas as pd
import pytest

import phantom
from kitlib import rle
from kitlib.contest import ORGANS
from kitlib.data import scans
from kitlib.eda import planted
from phantom import cohort, experts, files

SMALL = {"cases": 3, "days": 2, "slices": 7, "sizes": [(31, 47), (43, 37)]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A tiny competition with a missing slice, a scan without masks and two planted errors."""
    folder = tmp_path_factory.mktemp("competition") / "phantom"
    return phantom.write(folder, **SMALL, seed=3, missing_slice=True, empty_scan=True, faults=2)


def blank(outlines):
    """Render slices without grey values, and the masks as they are."""

    def render(scan):
        masks = outlines(scan)
        return np.zeros(masks.shape[:3], np.uint16), masks

    return render


def digest(folder) -> dict[str, str]:
    """A hash of every file by its path in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_layout_is_the_official_one(root):
    train, test = scans.read(root), scans.read(root, "test")
    assert len(train) == 2 * 2 * 7 - 7 - 1  # a hidden later day, and one missing slice
    assert len(test) == 2 * 7 + 7
    assert set(zip(train["height"], train["width"], strict=True)) == {(31, 47), (43, 37)}
    image = cv2.imread(train["path"].iloc[0], cv2.IMREAD_UNCHANGED)
    assert image.dtype == np.uint16
    assert image.shape == tuple(train.loc[0, ["height", "width"]])


def test_sample_submission_lists_the_hidden_slices_without_masks(root):
    sample = pd.read_csv(root / "sample_submission.csv", keep_default_na=False)
    truth = pd.read_csv(root / "truth.csv", keep_default_na=False)
    test = scans.read(root, "test")
    assert list(sample.columns) == ["id", "class", "predicted"]
    assert (sample["predicted"] == "").all()
    assert sample["id"].tolist() == truth["id"].tolist()
    assert sample["class"].tolist() == list(ORGANS) * len(test)
    assert set(sample["id"]) == set(test["id"])
    assert (truth["segmentation"] != "").any()


def test_hidden_part_holds_later_days_and_unseen_cases(root):
    train, test = scans.read(root), scans.read(root, "test")
    later = set(test["case"]) & set(train["case"])
    assert later
    assert set(test["case"]) - set(train["case"])
    for case in later:
        assert test.loc[test["case"] == case, "day"].min() > train.loc[train["case"] == case, "day"].max()


def test_every_mask_decodes_to_its_slice(root):
    train = scans.read(root)
    for organ in ORGANS:
        for row in train.itertuples():
            rle.decode(getattr(row, organ), (row.height, row.width))


def test_missing_slice_has_neither_file_nor_rows(root):
    train = scans.read(root)
    first = train[train["scan"] == train["scan"].iloc[0]]
    assert sorted(set(range(1, 8)) - set(first["slice"])) == [2]


def test_scan_without_masks_keeps_its_rows(root):
    train = scans.read(root)
    counts = scans.organ_count(train).groupby(train["scan"]).sum()
    assert (counts == 0).sum() == 1


def test_faults_are_listed_by_scan_and_kind(root):
    faults = pd.read_csv(root / "faults.csv")
    assert len(faults) == 2
    assert set(faults["scan"]) <= set(scans.read(root)["scan"])
    assert set(faults["fault"]) <= set(planted.FAULTS)


def test_mark_says_that_no_patient_is_in_it(root):
    assert scans.is_phantom(root)
    assert "synthetic" in json.loads((root / files.MARKER).read_text(encoding="utf-8"))["what"]


def test_same_seed_gives_the_same_files_with_any_number_of_processes(tmp_path):
    tiny = {"cases": 2, "days": 1, "slices": 3, "sizes": [(31, 47)], "seed": 11}
    one, two = phantom.write(tmp_path / "one", **tiny), phantom.write(tmp_path / "two", **tiny, processes=2)
    assert digest(one) == digest(two)


def test_another_seed_gives_another_competition(tmp_path):
    one = phantom.write(tmp_path / "one", cases=2, days=1, slices=2, sizes=[(31, 47)], seed=1)
    two = phantom.write(tmp_path / "two", cases=2, days=1, slices=2, sizes=[(31, 47)], seed=2)
    assert digest(one).keys() != digest(two).keys()


def test_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(FileExistsError, match="not a phantom"):
        phantom.write(tmp_path, **SMALL)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_phantom_is_replaced_as_a_whole(tmp_path):
    root = phantom.write(tmp_path / "p", cases=2, days=1, slices=2, sizes=[(31, 47)], seed=1)
    (root / "train" / "stale.txt").write_text("old", encoding="utf-8")
    phantom.write(root, cases=2, days=1, slices=2, sizes=[(31, 47)], seed=1)
    assert not (root / "train" / "stale.txt").exists()


def test_phantom_with_other_files_in_it_is_refused(tmp_path):
    (tmp_path / files.MARKER).touch()
    (tmp_path / "runs").mkdir()
    with pytest.raises(FileExistsError, match="also holds runs; move that away"):
        phantom.write(tmp_path, **SMALL)
    assert (tmp_path / "runs").is_dir()


def test_folder_below_the_home_folder_is_found(tmp_path, monkeypatch, outlines):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setattr(files, "render", blank(outlines))
    root = phantom.write("~/a b/p", cases=2, days=1, slices=1, sizes=[(31, 47)])
    assert root == tmp_path / "a b" / "p"
    assert scans.is_phantom(root)


def test_nothing_is_left_when_writing_fails(tmp_path, monkeypatch):
    def fail(scan, root):
        raise OSError("the disk is full")

    monkeypatch.setattr(files, "write_scan", fail)
    with pytest.raises(OSError, match="disk is full"):
        phantom.write(tmp_path / "p", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_begun_without_a_process(tmp_path):
    with pytest.raises(ValueError, match="processes=0"):
        phantom.write(tmp_path / "p", **SMALL, processes=0)
    assert list(tmp_path.iterdir()) == []


def test_masks_are_spoilt_on_the_listed_scans_and_on_no_others(tmp_path, monkeypatch, outlines):
    monkeypatch.setattr(files, "render", blank(outlines))
    small = {"cases": 4, "days": 2, "slices": 12, "sizes": [(61, 67)], "seed": 2}
    right = scans.read(phantom.write(tmp_path / "right", **small))
    root = phantom.write(tmp_path / "spoilt", **small, faults=5)
    wrong = scans.read(root)
    differ = (right[list(ORGANS)] != wrong[list(ORGANS)]).any(axis=1)
    listed = pd.read_csv(root / "faults.csv")
    assert set(listed["fault"]) == set(planted.FAULTS)
    assert set(wrong.loc[differ, "scan"]) == set(listed["scan"])


def test_fault_that_cannot_show_is_refused_with_its_scan(tmp_path, monkeypatch):
    monkeypatch.setattr(experts, "contiguous", np.zeros_like)
    with pytest.raises(ValueError, match=r"case\d+_day\d+: fault 'shifted' changes nothing"):
        phantom.write(tmp_path / "p", **SMALL, faults=1)


def test_link_to_a_phantom_stays_a_link(tmp_path):
    tiny = {"cases": 2, "days": 1, "slices": 2, "sizes": [(31, 47)]}
    target = phantom.write(tmp_path / "target", **tiny, seed=1)
    (tmp_path / "link").symlink_to(target)
    assert phantom.write(tmp_path / "link", **tiny, seed=2) == tmp_path / "link"
    assert (tmp_path / "link").is_symlink()
    assert json.loads((target / files.MARKER).read_text(encoding="utf-8"))["seed"] == 2


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "p").write_text("notes", encoding="utf-8")
    with pytest.raises(FileExistsError, match="not a phantom"):
        phantom.write(tmp_path / "p", **SMALL)


def test_writing_leaves_the_threads_of_opencv_as_they_were(tmp_path):
    before = cv2.getNumThreads()
    phantom.write(tmp_path / "p", cases=2, days=1, slices=1, sizes=[(31, 47)])
    assert cv2.getNumThreads() == before


def test_render_does_not_depend_on_the_order_of_scans():
    plan = cohort.plan(2, seed=9, days=2, slices=3, sizes=[(31, 47)])[:2]
    first = [files.render(scan)[0] for scan in plan]
    again = [files.render(scan)[0] for scan in reversed(plan)]
    for one, two in zip(first, reversed(again), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_point_of_the_patient_is_displaced_as_the_plan_says():
    """Followed through the coordinates of both rasters, on a case whose image size changes from day to day."""
    days = [scan for scan in cohort.plan(6, seed=2) if scan.case == cohort.plan(6, seed=2)[5].case]
    assert len({scan.height for scan in days}) > 1
    later, before = days[1], days[0]
    seen = []
    for scan in (later, before):
        z, y, x = (axis.ravel().astype(float) for axis in files.raster_of(scan)[0].axes())
        seen.append((-z[0], -y.mean(), -x.mean()))  # the patient's origin, from the first slice and the image's centre
    found = files.displacement_mm(later, before)
    np.testing.assert_allclose(np.subtract(*seen), found, atol=1e-3)
    assert np.abs(found).min() > 0.1
    assert files.displacement_mm(before, later) == tuple(-each for each in found)
    assert files.displacement_mm(later, later) == (0, 0, 0)
