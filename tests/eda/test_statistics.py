"""Tables of the training set against counts by hand and by decoding."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kitlib.contest import ORGANS, parse_id
from kitlib.data import folds, scans
from kitlib.eda import annotators, areas, published, statistics
from kitlib.eda.statistics import PAIRS
from tests.eda.test_areas import by_decoding, real_masks

LARGE, SMALL, STOMACH = ORGANS
TEXTS = {"l": "1 6", "s": "5 4", "t": "6 1"}
TABLES = (
    statistics.summary,
    statistics.organ_counts,
    statistics.cooccurrence,
    statistics.organs_per_slice,
    statistics.slice_positions,
    statistics.bells,
    statistics.overlap_areas,
    statistics.overlaps,
    statistics.containment,
    statistics.organ_areas,
    statistics.centroids,
    annotators.extents,
    annotators.stop_lines,
    annotators.annotated_ranges,
    annotators.volumes,
    published.compare,
    published.claims,
)


def slices_of(organs: dict[str, list[str]], size=(4, 4)) -> pd.DataFrame:
    """A slice table from `scan -> organs per slice`: l, s, t stand for large bowel, small bowel, stomach."""
    rows = []
    for scan, per_slice in organs.items():
        for number, letters in enumerate(per_slice, start=1):
            name = f"{scan}_slice_{number:04d}"
            part = parse_id(name)
            texts = [text if letter in letters else "" for letter, text in TEXTS.items()]
            rows.append((name, part.case, part.day, number, "", *size, 1.5, scan, *texts))
    return pd.DataFrame(rows, columns=[*scans.COLUMNS, *ORGANS])


@pytest.fixture
def small():
    return slices_of(
        {
            "case1_day0": ["", "t", "lt", "lst", "ls", "ls", ""],
            "case1_day9": ["", "", "l", "ls", "s"],
            "case2_day3": ["", "", ""],
        }
    )


def test_summary_counts_by_hand(small):
    table = statistics.summary(small)
    assert table["count"].to_dict() == {
        "cases": 2,
        "scans": 3,
        "scans of 3 slices": 1,
        "scans of 5 slices": 1,
        "scans of 7 slices": 1,
        "slices": 15,
        "slices with a mask": 8,
        "slices without a mask": 7,
        "masks": 14,
    }
    assert table.at["slices with a mask", "share"] == pytest.approx(8 / 15)
    assert table["share"].isna().sum() == 6 + 1


def test_summary_of_a_test_folder_leaves_masks_open(small):
    table = statistics.summary(small.drop(columns=list(ORGANS)))
    assert table["count"].isna().sum() == 3
    assert table.at["slices", "count"] == 15


def test_summary_of_an_index_counts_annotated_slices(small):
    index = small.drop(columns=list(ORGANS)).assign(has_mask=[True] * 4 + [False] * 11)
    assert statistics.summary(index).at["slices without a mask", "count"] == 11


def test_scans_per_case_counts_by_hand(small):
    assert statistics.scans_per_case(small)["cases"].to_dict() == {1: 1, 2: 1}


def test_organ_counts_by_hand(small):
    assert statistics.organ_counts(small)["masks"].to_dict() == {LARGE: 6, SMALL: 5, STOMACH: 3}
    assert statistics.organ_counts(small)["share"].sum() == pytest.approx(1)


def test_cooccurrence_by_hand(small):
    table = statistics.cooccurrence(small)
    assert table.loc[list(ORGANS), list(ORGANS)].to_numpy().tolist() == [[6, 4, 2], [4, 5, 1], [2, 1, 3]]
    share = statistics.cooccurrence(small, share=True)
    assert share.at[SMALL, LARGE] == pytest.approx(4 / 5)
    assert np.diag(share).tolist() == [1, 1, 1]


def test_organs_per_slice_by_hand(small):
    table = statistics.organs_per_slice(small)
    assert table["slices"].tolist() == [7, 1, 1, 1, 3, 1, 0, 1]
    assert table.at[f"{LARGE}+{SMALL}", "share_within"] == pytest.approx(3 / 4)
    assert table["share"].sum() == pytest.approx(1)


def test_image_sizes_by_hand(small):
    mixed = pd.concat([small, slices_of({"case7_day0": ["l"] * 40}, size=(310, 360))], ignore_index=True)
    table = statistics.image_sizes(mixed)
    assert table[["height", "width", "slices", "scans", "cases"]].to_numpy().tolist() == [
        [310, 360, 40, 1, 1],
        [4, 4, 15, 3, 2],
    ]


def test_slice_positions_count_slice_numbers_not_rows(small):
    table = statistics.slice_positions(small[small["slice"] > 1])
    assert table.index.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert table[LARGE].tolist() == [0, 0, 2, 2, 1, 1, 0]


def test_bells_by_hand(small):
    row = statistics.bells(small).loc[LARGE]
    assert (row["peak"], row["count"]) == (3, 2)
    position = np.array([3, 3, 4, 4, 5, 6])
    assert row["mean"] == pytest.approx(position.mean())
    assert row["spread"] == pytest.approx(position.std())
    assert row["skew"] == pytest.approx(((position - position.mean()) ** 3).mean() / position.std() ** 3)
    assert (row["before"], row["after"]) == (0, pytest.approx(4 / 6))


def test_overlaps_and_containment_by_hand(small):
    areas_of = statistics.overlap_areas(small)
    assert areas_of["id"].tolist() == small["id"].tolist()
    # large bowel 1-6, small bowel 5-8, stomach 6: they share 5 and 6, 6, 6, and 6.
    assert areas_of.loc[3, list(areas.COMBINATIONS)].tolist() == [2, 1, 1, 1]
    overlaps = statistics.overlaps(small)
    assert overlaps["overlapping"].tolist() == [4, 2, 1, 1]
    assert overlaps["share"].tolist() == [1, 1, 1, 1]
    inside = statistics.containment(small).set_index(["inner", "outer"])
    assert inside.loc[(STOMACH, LARGE), "inside"] == 2
    assert inside.loc[(STOMACH, LARGE), "share"] == pytest.approx(2 / 3)
    assert inside.loc[(LARGE, SMALL), "inside"] == 0


def test_fold_counts_find_a_case_in_two_folds(small):
    clean = statistics.fold_counts(small, small["case"])
    assert clean["shared cases"].tolist() == [0, 0]
    assert clean["slices"].tolist() == [12, 3]
    leaking = statistics.fold_counts(small, small["day"] > 0)
    assert leaking["shared cases"].tolist() == [1, 1]


def test_fold_counts_sum_up_to_the_table(small):
    small = pd.concat([small, small.assign(case=3), small.assign(case=4)], ignore_index=True)
    table = statistics.fold_counts(small, folds.by_case(small, 2))
    organs = statistics.organs_per_slice(small).groupby("organs")["slices"].sum()
    assert table["shared cases"].tolist() == [0, 0]
    assert table[["0 organs", "1 organ", "2 organs", "3 organs"]].sum().tolist() == organs.tolist()
    assert table["4x4"].sum() == len(small)


def test_an_index_stands_for_the_images(tmp_path):
    names = [f"train/case5/case5_day2/scans/slice_{n:04d}_360_310_1.50_1.50.png" for n in (1, 2)]
    index = pd.DataFrame({"id": ["case5_day2_slice_0001", "case5_day2_slice_0002"], "image_path": names})
    index.assign(has_mask=[True, False]).to_csv(tmp_path / "index.csv.gz", index=False)
    slices, masked = statistics.read(index=tmp_path / "index.csv.gz")
    assert slices[["height", "width"]].to_numpy().tolist() == [[310, 360]] * 2
    assert slices["has_mask"].tolist() == [True, False]
    assert masked.empty
    with pytest.raises(FileNotFoundError, match=r"INDEX=.*none\.csv: no such file; give a csv with the columns id"):
        statistics.read(index=tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match=r"DATA=.* has no train\.csv"):
        statistics.read(tmp_path, tmp_path / "index.csv.gz")
    rows = [(name, organ, "1 2" if organ == "stomach" else "") for name in index["id"][:1] for organ in ORGANS]
    pd.DataFrame(rows, columns=["id", "class", "segmentation"]).to_csv(tmp_path / "train.csv", index=False)
    index.assign(has_mask=["yes", "0"]).to_csv(tmp_path / "index.csv", index=False)
    with pytest.raises(ValueError, match=r"index.csv, line 2: has_mask is 'yes'; write True or False"):
        statistics.read(index=tmp_path / "index.csv")
    _, masked = statistics.read(tmp_path, tmp_path / "index.csv.gz")
    assert masked["id"].tolist() == ["case5_day2_slice_0001"]
    assert masked["stomach"].tolist() == ["1 2"]


def test_without_an_index_the_folder_is_read(competition):
    slices, masked = statistics.read(competition)
    assert slices is masked
    assert len(slices) > 0


@pytest.mark.parametrize("make", TABLES, ids=lambda make: make.__name__)
def test_a_measured_table_gives_the_same(make, small):
    pd.testing.assert_frame_equal(make(small), make(areas.measure(small)))


@pytest.mark.parametrize("make", TABLES, ids=lambda make: make.__name__)
def test_the_table_that_is_handed_in_stays_as_it_was(make, small):
    before = small.copy(deep=True)
    make(small)
    pd.testing.assert_frame_equal(small, before)


def test_tables_without_masks_say_so(small):
    with pytest.raises(ValueError, match="no masks"):
        statistics.organ_counts(small.drop(columns=list(ORGANS)))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["", "l", "s", "t", "ls", "lt", "st", "lst"]), min_size=1, max_size=12))
def test_counts_agree_with_each_other(letters):
    slices = slices_of({"case1_day0": letters})
    counts, together = statistics.organ_counts(slices), statistics.cooccurrence(slices)
    exact = statistics.organs_per_slice(slices)
    assert np.diag(together).tolist() == counts["masks"].tolist()
    assert (together.to_numpy() == together.to_numpy().T).all()
    assert exact["slices"].sum() == len(slices)
    assert (exact["organs"] * exact["slices"]).sum() == counts["masks"].sum()
    assert statistics.slice_positions(slices).sum().tolist() == counts["masks"].tolist()
    for name, (one, other) in PAIRS.items():
        three = exact.at[statistics.ALL_THREE, "slices"]
        assert exact.at[name, "slices"] + three == together.at[one, other]


def test_real_tables_agree_with_decoded_masks(real):
    table = real_masks(real)
    decoded = pd.concat([table, by_decoding(table)], axis=1)
    on = {organ: decoded[f"{organ}_px"] > 0 for organ in ORGANS}
    counts, together = statistics.organ_counts(table), statistics.cooccurrence(table)
    positions, overlaps = statistics.slice_positions(table), statistics.overlaps(table)
    for organ in ORGANS:
        assert counts.at[organ, "masks"] == on[organ].sum()
        assert statistics.organ_areas(table).at[organ, "max"] == decoded[f"{organ}_px"].max()
        for other in ORGANS:
            assert together.at[organ, other] == (on[organ] & on[other]).sum()
        for number in range(1, 145):
            assert positions.at[number, organ] == (on[organ] & (table["slice"] == number)).sum()
    for name, (one, other) in PAIRS.items():
        assert overlaps.at[name, "together"] == (on[one] & on[other]).sum()
        assert overlaps.at[name, "overlapping"] == (decoded[name] > 0).sum()
        assert overlaps.at[name, "max"] == decoded[name].max()
    number = sum(on.values())
    assert statistics.organs_per_slice(table).groupby("organs")["slices"].sum().tolist() == [
        (number == n).sum() for n in range(4)
    ]


def test_real_shapes_agree_with_decoded_masks(real):
    table = real_masks(real)
    decoded = by_decoding(table)
    areas, bells, inside = statistics.organ_areas(table), statistics.bells(table), statistics.containment(table)
    for organ in ORGANS:
        on = (decoded[f"{organ}_px"] > 0).to_numpy()
        pixels, numbers = decoded[f"{organ}_px"][on].to_numpy(float), table["slice"][on].to_numpy()
        quantiles = np.quantile(pixels, [0.05, 0.25, 0.5, 0.75, 0.95])
        assert areas.loc[organ, ["5 %", "25 %", "50 %", "75 %", "95 %"]].tolist() == pytest.approx(quantiles)
        assert areas.loc[organ, ["mean", "min"]].tolist() == pytest.approx([pixels.mean(), pixels.min()])
        found, counts = np.unique(numbers, return_counts=True)
        assert bells.loc[organ, ["peak", "count"]].tolist() == [found[counts.argmax()], counts.max()]
        expected = [numbers.mean(), numbers.std(), stats.skew(numbers)]
        assert bells.loc[organ, ["mean", "spread", "skew"]].astype(float).tolist() == pytest.approx(expected)
    for row in inside.itertuples():
        pair = next(name for name, both in PAIRS.items() if {row.inner, row.outer} == set(both))
        area = decoded[f"{row.inner}_px"]
        other = decoded[f"{row.outer}_px"] > 0
        assert row.together == ((area > 0) & other).sum()
        assert row.inside == ((area > 0) & other & (decoded[pair] == area)).sum()


def test_the_real_index_reproduces_the_published_counts(real):
    slices, masked = statistics.read(index=real / "slices.csv.gz")
    table = published.compare(slices)
    assert masked.empty
    known = table[table["here"].notna()]
    assert len(known) == 17
    assert (known["same"] == "same").all()
    assert (table.loc[table["here"].isna(), "same"] == "-").all()
    assert published.missing(slices) == "The table has no masks: only figures of slices, scans and cases are compared."
    holes = annotators.annotated_ranges(slices)["holes"]
    assert holes[holes > 0].index.tolist() == ["case7_day0"]
    assert annotators.suspects(slices)["here"].sum() == 7
    assert (annotators.days(slices)["sizes"] > 1).sum() == 15
