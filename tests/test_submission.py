import os

import numpy as np
import pandas as pd
import pytest

from kitlib import contest, rle, submission


@pytest.fixture
def slices():
    ids = [f"case1_day0_slice_{number:04d}" for number in (1, 2, 3)]
    return pd.DataFrame({"id": ids, "height": 3, "width": 5})


@pytest.fixture
def good(slices):
    return submission.expected_rows(slices).assign(predicted=["1 2", "", "", "", "15 1", "", "", "", "1 15"])


def save(table, tmp_path):
    path = tmp_path / "submission.csv"
    table.to_csv(path, index=False)
    return path


def test_good_file_has_no_problems(good, slices, tmp_path):
    assert submission.check(save(good, tmp_path), slices) == []


def test_what_is_written_is_read(good, tmp_path):
    path = submission.write(tmp_path / "made" / "submission.csv", good)
    pd.testing.assert_frame_equal(submission.read(path).astype(object), good.astype(object))


def test_rows_follow_the_sample_and_missing_ones_are_empty(good, slices, tmp_path):
    sample = submission.expected_rows(slices).iloc[::-1]
    masks = {("case1_day0_slice_0001", "large_bowel"): "1 2"}
    written = submission.read(submission.write(tmp_path / "s.csv", masks, sample))
    assert written[["id", "class"]].equals(sample.reset_index(drop=True).astype(written["id"].dtype))
    assert written["predicted"].tolist() == [""] * 8 + ["1 2"]


def test_empty_sample_gives_a_header_alone(slices, tmp_path):
    sample = tmp_path / "sample_submission.csv"
    sample.write_text("id,class,predicted\n", encoding="utf-8")
    nothing = submission.expected_rows(slices.iloc[:0]).assign(predicted="")
    path = submission.write(tmp_path / "s.csv", nothing, submission.read(sample))
    assert path.read_text(encoding="utf-8") == "id,class,predicted\n"
    assert submission.check(path, slices.iloc[:0], submission.read(sample)) == []


def test_order_is_that_of_the_sample(good, slices, tmp_path):
    sample = submission.expected_rows(slices.iloc[[2, 0, 1]])
    path = submission.write(tmp_path / "s.csv", good, sample)
    assert submission.check(path, slices, sample) == []
    assert "out of order" in " ".join(submission.check(path, slices)[0])


def test_nothing_predicted_gives_an_empty_field_each(slices, tmp_path):
    written = submission.read(submission.write(tmp_path / "s.csv", {}, submission.expected_rows(slices)))
    assert (written["predicted"] == "").all()
    assert len(written) == 9


def test_mask_without_a_row_is_an_error_not_dropped(slices, tmp_path):
    with pytest.raises(ValueError, match="case9_day0_slice_0001 stomach"):
        submission.write(
            tmp_path / "s.csv", {("case9_day0_slice_0001", "stomach"): "1 1"}, submission.expected_rows(slices)
        )
    assert not list(tmp_path.iterdir())


def test_mask_given_twice_is_an_error(good, slices, tmp_path):
    with pytest.raises(ValueError, match="given twice"):
        submission.write(tmp_path / "s.csv", pd.concat([good, good.iloc[:1]]), submission.expected_rows(slices))


def test_failed_writing_leaves_the_old_file(good, tmp_path, monkeypatch):
    path = submission.write(tmp_path / "submission.csv", good)
    before = path.read_text(encoding="utf-8")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        submission.write(path, good.assign(predicted=""))
    assert path.read_text(encoding="utf-8") == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["submission.csv"]


SPOILED = {
    "missing": (lambda rows: rows.drop(index=4), "1 row missing: case1_day0_slice_0002 small_bowel"),
    "extra": (
        lambda rows: pd.concat([rows, rows.iloc[[0]].assign(id="case2_day0_slice_0001")]),
        "1 row not asked for: case2_day0_slice_0001 large_bowel",
    ),
    "order": (
        lambda rows: rows.iloc[[1, 0, *range(2, 9)]],
        "rows are out of order: case1_day0_slice_0001 small_bowel is here, expected case1_day0_slice_0001 large_bowel",
    ),
    "doubled": (lambda rows: pd.concat([rows, rows.iloc[[8]]]), "1 row doubled: case1_day0_slice_0003 stomach"),
    "organ": (lambda rows: rows.replace({"class": {"stomach": "liver"}}), "3 rows of an unknown organ"),
    "past the end": (lambda rows: rows.replace({"predicted": {"15 1": "15 2"}}), "small_bowel: run-length text '15 2'"),
    "overlap": (
        lambda rows: rows.replace({"predicted": {"1 2": "1 3 2 1"}}),
        "1 row with a malformed mask: case1_day0_slice_0001",
    ),
    "nan": (lambda rows: rows.replace({"predicted": {"": "nan"}}), "6 rows with the text NaN"),
    "words": (lambda rows: rows.replace({"predicted": {"1 2": "one two"}}), "'one' is not a whole number"),
    "another name": (lambda rows: rows.rename(columns={"predicted": "segmentation"}), "expected id,class,predicted"),
    "another column": (lambda rows: rows.assign(score=1), "expected id,class,predicted"),
    "columns": (lambda rows: rows.drop(columns="class"), "column class is missing"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_problem_is_named(kind, good, slices, tmp_path):
    spoil, sentence = SPOILED[kind]
    problems = submission.check(save(spoil(good), tmp_path), slices)
    assert any(sentence in what for _, what in problems), problems
    if kind not in ("organ",):
        assert len(problems) == 1


def test_files_that_are_no_tables_are_named(slices, tmp_path):
    path = tmp_path / "submission.csv"
    assert "submission.csv" in " ".join(submission.check(path, slices)[0])
    path.write_text("", encoding="utf-8")
    assert "is empty" in " ".join(submission.check(path, slices)[0])
    path.write_text("id,class,predicted\na,b,c\na,b,c,d\n", encoding="utf-8")
    assert "line 3 has 4 fields" in " ".join(submission.check(path, slices)[0])


def test_masks_become_rows_in_order():
    slices = pd.DataFrame({"id": ["case1_day0_slice_0001", "case1_day0_slice_0002"]})
    masks = np.random.default_rng(0).random((2, 3, 5, 3)) > 0.5
    rows = submission.encode(slices, masks)
    assert rows[["id", "class"]].equals(submission.expected_rows(slices))
    for row in rows.itertuples(index=False):
        place = slices["id"].tolist().index(row.id), ..., contest.ORGANS.index(row[1])
        np.testing.assert_array_equal(rle.decode(row.predicted, (3, 5)), masks[place])


@pytest.mark.parametrize("spoil", [lambda text: text.encode("utf-16"), lambda text: text.replace(",", ";").encode()])
def test_files_that_kaggle_does_not_read_are_read_here_and_named(spoil, good, slices, tmp_path):
    path = save(good.iloc[::-1], tmp_path)
    path.write_bytes(spoil(path.read_text(encoding="utf-8")))
    assert submission.read(path)["predicted"].tolist() == good["predicted"].tolist()[::-1]
    assert submission.check(path, slices, strict=False) == []
    (where, what), order = submission.check(path, slices)
    assert where == f"{path}, line 1"
    assert "kitlib.submission.write" in what
    assert order[0] == f"{path}, line 2"


def test_masks_of_slices_of_another_size_are_stretched():
    ids = ["case1_day0_slice_0001", "case1_day0_slice_0002"]
    slices = pd.DataFrame({"id": ids, "height": [3, 6], "width": [5, 10]})
    masks = np.random.default_rng(0).random((2, 3, 5, 3)) > 0.5
    rows = submission.encode(slices, masks)["predicted"].to_numpy().reshape(2, 3)
    for channel in range(3):
        np.testing.assert_array_equal(rle.decode(rows[0, channel], (3, 5)), masks[0, ..., channel])
        wide = masks[1, ..., channel].repeat(2, axis=0).repeat(2, axis=1)
        np.testing.assert_array_equal(rle.decode(rows[1, channel], (6, 10)), wide)
