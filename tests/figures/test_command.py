"""The command `python -m kitlib.figures`."""

import re
import shutil

import pytest

from kitlib.figures import __main__ as command


def test_pictures_are_drawn_into_each_run_and_beside_the_folds(competition, slices, tmp_path, finished_run):
    for number, scan in enumerate(slices["scan"].unique()[:2]):
        finished_run(tmp_path / f"fold{number}", scan, int((slices["scan"] == scan).sum()), 0.5 + number / 10)
    drawn = {path.relative_to(tmp_path).as_posix() for path in command.draw(tmp_path, competition)}
    each = {f"fold{number}/figures/{name}.png" for number in (0, 1) for name in ("history", "predictions")}
    assert drawn == each | {"figures/folds.png", "figures/fold_table.png"}
    assert all((tmp_path / path).stat().st_size > 1000 for path in drawn)


def test_runs_without_out_of_fold_probabilities_are_named_and_left_out(
    competition, slices, tmp_path, capsys, finished_run
):
    for number, scan in enumerate(slices["scan"].unique()[:2]):
        finished_run(tmp_path / f"fold{number}", scan, int((slices["scan"] == scan).sum()), 0.5)
        shutil.rmtree(tmp_path / f"fold{number}/oof")
    drawn = {path.name for path in command.draw(tmp_path, competition)}
    assert drawn == {"history.png", "folds.png"}
    assert capsys.readouterr().out.count("predictions are not drawn") == 2


def test_folder_without_a_run_is_named(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="has no run with a model"):
        command.draw(tmp_path)
    assert command.main([str(tmp_path / "nosuch")]) == 2
    assert "nosuch has no run with a model; train first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("sub.csv", "sub.csv is a submission: add --viewer, or name a run folder"),
        ("sub.csv {root} --viewer --scans 0", "--scans 0: expected a whole number of 1 or more"),
        ("{root}/sab.csv {root} --viewer --truth {root}/train.csv", "sab.csv does not exist; .* holds .*train.csv"),
    ],
)
def test_wrong_arguments_are_named(competition, capsys, arguments, words):
    assert command.main(arguments.format(root=competition).split()) == 2
    assert re.search(words, capsys.readouterr().err.splitlines()[-1])
