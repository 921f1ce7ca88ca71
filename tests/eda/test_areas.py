"""Measurements from runs against the same from decoded masks."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kitlib import rle
from kitlib.contest import ORGANS, parse_id
from kitlib.eda import areas


def table_of(masks: list[np.ndarray]) -> pd.DataFrame:
    """A slice table of one scan from masks (H, W, organs) of any sizes."""
    rows = [(f"case1_day0_slice_{n:04d}", *mask.shape[:2]) for n, mask in enumerate(masks, start=1)]
    table = pd.DataFrame(rows, columns=["id", "height", "width"])
    for k, organ in enumerate(ORGANS):
        table[organ] = [rle.encode(mask[..., k]) for mask in masks]
    return table


def by_decoding(slices: pd.DataFrame) -> pd.DataFrame:
    """The slow readable way: decode every mask, loop over the slices."""
    rows = []
    for _, row in slices.iterrows():
        masks = {organ: rle.decode(row[organ], (row["height"], row["width"])) for organ in ORGANS}
        values = {}
        for organ, mask in masks.items():
            down, across = np.nonzero(mask)
            values[f"{organ}_px"] = len(down)
            values[f"{organ}_row"] = down.mean() if len(down) else np.nan
            values[f"{organ}_column"] = across.mean() if len(down) else np.nan
        for name in areas.COMBINATIONS:
            values[name] = int(np.logical_and.reduce([masks[organ] for organ in name.split("+")]).sum())
        rows.append(values)
    return pd.DataFrame(rows, index=slices.index)


def real_masks(folder: Path) -> pd.DataFrame:
    """The real mask rows as a slice table."""
    rows = pd.read_csv(folder / "masks.csv", keep_default_na=False)
    table = rows.pivot(index="id", columns="class", values="segmentation").reset_index().rename_axis(columns=None)
    sizes = pd.read_csv(folder / "slices.csv.gz")[["id", "height", "width", "image_path"]]
    table = table.merge(sizes, on="id").rename(columns={"image_path": "path"})
    parts = [parse_id(name) for name in table["id"]]
    table[["case", "day", "slice"]] = [(part.case, part.day, part.slice) for part in parts]
    table["scan"] = [part.scan for part in parts]
    table["spacing_mm"] = [float(path.rsplit("_", 1)[-1].removesuffix(".png")) for path in table["path"]]
    return table.sort_values(["case", "day", "slice"], ignore_index=True)


def test_one_slice_computed_by_hand():
    large = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
    small = np.array([[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]], bool)
    stomach = np.array([[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]], bool)
    measured = areas.measure(table_of([np.stack([large, small, stomach], axis=-1)])).iloc[0]
    assert measured[["large_bowel_px", "small_bowel_px", "stomach_px"]].tolist() == [4, 4, 2]
    assert measured[["large_bowel_row", "large_bowel_column", "small_bowel_column"]].tolist() == [0.5, 0.5, 1.5]
    assert measured[["stomach_row", "stomach_column"]].tolist() == [1.0, 2.0]
    assert measured[list(areas.COMBINATIONS)].tolist() == [2, 1, 1, 1]


def test_a_run_over_the_end_of_a_row_counts_in_both_rows():
    table = pd.DataFrame({"id": ["a"], "height": [3], "width": [4], "large_bowel": ["3 7"]})
    measured = areas.measure(table.assign(small_bowel="", stomach="")).iloc[0]
    assert measured["large_bowel_row"] == pytest.approx((0 * 2 + 1 * 4 + 2 * 1) / 7)
    assert measured["large_bowel_column"] == pytest.approx((2 + 3 + 0 + 1 + 2 + 3 + 0) / 7)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_runs_say_the_same_as_decoded_masks(data):
    shapes = data.draw(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=6))
    masks = [data.draw(arrays.arrays(bool, (*shape, len(ORGANS)))) for shape in shapes]
    table = table_of(masks)
    measured = areas.measure(table)
    expected = by_decoding(table)
    pd.testing.assert_frame_equal(measured[list(expected)], expected, check_dtype=False, rtol=1e-12)


def test_parts_of_a_table_are_joined_without_a_seam(monkeypatch):
    rng = np.random.default_rng(0)
    table = table_of([rng.random((5, 7, 3)) < 0.4 for _ in range(11)]).set_index(pd.Index(range(3, 14)))
    whole = areas.measure(table)
    monkeypatch.setattr(areas, "_ROWS_AT_ONCE", 4)
    pd.testing.assert_frame_equal(areas.measure(table), whole)
    assert whole.index.equals(table.index)


def test_missing_text_is_no_mask():
    table = table_of([np.ones((2, 2, 3), bool)]).astype(object)
    table["stomach"] = np.nan
    measured = areas.measure(table).iloc[0]
    assert measured["stomach_px"] == 0
    assert np.isnan(measured["stomach_row"])


def test_an_empty_table_gives_empty_measurements():
    measured = areas.measure(table_of([np.zeros((2, 2, 3), bool)]).iloc[:0])
    assert measured.empty
    assert set(areas.COMBINATIONS) <= set(measured.columns)


@pytest.mark.parametrize("text", ["1", "0 3", "1 0", "3 2 1 1", "1 x", "1  2", " 1 2", "1 3 2 1", "11 3"])
def test_a_malformed_mask_is_named(text):
    table = table_of([np.ones((3, 4, 3), bool)] * 3)
    table.loc[1, "stomach"] = text
    with pytest.raises(ValueError, match=r"case1_day0_slice_0002, stomach"):
        areas.measure(table)


def test_a_mask_past_its_own_image_is_named_even_beside_larger_images():
    table = table_of([np.ones((9, 9, 3), bool), np.ones((2, 2, 3), bool)])
    table.loc[1, "small_bowel"] = "4 2"
    with pytest.raises(ValueError, match="slice_0002, small_bowel"):
        areas.measure(table)


def test_a_table_without_masks_says_where_they_come_from():
    with pytest.raises(ValueError, match="split='train'"):
        areas.measure(pd.DataFrame({"id": ["a"], "height": [1], "width": [1]}))


def test_real_masks_measure_as_they_decode(real):
    table = real_masks(real)
    measured, expected = areas.measure(table), by_decoding(table)
    assert len(table) == 1872
    pd.testing.assert_frame_equal(measured[list(expected)], expected, check_dtype=False, rtol=1e-12)
