import keras
import numpy as np
import pytest

from kitlib.inference import engine, folding
from kitlib.models import unet


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


@pytest.mark.parametrize("stages", [(), (0, 1)])
def test_folded_network_is_the_same_function(stages):
    plain = network(window_stages=stages)
    folded = folding.fold(plain)
    assert not [layer for layer in folded.layers if isinstance(layer, keras.layers.BatchNormalization)]
    wanted = plain.predict_on_batch(IMAGES)
    np.testing.assert_allclose(folded.predict_on_batch(IMAGES), wanted, atol=1e-5)
    assert wanted.std() > 1e-3


def test_folding_leaves_the_network_alone():
    plain = network(window_stages=())
    before = plain.predict_on_batch(IMAGES)
    folding.fold(plain)
    np.testing.assert_array_equal(plain.predict_on_batch(IMAGES), before)


def test_batch_norms_that_follow_no_convolution_of_their_own_stay():
    images = keras.Input((8, 8, 3))
    maps = keras.layers.BatchNormalization()(images)
    maps = keras.layers.Conv2D(4, 3, use_bias=False)(maps)
    both = [keras.layers.BatchNormalization()(maps), maps]
    maps = keras.layers.Conv2D(4, 3, activation="relu")(keras.layers.Add()(both))
    plain = keras.Model(images, keras.layers.BatchNormalization()(maps))
    folded = folding.fold(plain)
    assert sum(isinstance(layer, keras.layers.BatchNormalization) for layer in folded.layers) == 3
    some = IMAGES[:, :8, :8]
    np.testing.assert_allclose(folded.predict_on_batch(some), plain.predict_on_batch(some), atol=1e-5)


def test_convolutions_without_bias_get_one():
    images = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, use_bias=False)(images)
    plain = keras.Model(images, keras.layers.BatchNormalization(scale=False)(maps))
    plain.layers[-1].set_weights([np.full(4, value, "float32") for value in (0.5, 0.2, 2.0)])
    some = IMAGES[:, :8, :8]
    np.testing.assert_allclose(folding.fold(plain).predict_on_batch(some), plain.predict_on_batch(some), atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow's graphs are frozen")
def test_engine_freezes_and_agrees_with_keras_to_rounding():
    plain = network(window_stages=(0,))
    made = engine.Engine(plain, batch_size=5)
    assert made.kind == "frozen TensorFlow graph, batch norms folded"
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
    found = engine.Engine(half, batch_size=5)(IMAGES)
    np.testing.assert_allclose(found, plain.predict_on_batch(IMAGES), atol=1e-5)


def test_engine_leaves_a_graph_aside_that_says_something_else(monkeypatch):
    monkeypatch.setattr(engine, "fold", lambda *_: network(**unet.NO_ATTENTION))
    plain = network(window_stages=(0,))
    made = engine.Engine(plain, batch_size=2)
    assert made.kind.startswith("Keras on")
    np.testing.assert_array_equal(made(IMAGES[:2]), plain.predict_on_batch(IMAGES[:2]))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow's graphs are frozen")
def test_engine_that_cannot_freeze_runs_keras_and_says_when_memory_is_short(monkeypatch):
    import tensorflow as tf

    def fail(*_):
        raise tf.errors.UnimplementedError(None, None, "no such kernel")

    monkeypatch.setattr(engine, "_freeze", fail)
    plain = network(window_stages=(0,))
    made = engine.Engine(plain, batch_size=2)
    assert made.kind == "Keras on tensorflow"
    np.testing.assert_array_equal(made(IMAGES[:2]), plain.predict_on_batch(IMAGES[:2]))

    def too_large(images):
        raise tf.errors.ResourceExhaustedError(None, None, "out of memory")

    monkeypatch.setattr(plain, "predict_on_batch", too_large)
    with pytest.raises(MemoryError, match="2 does not fit"):
        made(IMAGES[:2])
