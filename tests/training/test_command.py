"""What the command line asks of a training; the training itself is tested elsewhere."""

import types

import pandas as pd
import pytest

from kitlib import training
from kitlib.data import folds
from kitlib.training import __main__ as command
from kitlib.training import devices

SCORE = {"score": 0.5, "dice": 0.4, "hausdorff": 0.6}


@pytest.fixture
def asked(monkeypatch):
    """What `fit_fold` was called with, and what had been printed by then."""
    found = {}

    def fit(slices, folder, **options):
        print("training begins")
        found.update(options, folder=folder)
        return types.SimpleNamespace(folder=folder, state="stopped", score=lambda: SCORE)

    monkeypatch.setattr(devices, "use", lambda devices: devices)
    monkeypatch.setattr(training, "fit_fold", fit)
    return found


def test_held_out_is_a_case_the_later_days_or_a_fold(competition, slices, asked, monkeypatch):
    monkeypatch.setattr(folds, "by_case", lambda slices: slices["case"] % 3)
    for named, expected in {
        slices["scan"].iloc[0]: slices["case"] == slices["case"].iloc[0],
        "later-days": folds.later_days(slices),
        None: slices["case"] % 3 == 0,
    }.items():
        choice = ["--held-out", named] if named else []
        command.main([str(competition), *choice, "--no-figures"])
        pd.testing.assert_series_equal(asked["held_out"], expected, check_names=False)
    assert folds.later_days(slices).groupby(slices["case"]).any().mean() > 0.5


def test_unknown_scan_is_explained_with_the_choices(competition, asked):
    with pytest.raises(SystemExit, match=r"no scan case999_day0 among case\d+_day\d+, .*later-days"):
        command.main([str(competition), "--held-out", "case999_day0"])
    assert not asked


def test_run_folder_is_said_before_the_training_and_how_to_go_on_after_it(competition, tmp_path, asked, capsys):
    command.main([str(competition), *"--held-out later-days --no-figures --epochs 3 --runs".split(), str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert asked["epochs"] == 3
    assert asked["folder"].parent == tmp_path
    assert lines.index(f"run folder {asked['folder']}") < lines.index("training begins")
    assert f"--resume {asked['folder']}" in lines[-1]
