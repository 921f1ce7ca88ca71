import json
import shutil

import numpy as np
import pytest

from kitlib import contest, rle, runs
from kitlib.data import inputs
from kitlib.figures import __main__ as figures_run

SPEC = inputs.InputSpec(32, 24, depth=3)


def finish(folder, scan, depth, score):
    record = {"parameters": {}, "input_spec": json.loads(SPEC.to_json()), "wall_seconds": 1}
    runs.write_record(folder, record)
    runs.write_text(folder / "score.json", json.dumps({"score": score}))
    (folder / "model.keras").write_bytes(b"")
    row = dict.fromkeys(("loss", "dice", "iou", "val_loss", "val_dice", "val_iou", "score"), 0.1)
    runs.write_history(folder, [{"epoch": epoch, **row} for epoch in (1, 2)])
    runs.write_probabilities(folder, scan, np.zeros((depth, 32, 24, len(contest.ORGANS))))


def test_pictures_are_drawn_into_each_run_and_beside_the_folds(competition, slices, tmp_path):
    for number, scan in enumerate(slices["scan"].unique()[:2]):
        finish(tmp_path / f"fold{number}", scan, int((slices["scan"] == scan).sum()), 0.5 + number / 10)
    drawn = {path.relative_to(tmp_path).as_posix() for path in figures_run.draw(tmp_path, competition)}
    each = {f"fold{number}/figures/{name}.png" for number in (0, 1) for name in ("history", "predictions")}
    assert drawn == each | {"figures/folds.png", "figures/fold_table.png"}
    assert all((tmp_path / path).stat().st_size > 1000 for path in drawn)


def test_runs_without_out_of_fold_probabilities_are_named_and_left_out(competition, slices, tmp_path, capsys):
    for number, scan in enumerate(slices["scan"].unique()[:2]):
        finish(tmp_path / f"fold{number}", scan, int((slices["scan"] == scan).sum()), 0.5)
        shutil.rmtree(tmp_path / f"fold{number}/oof")
    drawn = {path.name for path in figures_run.draw(tmp_path, competition)}
    assert drawn == {"history.png", "folds.png"}
    assert capsys.readouterr().out.count("no predictions are drawn") == 2


def test_folds_are_drawn_with_their_scores_and_mean(slices, tmp_path):
    scan = slices["scan"].iloc[0]
    for number in (0, 1):
        finish(tmp_path / f"fold{number}", scan, 2, 0.5 + number / 10)
    curves, ends = figures_run.folds(runs.find(tmp_path)).axes
    assert len(curves.lines) == 2
    assert [text.get_text() for text in ends.texts] == ["0.500", "0.600"]
    assert ends.get_title(loc="left") == "Best weights, mean 0.550"


def test_fold_table_scores_each_fold_and_organ(slices, tmp_path):
    names = slices.loc[slices["stomach"] != "", "scan"].unique()[:2]
    for number, name in enumerate(names):
        finish(tmp_path / f"fold{number}", name, 1, 0.5)
        rows = slices[slices["scan"] == name]
        shape = int(rows["height"].iloc[0]), int(rows["width"].iloc[0])
        truth = [rle.decode_stack(rows[organ].tolist(), shape) for organ in contest.ORGANS]
        truth[2] &= number == 0  # the second fold finds no stomach
        grid = [inputs.prepare_masks(one, SPEC) for one in truth]
        runs.write_probabilities(tmp_path / f"fold{number}", name, np.stack(grid, axis=-1).astype(np.float32))
    table = figures_run.organ_scores(runs.find(tmp_path), slices)
    assert table.index.tolist() == ["fold0", "fold1", "mean"]
    assert table.columns.tolist() == [*contest.ORGANS, "all"]
    assert table.at["fold1", "stomach"] == 0 < table.at["fold0", "stomach"]
    assert table.at["mean", "all"] == pytest.approx((table.at["fold0", "all"] + table.at["fold1", "all"]) / 2)
    words = [text.get_text() for text in figures_run.fold_table(table).axes[0].texts]
    assert words[:4] == [f"{value:.3f}" for value in table.iloc[0]]


def test_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run with a model"):
        figures_run.draw(tmp_path)
