"""The kit on real scans and annotations, where KITLIB_REAL_DATA names a folder with them."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from kitlib import contest, rle, scans

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def index(real):
    """The table of all training slices, from the list of their files."""
    return scans.read(real, "test", index=real / "slices.csv.gz")


@pytest.fixture(scope="module")
def annotations(real):
    return pd.read_csv(real / "masks.csv", dtype=str, keep_default_na=False)


def test_index_gives_every_published_count_that_needs_no_mask(index, real):
    assert len(index) == 38_496
    assert index["case"].nunique() == 85
    assert index["scan"].nunique() == 274
    assert index.groupby("scan").size().value_counts().to_dict() == {144: 259, 80: 15}
    per_case = index.groupby("case")["scan"].nunique().value_counts().sort_index()
    assert per_case.tolist() == [9, 8, 45, 2, 20, 1]
    sizes = index.groupby(["height", "width"]).size().to_dict()
    assert sizes == {(266, 266): 25_920, (310, 360): 11_232, (276, 276): 1_200, (234, 234): 144}
    masked = pd.read_csv(real / "slices.csv.gz")["has_mask"]
    assert masked.value_counts().to_dict() == {False: 21_906, True: 16_590}


def test_sizes_read_from_names_are_those_listed(index, real):
    listed = pd.read_csv(real / "slices.csv.gz").set_index("id").loc[index["id"]]
    assert (listed["height"].to_numpy() == index["height"]).all()
    assert (listed["width"].to_numpy() == index["width"]).all()


def test_every_real_mask_goes_both_ways_byte_for_byte(index, annotations):
    assert len(annotations) == 5_616
    sizes = index.set_index("id")[["height", "width"]]
    scan = annotations["id"].str.rsplit("_slice_", n=1).str[0]
    for _, rows in annotations.groupby(scan):
        shape = tuple(int(side) for side in sizes.loc[rows["id"].iloc[0]])
        texts = rows["segmentation"].tolist()
        masks = rle.decode_stack(texts, shape)
        assert rle.encode_stack(masks) == texts
        assert [rle.area(text) for text in texts] == masks.sum(axis=(1, 2)).tolist()


def test_scans_are_read_from_the_official_layout(real):
    slices = scans.read(real)
    assert slices.groupby("scan").size().to_dict() == {"case16_day0": 144, "case6_day20": 144}
    assert set(zip(slices["height"], slices["width"], strict=True)) == {(310, 360)}
    assert (scans.organ_count(slices) > 0).any()
    assert list(contest.ORGANS) == list(slices.columns[-3:])


@pytest.mark.slow
def test_documented_command_trains_on_one_scan_and_scores_the_other(real, tmp_path):
    command = [sys.executable, "-m", "kitlib.training", str(real), "--held-out", "case16_day0", "--runs", str(tmp_path)]
    options = ["--epochs", "1", "--size", "64", "--submission", str(tmp_path / "submission.csv")]
    printed = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "host score" in printed
    assert "no problems" in printed
    assert (tmp_path / "submission.csv").is_file()
