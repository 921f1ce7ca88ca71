"""The prior in a network: what sees it, what does not, and that none of it is a network without."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kitlib.models import prior
from kitlib.models.unet import build_unet

PLAIN = {"levels": 2, "base": 8, "cap": 16, "window_stages": (0,), "window": 2}
OWN = {"levels": 2, "base": 8, "cap": 16, "window_stages": (), "external_bottleneck": False}
NETWORKS = {"paper": PLAIN, "encoder": {"encoder": "efficientnet-lite0", "base": 8}, "own": OWN}


def own(images):
    """An encoder without maps at full size."""
    half = layers.Conv2D(8, 3, strides=2, padding="same", name="half")(images)
    return [None, half, layers.Conv2D(8, 3, strides=2, padding="same", name="quarter")(half)]


def build(kind, channels, **options):
    return build_unet((32, 64, channels), **NETWORKS[kind], **({"encoder": own} if kind == "own" else {}), **options)


def outputs(model, x):
    return ops.convert_to_numpy(model(x, training=False))


def batch(seed=0):
    rng = np.random.default_rng(seed)
    slices = rng.uniform(0, 2, (2, 32, 64, 3))
    masks = rng.random((2, 32, 64, 4)) > 0.5
    return slices.astype("float32"), masks.astype("float32")


def copied(source, target):
    """Copy weights by layer into a network with a prior; the rows of kernels that see it keep what they are."""
    for layer in source.layers:
        values = target.get_layer(layer.name).get_weights()
        for old, new in zip(layer.get_weights(), values, strict=True):
            new[tuple(slice(side) for side in old.shape)] = old
        target.get_layer(layer.name).set_weights(values)


@pytest.mark.parametrize("kind", NETWORKS)
def test_without_another_day_the_network_is_one_that_has_only_slices(kind):
    source, target = build(kind, 3), build(kind, 7, prior=True)
    copied(source, target)
    slices, masks = batch()
    nothing = np.concatenate([slices, 0 * masks], axis=-1)
    np.testing.assert_allclose(outputs(target, nothing), outputs(source, slices), atol=1e-6)
    given = np.concatenate([slices, masks], axis=-1)
    assert np.abs(outputs(target, given) - outputs(source, slices)).max() > 1e-3


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_way_down_never_sees_the_prior(kind):
    model = build(kind, 7, prior=True)
    slices, masks = batch()
    ends = [layer.input[0] for layer in model.layers if layer.name.endswith("_skip") and len(layer.input) > 2]
    bottom = next(layer for layer in model.layers if isinstance(layer, layers.Conv2DTranspose)).input
    inner = keras.Model(model.input, [*ends, bottom])
    one, other = (inner(np.concatenate([slices, part], axis=-1), training=False) for part in (masks, 1 - masks))
    assert len(ends) == {"paper": 2, "encoder": 4, "own": 1}[kind]
    for here, there in zip(one, other, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(here), ops.convert_to_numpy(there))


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_stage_up_gets_the_prior_last(kind):
    model = build(kind, 7, prior=True)
    _, masks = batch()
    joined = [layer for layer in model.layers if layer.name.endswith("_skip")]
    assert len(joined) == (5 if kind == "encoder" else 2)
    given = np.concatenate([np.zeros((2, 32, 64, 3), "float32"), masks], axis=-1)
    for layer in joined:
        found = outputs(keras.Model(model.input, layer.input[-1]), given)
        side = 2 ** int(layer.name[2])
        pooled = masks.reshape(2, 32 // side, side, 64 // side, side, 4).mean(axis=(2, 4))
        np.testing.assert_allclose(found, pooled, atol=1e-6)


def test_a_network_with_a_prior_is_saved_whole(tmp_path):
    model = build("paper", 7, prior=True)
    model.save(tmp_path / "model.keras")
    x = np.concatenate(batch(), axis=-1)
    np.testing.assert_array_equal(outputs(keras.saving.load_model(tmp_path / "model.keras"), x), outputs(model, x))


def test_what_a_prior_needs_is_said():
    with pytest.raises(ValueError, match="has 4 channels; with a prior it needs more than 4"):
        build_unet((32, 32, 4), prior=True, **PLAIN)
    with pytest.raises(ValueError, match="a prior needs padding='same'"):
        build_unet((92, 92, 7), padding="valid", prior=True)


def test_channels_are_taken_from_maps_of_any_rank():
    maps = np.arange(2 * 3 * 5 * 7, dtype="float32").reshape(2, 3, 5, 7)
    layer = prior.Channels(2, 6)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(maps)), maps[..., 2:6])
    assert layer.compute_output_shape((None, 3, 5, 7)) == (None, 3, 5, 4)
