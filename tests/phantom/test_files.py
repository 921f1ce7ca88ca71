"""The synthetic competition: its layout, its reproducibility, its anatomy and its planted errors."""

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
from phantom import anatomy, experts, geometry, scanner

SMALL = {"cases": 3, "days": 2, "slices": 7, "sizes": [(31, 47), (43, 37)]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A tiny competition with a missing slice, a scan without masks and two planted errors."""
    folder = tmp_path_factory.mktemp("competition") / "phantom"
    return phantom.write(folder, **SMALL, seed=3, missing_slice=True, empty_scan=True, faults=2)


@pytest.fixture(scope="module")
def scan():
    """One scan at a third of the real resolution: slices and masks."""
    plan = phantom.plan(2, seed=5, days=1, slices=48, sizes=[(89, 97)])
    return phantom.render(plan[0])


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
    assert "synthetic" in json.loads((root / phantom.MARKER).read_text(encoding="utf-8"))["what"]


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
    (root / "stale.txt").write_text("old", encoding="utf-8")
    phantom.write(root, cases=2, days=1, slices=2, sizes=[(31, 47)], seed=1)
    assert not (root / "stale.txt").exists()


def test_nothing_is_left_when_writing_fails(tmp_path, monkeypatch):
    def fail(scan, root):
        raise OSError("the disk is full")

    monkeypatch.setattr(phantom, "save", fail)
    with pytest.raises(OSError, match="disk is full"):
        phantom.write(tmp_path / "p", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_six_cases_hold_every_common_size_and_a_case_that_changes_it():
    plan = phantom.plan(6)
    sizes = {(scan.height, scan.width, scan.slices) for scan in plan if not scan.test}
    assert sizes == {(266, 266, 144), (310, 360, 144), (276, 276, 80)}
    per_case = pd.DataFrame([(scan.case, scan.height) for scan in plan], columns=["case", "height"]).groupby("case")
    assert (per_case["height"].nunique() == 2).sum() == 1
    assert per_case.size().min() >= 2


def test_rare_size_comes_with_twelve_cases():
    assert (234, 234) not in {(scan.height, scan.width) for scan in phantom.plan(11)}
    assert (234, 234) in {(scan.height, scan.width) for scan in phantom.plan(12)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cases": 1}, "cases=1"),
        ({"cases": 160}, "cases=160: a number from 2 to 159"),
        ({"seed": -1}, "seed=-1"),
        ({"days": 0}, "days=0"),
        ({"days": -1}, "days=-1"),
        ({"slices": 0}, "slices=0"),
        ({"slices": -3}, "slices=-3"),
        ({"sizes": []}, "sizes="),
        ({"sizes": [(31, 47, 3)]}, "sizes="),
        ({"sizes": [31]}, "sizes="),
        ({"sizes": [(31, 0)]}, "sizes=0"),
        ({"faults": -1}, "faults=-1"),
        ({"cases": 2, "faults": 99}, "faults=99"),
    ],
)
def test_impossible_plan_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        phantom.plan(**options)


@pytest.mark.parametrize("options", [{"cases": 2.5}, {"slices": 7.0}, {"sizes": [(31.0, 47)]}])
def test_half_a_case_or_slice_is_refused_by_name(options):
    with pytest.raises(TypeError, match=f"{next(iter(options))}=.*whole number"):
        phantom.plan(**options)


def test_nothing_is_begun_without_a_process(tmp_path):
    with pytest.raises(ValueError, match="processes=0"):
        phantom.write(tmp_path / "p", **SMALL, processes=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", range(4))
def test_faults_are_of_all_kinds_and_none_is_on_the_empty_scan(seed):
    plan = phantom.plan(4, seed, faults=5, empty_scan=True)
    spoilt = [scan for scan in plan if scan.fault]
    assert sorted(scan.fault for scan in spoilt) == sorted(planted.FAULTS)
    assert not any(scan.empty or scan.test for scan in spoilt)
    training = sum(not scan.test for scan in plan)
    with pytest.raises(ValueError, match=f"only {training - 1} scans"):
        phantom.plan(4, seed, faults=training, empty_scan=True)


def test_masks_are_spoilt_on_the_listed_scans_and_on_no_others(tmp_path):
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
    assert json.loads((target / phantom.MARKER).read_text(encoding="utf-8"))["seed"] == 2


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "p").write_text("notes", encoding="utf-8")
    with pytest.raises(FileExistsError, match="not a phantom"):
        phantom.write(tmp_path / "p", **SMALL)


def test_writing_leaves_the_threads_of_opencv_as_they_were(tmp_path):
    before = cv2.getNumThreads()
    phantom.write(tmp_path / "p", cases=2, days=1, slices=1, sizes=[(31, 47)])
    assert cv2.getNumThreads() == before


def test_organs_are_contiguous_and_bowels_end_together(scan):
    filled = scan[1].any(axis=(1, 2))
    for channel in range(len(ORGANS)):
        rows = np.flatnonzero(filled[:, channel])
        assert len(rows) > 3
        assert np.array_equal(rows, np.arange(rows[0], rows[-1] + 1))
    ends = [np.flatnonzero(filled[:, channel])[-1] for channel in range(3)]
    assert ends[0] == ends[1] > ends[2]


def test_the_light_does_not_tell_where_the_annotators_stopped():
    plan = phantom.plan(8, seed=3, days=1, slices=60, sizes=[(64, 64)])
    steps = []
    for one in plan:
        images, masks = phantom.render(one)
        stop = int(np.flatnonzero(masks[..., 0].any(axis=(1, 2)))[-1])
        level = np.percentile(images, 90, axis=(1, 2))
        steps.append(level[stop + 1] / level[stop])
    assert 0.85 < np.median(steps) < 1.15
    assert min(steps) > 0.6


def test_loops_narrow_below_the_stop_line_alone():
    line = np.stack([np.zeros(5), np.zeros(5), [-50.0, 0, 7, 26, 60]], axis=1)
    tube = anatomy._collapsed(anatomy.Tube(line, np.full(5, 10.0)))
    np.testing.assert_allclose(tube.radius, [10, 10, 10, 5, 5])


def test_short_fields_are_for_short_abdomens():
    plan = phantom.plan(12, seed=1)
    low, all_of_them = ([one.spread[0] for one in plan if one.slices in kind] for kind in ((80,), (80, 144)))
    assert min(low) > 0.65
    assert min(all_of_them) < 0.2


def test_organs_lie_in_the_body(scan):
    images, masks = scan
    z = int(masks.any(axis=-1).sum(axis=(1, 2)).argmax())
    body = cv2.morphologyEx((images[z] > 0.1 * images[z].max()).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((25, 25)))
    assert (body[masks[z].any(axis=-1)] == 1).mean() > 0.99


def test_render_does_not_depend_on_the_order_of_scans():
    plan = phantom.plan(2, seed=9, days=2, slices=4, sizes=[(31, 47)])
    first = [phantom.render(scan)[0] for scan in plan]
    again = [phantom.render(scan)[0] for scan in reversed(plan)]
    for one, two in zip(first, reversed(again), strict=True):
        np.testing.assert_array_equal(one, two)


def test_days_of_a_case_move_the_bowel_more_than_the_body():
    abdomen = anatomy.case(np.random.default_rng(1))
    moved = anatomy.move(abdomen, np.random.default_rng(2))
    bowel = np.linalg.norm(moved.tubes["small_bowel"].points - abdomen.tubes["small_bowel"].points, axis=1)
    kidneys = np.linalg.norm((moved.solids["kidneys"] - abdomen.solids["kidneys"])[:, :3], axis=1)
    assert np.median(bowel) > np.median(kidneys)
    assert moved.width == abdomen.width


def test_no_motion_leaves_the_centre_lines_of_inner_organs():
    abdomen = anatomy.case(np.random.default_rng(1))
    moved = anatomy.move(abdomen, np.random.default_rng(2), share=0.0)
    np.testing.assert_allclose(moved.solids["liver"], abdomen.solids["liver"])
    np.testing.assert_allclose(moved.tubes["stomach"].radius, abdomen.tubes["stomach"].radius)


def test_painted_tube_equals_the_brute_force_distance():
    rng = np.random.default_rng(0)
    tube = anatomy.Tube(rng.uniform(8, 24, (6, 3)), rng.uniform(3, 6, 6))
    grid = geometry.Grid((11, 13, 17), (3.0, 2.5, 2.0), (0.0, 0.0, 0.0))
    distance, nearest = geometry.paint(tube, grid)
    z, y, x = np.meshgrid(*(axis.ravel() for axis in grid.axes()), indexing="ij")
    voxels = np.stack([x, y, z], axis=-1)[..., None, :]
    slow = np.linalg.norm(voxels - tube.points, axis=-1) - tube.radius
    near = slow.min(axis=-1) < 6
    np.testing.assert_allclose(distance[near], slow.min(axis=-1)[near], atol=1e-4)
    np.testing.assert_array_equal(nearest[near], slow.argmin(axis=-1)[near])
    assert not np.allclose(distance[near], slow.max(axis=-1)[near])  # the comparison can fail


def test_organs_never_share_a_voxel():
    scan = phantom.plan(2, seed=4, days=1, slices=24, sizes=[(61, 67)])[0]
    grid, _ = phantom.place(scan)
    distances, _ = geometry.organs(anatomy.move(anatomy.case(scan.rng()), scan.rng(0, 2)), grid)
    inside = np.stack([distance < 0 for distance in distances.values()])
    assert inside.any(axis=(1, 2, 3)).all()
    assert inside.sum(axis=0).max() == 1


def test_stretched_field_keeps_a_constant_and_runs_along_each_axis():
    shape = (7, 11, 13)
    np.testing.assert_allclose(geometry.stretch(np.full((3, 4, 5), 2.5), shape), 2.5)
    ramp = geometry.stretch(np.broadcast_to(np.arange(3.0)[:, None, None], (3, 4, 5)), shape)
    np.testing.assert_allclose(ramp, np.broadcast_to(ramp[:, :1, :1], shape))
    assert (np.diff(ramp[:, 0, 0]) >= 0).all()


def test_tidy_outline_has_no_specks_and_no_small_holes():
    mask = np.zeros((40, 50), bool)
    mask[5:25, 5:25] = True
    mask[10:12, 10:12] = False
    mask[30:32, 40:43] = True
    tidied = experts.tidy(mask, hole_px=10)
    expected = np.zeros_like(mask)
    expected[5:25, 5:25] = True
    np.testing.assert_array_equal(tidied, expected)
    assert not experts.tidy(mask, hole_px=3)[10, 10]


def test_principal_pieces_stay_and_crumbs_go():
    distance = np.full((9, 20, 20), 5.0, np.float32)
    distance[2:7, 2:12, 2:12] = -2
    distance[3:5, 16:18, 16:18] = -2
    kept = experts.principal(distance, share=0.1)
    assert (kept[2:7, 2:12, 2:12] < 0).all()
    assert not (kept[:, 14:, 14:] < 0).any()


def test_longest_run_of_slices_is_kept():
    masks = np.zeros((8, 5, 5, 1), bool)
    masks[[0, 1, 3, 4, 5]] = True
    kept = experts.contiguous(masks)[..., 0].any(axis=(1, 2))
    np.testing.assert_array_equal(np.flatnonzero(kept), [3, 4, 5])


def test_soft_edge_runs_through_half_at_the_border():
    image = np.zeros((1, 3), np.float32)
    scanner._over(image, np.array([[-5.0, 0.0, 5.0]], np.float32), 2.0)
    np.testing.assert_allclose(image, [[2.0, 1.0, 0.0]])


def test_scanner_noise_never_leaves_the_sixteen_bits(scan):
    images = scan[0]
    assert images.dtype == np.uint16
    assert images.max() <= 15_865
    assert images.std(axis=(1, 2)).min() > 0


def test_command_line_writes_and_refuses(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(phantom, "render", lambda scan: (np.zeros((1, 5, 5), np.uint16), np.zeros((1, 5, 5, 3), bool)))
    assert phantom.main([str(tmp_path / "p"), "--cases", "2", "--days", "1", "--processes", "1"]) == 0
    assert "not data of patients" in capsys.readouterr().out
    assert phantom.main([str(tmp_path), "--cases", "2"]) == 2
    assert "not a phantom" in capsys.readouterr().err
    assert phantom.main([str(tmp_path / "q"), "--faults", "-1"]) == 2
    assert "faults=-1" in capsys.readouterr().err
    assert phantom.main([str(tmp_path / "nosuch"), "--report"]) == 2
    assert "nosuch" in capsys.readouterr().err


def test_several_folders_are_for_the_report_alone(tmp_path, capsys):
    with pytest.raises(SystemExit):
        phantom.main([str(tmp_path / "a"), str(tmp_path / "b")])
    assert "2 folders" in capsys.readouterr().err
