"""What the command asks of a training, and what it says of wrong arguments; the training is tested elsewhere."""

import types
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from kitlib import runs
from kitlib.data import boxes, folds, inputs
from kitlib.training import __main__ as command
from kitlib.training import devices, jobs, presets, recipes

SCORE = {"score": 0.5, "dice": 0.4, "hausdorff": 0.6}


@pytest.fixture
def asked(monkeypatch):
    """The arguments of the training, which is not made."""
    found = {}

    def fit(slices, folder, **options):
        print("training begins")
        found.update(options, folder=folder)
        return types.SimpleNamespace(folder=folder, state="stopped", score=lambda: SCORE)

    def cross(slices, folder, **options):
        return [fit(slices, folder / f"fold{fold}", **options) for fold in range(options["count"])]

    monkeypatch.setattr(devices, "use", lambda machine: machine)
    monkeypatch.setattr(command.fit, "fit_fold", fit)
    monkeypatch.setattr(command.jobs, "cross_validate", cross)
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


def test_run_folder_is_said_before_the_training_and_how_to_continue_after_it(competition, tmp_path, asked, capsys):
    command.main([str(competition), *"--held-out later-days --no-figures --epochs 3 --runs".split(), str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert asked["recipe"] == replace(recipes.paper(), epochs=3)
    assert asked["folder"].parent == tmp_path
    assert lines.index(f"run folder {asked['folder']}") < lines.index("training begins")
    assert f"--resume {asked['folder']}" in lines[-1]


@pytest.mark.parametrize(
    ("arguments", "encoder", "size", "boxed", "pretrained"),
    [
        ("", None, (128, 128), False, None),
        ("--size 96x160 --box --weights runs/gate --prior", None, (96, 160), True, Path("runs/gate")),
        ("--preset encoder", "efficientnet-lite0", (128, 192), True, "efficientnet-lite0"),
        (
            "--encoder efficientnetv2-s --size 64 --no-box --weights s.h5",
            *("efficientnetv2-s", (64, 64), False, Path("s.h5")),
        ),
        ("--preset short --axis y", "efficientnet-lite0", (64, 96), True, "efficientnet-lite0"),
    ],
)
def test_an_encoder_brings_its_grid_its_box_and_its_weights(
    competition, slices, tmp_path, asked, capsys, monkeypatch, arguments, encoder, size, boxed, pretrained
):
    monkeypatch.setattr(devices, "detect", lambda *_: devices.Devices(0, "float32", "a laptop"))
    packed = ["--packed", str(tmp_path / "packed")]
    command.main([str(competition), "--no-figures", "--held-out", "later-days", *packed, *arguments.split()])
    assert asked["recipe"].network_options.get("encoder") == encoder
    assert (asked["spec"].height, asked["spec"].width) == size
    assert asked["spec"].box_mm == (boxes.box_for(slices) if boxed else None)
    assert asked["spec"].prior == ("--prior" in arguments)
    assert asked["spec"].picture == ((32, 96) if "--axis y" in arguments else size)  # no scan has more slices
    assert (asked["pretrained"], asked["packed"]) == (pretrained, tmp_path / "packed")
    said = capsys.readouterr().out
    assert f"{encoder or 'U-Net'}, {size[0]} x {size[1]} pixels, {'box_mm=(' if boxed else 'whole slices'}" in said
    assert f"{tmp_path / 'packed'} will take about" in said


@pytest.mark.parametrize(("preset", "size"), [("volume", (192, 288)), ("volume_short", (64, 96))])
def test_a_preset_for_volumes_brings_depth_grid_and_box(competition, slices, asked, capsys, preset, size):
    command.main([str(competition), "--no-figures", "--held-out", "later-days", "--preset", preset])
    assert asked["spec"] == inputs.InputSpec(*size, depth=32, volume=True, box_mm=boxes.box_for(slices))
    assert asked["recipe"] == presets.choose(preset)
    assert f"SegResNet, {size[0]} x {size[1]} pixels, box_mm=(" in capsys.readouterr().out


def test_folds_are_a_cross_validation(competition, tmp_path, asked, capsys):
    command.main([str(competition), *"--folds 3 --no-figures --resume".split(), str(tmp_path / "five")])
    assert asked["count"] == 3
    assert "held_out" not in asked
    said = capsys.readouterr().out
    assert said.count("host score 0.5000") == 3
    assert f"to continue, run the same command with --resume {tmp_path / 'five'}" in said


def test_a_role_changes_the_recipe_and_shares_the_folds_of_the_other(competition, tmp_path, asked):
    other = tmp_path / "gates"
    line = f"--role segmenter --preset short --epochs 2 --folds 3 --folds-of {other} --no-figures --runs {tmp_path}"
    command.main([str(competition), *line.split()])
    assert asked["recipe"] == replace(recipes.with_role(recipes.short(), "segmenter"), epochs=2)
    assert (asked["count"], asked["folds_of"]) == (3, other)


def test_a_score_with_the_presence_of_the_truth_says_so(competition, tmp_path, asked, capsys, monkeypatch):
    monkeypatch.setitem(SCORE, "evaluated_with", "presence of the truth")
    command.main([str(competition), *"--held-out later-days --no-figures --runs".split(), str(tmp_path)])
    assert "Hausdorff 0.6000, with the presence of the truth\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--folds-of runs/gate", "--folds-of needs --folds"),
        ("--role segmenter --submission all.csv", "--submission: a segmenter alone finds organs on every slice"),
        ("--role gates", "--role: invalid choice: 'gates'"),
        (
            "--held-out case999_day0",
            r"--held-out case999_day0 is not a scan of the data.*later-days.*such as case\d+_day\d+, ",
        ),
        ("--epochs 0", "--epochs: '0' is not a whole number of 1 or more"),
        ("--epochs ten", "--epochs: 'ten' is not a whole number"),
        ("--folds 2.5", "--folds: '2.5' is not a whole number"),
        ("--folds 1", "--folds: '1' is not a whole number of 2 or more"),
        ("--size 100000", "--size: '100000' is not a whole number from 1 to 2048"),
        ("--size 256x", "--size: '' is not a whole number from 1 to 2048"),
        ("--size 256x384x5", "--size: '384x5' is not a whole number from 1 to 2048"),
        ("--preset encoder --size 96x144", "--size 96x144: efficientnet-lite0 needs multiples of 32, such as 256x384"),
        ("--preset volume --size 64x100", "--size 64x100: SegResNet needs multiples of 8, such as 256x384"),
        ("--preset strong --encoder efficientnetv2-s", "encoder is 'efficientnetv2-s', but the preset is 'strong'"),
        ("--encoder resnet", "--encoder: invalid choice: 'resnet'"),
        ("--packed {root}/train.csv", "train.csv cannot be written to"),
        ("--seed 4294967296", "--seed: '4294967296' is not a whole number from 0 to 4294967295"),
        ("--seed 1e3", "--seed: '1e3' is not"),
        ("--resume {root}/train.csv", "train.csv cannot be written to .Not a directory.; name another folder"),
        ("--submission {root}/train.csv/case.csv", "train.csv cannot be written to"),
        ("--size -64", "--size: expected one argument|--size: '-64' is not"),
        ("--cards two", "--cards: 'two' is not a whole number"),
        ("--time-limit 1h", "--time-limit: '1h' is not a positive number of seconds"),
        ("--time-limit 0", "--time-limit: '0' is not a positive"),
        ("--preset papr", "--preset: invalid choice: 'papr'"),
        ("--folds 5 --held-out later-days", "--held-out: not allowed with argument --folds"),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_trained(competition, asked, capsys, arguments, words):
    import re

    with pytest.raises(SystemExit) as ended:
        command.main([str(competition), *arguments.format(root=competition).split()])
    assert ended.value.code == 2
    assert re.search(words, capsys.readouterr().err.splitlines()[-1])
    assert not asked


def test_a_submission_that_names_a_folder_goes_into_it(competition, tmp_path, asked, monkeypatch):
    written = []
    monkeypatch.setattr(command, "_submit", lambda found, slices, path: written.append(path))
    command.main([str(competition), *"--held-out later-days --no-figures --submission".split(), str(tmp_path)])
    assert written == [tmp_path / "submission.csv"]


@pytest.mark.parametrize("which", ["--held-out later-days", "--folds 2"])
@pytest.mark.parametrize("place", ["paper", "paper/fold0", "paper/faults/fold1"])
def test_the_folder_of_all_runs_is_refused_by_name(competition, tmp_path, capsys, which, place):
    runs.write_record(tmp_path / "runs" / place, {})
    with pytest.raises(SystemExit):
        command.main([str(competition), *which.split(), "--resume", str(tmp_path / "runs")])
    assert "runs is a folder of runs (paper)" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["paper"]


@pytest.mark.parametrize(("which", "parts"), [("--held-out later-days", 1), ("--folds 2", 1), ("--folds 2", 2)])
def test_a_full_disk_is_found_before_the_training(
    competition, slices, tmp_path, asked, capsys, monkeypatch, which, parts
):
    """Two GPUs, which train side by side, keep packed scans on the disk as well."""
    monkeypatch.setattr(jobs, "trainings_at_once", lambda machine, count: parts)
    monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(free=10**7))
    with pytest.raises(SystemExit):
        command.main([str(competition), *which.split(), "--size", "2048", "--resume", str(tmp_path / "new")])
    needed = folds.later_days(slices).sum() if "later" in which else parts * len(slices)
    assert f"new will take about {needed * 2048**2 * 3 / 1e9 + 0.1:.1f} GB, and 0.0 GB" in capsys.readouterr().err
    assert not asked


def test_data_that_are_not_there_are_named(tmp_path, asked, capsys):
    with pytest.raises(SystemExit):
        command.main([str(tmp_path / "nothing")])
    assert str(tmp_path / "nothing") in capsys.readouterr().err
