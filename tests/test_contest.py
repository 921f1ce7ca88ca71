import pytest

from kitlib import contest


def test_file_name_gives_height_before_width():
    name = contest.parse_file_name("slice_0012_360_310_1.50_1.50.png")
    assert (name.slice, name.height, name.width, name.spacing_mm) == (12, 310, 360, 1.5)


def test_id_names_its_scan():
    assert contest.parse_id("case7_day0_slice_0144").scan == "case7_day0"


@pytest.mark.parametrize(
    "text",
    ["", "case7_day0", "case7_day0_slice_1", "case7_day0_slice_00001", "Case7_day0_slice_0001", "case7_slice_0001"],
)
def test_bad_id_is_quoted(text):
    with pytest.raises(ValueError, match="is not a slice id") as error:
        contest.parse_id(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("name", ["slice_0001.png", "slice_0001_266_266_1.50.png", "slice_0001_266_266_1.50_1.50.jpg"])
def test_bad_file_name_is_quoted(name):
    with pytest.raises(ValueError, match="is not an image name") as error:
        contest.parse_file_name(name)
    assert repr(name) in str(error.value)


def test_pixels_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match=r"1\.63 x 1\.50 mm"):
        contest.parse_file_name("slice_0001_266_266_1.50_1.63.png")


def test_weights_add_up_to_one():
    assert contest.DICE_WEIGHT + contest.HAUSDORFF_WEIGHT == 1


def test_every_suspect_is_a_scan():
    assert len(set(contest.SUSPECT_SCANS)) == 12
    for scan in contest.SUSPECT_SCANS:
        assert contest.parse_id(f"{scan}_slice_0001").scan == scan


def test_ids_scans_and_cases_name_each_other():
    assert contest.scan_of("case7_day0_slice_0144") == "case7_day0"
    assert contest.case_of("case7_day0") == "case7"


def test_folders_with_a_marker_are_found_but_not_among_images(tmp_path, monkeypatch):
    for name in ("a/b/run", "a/scans/run", "competitions/uw/train/run", "__MACOSX/run", ".ipynb_checkpoints/run"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").touch()
    (tmp_path / "competitions/uw/train.csv").touch()
    assert contest.attached("run.json", [tmp_path, tmp_path / "nothing"]) == [tmp_path / "a/b/run"]
    monkeypatch.setattr(contest, "KAGGLE_INPUT", tmp_path)
    assert contest.attached("r*.json") == [tmp_path / "a/b/run"]
    assert contest.attached("run.json", depth=2) == []
