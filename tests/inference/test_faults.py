import pytest

from kitlib.files import Problem
from kitlib.inference.faults import Faults


def test_strict_faults_are_raised_and_name_where():
    with pytest.raises(ValueError, match=r"slice_0001\.png: it is cut off"):
        Faults().meet("slice_0001.png", "it is cut off", "filled")


def test_strict_faults_keep_an_error_that_names_where():
    with pytest.raises(FileNotFoundError, match="run7"), Faults().survive("run7", "left out"):
        raise FileNotFoundError("run7 has no model.keras")
    with pytest.raises(ValueError, match="run7: KeyError"), Faults().survive("run7", "left out"):
        raise KeyError("input_spec")


def test_where_is_told_by_the_error_and_not_by_its_words():
    with pytest.raises(Problem, match=r"^case1_day0: the words of case1_day0"), Faults().survive("case1_day0", "none"):
        raise ValueError("the words of case1_day0")
    with pytest.raises(Problem, match=r"^a\.png: is cut off$"), Faults().survive("case1_day0", "none"):
        raise Problem("a.png", "is cut off")
    faults = Faults(strict=False)
    for where in ("a.png", "case1_day0"):
        with faults.survive(where, "none"):
            raise Problem("a.png", "is cut off")
    assert [fault for _, fault, _ in faults.entries] == ["is cut off", "a.png: is cut off"]


def test_others_are_written_down_in_order():
    faults = Faults(strict=False)
    faults.meet("a", "first\n  line", "one")
    with faults.survive("b", "other"):
        raise OSError("second")
    assert faults.table().to_numpy().tolist() == [["a", "first line", "one"], ["b", "OSError: second", "other"]]
    assert len(faults) == 2
    assert str(faults).splitlines() == ["2 faults", "a: first line (one)", "b: OSError: second (other)"]
    assert str(Faults()) == "no faults"


def test_interrupts_pass_through():
    with pytest.raises(KeyboardInterrupt), Faults(strict=False).survive("a", "none"):
        raise KeyboardInterrupt
