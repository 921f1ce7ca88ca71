"""The pictures of the synthetic competition."""

import shutil

import pytest

from kitlib.data import scans
from phantom import figures


def test_slices_come_from_as_many_scans_as_there_are(slices):
    chosen = figures.spread(slices, 4)
    assert (scans.organ_count(chosen) > 0).all()
    marked = slices[scans.organ_count(slices) > 0]
    assert chosen["scan"].nunique() == min(4, marked["scan"].nunique())


def test_both_pictures_are_written_small(competition, tmp_path):
    paths = figures.draw(competition, tmp_path)
    assert [path.name for path in paths] == list(figures.NAMES)
    assert all(5_000 < path.stat().st_size < 150_000 for path in paths)


def test_folder_that_is_no_phantom_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a phantom"):
        figures.draw(tmp_path, tmp_path)


def test_pictures_say_that_they_are_synthetic(slices):
    for figure in (figures.six_slices(slices, 2), figures.sheet(slices, 2, 1)):
        assert "not of patients" in figure.get_suptitle()


def test_two_roots_lie_mixed_on_one_sheet_with_its_answer(slices):
    other = slices[slices["case"] != slices["case"].iloc[0]]
    figure, answer = figures.mixed_sheet(slices, other, seed=1, count=3)
    assert [axis.get_title("left") for axis in figure.axes[:6]] == list("123456")
    assert sorted(answer["root"]) == [0, 0, 0, 1, 1, 1]
    assert answer["root"].tolist() not in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])
    assert set(answer.loc[answer["root"] == 0, "id"]) == set(figures.spread(slices, 3)["id"])


def test_slices_of_patients_are_drawn_outside_the_checkout_alone(competition, tmp_path, capsys):
    real = tmp_path / "real"
    shutil.copytree(competition, real)
    (real / "phantom.json").unlink()
    inside = figures.CHECKOUT / "data" / "pictures"
    before = set(inside.iterdir())
    for folder in (inside, tmp_path / "other"):
        (tmp_path / "other" / ".git").mkdir(parents=True, exist_ok=True)
        assert figures.main([str(competition), str(folder), "--beside", str(real)]) == 2
        assert "is not a phantom" in capsys.readouterr().err
    assert set(inside.iterdir()) == before
    assert figures.main([str(competition), str(tmp_path / "out"), "--beside", str(real)]) == 0
    assert str(real) in capsys.readouterr().out
    assert (tmp_path / "out" / figures.MIXED).is_file()
