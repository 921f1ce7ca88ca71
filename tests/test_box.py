"""A run whose network sees a box in mm: one training, and everything that reads its out-of-fold probabilities."""

import re
from dataclasses import replace

import keras
import numpy as np
import pytest

from kitlib import inference, postprocess, runs, training
from kitlib.data import boxes, inputs, pipeline, scans
from kitlib.figures import training as figures
from kitlib.figures import viewer
from kitlib.inference.faults import Faults
from kitlib.postprocess import rescoring
from kitlib.scoring import host, ledger, metric


def bright(shape):
    """A network that takes bright pixels of the middle slice for organs, so that one short epoch leaves masks."""
    images = keras.Input(shape)
    weights = np.zeros((1, 1, shape[-1], 3))
    weights[0, 0, shape[-1] // 2] = 6, 5, 4
    start = {"kernel_initializer": keras.initializers.Constant(weights.tolist()), "bias_initializer": "zeros"}
    maps = keras.layers.Conv2D(3, 1, **start)(images - 0.5)
    return keras.Model(images, keras.layers.Activation("sigmoid", dtype="float32")(maps))


@pytest.fixture(scope="module")
def val(slices):
    """One scan of each size: the box is inside the large slices and sticks out of the small ones."""
    annotated = slices[scans.organ_count(slices) > 0]
    cases = annotated.drop_duplicates(["height", "width"])["case"]
    return slices[slices["case"].isin(cases)].reset_index(drop=True)


@pytest.fixture(scope="module")
def run(slices, val, tmp_path_factory):
    """A small network, trained on scans that are packed into files."""
    folder = tmp_path_factory.mktemp("box")
    spec = inputs.InputSpec(32, 48, depth=3, box_mm=boxes.box_for(slices, 5))
    packed = pipeline.pack(slices, spec, folder / "packed")
    recipe = training.Recipe(network=f"{__name__}:bright", epochs=1, batch_size=2, learning_rate=1e-4)
    held_out = slices["case"].isin(val["case"])
    return training.fit_fold(slices, folder / "run", held_out=held_out, spec=spec, recipe=recipe, packed=packed)


@pytest.fixture(scope="module")
def sure(run):
    """Settings whose thresholds leave masks, however unsure the network is after one epoch."""
    probabilities = np.concatenate([run.probabilities(name).reshape(-1, 3) for name in run.scans])
    levels = np.quantile(probabilities, 0.93, axis=0).astype(float)
    return replace(postprocess.PLAIN, threshold=tuple(levels.tolist()))


def test_the_box_is_in_the_record_and_the_probabilities_are_on_its_grid(run, slices):
    assert runs.read(run.folder).spec.box_mm == boxes.box_for(slices, 5)
    assert all(run.probabilities(name).shape[1:] == (32, 48, 3) for name in run.scans)
    assert run.score()["score"] > 0


def test_rescoring_gives_the_score_of_the_training(run, val, sure):
    held_out, truth = runs.HeldOut([run]), scans.rows(val)
    scorer = rescoring.Rescorer(held_out, truth, val)
    scorer.fill([run.settings, sure])
    assert host.value(scorer.totals(run.settings).sum(axis=0)) == pytest.approx(run.score()["score"], abs=1e-9)
    rows = rescoring.rows(held_out, val, sure)
    found = metric.score(truth, rows, val)
    assert 0 < found.value < 1
    assert host.value(scorer.totals(sure).sum(axis=0)) == pytest.approx(found.value, abs=1e-9)
    assert ledger.measure(truth, rows, val).score == pytest.approx(found.value, abs=1e-9)


def test_inference_gives_the_masks_of_the_out_of_fold_probabilities(run, val, sure):
    kept = scans.with_masks(val, rescoring.rows(runs.HeldOut([run]), val, sure))
    made = scans.with_masks(val, inference.rows([run.folder], val, Faults(), settings=sure, progress=False))
    predictions = {found.scan: found for found in inference.predict([run.folder], val, Faults(), progress=False)}
    for name, rows in val.groupby("scan"):
        probabilities, unsure = predictions[name].probabilities, 1 / 255  # they are kept in 255ths
        restored = inputs.restore(run.probabilities(name), scans.common_size(rows), run.spec, scans.spacing_mm(rows))
        np.testing.assert_allclose(restored, probabilities, atol=unsure)
        one, other = (scans.masks(table[table["scan"] == name]) for table in (kept, made))
        assert other.any()
        far = np.abs(probabilities - np.array(sure.threshold)) > unsure
        np.testing.assert_array_equal(one[far], other[far])


def test_outside_the_box_nothing_is_predicted(run, val):
    anything = replace(postprocess.PLAIN, threshold=(1e-6,) * 3)
    table = scans.with_masks(val, inference.rows([run.folder], val, Faults(), settings=anything, progress=False))
    for _, rows in table.groupby("scan"):
        masks = scans.masks(rows)
        top, bottom, left, right = boxes.window(run.spec.box_mm, masks.shape[1:3], scans.spacing_mm(rows))
        inside = np.zeros(masks.shape[1:3], bool)
        inside[max(top, 0) : bottom, max(left, 0) : right] = True
        assert not masks[:, ~inside].any()
        assert masks[:, inside].mean() > 0.9


def test_pictures_of_the_run_are_at_the_size_of_the_files(run, val, slices, tmp_path):
    scores = figures.organ_scores([run], slices)
    assert scores.at["run", "all"] == pytest.approx(run.score()["score"], abs=1e-9)
    assert len(figures.predictions(run, val, 2).axes) == 6
    page = viewer.of_run(run, slices, tmp_path / "viewer.html", most=1).read_text(encoding="utf-8")
    shown = float(re.search(r'"score":([0-9.]+)', page)[1])
    assert shown == pytest.approx(run.score()["score"], abs=1e-9)
