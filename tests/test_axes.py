"""Networks along all three axes: their training, and inference with all of them and their flips."""

from dataclasses import replace

import numpy as np
import pytest

from kitlib import inference, runs, training
from kitlib.data import folds, inputs, pipeline, scans
from kitlib.inference import Faults, networks
from kitlib.training import budget, recipes

BOX = (-150.0, 100.0, -150.0, 150.0)
SPECS = {axis: inputs.InputSpec(32, 48, depth=3, box_mm=BOX, axis=axis, length=32) for axis in "yx"}
SPECS = {"z": inputs.InputSpec(32, 48, depth=3, box_mm=BOX)} | SPECS


@pytest.fixture(scope="module")
def packed(slices):
    return pipeline.pack(slices, SPECS["z"])


@pytest.fixture(scope="module")
def held_out(slices):
    return folds.by_case(slices, 4) == 0


@pytest.fixture(scope="module")
def found(slices, packed, held_out, brief, tmp_path_factory):
    """A run per axis, with the same folds and one set of packed scans."""
    home = tmp_path_factory.mktemp("axes")
    return {
        axis: training.fit_fold(
            slices, home / axis, held_out=held_out, spec=spec, recipe=brief, packed=packed.restacked(spec)
        )
        for axis, spec in SPECS.items()
    }


def middle(axis, rise=0.0):
    """A member that returns the middle picture of its stack, and `rise` from left to right."""

    def run(images):
        columns = np.linspace(0, rise, images.shape[2], dtype=np.float32)
        return np.repeat(images[..., 1:2], 3, axis=-1) + columns[:, None]

    return networks.Member(axis, SPECS[axis], run, flip=True)


@pytest.mark.parametrize("length", [32, 8])
@pytest.mark.parametrize("axis", inputs.AXES)
def test_a_network_that_changes_nothing_gives_the_scan_whatever_its_axis(slices, packed, axis, length):
    rows = slices[slices["scan"] == slices["scan"].iloc[0]]
    member, prepared = middle(axis), packed.images[packed.rows(rows)].astype(np.float32)
    spec = replace(member.spec, length=length)

    class Network:
        def predict_on_batch(self, images):
            assert images.shape[1:] == spec.shape
            return member.run(images)

    for flipped in (False, True):
        found = inference.predict_scan(Network(), prepared, spec, 4, flipped=flipped)
        np.testing.assert_allclose(found, np.repeat(prepared[..., None], 3, axis=-1), atol=1e-6)


def test_flips_mirror_the_columns_of_each_axis(slices, packed):
    rows = slices[slices["scan"] == slices["scan"].iloc[0]]
    prepared = packed.images[packed.rows(rows)].astype(np.float32)
    for axis, direction in (("z", 2), ("y", 2), ("x", 1)):
        member = middle(axis, rise=1.0)
        network = type("Network", (), {"predict_on_batch": staticmethod(member.run)})()
        plain = inference.predict_scan(network, prepared, member.spec, 4)[..., 0] - prepared
        mirrored = inference.predict_scan(network, prepared, member.spec, 4, flipped=True)[..., 0] - prepared
        np.testing.assert_allclose(mirrored, np.flip(plain, direction), atol=1e-5)
        assert np.ptp(plain, axis=direction).min() > 0.9


def test_members_of_all_axes_are_averaged_on_one_grid(slices, held_out):
    rows = slices[held_out]
    members = [middle(axis) for axis in inputs.AXES]
    for one, all_three in zip(
        inference.predict(members[:1], rows, Faults(), progress=False),
        inference.predict(members, rows, Faults(), progress=False),
        strict=True,
    ):
        np.testing.assert_allclose(one.probabilities, all_three.probabilities, atol=1e-5)


@pytest.mark.parametrize("axis", inputs.AXES)
def test_a_run_learns_along_its_axis_and_is_predicted_as_it_was_scored(found, slices, axis):
    run = runs.read(found[axis].folder)
    assert run.spec == SPECS[axis]
    assert run.history()["loss"].notna().all()
    name = run.scans[0]
    rows = slices[slices["scan"] == name]
    (predicted,) = inference.predict([run.folder], rows, Faults(), progress=False)
    kept = inputs.restore(run.probabilities(name), scans.common_size(rows), run.spec, scans.spacing_mm(rows))
    np.testing.assert_allclose(predicted.probabilities, kept, atol=0.01)


def test_runs_of_all_axes_predict_together(found, slices, held_out):
    rows = slices[held_out]
    own = [inference.predict([run.folder], rows, Faults(), progress=False) for run in found.values()]
    together = inference.predict([run.folder for run in found.values()], rows, Faults(), progress=False)
    for mean, *parts in zip(together, *own, strict=True):
        np.testing.assert_allclose(mean.probabilities, sum(part.probabilities for part in parts) / 3, atol=1e-5)


def test_a_stopped_training_along_an_axis_goes_on(slices, packed, held_out, brief, tmp_path, monkeypatch):
    spec, recipe = SPECS["y"], replace(brief, epochs=2, score_every=2)
    options = {"held_out": held_out, "spec": spec, "recipe": recipe, "packed": packed.restacked(spec)}
    whole = training.fit_fold(slices, tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        patch.setattr(budget.Budget, "fits", lambda self, *_: False)
        assert training.fit_fold(slices, tmp_path / "stopped", **options).state == "stopped"
    resumed = training.fit_fold(slices, tmp_path / "stopped", **options)
    assert resumed.state == "finished"
    for name in ("loss", "val_loss"):  # the same pictures in the same order, but for rounding
        np.testing.assert_allclose(resumed.history()[name], whole.history()[name], rtol=5e-3)


def test_a_gate_along_an_axis_gives_the_presence_of_each_slice(found, slices, packed, held_out, brief, tmp_path):
    spec, recipe = SPECS["x"], replace(recipes.with_role(brief, "gate"), epochs=1)
    gate = training.fit_fold(
        slices, tmp_path / "gate", held_out=held_out, spec=spec, recipe=recipe, packed=packed.restacked(spec)
    )
    name = gate.scans[0]
    rows = slices[slices["scan"] == name]
    (predicted,) = inference.predict([gate.folder, found["z"].folder], rows, Faults(), progress=False)
    np.testing.assert_allclose(predicted.presence, gate.presence(name), atol=0.01)
