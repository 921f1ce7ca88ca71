"""A small phantom, and a coarse size for the baselines."""

import pytest

import phantom
from phantom.likeness import guesses, measures


@pytest.fixture
def coarse(monkeypatch):
    """Score baselines on a coarse grid, which takes a tenth of the time."""
    monkeypatch.setattr(measures, "SIDE", 40)
    monkeypatch.setattr(measures, "POSITIONS", 48)
    monkeypatch.setattr(guesses, "THRESHOLDS", (0.2, 0.3))


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    """Two tiny cases of two days."""
    return phantom.write(tmp_path_factory.mktemp("a") / "p", cases=2, days=2, slices=24, sizes=[(61, 67)])
