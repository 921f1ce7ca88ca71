import functools
import os
import types

import keras
import numpy as np
import pandas as pd
import pytest

from kitlib import inference, postprocess, runs, submission, training
from kitlib.data import inputs, pipeline, scans
from kitlib.layers import augment, losses, monitors
from kitlib.models import unet
from kitlib.scoring import metric
from kitlib.training import evaluate, locks, step

SPEC = inputs.InputSpec(32, 32, depth=3)
SMALL = {"levels": 2, "base": 4, "window_stages": (0,)}
OPTIONS = {"spec": SPEC, "network_options": SMALL, "epochs": 2, "batch_size": 4}


@pytest.fixture(scope="module")
def packed(slices):
    return pipeline.pack(slices, SPEC)


@pytest.fixture(scope="module")
def held_out(slices):
    return slices["case"] == slices["case"].iloc[0]


@pytest.fixture(scope="module")
def run(slices, packed, held_out, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    return training.fit_fold(slices, folder, held_out=held_out, packed=packed, augment=augment.paper(), **OPTIONS)


def test_run_folder_holds_its_contract(run, slices, held_out):
    assert sorted(entry.name for entry in run.folder.iterdir()) == [
        *["history.csv", "model.keras", "oof", "run.json", "score.json"]
    ]
    assert run.spec == SPEC
    assert run.record["parameters"]["epochs"] == 2
    assert len(run.history()) == 2
    assert {"loss", "val_loss", "val_dice", "val_iou", "score", "images_per_second"} <= set(run.history().columns)
    assert set(run.scans) == set(slices.loc[held_out, "scan"])
    assert set(run.record["folds"]["held_out"]).isdisjoint(run.record["folds"]["train"])


def test_out_of_fold_probabilities_are_those_of_the_saved_network(run, slices, packed, held_out):
    network = inference.load(run.folder)
    name = run.scans[0]
    rows = slices[slices["scan"] == name]
    prepared = packed.images[packed.rows(rows)]
    again = inference.predict_scan(network, prepared, rows, SPEC, 4)
    np.testing.assert_allclose(run.probabilities(name), again, atol=0.5 / 255 + 1e-4)


def test_score_is_that_of_the_out_of_fold_masks(run, slices, held_out):
    check = slices[held_out]
    lines = []
    for name, rows in check.groupby("scan", sort=False):
        shape = rows["height"].iloc[0], rows["width"].iloc[0]
        restored = inputs.restore(run.probabilities(name), shape)
        lines.append(submission.encode(rows, postprocess.masks(restored, postprocess.DEFAULT)))
    again = metric.score(scans.rows(check), pd.concat(lines), check)
    assert run.score()["score"] == pytest.approx(again.value, abs=1e-9)
    assert run.score()["score"] == pytest.approx(run.history()["score"].max(), abs=1e-9)
    assert run.score()["panel"]["host"] == run.score()["score"]


def test_same_seed_gives_the_same_run(slices, packed, held_out, run, tmp_path):
    again = training.fit_fold(
        slices, tmp_path / "again", held_out=held_out, packed=packed, augment=augment.paper(), **OPTIONS
    )
    columns = ["loss", "val_loss", "val_dice"]
    np.testing.assert_allclose(again.history()[columns], run.history()[columns], rtol=1e-3)


def test_an_integer_of_numpy_is_a_seed_and_a_fraction_is_none(slices, packed, held_out, run):
    fit = functools.partial(training.fit_fold, slices, run.folder, held_out=held_out, packed=packed, **OPTIONS)
    again = fit(augment=augment.paper(), seed=np.int64(0))
    assert again.record == run.record
    with pytest.raises(ValueError, match=r"seed 0\.5 is no integer"):
        fit(augment=augment.paper(), seed=0.5)


@pytest.fixture
def judge(slices, packed, held_out):
    return evaluate.Judge(lambda: unet.build_unet(SPEC.shape, **SMALL), slices[held_out], packed, losses.BCE(), 4)


def test_rehearsal_scores_a_part_and_counts_it_up_to_all_held_out_slices(judge, slices, held_out, monkeypatch):
    clock, plain, measured = [0.0], evaluate.Judge.measure, []

    def measure(self, weights, score=True):
        measured.append((self.check["scan"].nunique(), plain(self, weights, score)))
        clock[0] += 0.5 * len(self.check)
        return measured[-1][1]

    monkeypatch.setattr(evaluate.Judge, "measure", measure)
    monkeypatch.setattr(evaluate, "time", types.SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(evaluate.os, "cpu_count", lambda: 1)
    assert judge.rehearse() == pytest.approx(0.5 * held_out.sum())
    ((scans_of_it, figures),) = measured
    assert scans_of_it == 1 < slices.loc[held_out, "scan"].nunique()
    assert np.isfinite(figures["score"])


def test_weights_that_are_no_numbers_are_judged_without_a_score(judge):
    measured = judge.measure([np.full_like(weight, np.nan) for weight in judge.network.get_weights()])
    assert np.isnan([measured["val_loss"], measured["score"], measured["score_hausdorff"]]).all()


def test_loss_falls_on_a_few_slices(slices, packed, tmp_path):
    fullest = scans.organ_count(slices).nlargest(8).index
    network = unet.build_unet(SPEC.shape, **SMALL)
    model = step.AugmentedModel(network)
    model.compile(keras.optimizers.Adam(1e-2), losses.BCEDice(dice_weight=0.5))
    batches = pipeline.dataset(slices.loc[sorted(fullest)], SPEC, 8, True, packed=packed)
    history = model.fit(batches, epochs=1, steps_per_epoch=1, shuffle=False, verbose=0).history["loss"]
    history += model.fit(batches, epochs=60, steps_per_epoch=1, shuffle=False, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]


def test_padding_does_not_count_in_validation(slices, packed):
    network = unet.build_unet(SPEC.shape, **SMALL)
    model = step.AugmentedModel(network)
    model.compile(loss=losses.BCE(), weighted_metrics=[monitors.Dice(name="dice")])
    part = slices.iloc[:6]
    whole, padded = (
        model.evaluate(pipeline.dataset(part, SPEC, size, False, packed=packed), verbose=0, return_dict=True)
        for size in (6, 4)
    )
    assert padded["dice"] == pytest.approx(whole["dice"], abs=1e-6)


def test_augmentation_runs_in_training_only(slices, packed):
    model = step.AugmentedModel(unet.build_unet(SPEC.shape, **SMALL), augment.Augment())
    fullest = slices.loc[scans.organ_count(slices).nlargest(4).index]
    batch = next(iter(pipeline.dataset(fullest, SPEC, 4, False, packed=packed)))
    kept, moved = (model(batch, training=moving)["masks"] for moving in (False, True))
    np.testing.assert_array_equal(kept, batch["masks"])
    assert keras.ops.any(moved != batch["masks"])


def test_a_scan_on_both_sides_is_refused(slices, tmp_path):
    with pytest.raises(ValueError, match="in the training and in the validation set"):
        training.fit_fold(slices, tmp_path, held_out=slices["slice"] == 1, **OPTIONS)


def test_empty_side_and_unknown_choices_are_refused(slices, held_out, tmp_path):
    with pytest.raises(ValueError, match="neither side may be empty"):
        training.fit_fold(slices, tmp_path, held_out=slices["slice"] < 0, **OPTIONS)
    with pytest.raises(ValueError, match="'linear'"):
        training.fit_fold(slices, tmp_path, held_out=held_out, schedule="linear", **OPTIONS)
    with pytest.raises(ValueError, match="'gpu'"):
        training.fit_fold(slices, tmp_path, held_out=held_out, elastic="gpu", **OPTIONS)
    with pytest.raises(ValueError, match="'sgd'"):
        training.fit_fold(slices, tmp_path, held_out=held_out, optimizer="sgd", **OPTIONS)
    with pytest.raises(ValueError, match="'accuracy'"):
        training.fit_fold(slices, tmp_path, held_out=held_out, monitor="accuracy", **OPTIONS)
    assert not list(tmp_path.iterdir())


def test_finished_run_is_read_and_another_call_into_it_refused_by_name(slices, packed, held_out, run):
    options = {**OPTIONS, "held_out": held_out, "packed": packed, "augment": augment.paper()}
    before = run.model_path.stat().st_mtime_ns
    assert training.fit_fold(slices, run.folder, **options).record == run.record
    assert run.model_path.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="epochs is 2 in the folder and 5 now"):
        training.fit_fold(slices, run.folder, **options | {"epochs": 5})
    with pytest.raises(ValueError, match=r"dice_weight is 0\.5 in the folder and 1\.0 now"):
        training.fit_fold(slices, run.folder, **options | {"loss": losses.BCEDice(dice_weight=1.0)})
    other = slices["case"] == slices["case"].iloc[-1]
    with pytest.raises(ValueError, match="held_out: 2 only in the folder"):
        training.fit_fold(slices, run.folder, **options | {"held_out": other})


def test_folder_in_use_is_refused_and_a_finished_run_is_read_all_the_same(slices, packed, held_out, run, tmp_path):
    options = {**OPTIONS, "held_out": held_out, "packed": packed, "augment": augment.paper()}
    with locks.hold(tmp_path), pytest.raises(RuntimeError, match=f"is being trained by process {os.getpid()}"):
        training.fit_fold(slices, tmp_path, **options)
    assert not list(tmp_path.iterdir())
    with locks.hold(run.folder):
        assert training.fit_fold(slices, run.folder, **options).record == run.record


def test_cross_validation_holds_out_every_case_once_and_skips_what_is_done(slices, tmp_path):
    options = {**OPTIONS, "epochs": 1, "schedule": "cosine", "augment": augment.Augment(), "elastic": "cpu"}
    folds = training.cross_validate(slices, tmp_path, count=2, **options)
    assert sorted(scan for run in folds for scan in run.record["folds"]["held_out"]) == sorted(slices["scan"].unique())
    ended = [run.record["ended"] for run in folds]
    again = training.cross_validate(slices, tmp_path, count=2, **options)
    assert [run.record["ended"] for run in again] == ended
    (tmp_path / "folds.csv").write_text("case,fold\n1,0\n", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks cases"):
        training.cross_validate(slices, tmp_path, count=2, **options)
    assert len(runs.compare(tmp_path)) == 2


@pytest.fixture
def tried(slices, packed, monkeypatch):
    """The folds that were asked for, by a training that writes what it is told to, or diverges."""
    folders, states = [], {}

    def fit(table, *, folder, deadline, **options):
        folders.append(folder.name)
        if states.get(folder.name) == "diverged":
            raise FloatingPointError(f"{folder}: the loss is nan")
        runs.write_record(folder, {"state": "finished"})
        runs.write_history(folder, [{"epoch": 1, "seconds": 100.0}])

    monkeypatch.setattr(training, "fit_fold", fit)
    monkeypatch.setattr(training.pipeline, "pack", lambda *_: packed)
    return folders, states


def test_cross_validation_gives_every_finished_fold_however_little_time_is_left(slices, tmp_path, tried, capsys):
    folders, _ = tried
    assert len(training.cross_validate(slices, tmp_path, count=3)) == 3
    found = training.cross_validate(slices, tmp_path, count=3, time_limit=60)
    assert [run.folder.name for run in found] == ["fold0", "fold1", "fold2"]
    (tmp_path / "fold1/run.json").write_text('{"state": "stopped"}', encoding="utf-8")
    folders.clear()
    assert len(training.cross_validate(slices, tmp_path, count=3, time_limit=60)) == 3
    assert folders == ["fold0", "fold2"]
    assert "left for the next call, as no epoch would fit: fold1" in capsys.readouterr().out


def test_a_fold_that_diverges_is_raised_when_the_others_are_done(slices, tmp_path, tried):
    folders, states = tried
    states["fold0"] = "diverged"
    with pytest.raises(FloatingPointError, match="fold0: the loss is nan"):
        training.cross_validate(slices, tmp_path, count=3)
    assert folders == ["fold0", "fold1", "fold2"]
