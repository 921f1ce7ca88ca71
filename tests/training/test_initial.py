"""What a network starts from: the true weights of an encoder, or another run; and what run.json keeps of it."""

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from kitlib import inference, runs, training
from kitlib.data import folds
from kitlib.models import encoders, unet, weights
from kitlib.training import evaluate, initial, jobs
from tests.training.test_resume_killed import figures, finish, saved, start

LITE0 = "efficientnet-lite0"
ENCODER = {"encoder": LITE0, "levels": 5, "base": 4} | unet.NO_ATTENTION


@pytest.fixture
def fit(slices, packed, held_out, spec, small):
    """`fit_fold` on the small competition, for one epoch."""
    return functools.partial(
        training.fit_fold, slices, held_out=held_out, spec=spec, packed=packed, recipe=replace(small, epochs=1)
    )


@pytest.fixture
def unpacked(monkeypatch):
    """Refuse to pack."""
    monkeypatch.setattr("kitlib.data.pipeline.pack", lambda *_: pytest.fail("scans were packed"))


def equal(run, other):
    """Hold what two runs have learned against each other; batch norms also move without a rate."""
    networks = [inference.load(one.folder).trainable_weights for one in (run, other)]
    for one, another in zip(*networks, strict=True):
        np.testing.assert_array_equal(one.numpy(), another.numpy())


def test_a_training_starts_from_another_runs_network(fit, run, tmp_path, monkeypatch):
    """Without a step: the rate is 0."""
    recipe = replace(fit.keywords["recipe"], learning_rate=0.0)
    started = fit(tmp_path / "run", recipe=recipe, pretrained=run.folder)
    equal(started, run)
    entry = {"file": str(run.folder), "sha256": weights.digest(run.model_path)}
    assert started.record["pretrained"] == entry | {"trained_on": run.record["folds"]["train"]}


def test_scans_that_the_start_was_trained_on_are_kept_along_a_chain_and_are_not_unseen(run, slices, tmp_path):
    seen = slices["scan"].iloc[0]
    first = run.record | {"pretrained": {"file": "earlier", "sha256": None, "trained_on": [seen]}}
    first["folds"] = {"train": ["case7_day1"], "held_out": ["case8_day1"]}
    begun = shutil.copytree(run.folder, tmp_path / "begun")
    runs.write_record(begun, first)
    entry = initial.load(inference.load(run.folder), begun, [])
    assert entry["trained_on"] == sorted([seen, "case7_day1"])
    record = run.record | {"pretrained": entry, "folds": {"train": [], "held_out": []}}
    with pytest.raises(ValueError, match=f"{seen} is in the training set of {begun}, which {run.folder} started from"):
        evaluate.score_unseen(runs.Run(run.folder, record), slices[slices["scan"] == seen].reset_index(drop=True))


def test_without_pretrained_weights_the_record_says_nothing_of_them(run):
    assert "pretrained" not in run.record


def test_a_network_of_another_shape_is_refused_and_both_are_named(fit, run, small, tmp_path):
    wider = replace(small, epochs=1, network_options=small.network_options | {"base": 8})
    with pytest.raises(
        ValueError, match=rf"the network of {run.folder} has \d+ weights.*\(3, 3, 3, 4\).*there and .*8\)"
    ):
        fit(tmp_path / "run", recipe=wider, pretrained=run.folder)
    deeper = replace(small, epochs=1, network_options=small.network_options | {"levels": 3})
    with pytest.raises(ValueError, match=r"has \d+ weights, and this one \(.*\) \d+; the first"):
        fit(tmp_path / "other", recipe=deeper, pretrained=run.folder)


def test_a_run_that_has_seen_the_validation_scans_is_said(fit, run, slices, tmp_path, capsys):
    fit(tmp_path / "same", pretrained=run.folder)
    assert "too high" not in capsys.readouterr().out
    fit(tmp_path / "other", held_out=slices["case"] == slices["case"].iloc[-1], pretrained=run.folder)
    assert f"{run.folder} was trained on 1 of the validation scans, such as case" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("pretrained", "options", "error", "words"),
    [
        (
            "none.h5",
            ENCODER,
            FileNotFoundError,
            r"pretrained is 'none\.h5': no such weight file",
        ),
        (
            "efficientnet-b9",
            ENCODER,
            FileNotFoundError,
            "'efficientnet-b9': no such .*lite0",
        ),
        (".", ENCODER, FileNotFoundError, "is not a run folder"),
        (
            "efficientnetv2-s",
            ENCODER,
            ValueError,
            "but the recipe's encoder is 'efficientnet-lite0'",
        ),
        (LITE0, {}, ValueError, "'efficientnet-lite0', but the recipe's encoder is None"),
        (5, ENCODER, ValueError, "pretrained is 5; give a weight file"),
    ],
)
def test_weights_that_are_not_there_are_an_error_before_anything_is_packed(
    slices, held_out, spec, small, tmp_path, monkeypatch, unpacked, pretrained, options, error, words
):
    monkeypatch.chdir(tmp_path)
    recipe = replace(small, network_options=options)
    with pytest.raises(error, match=words):
        training.fit_fold(slices, "run", held_out=held_out, spec=spec, recipe=recipe, pretrained=pretrained)
    for at_once in (1, 2):
        with pytest.raises(error, match=words):
            training.cross_validate(
                slices, "folds", count=2, spec=spec, recipe=recipe, pretrained=pretrained, at_once=at_once
            )
    assert not list(tmp_path.rglob("run.json"))


def test_a_weight_file_for_a_network_without_an_encoder_is_refused_at_once(tmp_path):
    file = tmp_path / "efficientnetv2-s_notop.h5"
    file.touch()
    with pytest.raises(
        ValueError, match=r"a weight file, but the recipe's network has no encoder; use recipes\.encoder"
    ):
        initial.check(file, training.Recipe())
    initial.check(file, training.Recipe(network="own:network"))
    initial.check(tmp_path, training.Recipe())


def test_a_run_without_a_model_is_nothing_to_start_from(tmp_path):
    runs.write_record(tmp_path, {"state": "running"})
    with pytest.raises(FileNotFoundError, match=r"model\.keras does not exist; finish that training"):
        initial.find(tmp_path)


def test_another_start_is_another_setting_and_the_same_weights_elsewhere_are_not(fit, run, tmp_path):
    copied = shutil.copytree(run.folder, tmp_path / "copied")
    started = fit(tmp_path / "run", pretrained=copied)
    assert fit(started.folder, pretrained=run.folder).record == started.record  # the same file
    for other, now in ((None, "None"), (str(tmp_path / "gone"), f"'{tmp_path / 'gone'}'")):
        with pytest.raises(ValueError, match=f"other settings: pretrained was '{copied}', now {now}"):
            fit(started.folder, pretrained=other)
    shutil.rmtree(copied)
    assert fit(started.folder, pretrained=copied).record == started.record
    with pytest.raises(ValueError, match=f"pretrained was None, now '{run.folder}'"):
        fit(run.folder, recipe=replace(fit.keywords["recipe"], epochs=2), pretrained=run.folder)


def test_each_fold_starts_from_its_own_fold_of_a_cross_validation(slices, spec, small, run, tmp_path, monkeypatch):
    folds.table(slices, tmp_path / "gates/folds.csv", 2)
    asked = []
    monkeypatch.setattr(jobs, "run", lambda slices, listed, **_: asked.extend(job.pretrained for job in listed) or [])
    for pretrained in (tmp_path / "gates", run.folder, None):
        training.cross_validate(slices, tmp_path / "folds", count=2, pretrained=pretrained)
    assert asked == [tmp_path / "gates/fold0", tmp_path / "gates/fold1", run.folder, run.folder, None, None]


def test_folds_of_another_table_than_the_starts_are_refused(slices, tmp_path):
    folds.table(slices, tmp_path / "gates/folds.csv", 2)
    folds.table(slices, tmp_path / "others/folds.csv", 3)
    with pytest.raises(ValueError, match=r"of .*gates/folds\.csv and .* of .*others/folds\.csv"):
        training.cross_validate(
            slices, tmp_path / "own", count=3, pretrained=tmp_path / "gates", folds_of=tmp_path / "others"
        )
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize("kind", [str, Path])
def test_weights_of_a_name_that_are_not_there_say_what_needs_none(kind, tmp_path, monkeypatch):
    for name in ("KITLIB_ENCODERS", "KERAS_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(encoders, "_installed", list)
    with pytest.raises(FileNotFoundError, match=r'no weights for efficientnet-lite0.*PRESET = "paper" .*needs no'):
        initial.find(kind(LITE0))
    with pytest.raises(ValueError, match="but the recipe's encoder is None"):
        initial.check(kind(LITE0), training.Recipe())


def test_the_same_name_is_the_same_start_after_its_run_went_on():
    one = {"file": "runs/one", "sha256": "a"}
    assert initial.same(one, {"file": "runs/one", "sha256": "b", "trained_on": []})
    assert initial.same(one, {"file": "copied", "sha256": "a"})
    assert not initial.same(one, {"file": "other", "sha256": "b"})
    assert not initial.same({"file": "x", "sha256": None}, {"file": "y", "sha256": None})
    assert not initial.same(one, None)


@pytest.mark.slow
def test_trainings_side_by_side_start_from_another_run(slices, spec, small, run, tmp_path):
    recipe = replace(small, epochs=1, learning_rate=0.0)
    trained = training.cross_validate(
        slices, tmp_path, count=2, spec=spec, recipe=recipe, pretrained=run.folder, at_once=2
    )
    assert [one.record["pretrained"]["sha256"] for one in trained] == [weights.digest(run.model_path)] * 2
    for one in trained:
        equal(one, run)


WHOLE = """
import json
import os
import shutil
import sys
from pathlib import Path
import keras
from kitlib import training
from kitlib.data import inputs, scans
from kitlib.layers import augment
from kitlib.models import encoders
from kitlib.training import budget

slices, place = scans.read(sys.argv[1]), Path(sys.argv[2])
file = shutil.copy(encoders.find("efficientnet-lite0"), place)
recipe = training.Recipe(
    network_options=json.loads(sys.argv[3]),
    augment=augment.Augment(cutmix=0.3, mixup=0.3),
    optimizer="adamw", weight_decay=0.02, learning_rate=4e-4, schedule="cosine",
    epochs=3, batch_size=8, average=0.9, average_last=2, deterministic=True,
)

class Copy(keras.callbacks.Callback):
    # what a kill in the second epoch would leave
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            shutil.copytree(place / "whole", place / "broken", ignore=shutil.ignore_patterns(".lock"))

def fit(name, *callbacks):
    training.fit_fold(
        slices, place / name, held_out=slices["case"] == slices["case"].iloc[0],
        spec=inputs.InputSpec(32, 32, depth=3), recipe=recipe, pretrained=file, callbacks=callbacks,
    )

# asked twice per epoch, before and after its evaluation; and once before a resumed training begins
answers = iter([True, True, False, True, False])
budget.Budget.fits = lambda self, *_: next(answers)
fit("whole", Copy())
os.remove(file)
fit("broken")
"""


@pytest.mark.slow
def test_a_training_from_true_weights_resumes_to_the_bit_without_their_file(competition, tmp_path):
    """With the drop path of the encoder, whose state the checkpoint has to bring back."""
    finish(start(WHOLE, competition, tmp_path, json.dumps(ENCODER)))
    broken, whole = (runs.read(tmp_path / name) for name in ("broken", "whole"))
    file = encoders.find(LITE0)
    for run in (broken, whole):
        assert run.record["pretrained"] == {"file": str(tmp_path / file.name), "sha256": weights.digest(file)}
    pd.testing.assert_frame_equal(figures(broken), figures(whole), check_exact=True)
    one, other = (saved(run.folder / "checkpoint/epoch-0002/model.weights.h5") for run in (broken, whole))
    assert one.keys() == other.keys()
    assert any("drop" in name and np.asarray(array).dtype.kind in "iu" for name, array in other.items())
    for name, array in other.items():
        np.testing.assert_array_equal(one[name], array, err_msg=name)


def test_weights_of_an_encoder_reach_the_network(spec):
    network = training.Recipe(network_options=ENCODER).builder()(spec.shape)
    kernel = network.get_layer("block7a_project_conv").kernel
    random = kernel.numpy()
    entry = initial.load(network, LITE0, [])
    stored = encoders.arrays(LITE0, encoders.find(LITE0))["block7a_project_conv"][0]
    np.testing.assert_array_equal(kernel.numpy(), stored)
    assert np.abs(random - stored).max() > 0.01
    assert entry["sha256"] == weights.digest(encoders.find(LITE0))


TWO = """
import json
import sys
import keras
import numpy as np
import tensorflow as tf
from kitlib.training import devices, initial, recipes, step
from kitlib.training.fit import _compiled

halves = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], halves)
keras.utils.set_random_seed(0)
rng, found = np.random.default_rng(0), {}
batch = {"images": rng.random((8, 32, 32, 5), np.float32), "masks": rng.integers(0, 2, (8, 32, 32, 3), np.uint8),
         "seed": np.arange(8, dtype="int32"), "weight": np.ones(8, "float32")}
for policy in ("float32", "mixed_float16"):
    two = devices.use(devices.Devices(2, policy, "two halves of a CPU", ("CPU:0", "CPU:1")))
    with devices.scope(two.strategy()):
        recipe = recipes.encoder("efficientnet-lite0")
        model = _compiled(recipe.builder()((32, 32, 5)), recipe, 2, two.xla)
    initial.load(model.network, "efficientnet-lite0", [])
    before = model.network.get_weights()
    loss = model.fit(tf.data.Dataset.from_tensor_slices(batch).batch(4), epochs=1, verbose=0).history["loss"][0]
    moved = [bool(np.any(one != other)) for one, other in zip(before, model.network.get_weights())]
    averaged = step.averaged_weights(model, model.network)
    found[policy] = {
        "loss": loss,
        "moved": np.mean(moved),
        "finite": all(np.isfinite(array).all() for array in averaged),
        "dtype": model.network.get_layer("block7a_project_conv").compute_dtype,
        "scaled": hasattr(model.optimizer, "inner_optimizer"),
    }
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="MirroredStrategy is TensorFlow's")
def test_two_devices_train_an_encoder_from_its_weights():
    found = json.loads(finish(start(TWO)).splitlines()[-1])
    for policy, dtype in (("float32", "float32"), ("mixed_float16", "float16")):
        assert 0 < found[policy]["loss"] < 10
        assert found[policy]["moved"] > 0.95
        assert found[policy]["finite"]
        assert (found[policy]["dtype"], found[policy]["scaled"]) == (dtype, policy == "mixed_float16")
