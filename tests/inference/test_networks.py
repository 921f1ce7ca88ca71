import json
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from kitlib import runs
from kitlib.data import inputs
from kitlib.inference import networks
from kitlib.inference.faults import Faults
from kitlib.models import unet
from kitlib.training import presets


def network(**options):
    """A small network whose batch norms have seen data."""
    keras.utils.set_random_seed(0)
    built = unet.build_unet((32, 48, 3), levels=2, base=4, **options)
    rng = np.random.default_rng(0)
    for layer in built.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    return built


IMAGES = np.random.default_rng(1).random((5, 32, 48, 3), np.float32)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow's graphs are frozen")
def test_engine_freezes_and_agrees_with_keras_to_rounding():
    plain = network(window_stages=(0,))
    made = networks.Engine(plain, batch_size=5)
    assert made.frozen
    assert str(made) == "frozen TensorFlow graph"
    found = made(IMAGES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain.predict_on_batch(IMAGES), atol=1e-5)
    np.testing.assert_allclose(made(IMAGES[:2]), found[:2], atol=1e-5)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow" or bool(keras.distribution.list_devices("gpu")),
    reason="only TensorFlow's graphs are frozen, and a GPU keeps 16 bits",
)
def test_network_trained_in_16_bits_runs_in_32_on_a_cpu():
    plain = network(window_stages=(0,))
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        half = network(window_stages=(0,))
    finally:
        keras.config.set_dtype_policy("float32")
    half.set_weights(plain.get_weights())
    found = networks.Engine(half, batch_size=5)(IMAGES)
    np.testing.assert_allclose(found, plain.predict_on_batch(IMAGES), atol=1e-5)


def test_engine_drops_a_graph_that_computes_something_else(monkeypatch):
    freeze, other = networks._freeze, network(**unet.NO_ATTENTION)
    monkeypatch.setattr(networks, "_freeze", lambda plain, size: freeze(other, size))
    plain = network(window_stages=(0,))
    made = networks.Engine(plain, batch_size=2)
    assert not made.frozen
    np.testing.assert_array_equal(made(IMAGES[:2]), plain.predict_on_batch(IMAGES[:2]))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow's graphs are frozen")
def test_a_large_network_runs_as_a_graph_that_copies_no_weights(monkeypatch):
    convolution, norm = keras.layers.Conv2D(3, 3, padding="same"), keras.layers.BatchNormalization()
    network = keras.Sequential([keras.Input((8, 8, 5)), convolution, norm])
    assert str(networks.Engine(network, 2)) == "frozen TensorFlow graph"
    assert str(networks.Engine(keras.Sequential([keras.Input((8, 8, 5)), convolution]), 2)) == "TensorFlow graph"
    monkeypatch.setattr(networks, "MOST_FROZEN", network.count_params() - 1)
    made = networks.Engine(network, 2)
    assert str(made) == "TensorFlow graph"
    images = np.random.default_rng(1).random((3, 8, 8, 5), np.float32)
    np.testing.assert_allclose(made(images), network.predict_on_batch(images), atol=1e-6)
    convolution.kernel.assign(convolution.kernel * 2)
    np.testing.assert_allclose(made(images), network.predict_on_batch(images), atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow's graphs are frozen")
def test_engine_that_cannot_freeze_runs_keras_and_says_when_memory_is_short(monkeypatch):
    import tensorflow as tf

    def fail(*_):
        raise tf.errors.UnimplementedError(None, None, "no such kernel")

    monkeypatch.setattr(networks, "_freeze", fail)
    plain = network(window_stages=(0,))
    made = networks.Engine(plain, batch_size=2)
    assert not made.frozen
    assert str(made) == "Keras on tensorflow"
    np.testing.assert_array_equal(made(IMAGES[:2]), plain.predict_on_batch(IMAGES[:2]))

    def too_large(images):
        raise tf.errors.ResourceExhaustedError(None, None, "out of memory")

    monkeypatch.setattr(plain, "predict_on_batch", too_large)
    with pytest.raises(MemoryError, match="2 does not fit"):
        made(IMAGES[:2])


def test_the_network_of_a_run_of_version_0_1_predicts_what_it_did():
    saved = Path(__file__).parents[1] / "runs/saved-ae48e92"
    images = np.linspace(0, 2, 16 * 16 * 5, dtype=np.float32).reshape(1, 16, 16, 5)
    (member,) = networks.open_members([saved], Faults(), batch_size=1)
    assert member.flip
    np.testing.assert_allclose(member.run(images), np.load(saved / "expected.npy"), atol=1e-5)


@pytest.mark.parametrize(
    "network", ["kitlib.models:build_unet", "own_network_for_this_test:build", "nowhere_at_all:build"]
)
def test_the_module_of_a_network_is_imported_to_register_its_layers(tmp_path, monkeypatch, network):
    saved = Path(__file__).parents[1] / "runs/saved-ae48e92"
    run = Path(shutil.copytree(saved, tmp_path / "run"))
    record = runs.read(saved).record
    record["recipe"] = record.pop("parameters") | {"network": network}
    runs.write_record(run, record)
    (tmp_path / "own_network_for_this_test.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("own_network_for_this_test", None)
    assert networks.load(run).output_shape == (None, 16, 16, 3)
    assert ("own_network_for_this_test" in sys.modules) == network.startswith("own")


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_a_network_is_flipped_as_its_recipe_was(preset):
    recipe = presets.PRESETS[preset]()
    assert runs.Run(Path(), {"recipe": json.loads(recipe.to_json())}).flipped == recipe.flips


def member(role):
    return networks.Member(role, inputs.InputSpec(16, 16), print, role=role)


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        (["segmenter", "segmenter"], "the segmenters also decide on which slices an organ is"),
        (["gate"], "the gates also draw the contours"),
        (["gate", "segmenter"], ""),
        (["both", "segmenter"], ""),
        (["both", "gate"], ""),
        (["both"], ""),
        ([], ""),
    ],
)
def test_a_role_that_no_network_plays_is_a_fault(roles, words):
    faults = Faults(strict=False)
    networks.check_roles(list(map(member, roles)), faults)
    assert [remedy for *_, remedy in faults.entries] == ([words] if words else [])


def test_networks_of_a_larger_weight_come_first(tmp_path):
    saved = Path(__file__).parents[1] / "runs/saved-ae48e92"
    for name, weight in (("coronal", "0.3"), ("other", "0.3"), ("slices", "0.7")):
        shutil.copytree(saved, tmp_path / name)
        (tmp_path / name / "weight.json").write_text(weight, encoding="utf-8")
    members = networks.open_members([tmp_path / name for name in ("coronal", "other", "slices")], Faults(), 1)
    assert [member.name for member in members] == ["slices", "coronal", "other"]


def test_the_role_of_a_run_is_that_of_its_member(tmp_path):
    saved = Path(__file__).parents[1] / "runs/saved-ae48e92"
    run = Path(shutil.copytree(saved, tmp_path / "pair/gate"))
    record = runs.read(saved).record
    record["recipe"] = record.pop("parameters") | {"role": "gate"}
    runs.write_record(run, record)
    both, gate = networks.open_members([saved, run], Faults(), batch_size=1)
    assert (both.role, both.gate, gate.role, gate.gate) == ("both", False, "gate", True)
    assert str(gate).startswith("pair/gate: gate, ")
    assert both.name == saved.name
    assert "both" not in str(both)
