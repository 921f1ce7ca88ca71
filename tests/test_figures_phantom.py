"""The pictures of the synthetic competition."""

import pytest

from kitlib import figures_phantom, scans


def test_slices_come_from_as_many_scans_as_there_are(slices):
    chosen = figures_phantom.choose(slices, 4)
    assert (scans.organ_count(chosen) > 0).all()
    marked = slices[scans.organ_count(slices) > 0]
    assert chosen["scan"].nunique() == min(4, marked["scan"].nunique())


def test_both_pictures_are_written_small(competition, tmp_path):
    paths = figures_phantom.draw(competition, tmp_path)
    assert [path.name for path in paths] == list(figures_phantom.NAMES)
    assert all(5_000 < path.stat().st_size < 150_000 for path in paths)


def test_folder_that_is_no_phantom_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a phantom"):
        figures_phantom.draw(tmp_path, tmp_path)
