"""The SegResNet: its size and sums against slow references, what it refuses, and its life as a Keras model."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kitlib.models import build_segresnet
from kitlib.models.segresnet import LinearUpsampling, VolumeNormalization

SMALL = {"init": 8, "blocks": (1, 1)}


def volume(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def numbers(tensor):
    return ops.convert_to_numpy(tensor)


def test_weights_and_operations_are_those_of_monais_network():
    model = build_segresnet((16, 24, 8))
    assert model.output_shape == (None, 16, 24, 8, 3)
    assert model.count_params() == 4_700_931  # SegResNet(3, init_filters=16, in_channels=1, out_channels=3)


def test_every_slice_is_labelled_and_its_neighbours_count():
    keras.utils.set_random_seed(1)
    model = build_segresnet((8, 12, 6), **SMALL)
    x = volume(1, 8, 12, 6)
    before = numbers(model(x))
    x[0, :, :, 1] += 1
    moved = np.abs(numbers(model(x)) - before).max(axis=(0, 1, 2, 4))
    assert before.shape == (1, 8, 12, 6, 3)
    assert (moved > 1e-6).all()
    assert np.abs(numbers(model(x)) - before).max() < 1


def test_a_norm_is_keras_own():
    maps = 3 + volume(2, 3, 5, 7, 16)
    keras.utils.set_random_seed(2)
    ours, theirs = VolumeNormalization(8, epsilon=1e-5), layers.GroupNormalization(8, epsilon=1e-5)
    ours.build(maps.shape)
    theirs.build(maps.shape)
    weights = [volume(16, seed=3), volume(16, seed=4)]
    ours.set_weights(weights)
    theirs.set_weights(weights)
    np.testing.assert_allclose(numbers(ours(maps)), numbers(theirs(maps)), atol=2e-5)


def test_a_norm_holds_its_statistics_in_32_bits():
    """In 16 bits the sum of 4,000 numbers near 200 is infinite, and their mean is rounded to an eighth."""
    maps = (200 + 4 * volume(1, 10, 20, 20, 8)).astype("float16")
    layer = VolumeNormalization(8, epsilon=1e-5, dtype="mixed_float16")
    found, exact = numbers(layer(maps)), maps.astype("float64")
    exact = (exact - exact.mean(axis=(1, 2, 3))) / exact.std(axis=(1, 2, 3))
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, exact, atol=4e-3)


def test_upsampling_is_linear_between_centres_along_each_axis():
    maps = volume(2, 2, 3, 5, 1)
    expected = maps
    for axis in (1, 2, 3):
        side = maps.shape[axis]
        centres, fine = np.arange(side), (np.arange(2 * side) - 0.5) / 2
        expected = np.apply_along_axis(lambda row: np.interp(fine, centres, row), axis, expected)  # noqa: B023
    layer = LinearUpsampling()
    np.testing.assert_allclose(numbers(layer(maps)), expected, atol=1e-6)
    assert layer.compute_output_shape(maps.shape) == expected.shape


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_it_is_saved_and_every_weight_learns(tmp_path, policy):
    keras.utils.set_random_seed(3)
    keras.config.set_dtype_policy(policy)
    try:
        model = build_segresnet((8, 4, 6), **SMALL)
    finally:
        keras.config.set_dtype_policy("float32")
    x, truth = volume(3, 8, 4, 6), volume(3, 8, 4, 6, 3) > 0
    model.compile(keras.optimizers.SGD(1.0), "binary_crossentropy")
    before = model.get_weights()
    model.train_on_batch(x, truth.astype("float32"))
    names = [weight.path for weight, old in zip(model.weights, before, strict=True) if (numbers(weight) == old).all()]
    assert names == []
    found = numbers(model(x))
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(numbers(again(x)), found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"input_shape": (16, 20, 8)}, "the width 20 does not fit 4 stages; choose 16 or 24"),
        ({"input_shape": (16, 16, 5)}, "the depth 5 does not fit 4 stages; choose 8"),
        ({"input_shape": (None, 16, 8)}, r"input_shape is \(None, 16, 8\); give a fixed height"),
        ({"input_shape": (16, 16, 8), "init": 12}, "init is 12; choose a multiple of 8"),
    ],
)
def test_sizes_that_do_not_fit_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        build_segresnet(**arguments)
