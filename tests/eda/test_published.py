"""The comparison with the published figures never claims too much."""

import numpy as np
import pandas as pd
import pytest

from kitlib.contest import ORGANS
from kitlib.eda import published
from tests.eda.test_statistics import slices_of


@pytest.fixture(scope="module")
def full():
    """A table of the full training set's size: 85 cases with the right numbers of scans, and made-up masks."""
    counts = np.repeat([1, 2, 3, 4, 5, 6], [9, 8, 45, 2, 20, 1])
    scans = [(case, day) for case, days in enumerate(counts, start=1) for day in range(days)]
    parts = []
    for number, (case, day) in enumerate(scans):
        depth = 80 if number < 15 else 144
        part = pd.DataFrame({"slice": np.arange(1, depth + 1)}).assign(case=case, day=day, scan=f"case{case}_day{day}")
        parts.append(part.assign(height=276 if depth == 80 else 266, width=276 if depth == 80 else 266, spacing_mm=1.5))
    table = pd.concat(parts, ignore_index=True)
    table["id"] = table["scan"] + "_slice_" + table["slice"].astype(str).str.zfill(4)
    masks = np.where(table.index < 16_590, "1 5", "")
    return table.assign(path="", large_bowel=masks, small_bowel="", stomach="")


def test_a_part_of_the_data_is_never_called_the_same():
    slices = slices_of({"case1_day0": ["l", "ls"]})
    table = published.compare(slices)
    assert set(table["same"]) == {"-"}
    assert published.missing(slices).startswith("2 of 38,496 slices in 1 of 274 scans")


def test_the_full_set_is_compared_figure_by_figure(full):
    table = published.compare(full)
    assert published.is_complete(full)
    assert published.missing(full) == "The full training set is attached: every figure is compared."
    assert (
        table.loc[["slices", "cases", "scans", "slices with a mask", "cases scanned 5 times"], "same"].eq("same").all()
    )
    assert table.at["slices of 276 x 276", "same"] == "same"
    assert table.loc[["masks of the stomach", "slices of 310 x 360", "all three organs"], "same"].eq("different").all()


def test_one_slice_less_ends_the_comparison(full):
    assert set(published.compare(full.iloc[:-1])["same"]) == {"-"}


def test_an_index_compares_what_it_knows(full):
    index = full.drop(columns=list(ORGANS)).assign(has_mask=full["large_bowel"] != "")
    table = published.compare(index)
    assert table.at["slices with a mask", "same"] == "same"
    assert pd.isna(table.at["masks", "here"])
    assert table.at["masks", "same"] == "-"
    bare = published.compare(index.drop(columns="has_mask"))
    assert bare.at["slices with a mask", "same"] == "-"
    assert bare.at["slices", "same"] == "same"


def test_published_figures_agree_with_each_other():
    figure = published.compare(slices_of({"case1_day0": [""]}))["published"]
    assert figure["slices with a mask"] + figure["slices without a mask"] == figure["slices"]
    organs = figure[["masks of the large bowel", "masks of the small bowel", "masks of the stomach"]].sum()
    assert organs == figure["masks"]
    numbers = figure[["exactly one organ", "exactly two organs", "all three organs"]]
    assert numbers.sum() == figure["slices with a mask"]
    assert (numbers * [1, 2, 3]).sum() == figure["masks"]
    assert figure["only large and small bowel"] + figure["all three organs"] == figure["large and small bowel together"]


def test_claims_are_decided_by_the_data():
    slices = slices_of({"case1_day0": ["t", "t", "lt", "l", "l", "s"], "case1_day1": ["", "t", "", "l", "", "s"]})
    claims = published.claims(slices)
    assert claims.at["the bells peak in the order stomach, large, small bowel", "holds"] == "yes"
    assert claims.at["some large-bowel masks lie completely inside small bowel", "holds"] == "no"
    inside = slices.assign(large_bowel=["5 2"] * 12, small_bowel=["5 4"] * 12)
    assert published.claims(inside).at["some large-bowel masks lie completely inside small bowel", "here"] == "12 masks"


def test_decisions_name_their_figures():
    slices = slices_of({"case7_day0": ["", "ls"], "case7_day1": ["", ""]})
    reasons = published.decisions(slices)["because"]
    assert reasons["three sigmoid masks, not one label per pixel"] == "organs overlap on 1 slices"
    assert reasons["folds grouped by case"] == "cases have 2.0 scans on average, 2 at most"
    assert reasons["a gate for empty slices"] == "75% of the slices have no mask"
    assert reasons["suspects left out"] == "1 of the hosts' 12 are here"
    assert "scaling by percentiles of the scan" not in reasons


def test_a_phantom_has_nothing_to_compare():
    assert published.missing(pd.DataFrame(), synthetic=True).startswith("This is a phantom")
