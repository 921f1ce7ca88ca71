"""Stop lines, holes, suspects and days, by hand and against decoded masks."""

import numpy as np
import pandas as pd
import pytest

from kitlib.contest import ORGANS
from kitlib.eda import annotators
from tests.eda.test_areas import by_decoding, real_masks
from tests.eda.test_statistics import LARGE, SMALL, STOMACH, slices_of


@pytest.fixture
def two_days():
    table = slices_of(
        {
            "case7_day0": ["", "t", "lt", "", "ls", "ls", "", ""],
            "case7_day4": ["l", "ls", "l", "s"],
            "case9_day1": ["", ""],
        }
    )
    table.loc[5, LARGE] = "1 3"  # half of the largest area, on the last slice
    return table


def test_extents_by_hand(two_days):
    table = annotators.extents(two_days)
    assert table.loc[("case7_day0", LARGE), ["first", "last", "masks"]].tolist() == [3, 6, 3]
    assert table.loc[("case7_day0", LARGE), ["begins", "ends"]].tolist() == pytest.approx([2 / 7, 5 / 7])
    assert table.loc[("case7_day0", LARGE), ["first_area", "last_area"]].tolist() == [1, 0.5]
    assert ("case7_day4", STOMACH) not in table.index
    assert "case9_day1" not in table.index.get_level_values("scan")


def test_stop_lines_count_scans_whose_bowels_end_together(two_days):
    table = annotators.stop_lines(two_days)
    assert table["scans"].tolist() == [2, 2, 1]
    assert table.loc[[LARGE, SMALL], "bowels stop together"].tolist() == [0.5, 0.5]
    assert np.isnan(table.at[STOMACH, "bowels stop together"])


def test_holes_are_named_by_slice_number(two_days):
    table = annotators.annotated_ranges(two_days)
    assert table.index.tolist() == ["case7_day0", "case7_day4"]
    assert table.loc["case7_day0", ["first", "last", "holes", "hole_slices"]].tolist() == [2, 6, 1, "4"]
    assert table.at["case7_day4", "holes"] == 0


def test_a_missing_slice_is_no_hole(two_days):
    table = annotators.annotated_ranges(two_days.drop(index=3).reset_index(drop=True))
    assert table.at["case7_day0", "holes"] == 0


def test_suspects_are_found_by_scan(two_days):
    table = annotators.suspects(two_days)
    assert len(table) == 12
    assert table.index[table["here"]].tolist() == ["case7_day0"]
    assert table.loc["case7_day0", ["slices", "with_mask"]].tolist() == [8, 4]


def test_days_and_gaps_by_hand(two_days):
    table = annotators.days(two_days)
    assert table.loc[7, ["scans", "days", "shortest", "longest", "sizes"]].tolist() == [2, "0, 4", 4, 4, 1]
    assert table.loc[9, ["shortest", "longest"]].isna().all()
    wider = two_days.assign(width=two_days["width"].where(two_days["day"] != 4, 5))
    assert annotators.days(wider).at[7, "sizes"] == 2


def test_a_case_is_followed_that_is_there(two_days):
    assert annotators.case_to_follow(two_days) == 7
    assert annotators.case_to_follow(two_days, 9) == 9
    assert annotators.case_to_follow(two_days.iloc[:0]) == 0
    with pytest.raises(ValueError, match="CASE=8 is not in the data; choose one of 7, 9"):
        annotators.case_to_follow(two_days, 8)


def test_volumes_and_daily_changes_by_hand(two_days):
    volume = annotators.volumes(two_days)
    voxel_cm3 = 1.5 * 1.5 * 3 / 1000
    assert volume.at[(7, 0, STOMACH), "volume_cm3"] == pytest.approx(2 * voxel_cm3)
    # Pixel 6 of a 4 x 4 slice lies half a pixel above and left of the middle; the stomach is on two slices.
    assert volume.loc[(7, 0, STOMACH), ["down_mm", "across_mm", "along_mm"]].tolist() == pytest.approx(
        [-0.75, -0.75, 4.5]
    )
    changes = annotators.daily_changes(two_days).set_index("organ")
    assert set(changes.index) == {LARGE, SMALL}
    assert changes.loc[SMALL, ["case", "from", "to"]].tolist() == [7, 0, 4]
    # The same mask on slices 5 and 6, then on 2 and 4: centres at 4.5 and 2 slices.
    assert changes.at[SMALL, "moved_mm"] == pytest.approx(2.5 * 3)
    assert changes.at[SMALL, "grew"] == pytest.approx(1)


def test_real_scans_stop_where_decoded_masks_stop(real):
    table = real_masks(real)
    decoded = pd.concat([table, by_decoding(table)], axis=1)
    extents = annotators.extents(table)
    for scan, part in decoded.groupby("scan"):
        for organ in ORGANS:
            on = part[part[f"{organ}_px"] > 0]
            row = extents.loc[(scan, organ)]
            assert (row["first"], row["last"], row["masks"]) == (on["slice"].min(), on["slice"].max(), len(on))
            last = on[f"{organ}_px"].iloc[-1] / on[f"{organ}_px"].max()
            assert row["last_area"] == pytest.approx(last)
    lines = annotators.stop_lines(table)
    assert lines.at[LARGE, "bowels stop together"] == 1
    assert lines["last_area"].round(2).tolist() == [0.70, 0.67, 0.04]
    assert (annotators.annotated_ranges(table)["holes"] == 0).all()
