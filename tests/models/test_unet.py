"""The network: its sizes and counts, what it sees, what it refuses, and its life as a Keras model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

from kitlib.layers import losses
from kitlib.models import padding
from kitlib.models.unet import NO_ATTENTION, build_unet, receptive_field

ROOT = str(Path(__file__).parents[2])
SMALL = {"base": 8, "cap": 16, "levels": 2, "window_stages": (0, 1), "window": 2}


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def outputs(model, x):
    return ops.convert_to_numpy(model(x, training=False))


# Sizes and counts


@pytest.mark.parametrize(
    ("levels", "count", "everything", "millions"), [(4, 2_496_819, 2_499_763, 2.50), (5, 5_711_411, 5_716_403, 5.72)]
)
def test_the_papers_networks_have_the_papers_size(levels, count, everything, millions):
    model = build_unet((128, 128, 5), levels=levels)
    assert model.output_shape == (None, 128, 128, 3)
    assert trainable(model) == count
    assert model.count_params() == everything
    assert round(everything / 1e6, 2) == millions


def test_the_original_network_takes_572_and_gives_388():
    model = build_unet((572, 572, 1), 2, padding="valid", base=64, cap=1024, batch_norm=False, **NO_ATTENTION)
    assert model.output_shape == (None, 388, 388, 2)
    assert sum(isinstance(layer, (layers.Conv2D, layers.Conv2DTranspose)) for layer in model.layers) == 23
    crops = [layer.cropping[0] for layer in model.layers if isinstance(layer, layers.Cropping2D)]
    assert crops == [(4, 4), (16, 16), (40, 40), (88, 88)]


@pytest.mark.parametrize(("levels", "multiple"), [(4, 16), (5, 32)])
def test_any_multiple_fits_and_other_sides_are_named(levels, multiple):
    for side in (multiple, 3 * multiple, 10 * multiple):
        padding.check_size((side, side), levels, (0, 1, 2), 4, "same")
    for side in (multiple - 1, 2 * multiple + 2, 200 if levels == 4 else 144):
        with pytest.raises(ValueError, match=f"the width {side} does not fit"):
            padding.check_size((multiple, side), levels, (0, 1, 2), 4, "same")


def test_an_error_offers_sides_that_fit():
    with pytest.raises(ValueError, match=r"^the height 100 .*stage 1 is 50 long.*window 4; choose 96 or 112"):
        build_unet((100, 128, 5))
    with pytest.raises(ValueError, match=r"^the width 90 .*stage 1 is 45 long, which is odd; choose 80 or 96"):
        build_unet((96, 90, 5), **NO_ATTENTION)


def test_an_unknown_size_is_checked_when_it_is_known():
    model = build_unet((None, None, 3), **SMALL)
    assert model.output_shape == (None, None, None, 3)
    assert outputs(model, images(1, 8, 16, 3)).shape == (1, 8, 16, 3)
    with pytest.raises(ValueError, match="the height 10 does not fit"):
        model(images(1, 10, 16, 3))


@pytest.mark.parametrize("shape", [(128, 128, 5), (37, 50, 3)])
def test_a_mirrored_border_keeps_the_images_size(shape):
    model = build_unet(shape, padding="valid", mirror_border=True, base=4, **NO_ATTENTION)
    assert model.output_shape == (None, *shape[:2], 3)


def test_the_mirror_stands_on_the_outermost_pixels():
    row = np.arange(4.0).reshape(1, 1, 4, 1).repeat(3, 1)
    mirrored = ops.convert_to_numpy(padding.MirrorBorder((0, 2), (1, 9))(row))
    assert mirrored.shape == (1, 4, 15, 1)
    assert mirrored[0, 0, :, 0].tolist() == [2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0]


def test_the_mirror_agrees_with_numpy():
    x = images(2, 5, 7, 3)
    mirrored = ops.convert_to_numpy(padding.MirrorBorder((2, 6), (3, 11))(x))
    np.testing.assert_array_equal(mirrored, np.pad(x, [(0, 0), (2, 3), (6, 11), (0, 0)], mode="reflect"))


def test_valid_with_a_mirrored_border_sees_what_stands_at_a_pixel():
    """With kernels that only pass the middle on, the network is the identity: nothing is shifted on the way."""
    model = build_unet((30, 41, 1), 1, 1, 1, 1, (), False, "valid", True, batch_norm=False, activation=None)
    for layer in model.layers:
        if isinstance(layer, layers.Conv2DTranspose):
            layer.set_weights([0 * w for w in layer.get_weights()])  # the skip alone
        elif isinstance(layer, layers.Conv2D):
            kernel, bias = (0 * w for w in layer.get_weights())
            kernel[kernel.shape[0] // 2, kernel.shape[1] // 2, 0] = 1
            layer.set_weights([kernel, bias])
    x = np.abs(images(2, 30, 41, 1))
    np.testing.assert_allclose(outputs(model, x), x, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"padding": "full"}, "choose 'same' or 'valid'"),
        ({"mirror_border": True}, "mirror_border needs padding='valid'"),
        ({"window_stages": (5,)}, "choose from 0 to 4"),
        ({"encoder": lambda x: [x]}, "the encoder returns 1 maps"),
        ({"encoder": lambda x: [x] * 5}, "stage 1 of the encoder has a side of 32"),
        ({"encoder": lambda x: [None, None, x, x, x], "window_stages": (1,)}, "the encoder has no maps at stage 1"),
        ({"encoder": lambda x: [x], "padding": "valid"}, "an encoder needs padding='same'"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        build_unet((32, 32, 3), **wrong)


def test_a_mirrored_border_needs_a_fixed_size():
    with pytest.raises(ValueError, match="fixed height and width"):
        build_unet((None, 32, 3), padding="valid", mirror_border=True, **NO_ATTENTION)


# What it sees


@pytest.mark.parametrize("levels", [4, 5])
def test_receptive_fields_are_the_papers_in_its_convention(levels):
    fields = receptive_field(levels)
    assert fields["pool as stride"] == [5, 13, 29, 61, 125, 253][: levels + 1]
    assert fields["pool as 2x2"] == [5, 14, 32, 68, 140, 284][: levels + 1]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_gradient_reaches_as_far_as_the_second_convention_says(stage):
    """All kernels 1 and linear maps: the support of one value of a stage, found by moving one input at a time."""
    model = build_unet((128, 128, 1), levels=3, base=1, cap=1, batch_norm=False, **NO_ATTENTION)
    inner = keras.Model(model.input, model.get_layer(f"down{stage}b_relu").output)
    for layer in inner.layers:
        layer.set_weights([np.ones(w.shape) if w.ndim > 1 else 0 * w for w in layer.get_weights()])
    expected = receptive_field(3)["pool as 2x2"][stage]
    middle = 64 // 2**stage
    # A single lit pixel per image, along one row: it reaches the middle value or it does not.
    lit = np.zeros((128, 128, 128, 1), "float32")
    lit[range(128), 64, range(128), 0] = 1
    reached = np.concatenate([outputs(inner, lit[k : k + 32])[:, middle, middle, 0] > 0 for k in range(0, 128, 32)])
    assert reached.sum() == expected
    assert np.ptp(np.flatnonzero(reached)) == expected - 1


@pytest.mark.parametrize(("levels", "pixel"), [(1, 0), (2, 3), (2, 6)])
def test_a_valid_pixel_depends_on_the_context_named_and_no_more(levels, pixel):
    side = 16 + 2 * padding.skip_border(0, levels) + 8
    while side % 2**levels != (4 * (2**levels - 1)) % 2**levels:
        side += 1
    model = build_unet(
        (side, side, 1), 1, levels, 1, 1, padding="valid", batch_norm=False, activation=None, **NO_ATTENTION
    )
    for layer in model.layers:
        layer.set_weights([np.ones(w.shape) if w.ndim > 1 else 0 * w for w in layer.get_weights()])
    lit = np.zeros((side, side, side, 1), "float32")
    lit[range(side), :, range(side), 0] = 1
    middle = model.output_shape[1] // 2
    reached = np.flatnonzero(outputs(model, lit)[:, middle, pixel, 0])
    assert (reached[0], reached[-1]) == padding.context(pixel, levels)


def test_attention_can_sit_on_any_stage_or_none():
    counts = {}
    for stages in ((), (0,), (2,), (0, 1, 2, 3, 4)):
        model = build_unet((64, 64, 5), window_stages=stages, external_bottleneck=False)
        counts[stages] = trainable(model)
        assert sum(layer.name.endswith("_window") for layer in model.layers) == len(stages)
    per_stage = {width: 4 * (width * width + width) + 2 * width for width in (16, 32, 64, 128, 256)}
    assert counts[(0,)] - counts[()] == per_stage[16]
    assert counts[(2,)] - counts[()] == per_stage[64]
    assert counts[(0, 1, 2, 3, 4)] - counts[()] == sum(per_stage.values())


def test_another_encoder_takes_the_place_of_the_way_down():
    def encoder(x):
        half = layers.Conv2D(8, 3, strides=2, padding="same")(x)
        return [None, half, layers.Conv2D(16, 3, strides=2, padding="same")(half)]

    model = build_unet((16, 24, 3), encoder=encoder, **{**SMALL, "window_stages": (1,)})
    assert model.output_shape == (None, 16, 24, 3)
    assert not any(layer.name == "up0_skip" for layer in model.layers)
    assert outputs(model, images(2, 16, 24, 3)).shape == (2, 16, 24, 3)


# Its life as a Keras model


def test_gradients_reach_every_weight():
    model = build_unet((16, 16, 3), **SMALL)
    before = [w.copy() for w in model.get_weights()]
    model.compile(keras.optimizers.SGD(1.0), losses.BCEDice())
    model.train_on_batch(images(2, 16, 16, 3), images(2, 16, 16, 3, seed=1) > 0)
    still = {
        w.path for w, old in zip(model.weights, before, strict=True) if np.array_equal(ops.convert_to_numpy(w), old)
    }
    # A softmax over tokens or positions forgets a constant per query or cell; batch norm forgets a convolution's bias.
    blind = ("_window/key/bias", "external/query/bias", "external/memory_keys/bias", "a/bias", "b/bias")
    assert all(path.endswith(blind) for path in still), still


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_ends_in_float32_near_the_same_probabilities(policy):
    plain = build_unet((16, 16, 3), **SMALL)
    keras.config.set_dtype_policy(policy)
    try:
        mixed = build_unet((16, 16, 3), **SMALL)
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(plain.get_weights())
    x = images(2, 16, 16, 3)
    found = outputs(mixed, x)
    assert found.dtype == np.float32
    assert mixed.get_layer("down0a").compute_dtype == policy.removeprefix("mixed_")
    np.testing.assert_allclose(found, outputs(plain, x), atol=0.03)


def test_logits_are_the_probabilities_before_the_sigmoid():
    network, logits = build_unet((16, 16, 3), **SMALL), build_unet((16, 16, 3), activation=None, **SMALL)
    logits.set_weights(network.get_weights())
    x = images(1, 16, 16, 3)
    np.testing.assert_allclose(1 / (1 + np.exp(-outputs(logits, x))), outputs(network, x), atol=1e-6)


LOAD = """
import sys, keras, numpy as np
from kitlib.models import unet
from kitlib.layers import losses
model = keras.saving.load_model(sys.argv[1], safe_mode=True)
np.save(sys.argv[2], keras.ops.convert_to_numpy(model(np.load(sys.argv[3]), training=False)))
print(keras.backend.backend(), type(model.loss).__name__)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A trained little network with every layer of its kind, an input, and what it makes of it."""
    folder = tmp_path_factory.mktemp("saved")
    options = {**SMALL, "padding": "valid", "mirror_border": True, "dropout": 0.1, "window_stages": (1,)}
    model = build_unet((16, 20, 3), **options)
    model.compile("adam", losses.BCEDice(dice_weight=0.5))
    x = images(4, 16, 20, 3)
    model.train_on_batch(x, images(4, 16, 20, 3, seed=1) > 0)
    model.save(folder / "model.keras")
    np.save(folder / "x.npy", x)
    return folder, outputs(model, x)


def load_elsewhere(folder, backend):
    """Load the network in a process that imports kitlib.models.unet and kitlib.layers.losses alone, and run it."""
    target = folder / f"{backend}.npy"
    command = [sys.executable, "-c", LOAD, folder / "model.keras", target, folder / "x.npy"]
    surroundings = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join([ROOT, *sys.path])}
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [backend, "BCEDice"]
    return np.load(target)


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_a_saved_network_gives_the_same_on_every_backend(saved, backend):
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    folder, expected = saved
    np.testing.assert_allclose(load_elsewhere(folder, backend), expected, atol=1e-4)


def test_the_configuration_of_a_network_is_plain_json():
    assert json.loads(build_unet((16, 16, 3), **SMALL).to_json())["class_name"] == "Functional"
