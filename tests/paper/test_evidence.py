"""Readings of one prediction by hand, and planted faults found by a perfect network."""

import numpy as np
import pandas as pd
import pytest

from kitlib.eda import planted
from kitlib.figures import paper
from kitlib.paper import evidence


def test_a_thousandth_on_the_background_ruins_the_accuracy_of_perfect_masks(packed):
    table = evidence.perfect_masks(packed.truth(packed.slices))
    assert table.iloc[0].tolist() == [1.0, 1.0]
    assert table.loc[table.index.str.startswith("background of stomach"), "accuracy"].item() < 0.2
    assert table.loc[table.index.str.startswith("background of large_bowel"), "accuracy"].item() == 1.0
    assert (table["binary accuracy"] == 1.0).all()


def test_accuracy_table_measures_the_background(packed, tmp_path, make_run):
    run = make_run(tmp_path / "run", packed, probabilities=lambda truth: np.maximum(truth, [0.0, 0.2, 0.4]))
    line = evidence.accuracy_by_loss({"any": [run]}, packed).loc["any"]
    assert line["background stomach"] == pytest.approx(0.4, abs=1e-3)
    assert line["background large_bowel"] == line["first largest"] == 0


def test_readings_by_hand():
    rows = [("a", 0, 0, 0), ("b", 3, 4, 4), ("c", 0, 2, 0)]
    counts = pd.DataFrame([(name, *line, "stomach", 16) for name, *line in rows])
    counts.columns = ["id", *evidence.PIXELS, "organ", "pixels"]
    table = evidence.readings(counts)
    assert table.at["pooled over everything", "Dice"] == pytest.approx(6 / 10)
    assert table.at["pooled over everything", "IoU"] == pytest.approx(3 / 7)
    assert table.at["per slice and organ, empty = 0 (the paper's words)", "Dice"] == pytest.approx(0.75 / 3)
    assert table.at["per slice and organ, empty = 0 (the paper's words)", "ceiling"] == pytest.approx(2 / 3)
    assert table.at["per slice and organ, empty = 1", "Dice"] == pytest.approx(1.75 / 3)
    assert table.at["per slice and organ, empty left out", "IoU"] == pytest.approx(0.6 / 2)
    both = table.loc[evidence.BACKGROUND]
    assert both["IoU"] == pytest.approx((3 / 7 + 41 / 45) / 2)
    assert evidence.near(table).at[both.name, "IoU of that Dice"] == pytest.approx(0.7696, abs=1e-4)


def test_planted_faults_are_found_by_a_perfect_network(packed, slices, tmp_path, make_run):
    spoiled, known = planted.plant(slices, 2)
    perfect = make_run(tmp_path / "perfect", packed)
    ranked = evidence.disagreement(evidence.pixel_counts([perfect], packed.remasked(spoiled)), known)
    assert set(ranked["scan"].head(2)) == set(known["scan"])
    assert ranked["recall"].tolist()[:2] == [0.5, 1.0]
    assert evidence.recovered(ranked).startswith("2 of 2 faults")
    paper.ranking(ranked)
