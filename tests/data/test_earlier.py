import cv2
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from kitlib import contest
from kitlib.data import earlier, folds, inputs, scans


def table(*days, masks=True):
    """A table of one slice a scan: (case, day, whether it has a mask)."""
    rows = pd.DataFrame(days, columns=["case", "day", "masked"])
    rows["scan"] = [f"case{case}_day{day}" for case, day in zip(rows["case"], rows["day"], strict=True)]
    text = rows.pop("masked").map({True: "1 5", False: ""})
    return rows.assign(large_bowel="", small_bowel="", stomach=text) if masks else rows


def test_the_latest_earlier_day_of_the_same_case_counts():
    slices = table((1, 0, True), (1, 9, True), (1, 12, True), (2, 5, True), (2, 10, True), (3, 1, True))
    assert earlier.days(slices) == {
        "case1_day9": "case1_day0",
        "case1_day12": "case1_day9",
        "case2_day10": "case2_day5",
    }


def test_a_day_without_a_mask_is_passed_over():
    slices = table((1, 0, True), (1, 4, False), (1, 9, True), (2, 0, False), (2, 3, True))
    assert earlier.days(slices) == {"case1_day4": "case1_day0", "case1_day9": "case1_day0"}


def test_neither_the_same_day_nor_a_later_one_counts():
    known = table((1, 5, True), (1, 9, True))
    later = table((1, 3, True), (1, 5, True), masks=False)
    assert earlier.days(later, known) == {}
    assert earlier.days(table((1, 6, True), masks=False), known) == {"case1_day6": "case1_day5"}


def drawn(seed):
    """Ten cases with one to six days each, a third of them without a mask, in no order."""
    rng = np.random.default_rng(seed)
    days = [
        (case, day, rng.random() > 0.3) for case in range(1, 11) for day in rng.choice(40, rng.integers(1, 7), False)
    ]
    return table(*(days[index] for index in rng.permutation(len(days))))


@pytest.mark.parametrize("seed", range(5))
def test_the_days_are_those_of_a_plain_search(seed):
    slices = drawn(seed)
    later = slices[folds.later_days(slices)]
    annotated = slices[scans.organ_count(slices) > 0]
    expected = {}
    for _, scan in later.iterrows():
        before = annotated[(annotated["case"] == scan["case"]) & (annotated["day"] < scan["day"])]
        if len(before):
            expected[scan["scan"]] = before.loc[before["day"].idxmax(), "scan"]
    found = earlier.days(later, slices)
    assert found == expected
    assert list(found) == list(expected)  # in the order of the table


def test_no_scans_have_no_days_and_a_table_without_masks_is_refused():
    slices = drawn(0)
    assert earlier.days(slices.iloc[:0]) == {}
    assert earlier.days(slices, slices.iloc[:0]) == {}
    assert earlier.days(pd.DataFrame(columns=scans.COLUMNS), slices) == {}
    with pytest.raises(ValueError, match="has no column large_bowel; give one with masks"):
        earlier.days(slices.drop(columns=list(contest.ORGANS)))


def test_the_bowels_end_where_the_last_of_them_is_outlined():
    rows = table(*[(1, 0, True)] * 5).assign(
        large_bowel=["", "1 5", "1 5", "", ""], small_bowel=["", "", "", "1 1", ""]
    )
    assert earlier.last_bowel_slice(rows) == 3
    assert earlier.last_bowel_slice(rows.assign(small_bowel="")) == 2
    assert earlier.last_bowel_slice(rows.assign(large_bowel="", small_bowel="")) is None


@pytest.fixture(scope="module")
def visits(tmp_path_factory):
    """Two cases as a slice table: case 1 on days 0, 3 and 9, each 2 slices further up, and case 2 on one day."""
    root, lines = tmp_path_factory.mktemp("visits"), []
    for case, days in ((1, (0, 3, 9)), (2, (0,))):
        noise = np.random.default_rng(case).normal(size=(30, 70, 80))
        body = ndimage.gaussian_filter(noise, (1, 2, 2))
        body = (3000 * (body - body.min()) / np.ptp(body)).astype(np.uint16)
        for number, day in enumerate(days):
            scan = f"case{case}_day{day}"
            for index, image in enumerate(body[2 * number : 2 * number + 20]):
                path = root / f"{scan}_{index}.png"
                cv2.imwrite(str(path), image)
                masks = dict.fromkeys(contest.ORGANS, "1 5" if 4 <= index <= 12 - 2 * number else "")
                name = {"id": f"{scan}_slice_{index + 1:04d}", "case": case, "day": day, "slice": index + 1}
                size = {"path": str(path), "height": 70, "width": 80, "spacing_mm": 5.0}
                lines.append(name | size | {"scan": scan} | masks)
    return pd.DataFrame(lines)


def test_the_stop_line_moves_with_the_patient(visits):
    line = earlier.stop_lines(visits)
    assert [line(f"case1_day{day}") for day in (0, 3, 9)] == [None, 10, 8]
    assert line("case2_day0") is None
    assert line("case3_day0") is None  # a scan that the table lacks


def test_a_line_of_known_masks_is_that_of_the_scan_that_has_them(visits):
    known = visits[visits["day"] == 0]
    line = earlier.stop_lines(visits.drop(columns=list(contest.ORGANS)), known)
    assert [line(f"case1_day{day}") for day in (3, 9)] == [10, 8]
    stomach = known.assign(large_bowel="", small_bowel="")
    assert earlier.stop_lines(visits, stomach)("case1_day3") is None


def test_days_are_read_once_and_only_when_a_scan_is_asked_for(visits, monkeypatch):
    read = []
    load = inputs.load
    monkeypatch.setattr(inputs, "load", lambda paths: read.append(paths[0]) or load(paths))
    line = earlier.stop_lines(visits)
    line("case2_day0")
    assert not read
    assert line("case1_day3") == line("case1_day3")
    assert len(read) == 2


def test_an_image_that_cannot_be_read_is_named(visits):
    with pytest.raises(ValueError, match=r"nowhere\.png"):
        earlier.stop_lines(visits.assign(path="nowhere.png"))("case1_day3")
