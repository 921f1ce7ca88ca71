"""The weights of a mean: what it predicts, which weights it finds, and what its gain is measured on."""

import numpy as np
import pandas as pd
import pytest

from kitlib import contest, rle
from kitlib.data import inputs
from kitlib.data.inputs import InputSpec
from kitlib.postprocess import fusion, rescoring
from kitlib.postprocess.cleaning import PLAIN
from kitlib.scoring import metric

SIDES, GRID = (4, 18, 26), InputSpec(9, 13)


@pytest.fixture(scope="module")
def cohort():
    """Slices, rows, and what a perfect network says on the grid, of eight cases with a box per organ."""
    random, slices, lines, perfect = np.random.default_rng(2), [], [], {}
    for case in range(1, 9):
        scan, truth = f"case{case}_day0", np.zeros((*SIDES, 3), bool)
        for organ in range(3):
            top, left = random.integers(0, 4, 2) * 2
            truth[1:, top : top + 10, left : left + 14, organ] = True
        perfect[scan] = inputs.prepare_masks(truth, GRID).astype(np.float32)
        for z in range(SIDES[0]):
            name = f"{scan}_slice_{z + 1:04d}"
            slices.append({"id": name, "case": case, "scan": scan, "height": SIDES[1], "width": SIDES[2]})
            rows = zip(contest.ORGANS, map(rle.encode, np.moveaxis(truth[z], -1, 0)), strict=True)
            lines += [{"id": name, "class": organ, "segmentation": text} for organ, text in rows]
    return pd.DataFrame(slices), pd.DataFrame(lines), perfect


def noisy(perfect, share, seed, spec=GRID):
    """A source whose errors are its own: the truth, with a share of noise."""
    random = np.random.default_rng(seed)
    made = {}
    for scan, truth in perfect.items():
        grid = inputs.resize(truth, (spec.height, spec.width))
        made[scan] = (1 - share) * grid + share * random.random(grid.shape, np.float32)
    return rescoring.Probabilities(made.__getitem__, spec)


def choose(cohort, *sources, **options):
    slices, truth, _ = cohort
    return fusion.choose(sources, truth, slices, PLAIN, **options)


def test_sources_with_errors_of_their_own_are_better_together(cohort):
    sources = noisy(cohort[2], 0.55, 1), noisy(cohort[2], 0.55, 2, InputSpec(18, 26))
    found = choose(cohort, *sources)
    assert 0.2 <= found.weights[1] <= 0.8
    assert sum(found.weights) == pytest.approx(1)
    assert found.helps
    assert found.scores.loc[[found.weights], "score"].iloc[0] == found.scores["score"].max()
    assert len(found.scores) == 11


def test_a_presence_that_the_settings_ignore_is_refused(cohort):
    sources = noisy(cohort[2], 0.5, 1), noisy(cohort[2], 0.5, 2)
    with pytest.raises(ValueError, match="the presence has no effect with Settings"):
        choose(cohort, *sources, presence=lambda scan: np.ones((SIDES[0], 3), np.float32))


def test_a_source_that_knows_nothing_gets_no_weight(cohort):
    found = choose(cohort, noisy(cohort[2], 0.3, 1), noisy(cohort[2], 1.0, 2))
    assert found.weights[0] > 0.5
    alone = choose(cohort, noisy(cohort[2], 0.0, 1), noisy(cohort[2], 1.0, 2))
    assert alone.weights == (1.0, 0.0)
    assert (alone.gain.value, alone.helps) == (0.0, False)


def test_the_ends_of_the_table_are_the_sources_alone(cohort):
    slices, truth, perfect = cohort
    sources = noisy(perfect, 0.55, 1), noisy(perfect, 0.55, 2)
    found = choose(cohort, *sources)
    for place, weights in enumerate([(1.0, 0.0), (0.0, 1.0)]):
        rows = rescoring.rows(sources[place], slices, PLAIN)
        expected = metric.score(truth, rows, slices).value
        assert found.scores.loc[[weights], "score"].iloc[0] == pytest.approx(expected)


def test_each_case_is_scored_with_the_weights_of_the_others(cohort):
    """One case asks for the second source and the others for the first: it cannot choose for itself."""
    slices, _, perfect = cohort
    first = slices["scan"].iloc[0]
    inverse = {scan: grid if scan == first else 1 - grid for scan, grid in perfect.items()}
    other = {scan: 1 - grid if scan == first else grid for scan, grid in perfect.items()}
    sources = (rescoring.Probabilities(made.__getitem__, GRID) for made in (other, inverse))
    found = choose(cohort, *sources, folds=8)
    assert found.weights == (1.0, 0.0)
    assert found.gain.value == 0


def test_a_mean_is_taken_at_the_size_of_the_files(cohort):
    slices, _, perfect = cohort
    fine = InputSpec(18, 26)
    sources = noisy(perfect, 0.5, 1), noisy(perfect, 0.5, 2, fine)
    mean, scan = fusion.Mean(sources, (0.4, 0.6), slices), slices["scan"].iloc[0]
    expected = 0.4 * inputs.restore(sources[0](scan), SIDES[1:], GRID) + 0.6 * sources[1](scan)
    np.testing.assert_allclose(mean(scan), expected, atol=1e-6)
    assert mean.spec_of(scan) == fine
    np.testing.assert_array_equal(inputs.restore(mean(scan), SIDES[1:], mean.spec_of(scan)), mean(scan))


def test_a_third_source_joins_the_mean_of_two(cohort):
    found = choose(cohort, *(noisy(cohort[2], 0.6, seed) for seed in (1, 2, 3)), folds=2)
    assert sum(found.weights) == pytest.approx(1)
    assert min(found.weights) > 0
    assert found.scores["score"].max() == found.scores.loc[[found.weights], "score"].iloc[0]


def test_too_few_sources_or_cases_are_named(cohort):
    slices, truth, perfect = cohort
    with pytest.raises(ValueError, match="two sources, got 1"):
        choose(cohort, noisy(perfect, 0.5, 1))
    one = slices[slices["case"] == 1]
    with pytest.raises(ValueError, match="two cases, got 1"):
        fusion.choose([noisy(perfect, 0.5, 1)] * 2, truth, one, PLAIN)
