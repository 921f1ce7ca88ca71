import json

import numpy as np
import pandas as pd
import pytest

from kitlib import contest, rle, runs
from kitlib.data import inputs, pipeline, scans
from kitlib.figures import training

SPEC = inputs.InputSpec(32, 24, depth=3)


@pytest.fixture(scope="module")
def packed(slices):
    return pipeline.pack(slices, SPEC)


def test_stack_shows_each_neighbour_and_marks_the_middle(packed, slices):
    figure = training.stack(packed, int(scans.organ_count(slices).to_numpy().argmax()))
    titles = [axis.get_title(loc="left") or axis.get_title() for axis in figure.axes]
    assert len(titles) == 3
    assert "with masks" in titles[1]


def test_the_busiest_slice_is_the_one_whose_smallest_organ_is_largest():
    texts = [("1 900", "1 3", "1 5"), ("1 40", "1 30", "1 50"), ("1 40", "1 900", "1 29"), ("1 999", "1 999", "")]
    table = pd.DataFrame(texts, columns=contest.ORGANS, index=[7, 8, 9, 10])
    assert training.busiest(table) == 1
    assert training.busiest(table.assign(stomach="")) == 3
    assert training.busiest(table.assign(stomach="", small_bowel="")) == 3
    assert training.busiest(table.iloc[:3].assign(large_bowel="", small_bowel="")) == 1


def test_history_draws_both_sides_of_each_measure():
    table = pd.DataFrame({"epoch": [1, 2], "loss": [1, 0.5], "dice": [0, 0.5], "iou": [0, 0.4]})
    table = table.join(table[["loss", "dice", "iou"]].add_prefix("val_"))
    figure = training.history(table)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["Loss", "Dice", "IoU"]
    assert all(len(axis.lines) == 3 for axis in figure.axes)


def test_history_adds_the_host_score_and_marks_its_best_epoch():
    table = pd.DataFrame({"epoch": [1, 2, 3, 4], "loss": 1.0, "dice": 0.0, "iou": 0.0})
    table = table.join(table[["loss", "dice", "iou"]].add_prefix("val_"))
    figure = training.history(table.assign(score=[np.nan, 0.7, np.nan, 0.5]))
    score = figure.axes[3]
    assert score.get_title(loc="left") == "Host score"
    assert score.lines[0].get_ydata()[2] == pytest.approx(0.6)
    assert score.lines[1].get_xdata()[0] == 2


def test_gap_between_both_sides_is_drawn_for_each_run():
    table = pd.DataFrame({"epoch": [1, 2], "dice": [0.1, 0.6], "val_dice": [0.1, 0.4]})
    figure = training.gaps({"one": table, "other": table})
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["one", "other"]
    assert figure.axes[0].get_ylabel() == "Dice"


def test_predictions_show_image_truth_and_prediction(slices, tmp_path):
    runs.write_record(tmp_path, {"parameters": {}, "input_spec": json.loads(SPEC.to_json()), "wall_seconds": 1})
    name = slices["scan"].iloc[0]
    depth = int((slices["scan"] == name).sum())
    runs.write_probabilities(tmp_path, name, np.random.default_rng(0).random((depth, 32, 24, len(contest.ORGANS))))
    figure = training.predictions(runs.read(tmp_path), slices)
    assert len(figure.axes) == 3
    assert figure.axes[0].get_title(loc="left").startswith(name)


def test_folds_are_drawn_with_their_scores_and_mean(slices, tmp_path, finished_run):
    scan = slices["scan"].iloc[0]
    for number in (0, 1):
        finished_run(tmp_path / f"fold{number}", scan, 2, 0.5 + number / 10)
    curves, ends = training.folds(runs.find(tmp_path)).axes
    assert len(curves.lines) == 2
    assert [text.get_text() for text in ends.texts] == ["0.500", "0.600"]
    assert ends.get_title(loc="left") == "Best weights, mean 0.550"


def test_fold_table_scores_each_fold_and_organ(slices, tmp_path, finished_run):
    names = slices.loc[slices["stomach"] != "", "scan"].unique()[:2]
    for number, name in enumerate(names):
        finished_run(tmp_path / f"fold{number}", name, 1, 0.5)
        rows = slices[slices["scan"] == name]
        shape = int(rows["height"].iloc[0]), int(rows["width"].iloc[0])
        truth = [rle.decode_stack(rows[organ].tolist(), shape) for organ in contest.ORGANS]
        truth[2] &= number == 0  # the second fold finds no stomach
        grid = [inputs.prepare_masks(one, SPEC) for one in truth]
        runs.write_probabilities(tmp_path / f"fold{number}", name, np.stack(grid, axis=-1).astype(np.float32))
    table = training.organ_scores(runs.find(tmp_path), slices)
    assert table.index.tolist() == ["fold0", "fold1", "mean"]
    assert table.columns.tolist() == [*contest.ORGANS, "all"]
    assert table.at["fold1", "stomach"] == 0 < table.at["fold0", "stomach"]
    assert table.at["mean", "all"] == pytest.approx((table.at["fold0", "all"] + table.at["fold1", "all"]) / 2)
    words = [text.get_text() for text in training.score_table(table).axes[0].texts]
    assert words[:4] == [f"{value:.3f}" for value in table.iloc[0]]
