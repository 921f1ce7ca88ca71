"""Pictures of a score: they hold what they are said to hold."""

from dataclasses import replace

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest

import phantom
from kitlib import contest
from kitlib.data import scans
from kitlib.figures import scoring
from kitlib.postprocess import PLAIN, Settings, intervals, rescoring
from kitlib.scoring import host, ledger, metric
from phantom import standin


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Slices, truth and stand-in rows of a very small phantom."""
    root = phantom.write(tmp_path_factory.mktemp("score") / "phantom", cases=3, days=1, slices=14, sizes=((60, 72),))
    slices = scans.read(root)
    truth = scans.rows(slices)
    made = standin.StandIn(slices, 48, 48)
    return slices, truth, made, rescoring.rows(made, slices, PLAIN)


def draw(figure):
    """Force everything to be laid out."""
    figure.canvas.draw()
    return figure


def test_conventions_show_one_bar_and_number_per_convention(scored):
    slices, truth, _, predicted = scored
    panel = metric.panel(truth, predicted, slices)
    axis = draw(scoring.conventions(panel)).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == list(panel.index)
    assert {text.get_text() for text in axis.texts} == {f"{value:.3f}" for value in panel["value"]}


def test_the_worst_pair_is_marked_where_it_lies(scored):
    slices, truth, _, predicted = scored
    scores = metric.score(truth, predicted, slices).scans
    pick = scores[scores["hausdorff"] < 1].sort_values("hausdorff").tail(1)
    figure = draw(scoring.worst(truth, predicted, slices, pick))
    assert f"{pick['hausdorff'].iloc[0]:.3f}" in figure.axes[0].get_title(loc="left")
    left, right = ([line.get_xydata()[0] for line in axis.lines if len(line.get_xydata()) == 1] for axis in figure.axes)
    channel = contest.ORGANS.index(pick["organ"].iloc[0])
    part = slices[slices["scan"] == pick["scan"].iloc[0]]
    pair = host.farthest(*(scans.masks(scans.with_masks(part, rows))[..., channel] for rows in (truth, predicted)))
    for drawn in (left, right):
        np.testing.assert_array_equal(drawn, [pair.source[:0:-1], pair.target[:0:-1]])


def test_an_organ_that_is_missing_altogether_says_so(scored):
    slices, truth, _, predicted = scored
    blank = predicted.assign(predicted="")
    pick = pd.DataFrame({"scan": slices["scan"].iloc[:1], "organ": ["large_bowel"]})
    figure = draw(scoring.worst(truth, blank, slices, pick))
    assert "the prediction is empty" in figure.axes[0].get_title(loc="left")


def test_no_volume_to_draw_says_so(scored):
    slices, truth, _, predicted = scored
    picks = pd.DataFrame({"scan": [], "organ": []})
    figure = draw(scoring.worst(truth, predicted, slices, picks))
    assert "no volume in which truth and prediction both" in figure.axes[0].get_title(loc="left")


def test_the_waterfall_leads_from_the_score_to_one(scored):
    slices, truth, _, predicted = scored
    found = ledger.measure(truth, predicted, slices)
    axis = draw(scoring.waterfall(found.table, found.score, least=0.005)).axes[0]
    names = [label.get_text() for label in axis.get_yticklabels()]
    sums = found.table.groupby("error")["points"].sum()
    assert names[0] == f"host score {found.score:.3f}"
    assert set(names[1:]) == {*sums[sums >= 0.005].index, "all others"}
    last = axis.patches[-1]
    assert last.get_x() + last.get_width() == pytest.approx(1, abs=1e-9)
    first = axis.patches[1]
    assert first.get_x() == pytest.approx(found.score)


def test_the_waterfall_of_a_perfect_prediction_is_one_bar(scored):
    slices, truth, _, _ = scored
    found = ledger.measure(truth, truth, slices)
    axis = draw(scoring.waterfall(found.table, found.score)).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["host score 1.000"]


def test_tuning_steps_fill_what_was_kept():
    steps = pd.DataFrame(
        {
            "setting": ["threshold", "stop"],
            "organ": ["stomach", "bowels"],
            "value": ["0.4", "mean"],
            "gain": [0.01, -0.01],
            "low": [0.005, -0.02],
            "high": [0.02, 0.001],
            "kept": [True, False],
        }
    )
    axis = draw(scoring.tuning_steps(steps)).axes[0]
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [dot.get_markerfacecolor() == dot.get_color() for dot in dots] == [True, False]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["threshold → 0.4", "stop → mean"]


def test_border_bias_has_an_axis_per_organ_with_medians_and_means(scored):
    slices, truth, made, _ = scored
    table = rescoring.bias_by_threshold(made, truth, slices, (0.3, 0.5))
    axes = draw(scoring.border_bias(table)).axes
    assert len(axes) == len(contest.ORGANS)
    for axis, organ in zip(axes, contest.ORGANS, strict=True):
        part = table.xs(organ, level="organ")
        for line, name in zip(axis.lines[:2], ("median_px", "mean_px"), strict=True):
            np.testing.assert_allclose(line.get_ydata(), part[name])


def shaded(axis):
    return [round(bar.get_x() + 0.5) for bar in axis.patches]


def test_presence_curves_show_the_slices_of_each_organ():
    presence = np.full((9, 3), 0.01)
    presence[2:6, 0], presence[4:7, 1], presence[8, 1] = 0.95, 0.9, 0.4
    settings = Settings(ends="interval", offset=(0.0, -1.0, 0.0))
    axes = draw(scoring.presence_curves("case1_day0", presence, settings)).axes
    decoded = intervals.runs(presence, np.array(settings.offset))
    for axis, (first, last), curve in zip(axes, decoded, presence.T, strict=True):
        assert shaded(axis) == (list(range(first + 1, last + 2)) if first >= 0 else [])
        np.testing.assert_array_equal(axis.lines[-1].get_ydata(), curve)
    titles = [axis.get_title(loc="left") for axis in axes]
    assert titles == ["large bowel: slices 3 to 6", "small bowel: slices 5 to 6", "stomach: no slice"]
    assert axes[1].lines[0].get_ydata()[0] == pytest.approx(1 / (1 + np.e))
    assert axes[2].get_xlabel() == "slice of case1_day0, from head to feet"
    drawn = replace(settings, line_weight=9.0)
    axes = draw(scoring.presence_curves("case1_day0", presence, drawn, line=4)).axes
    assert [shaded(axis)[-1:] for axis in axes] == [[5], [5], []]
    dashed = [[line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == "--"] for axis in axes]
    assert dashed == [[5], [5], []]
    assert len(scoring.presence_curves("case1_day0", presence, settings, line=4).legends[0].texts) == 3
    axes = draw(scoring.presence_curves("case1_day0", presence, Settings(presence=(0.0, 0.3, 0.5)))).axes
    assert [shaded(axis) for axis in axes] == [[], [5, 6, 7, 9], []]
    titles = [axis.get_title(loc="left") for axis in axes]
    assert titles == ["large bowel: every slice", "small bowel: slices 5 to 9, 4 of these", "stomach: no slice"]
