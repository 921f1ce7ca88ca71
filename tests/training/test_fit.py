"""One training: what its run folder holds, what it refuses, and what it does with time, devices and callbacks."""

import functools
import time
from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest

from kitlib import inference, postprocess, runs, submission, training
from kitlib.data import folds, inputs, pipeline, scans
from kitlib.layers import augment, losses
from kitlib.scoring import metric
from kitlib.training import devices, recipes, resume
from kitlib.training import fit as fitting


@pytest.fixture
def fit(slices, packed, held_out, spec):
    """`fit_fold` on the small competition."""
    return functools.partial(training.fit_fold, slices, held_out=held_out, spec=spec, packed=packed)


def test_run_folder_holds_its_contract(run, slices, held_out, spec, small):
    assert sorted(entry.name for entry in run.folder.iterdir()) == [
        *["history.csv", "model.keras", "oof", "run.json", "score.json"]
    ]
    assert run.spec == spec
    assert training.Recipe(**run.record["recipe"]) == small
    assert len(run.history()) == run.record["trained_epochs"] == 2
    assert {"loss", "val_loss", "val_dice", "val_iou", "score", "images_per_second"} <= set(run.history().columns)
    assert set(run.scans) == set(slices.loc[held_out, "scan"])
    assert set(run.record["folds"]["held_out"]).isdisjoint(run.record["folds"]["train"])


def test_record_tells_the_kind_of_data(run, slices):
    assert run.record["data"]["kind"] == "phantom"
    assert run.record["data"]["scans"] == slices["scan"].nunique()
    assert run.record["data"]["train"] != run.record["data"]["val"]


def test_out_of_fold_probabilities_are_those_of_the_saved_network(run, slices, packed, spec):
    network = inference.load(run.folder)
    name = run.scans[0]
    rows = slices[slices["scan"] == name]
    prepared = packed.images[packed.rows(rows)]
    again = inference.predict_scan(network, prepared, spec, 4)
    np.testing.assert_allclose(run.probabilities(name), again, atol=0.5 / 255 + 1e-4)


def test_score_is_that_of_the_out_of_fold_masks(run, slices, held_out, spec):
    val = slices[held_out]
    lines = []
    for name, rows in val.groupby("scan", sort=False):
        shape = rows["height"].iloc[0], rows["width"].iloc[0]
        restored = inputs.restore(run.probabilities(name), shape, spec)
        lines.append(submission.encode(rows, postprocess.masks(restored, run.settings)))
    again = metric.score(scans.rows(val), pd.concat(lines), val)
    assert run.score()["score"] == pytest.approx(again.value, abs=1e-9)
    assert run.score()["score"] == pytest.approx(run.history()["score"].max(), abs=1e-9)
    assert run.score()["panel"]["host"] == run.score()["score"]


def test_score_says_what_chose_the_epoch(run):
    assert (run.score()["chosen_by"], run.score()["chosen_on_these_scans"]) == ("score", True)


@pytest.mark.parametrize("flip", [0.0, 0.5])
def test_probabilities_are_averaged_with_the_mirrored_slice_where_the_augmentation_flips(
    fit, small, slices, packed, spec, tmp_path, flip
):
    layer = augment.Augment(field=None, blur=0, flip=flip)
    run = fit(tmp_path / "run", recipe=replace(small, epochs=1, augment=layer))
    assert run.flipped == run.score()["flip"] == bool(flip)
    network = inference.load(run.folder)
    rows = slices[slices["scan"] == run.scans[0]]
    prepared = packed.images[packed.rows(rows)]
    plain = inference.predict_scan(network, prepared, spec, 4)
    mirrored = inference.predict_scan(network, prepared[:, :, ::-1], spec, 4)[:, :, ::-1]
    expected = (plain + mirrored) / 2 if flip else plain
    assert np.abs(plain - mirrored).max() > 0.01
    np.testing.assert_allclose(run.probabilities(run.scans[0]), expected, atol=0.5 / 255 + 1e-4)


def test_same_seed_gives_the_same_run(fit, small, run, tmp_path):
    again = fit(tmp_path / "again", recipe=small)
    columns = ["loss", "val_loss", "val_dice"]
    np.testing.assert_allclose(again.history()[columns], run.history()[columns], rtol=1e-3)


def test_suspects_are_validated_on_and_not_trained_on(fit, small, slices, held_out, tmp_path):
    scan, other = slices.loc[held_out, "scan"].iloc[0], slices.loc[~held_out, "scan"].iloc[0]
    run = fit(tmp_path / "run", recipe=replace(small, epochs=1, leave_out=(scan, other), empty_share=0.5))
    assert scan in run.record["folds"]["held_out"]
    assert other not in run.record["folds"]["train"]


def test_any_keras_callback_gets_the_figures_of_each_epoch(fit, small, tmp_path):
    seen = []
    watcher = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(logs)))
    fit(tmp_path / "run", recipe=replace(small, epochs=1), callbacks=[watcher])
    assert {"loss", "val_loss", "score", "best", "seconds_left"} <= set(seen[0])


def test_a_scan_on_both_sides_and_an_empty_side_are_refused(slices, small, spec, tmp_path):
    with pytest.raises(ValueError, match="in both the training set and the validation set"):
        training.fit_fold(slices, tmp_path, held_out=slices["slice"] == 1, spec=spec, recipe=small)
    with pytest.raises(ValueError, match="each set needs at least one"):
        training.fit_fold(slices, tmp_path, held_out=slices["slice"] < 0, spec=spec, recipe=small)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("no_such_module:build", "No module named 'no_such_module'"),
        ("kitlib.models:no_such_function", "no attribute 'no_such_function'"),
        ("build_unet", "No module named 'build_unet'"),
        (":build", "Empty module name"),
        ("os:sep", "sep is a str, not a function"),
        ("kitlib.models:unet", "unet is a module, not a function"),
    ],
)
def test_a_network_that_cannot_be_imported_is_an_error_at_the_start(fit, small, tmp_path, network, reason):
    with pytest.raises(ValueError, match=f"network '{network}' cannot be imported: .*{reason}"):
        fit(tmp_path / "run", recipe=replace(small, network=network))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("image_data_format", "channels_first", "image_data_format is 'channels_first', .*keras.json"),
        ("dtype_policy", "float16", "floatx is 'float16', .*keras.json"),
        ("dtype_policy", "bfloat16", "floatx is 'bfloat16', .*keras.json"),
    ],
)
def test_settings_of_keras_that_do_not_fit_are_found_at_the_start(
    fit, small, tmp_path, monkeypatch, name, value, words
):
    setting = keras.DTypePolicy(value) if name == "dtype_policy" else value
    monkeypatch.setattr(keras.config, name, lambda: setting)
    with pytest.raises(ValueError, match=words):
        fit(tmp_path / "run", recipe=small)
    assert not (tmp_path / "run").exists()


def test_augmentation_on_the_cpu_is_for_tensorflow_and_says_so(fit, small, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match=r"augment_on='cpu': .* on the jax backend .* use augment_on='device'"):
        fit(tmp_path / "run", recipe=replace(small, augment_on="cpu"))


def test_finished_run_is_read_and_another_call_into_it_refused_by_name(fit, small, slices, run):
    before = run.model_path.stat().st_mtime_ns
    assert fit(run.folder, recipe=small).record == run.record
    assert run.model_path.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="was started with other settings: epochs was 2, now 5"):
        fit(run.folder, recipe=replace(small, epochs=5))
    with pytest.raises(ValueError, match=r"loss\.dice_weight was 0\.5, now 1\.0"):
        fit(run.folder, recipe=replace(small, loss=losses.BCEDice(dice_weight=1.0)))
    with pytest.raises(ValueError, match=r"folds\.held_out: 2 removed"):
        fit(run.folder, recipe=small, held_out=slices["case"] == slices["case"].iloc[-1])


def test_folder_in_use_is_refused_and_a_finished_run_is_read_all_the_same(fit, small, run, tmp_path):
    with resume.hold(tmp_path), pytest.raises(RuntimeError, match=f"another process is training in {tmp_path}"):
        fit(tmp_path, recipe=small)
    assert not list(tmp_path.iterdir())
    with resume.hold(run.folder):
        assert fit(run.folder, recipe=small).record == run.record


@pytest.mark.slow
def test_training_out_of_its_time_leaves_a_model_that_loads_and_a_run_that_resumes(
    fit, small, slices, held_out, tmp_path
):
    recipe = replace(small, average=0.5, augment=None)
    stopped = fit(tmp_path / "run", recipe=recipe, deadline=time.time() + 0.001)
    assert stopped.state == "stopped"
    assert (stopped.record["trained_epochs"], stopped.record["best_weights"]) == (0, "unfinished epoch")
    assert stopped.score()["chosen_on_these_scans"] is False
    assert inference.load(stopped.folder).output_shape[1:] == (32, 32, 3)
    assert set(stopped.scans) == set(slices.loc[held_out, "scan"])
    ended = fit(tmp_path / "run", recipe=recipe)
    assert ended.state == "finished"
    assert len(ended.history()) == 2
    assert ended.record["wall_seconds"] > stopped.record["wall_seconds"]


CARD = devices.Devices(1, "float32", "a test")


@pytest.fixture
def timings(monkeypatch):
    """The recipes whose steps were timed; XLA is slower for all."""
    asked = []
    monkeypatch.setattr(fitting, "_timed", lambda recipe, *_: asked.append(recipe) or SLOWER)
    return asked


SLOWER = {"on": False, "with": 20.0, "without": 10.0}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="XLA is a choice on TensorFlow alone")
def test_xla_is_chosen_once_said_kept_and_off_where_a_recipe_is_deterministic(small, spec, timings, tmp_path, capsys):
    run = runs.Run(tmp_path, {})
    assert fitting._xla(run, small, spec, CARD) == (False, {"xla": SLOWER})
    assert capsys.readouterr().out == "XLA off: a step takes 20.0 ms with it, 10.0 ms without\n"
    faster = {"on": True, "with": 5.0, "without": 10.0}
    assert fitting._xla(runs.Run(tmp_path, {"xla": faster}), small, spec, CARD) == (True, {"xla": faster})
    assert fitting._xla(run, replace(small, deterministic=True), spec, CARD) == (False, {})
    assert fitting._xla(run, small, spec, None) == ("auto", {})
    assert fitting._xla(run, small, spec, replace(CARD, accelerators=0)) == ("auto", {})
    assert len(timings) == 1
    runs.write_history(tmp_path, [{"epoch": 1, "seconds": 1.0}])  # begun before there was a choice
    assert fitting._xla(run, small, spec, CARD) == ("auto", {})


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="XLA is a choice on TensorFlow alone")
def test_the_timing_leaves_the_training_as_it_was(fit, small, run, tmp_path):
    """True steps with and without XLA, on this machine."""
    recipe = replace(small, network_options=small.network_options | {"base": 2, "levels": 1})
    plain = fit(tmp_path / "plain", recipe=recipe)
    fitting._timed.cache_clear()
    timed = fit(tmp_path / "timed", recipe=recipe, devices=CARD)
    found = timed.record["xla"]
    assert found["on"] == (found["with"] < found["without"])
    assert "xla" not in plain.record
    np.testing.assert_allclose(timed.history()["loss"], plain.history()["loss"], rtol=1e-4)


def test_pixels_and_masks_of_validation_scans_never_reach_the_training_set(slices, held_out, spec, tmp_path):
    """Normalisation is per scan: training batches are the same to the bit when the validation scans are noise."""
    import cv2

    from kitlib import contest

    spoiled = slices.copy()
    noise = np.random.default_rng(0)
    for row in slices[held_out].itertuples():
        path = tmp_path / f"{row.id}.png"
        cv2.imwrite(str(path), noise.integers(0, 65535, (row.height, row.width), dtype=np.uint16))
        spoiled.loc[row.Index, ["path", *contest.ORGANS]] = [str(path), "1 5", "", "7 9"]
    sets = []
    for table in (slices, spoiled):
        train, _ = folds.split(table, held_out)
        assert not set(train["case"]) & set(table.loc[held_out, "case"])
        packed = pipeline.pack(table, spec)
        batches = pipeline.dataset(train, spec, 4, True, packed=packed).take(pipeline.steps(train, 4))
        sets.append(list(batches.as_numpy_iterator()))
    assert (scans.organ_count(spoiled[held_out]) == 2).all()
    for one, other in zip(*sets, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_a_network_for_volumes_is_trained_scored_and_saved_like_others(slices, packed, held_out, small, tmp_path):
    spec = inputs.InputSpec(32, 32, depth=4, volume=True)
    recipe = replace(
        small, network="kitlib.models:build_segresnet", network_options={"init": 8, "blocks": [1, 1]}, batch_size=2
    )
    with pytest.raises(
        ValueError, match=r"gives \(None, 32, 32, 3\), but with volume=True masks are \(None, 32, 32, 4"
    ):
        training.fit_fold(slices, tmp_path / "wrong", held_out=held_out, spec=spec, recipe=small)
    own = packed.restacked(spec)
    run = training.fit_fold(slices, tmp_path / "run", held_out=held_out, spec=spec, recipe=recipe, packed=own)
    history = run.history()
    assert (run.state, run.spec, len(history)) == ("finished", spec, 2)
    assert np.isfinite(history[["loss", "dice", "val_loss", "val_dice", "score"]]).all(axis=None)
    assert history["loss"].iloc[1] < history["loss"].iloc[0]
    rows = slices[slices["scan"] == run.scans[0]]
    again = inference.predict_scan(inference.load(run.folder), own.images[own.rows(rows)], spec, 8)
    np.testing.assert_allclose(run.probabilities(run.scans[0]), again, atol=0.5 / 255 + 1e-4)
    found = next(inference.predict([run.folder], rows, inference.Faults(), progress=False))
    expected = inputs.restore(again, found.probabilities.shape[1:3], spec)
    np.testing.assert_allclose(found.probabilities, expected, atol=5e-3)  # `own` has images of 16 bits


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"recipe": "short"}, r"recipe is 'short'; give recipes\.paper\(\)"),
        ({"recipe": recipes.short}, "recipe is <function short"),
        ({"spec": (64, 64)}, r"spec is \(64, 64\); give InputSpec"),
        ({"deadline": "1h"}, "deadline is '1h'; give time"),
    ],
)
def test_arguments_of_another_kind_are_refused_before_anything_is_written(slices, tmp_path, wrong, words):
    with pytest.raises(ValueError, match=words):
        training.fit_fold(slices, tmp_path / "run", held_out=slices["case"] == 1, **wrong)
    assert not any(tmp_path.iterdir())
