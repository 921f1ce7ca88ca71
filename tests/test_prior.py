"""A run whose network sees the masks of the earlier day: its training, its evaluation, and inference."""

from dataclasses import replace

import numpy as np
import pytest

from kitlib import inference, runs, training
from kitlib.data import earlier, folds, inputs, pipeline
from kitlib.layers import augment

SPEC = inputs.InputSpec(32, 32, depth=3, box_mm=(-150.0, 100.0, -150.0, 150.0), prior=True)
OPTIONS = {"levels": 2, "base": 4, "window_stages": (0,)}
RECIPE = training.Recipe(
    network_options=OPTIONS,
    augment=augment.Augment(field=None),
    epochs=1,
    batch_size=4,
    learning_rate=1e-2,
    leave_out=(),
)


@pytest.fixture(scope="module")
def packed(slices):
    return pipeline.pack(slices, SPEC)


@pytest.fixture(scope="module")
def held_out(slices):
    return folds.later_days(slices)


@pytest.fixture(scope="module")
def run(slices, packed, held_out, tmp_path_factory):
    """A network of one epoch on the earlier days, scored on later days and whole cases."""
    folder = tmp_path_factory.mktemp("prior") / "run"
    return training.fit_fold(slices, folder, held_out=held_out, spec=SPEC, recipe=RECIPE, packed=packed)


def test_out_of_fold_probabilities_are_made_with_the_earlier_day(run, slices, packed, held_out):
    network, days = inference.load(run.folder), earlier.days(slices[held_out], slices)
    with_prior = 0
    for name, rows in slices[held_out].groupby("scan", sort=False):
        prepared, prior = packed.images[packed.rows(rows)], packed.prior(name, days.get(name))
        both = [
            inference.predict_scan(network, prepared[:, :, ::side], rows, SPEC, 4, prior[:, :, ::side])[:, :, ::side]
            for side in (1, -1)
        ]
        np.testing.assert_allclose(run.probabilities(name), np.mean(both, axis=0), atol=0.5 / 255 + 1e-4)
        alone = inference.predict_scan(network, prepared, rows, SPEC, 4)
        assert (np.abs(alone - both[0]).max() > 1e-3) == prior.any()
        with_prior += prior.any()
    assert 0 < with_prior < len(run.scans)


def test_the_specification_says_that_there_is_a_prior(run):
    assert runs.read(run.folder).spec == SPEC
    assert inference.load(run.folder).input_shape == (None, 32, 32, 7)
    assert "prior" not in run.record["recipe"]["network_options"]


def test_the_input_alone_decides_on_the_prior():
    with pytest.raises(
        ValueError, match=r"network_options has prior=True, but the input decides.*InputSpec\(prior=True"
    ):
        replace(RECIPE, network_options=OPTIONS | {"prior": True}).builder()
    with pytest.raises(ValueError, match=r"cannot be built with network_options .*'prior': True"):
        replace(RECIPE, network="kitlib.models.segresnet:build_segresnet", network_options={}).builder(True)((8, 8, 12))
