import numpy as np
import pandas as pd
import pytest

from kitlib import contest
from kitlib.data import folds, scans


def table(cases, per_case=6, seed=0):
    """A made-up table of slices: one day per case, organs drawn at random."""
    rng = np.random.default_rng(seed)
    case = np.repeat(np.arange(cases), per_case)
    organs = {organ: np.where(rng.random(case.size) > 0.5, "1 1", "") for organ in contest.ORGANS}
    return pd.DataFrame({"case": case, "day": 0, "scan": [f"case{number}_day0" for number in case], **organs})


def test_folds_keep_cases_together_and_organs_even():
    slices = table(20, per_case=30)
    fold = folds.by_case(slices)
    assert (fold.groupby(slices["case"]).nunique() == 1).all()
    assert set(fold) == set(range(5))
    shares = pd.crosstab(fold, scans.organ_count(slices), normalize="index")
    assert shares.std().max() < 0.05


def test_fewer_cases_than_folds_is_an_error_that_names_both():
    with pytest.raises(ValueError, match="5 folds need at least 5 cases, got 4"):
        folds.by_case(table(4))


def test_later_days_hold_out_whole_cases_and_last_days():
    days = {1: [0], 2: [0, 5], 3: [0, 5, 9], 4: [0, 2, 4, 6, 8, 9], 5: [3, 7]}
    slices = pd.DataFrame([(case, day) for case, some in days.items() for day in some for _ in range(3)])
    slices.columns = ["case", "day"]
    held = slices[folds.later_days(slices)].drop_duplicates().groupby("case")["day"].apply(list).to_dict()
    assert held == {2: [5], 3: [0, 5, 9], 4: [8, 9], 5: [7]}


def test_days_of_a_case_may_only_be_held_out_after_those_trained_on(slices):
    case = slices.groupby("case")["day"].nunique().idxmax()
    days = sorted(slices.loc[slices["case"] == case, "day"].unique())
    assert len(days) > 1
    held_out = (slices["case"] == case) & (slices["day"] == days[0])
    with pytest.raises(ValueError, match=f"case {case}: day {days[0]} is in the validation set and the later day"):
        folds.split(slices, held_out)
    train, val = folds.split(slices, (slices["case"] == case) & (slices["day"] == days[-1]))
    assert set(train["scan"]).isdisjoint(val["scan"])


def test_a_scan_in_both_sets_and_an_empty_set_are_refused(slices):
    with pytest.raises(ValueError, match="is in both the training set and the validation set"):
        folds.split(slices, slices["slice"] == 1)
    with pytest.raises(ValueError, match="0 validation slices"):
        folds.split(slices, slices["slice"] < 0)


def test_suspects_are_not_trained_on_but_validated_on(slices):
    spoiled = slices.assign(scan=slices["scan"].replace(slices["scan"].iloc[-1], contest.SUSPECT_SCANS[0]))
    held_out = spoiled["case"] == spoiled["case"].iloc[0]
    train, _ = folds.split(spoiled, held_out, contest.SUSPECT_SCANS)
    assert contest.SUSPECT_SCANS[0] not in set(train["scan"])
    _, val = folds.split(spoiled, ~held_out, contest.SUSPECT_SCANS)
    assert contest.SUSPECT_SCANS[0] in set(val["scan"])


def test_marks_that_are_no_marks_of_these_slices_are_refused(slices):
    fold = folds.by_case(slices, 2)
    for wrong in (fold, fold.astype(float), fold.astype(str), list("no" * len(fold))):
        with pytest.raises(ValueError, match=r"held_out holds .* values; give True or False for each slice"):
            folds.split(slices, wrong)
    for wrong in ((fold == 0)[1:], (fold == 0).to_numpy()[:, None], []):
        with pytest.raises(ValueError, match="held_out"):
            folds.split(slices, wrong)
    with pytest.raises(ValueError, match="other row labels than the slices"):
        folds.split(slices, (fold == 0)[::-1])
    folds.split(slices, (fold == 0).to_numpy())
    folds.split(slices, (fold == 0).tolist())


def test_share_of_empty_slices_is_drawn_alike_for_a_seed(slices):
    held_out = slices["case"] == slices["case"].iloc[0]
    some, half, none = (folds.split(slices, held_out, empty_share=share)[0] for share in (1.0, 0.5, 0.0))
    assert some["id"].equals(slices.loc[~held_out, "id"])
    assert none["id"].equals(some.loc[scans.organ_count(some) > 0, "id"])
    assert len(none) < len(half) < len(some)
    assert half.equals(folds.split(slices, held_out, empty_share=0.5)[0])
    assert not half.equals(folds.split(slices, held_out, empty_share=0.5, seed=1)[0])


def test_folds_are_read_from_any_csv_and_lines_that_are_none_are_named(tmp_path):
    path = tmp_path / "folds.csv"
    path.write_bytes("\ufefffold;case\r\n1;7\r\n0;12\r\n".encode("utf-16"))
    assert folds.read(path).to_dict() == {7: 1, 12: 0}
    path.write_text("case,fold\n7,1\n12,x\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"folds\.csv, line 3: the row is '12,x'; expected two whole numbers"):
        folds.read(path)


def test_two_tables_of_the_same_folds_may_have_any_order_and_others_are_named(tmp_path):
    one, other = tmp_path / "one.csv", tmp_path / "other.csv"
    one.write_text("case,fold\n7,0\n9,1\n", encoding="utf-8")
    other.write_text("case,fold\n9,1\n7,0\n", encoding="utf-8")
    folds.check_same(one, other)
    for text, words in (("7,0\n9,2\n", "case 9 is in fold 1 of .*one.csv and in fold 2"), ("7,0\n", "and in no fold")):
        other.write_text(f"case,fold\n{text}", encoding="utf-8")
        with pytest.raises(ValueError, match=f"{words} of .*other.csv"):
            folds.check_same(one, other)
