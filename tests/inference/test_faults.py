import pytest

from kitlib.inference.faults import Faults


def test_strict_faults_are_raised_and_name_where():
    with pytest.raises(ValueError, match=r"slice_0001\.png: it is cut off"):
        Faults().meet("slice_0001.png", "it is cut off", "filled")


def test_strict_faults_keep_an_error_that_names_where():
    with pytest.raises(FileNotFoundError, match="run7"), Faults().survive("run7", "left out"):
        raise FileNotFoundError("run7 has no model.keras")
    with pytest.raises(ValueError, match="run7: KeyError"), Faults().survive("run7", "left out"):
        raise KeyError("input_spec")


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
