"""The plan of the synthetic competition."""

import pandas as pd
import pytest

from kitlib.eda import planted
from phantom import cohort


def test_six_cases_hold_every_common_size_and_a_case_that_changes_it():
    plan = cohort.plan(6)
    sizes = {(scan.height, scan.width, scan.slices) for scan in plan if not scan.test}
    assert sizes == {(266, 266, 144), (310, 360, 144), (276, 276, 80)}
    per_case = pd.DataFrame([(scan.case, scan.height) for scan in plan], columns=["case", "height"]).groupby("case")
    assert (per_case["height"].nunique() == 2).sum() == 1
    assert per_case.size().min() >= 2


def test_rare_size_comes_with_twelve_cases():
    assert (234, 234) not in {(scan.height, scan.width) for scan in cohort.plan(11)}
    assert (234, 234) in {(scan.height, scan.width) for scan in cohort.plan(12)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cases": 1}, "cases=1"),
        ({"cases": 160}, "cases=160: must be from 2 to 159"),
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
        cohort.plan(**options)


@pytest.mark.parametrize("options", [{"cases": 2.5}, {"slices": 7.0}, {"sizes": [(31.0, 47)]}])
def test_half_a_case_or_slice_is_refused_by_name(options):
    with pytest.raises(TypeError, match=f"{next(iter(options))}=.*whole number"):
        cohort.plan(**options)


@pytest.mark.parametrize("seed", range(4))
def test_faults_are_of_all_kinds_and_none_is_on_the_empty_scan(seed):
    plan = cohort.plan(4, seed, faults=5, empty_scan=True)
    spoilt = [scan for scan in plan if scan.fault]
    assert sorted(scan.fault for scan in spoilt) == sorted(planted.FAULTS)
    assert not any(scan.empty or scan.test for scan in spoilt)
    training = sum(not scan.test for scan in plan)
    with pytest.raises(ValueError, match=f"faults={training}: must be at most {training - 1}"):
        cohort.plan(4, seed, faults=training, empty_scan=True)


def test_short_fields_are_for_short_abdomens():
    plan = cohort.plan(12, seed=1)
    low, all_of_them = ([one.spread[0] for one in plan if one.slices in kind] for kind in ((80,), (80, 144)))
    assert min(low) > 0.65
    assert min(all_of_them) < 0.2
