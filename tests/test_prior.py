"""A run whose network sees the masks of the earlier day: its training, its evaluation, and inference."""

from dataclasses import replace

import numpy as np
import pytest

from kitlib import contest, inference, runs, training
from kitlib.data import alignment, earlier, folds, inputs, pipeline, scans
from kitlib.inference import Faults
from kitlib.postprocess import PLAIN, rescoring
from kitlib.scoring import metric

SPEC = inputs.InputSpec(32, 32, depth=3, box_mm=(-150.0, 100.0, -150.0, 150.0), prior=True)


@pytest.fixture(scope="module")
def packed(slices):
    return pipeline.pack(slices, SPEC)


@pytest.fixture(scope="module")
def held_out(slices):
    return folds.later_days(slices)


@pytest.fixture(scope="module")
def run(slices, packed, held_out, brief, tmp_path_factory):
    """A network of one epoch on the earlier days, scored on later days and whole cases."""
    folder = tmp_path_factory.mktemp("prior") / "run"
    return training.fit_fold(slices, folder, held_out=held_out, spec=SPEC, recipe=brief, packed=packed)


def test_out_of_fold_probabilities_are_made_with_the_earlier_day(run, slices, packed, held_out):
    network, days = inference.load(run.folder), earlier.days(slices[held_out], slices)
    with_prior = 0
    for name, rows in slices[held_out].groupby("scan", sort=False):
        prepared, prior = packed.images[packed.rows(rows)], packed.prior(name, days.get(name))
        both = [
            inference.predict_scan(network, prepared[:, :, ::side], SPEC, 4, prior[:, :, ::side])[:, :, ::side]
            for side in (1, -1)
        ]
        np.testing.assert_allclose(run.probabilities(name), np.mean(both, axis=0), atol=0.5 / 255 + 1e-4)
        alone = inference.predict_scan(network, prepared, SPEC, 4)
        assert (np.abs(alone - both[0]).max() > 1e-3) == prior.any()
        with_prior += prior.any()
    assert 0 < with_prior < len(run.scans)


def test_the_specification_says_that_there_is_a_prior(run):
    assert runs.read(run.folder).spec == SPEC
    assert inference.load(run.folder).input_shape == (None, 32, 32, 7)
    assert "prior" not in run.record["recipe"]["network_options"]


def test_scans_with_an_earlier_day_and_new_ones_are_scored_apart(run, slices, held_out):
    score, days = run.score(), earlier.days(slices[held_out], slices)
    assert (score["known"]["scans"], score["new"]["scans"]) == (len(days), len(run.scans) - len(days))
    rows = rescoring.rows(runs.HeldOut([run]), slices[held_out], run.settings)
    truth = scans.rows(slices[held_out])
    for group, names in (("known", set(days)), ("new", set(run.scans) - set(days))):
        some = slices[slices["scan"].isin(names)]
        own = (table[table["id"].isin(some["id"])] for table in (truth, rows))
        found = metric.score(*own, some)
        expected = {"score": found.value, "dice": found.dice, "hausdorff": found.hausdorff}
        assert {name: score[group][name] for name in expected} == pytest.approx(expected, abs=1e-9)


@pytest.fixture(scope="module")
def later(slices, held_out):
    """A held-out scan with an earlier day, and that day."""
    days = earlier.days(slices[held_out], slices)
    name = next(scan for scan in days if (scans.organ_count(slices[slices["scan"] == scan]) > 0).any())
    return [slices[slices["scan"] == scan].reset_index(drop=True) for scan in (name, days[name])]


def predict(run, rows, faults=None, **options):
    faults = Faults() if faults is None else faults
    (found,) = inference.predict([run.folder], rows, faults, batch_size=4, progress=False, **options)
    return found


def test_inference_finds_the_earlier_day_by_itself(run, slices, packed, later):
    (rows, before), bare = later, later[0].drop(columns=list(contest.ORGANS))
    found = predict(run, bare, known=slices).probabilities
    prepared = packed.images[packed.rows(rows)]
    prior = packed.prior(rows["scan"].iloc[0], before["scan"].iloc[0])
    assert prior[..., -1].any()
    network, mean = inference.load(run.folder), 0
    for side in (1, -1):
        given = prepared[:, :, ::side], SPEC, 4, prior[:, :, ::side]
        mean = mean + inference.predict_scan(network, *given)[:, :, ::side] / 2
    expected = inputs.restore(mean, scans.common_size(rows), SPEC, scans.spacing_mm(rows))
    np.testing.assert_allclose(found, expected, atol=5e-3)  # packed images are half floats
    without = predict(run, bare).probabilities
    assert np.abs(found - without).max() > 0.01
    later_day = slices[slices["day"] >= rows["day"].iloc[0]]
    np.testing.assert_array_equal(predict(run, bare, known=later_day).probabilities, without)


def test_an_earlier_day_that_fails_costs_the_prior_and_not_the_scan(run, later, monkeypatch):
    rows, before = later
    without, broken = predict(run, rows).probabilities, before.assign(stomach="1 5 nonsense")

    def remedies(known):
        faults = Faults(strict=False)
        np.testing.assert_array_equal(predict(run, rows, faults, known=known).probabilities, without)
        return [remedy for *_, remedy in faults.entries]

    assert remedies(broken) == ["predicted without the masks of its earlier day"]
    with pytest.raises(ValueError, match="nonsense"):
        predict(run, rows, known=broken)
    monkeypatch.setattr(alignment, "register", lambda *_: 1 / 0)
    assert remedies(before) == ["predicted without its earlier day"]


def test_networks_with_a_prior_look_back(run):
    assert inference.looks_back([run], PLAIN)
    assert not inference.looks_back([], PLAIN)
    assert inference.looks_back([], replace(PLAIN, ends="interval", line_weight=1.0))


def test_the_input_alone_decides_on_the_prior(brief):
    with pytest.raises(
        ValueError, match=r"network_options has prior=True, but the input decides.*InputSpec\(prior=True"
    ):
        replace(brief, network_options=brief.network_options | {"prior": True}).builder()
    with pytest.raises(ValueError, match=r"cannot be built with network_options .*'prior': True"):
        replace(brief, network="kitlib.models.segresnet:build_segresnet", network_options={}).builder(True)((8, 8, 12))
