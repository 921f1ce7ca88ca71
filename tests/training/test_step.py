"""The training step and the averages of its weights; also on two devices, in half precision and on JAX."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from kitlib.data import pipeline, scans
from kitlib.layers import augment, losses, monitors
from kitlib.training import Recipe, step

COMMON = """
import json, keras, numpy as np
from kitlib.layers import augment
from kitlib.layers import losses
from kitlib.layers import monitors
from kitlib.training import step as steps
from kitlib.models import unet

keras.utils.set_random_seed(0)
SMALL = {"input_shape": (16, 16, 5), "levels": 1, "base": 4, "window_stages": (0,)}
found = {"backend": keras.backend.backend()}

def data(count=12, seed=0):
    rng = np.random.default_rng(seed)
    masks = (rng.random((count, 16, 16, 3)) > 0.7).astype("uint8")
    masks[: count // 3] = 0
    return {"images": rng.random((count, 16, 16, 5)).astype("float32"), "masks": masks,
            "seed": np.arange(count, dtype="int32"), "weight": np.repeat(np.float32([1, 0]), [count - 2, 2])}

def model(loss, optimizer="adam", layer=None, weights=None, watched=(), **options):
    network = unet.build_unet(**SMALL, **options)
    if weights is not None:
        network.set_weights(weights)
    made = steps.AugmentedModel(network, layer)
    made.compile(optimizer, loss, weighted_metrics=list(watched))
    return made

def panel():
    organs = (None, "large_bowel", "small_bowel", "stomach")
    overlaps = [kind(organ) for kind in (monitors.Dice, monitors.IoU) for organ in organs]
    return [*overlaps, monitors.BinaryAccuracy(), monitors.PaperAccuracy()]

def fits(policy, layer):
    keras.config.set_dtype_policy(policy)
    made = model(losses.BCEDice(dice_weight=0.5), layer=layer, watched=[monitors.Dice()])
    history = made.fit(feed(data(8)), validation_data=feed(data(8, seed=1)), epochs=1, verbose=0).history
    keras.config.set_dtype_policy("float32")
    found[policy] = {name: values[-1] for name, values in history.items()}
"""

TENSORFLOW = (
    COMMON
    + """
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

def feed(batch, size=4):
    return tf.data.Dataset.from_tensor_slices(batch).batch(size)

def twice(loss):
    '''One batch on one device and on two: what evaluate says, and the weights after a step.'''
    weights = unet.build_unet(**SMALL, batch_norm=False).get_weights()
    weights[-1][:] = 0  # the head's bias: else no pixel is predicted, and there is little to count
    settings = {"optimizer": keras.optimizers.SGD(1.0), "weights": weights, "batch_norm": False}
    alone = model(loss, layer=augment.paper(), watched=panel(), **settings)
    with two.scope():
        settings["optimizer"] = keras.optimizers.SGD(1.0)
        mirrored = model(loss, layer=augment.paper(), watched=panel(), **settings)
    batch = data(8)
    batch["weight"][:] = 1
    results = []
    for one in (alone, mirrored):
        said = one.evaluate(feed(batch, 8), verbose=0, return_dict=True)
        one.fit(feed(batch, 8), epochs=1, verbose=0)
        results.append((said, np.concatenate([np.ravel(weight) for weight in one.network.get_weights()])))
    before = np.concatenate([np.ravel(weight) for weight in weights])
    alone.network.set_weights(weights)
    parts = [{name: values[part] for name, values in batch.items()} for part in (slice(4), slice(4, 8))]
    return {
        "one": results[0][0],
        "two": results[1][0],
        "halves": [alone.evaluate(feed(part, 4), verbose=0, return_dict=True)["loss"] for part in parts],
        "moved": float(np.abs(results[0][1] - before).max()),
        "apart": float(np.abs(results[0][1] - results[1][1]).max()),
    }

found["bce"] = twice(losses.BCE())
found["dice"] = twice(losses.Dice())
with two.scope():
    for policy in ("mixed_float16", "mixed_bfloat16"):
        fits(policy, augment.Augment())

def overflows(scaling):
    '''A step whose gradients are not finite on the second device: are the weights, and how far did the scale fall.'''
    keras.config.set_dtype_policy("mixed_float16")
    with two.scope():
        made = model(losses.BCE(), optimizer=scaling(keras.optimizers.SGD(1.0)), batch_norm=False)
    keras.config.set_dtype_policy("float32")
    made.optimizer.build(made.trainable_variables)
    before, batch = float(made.optimizer.dynamic_scale), data(8)
    batch["weight"][:], batch["images"][4:] = 1, np.inf
    made.fit(feed(batch, 8), epochs=1, verbose=0)
    finite = all(np.isfinite(weight).all() for weight in made.network.get_weights())
    return [finite, float(made.optimizer.dynamic_scale) / before]

found["overflow"] = [overflows(kind) for kind in (steps.LossScaling, keras.optimizers.LossScaleOptimizer)]
print(json.dumps(found))
"""
)

JAX = (
    COMMON
    + """
class Batches(keras.utils.PyDataset):
    def __init__(self, batch, size=4):
        super().__init__()
        self.batch, self.size = batch, size
    def __len__(self):
        return len(self.batch["seed"]) // self.size
    def __getitem__(self, i):
        return ({name: values[i * self.size : (i + 1) * self.size] for name, values in self.batch.items()},)

feed = Batches
for policy in ("float32", "mixed_bfloat16"):
    fits(policy, augment.paper())
print(json.dumps(found))
"""
)


def run(script, backend):
    """What a script prints as its last line, in a process with the backend."""
    surroundings = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=surroundings, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("backend") == backend
    return found


@pytest.fixture(scope="module")
def on_two_devices():
    """What a process with two virtual devices found."""
    pytest.importorskip("tensorflow")
    return run(TENSORFLOW, "tensorflow")


def test_two_devices_say_and_learn_what_one_does(on_two_devices):
    found = on_two_devices["bce"]
    assert len(found["one"]) == 11
    assert found["two"] == pytest.approx(found["one"], rel=1e-4)
    assert found["one"]["dice"] > 0.1
    assert found["moved"] > 1e-3
    assert found["apart"] < 1e-3 * found["moved"]


def test_on_two_devices_an_overlap_is_the_mean_of_both_halves(on_two_devices):
    found = on_two_devices["dice"]
    assert found["two"].pop("loss") == pytest.approx(np.mean(found["halves"]), rel=1e-4)
    assert found["one"].pop("loss") != pytest.approx(np.mean(found["halves"]), rel=1e-4)
    assert found["two"] == pytest.approx(found["one"], rel=1e-4)  # the monitors count over both


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_two_devices_train_with_augmentation_in_half_precision(on_two_devices, policy):
    history = on_two_devices[policy]
    assert sorted(history) == ["dice", "loss", "val_dice", "val_loss"]
    assert all(0 <= value < 10 for value in history.values())


def test_an_overflow_on_the_second_device_skips_the_step(on_two_devices):
    ours, kerass = on_two_devices["overflow"]
    assert ours == [True, 0.5]
    assert kerass == [False, 1.0]  # if this fails, Keras asks all devices, and LossScaling can go


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend_trains_with_augmentation_and_validates(backend):
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    found = run(JAX, backend)
    assert list(found) == ["float32", "mixed_bfloat16"]
    for history in found.values():
        assert sorted(history) == ["dice", "loss", "val_dice", "val_loss"]
        assert all(0 <= value < 10 for value in history.values())


def test_loss_falls_on_a_few_slices(slices, packed, spec, small):
    fullest = scans.organ_count(slices).nlargest(8).index
    model = step.AugmentedModel(small.builder()(spec.shape))
    model.compile(keras.optimizers.Adam(1e-2), losses.BCEDice(dice_weight=0.5))
    batches = pipeline.dataset(slices.loc[sorted(fullest)], spec, 8, True, packed=packed)
    history = model.fit(batches, epochs=1, steps_per_epoch=1, shuffle=False, verbose=0).history["loss"]
    history += model.fit(batches, epochs=60, steps_per_epoch=1, shuffle=False, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]


def test_padding_does_not_count_in_validation(slices, packed, spec, small):
    model = step.AugmentedModel(small.builder()(spec.shape))
    model.compile(loss=losses.BCE(), weighted_metrics=[monitors.Dice(name="dice")])
    part = slices.iloc[:6]
    whole, padded = (
        model.evaluate(pipeline.dataset(part, spec, size, False, packed=packed), verbose=0, return_dict=True)
        for size in (6, 4)
    )
    assert padded["dice"] == pytest.approx(whole["dice"], abs=1e-6)


def test_augmentation_runs_in_training_only(slices, packed, spec, small):
    model = step.AugmentedModel(small.builder()(spec.shape), augment.Augment())
    fullest = slices.loc[scans.organ_count(slices).nlargest(4).index]
    batch = next(iter(pipeline.dataset(fullest, spec, 4, False, packed=packed)))
    kept, moved = (model(batch, training=moving)["masks"] for moving in (False, True))
    np.testing.assert_array_equal(kept, batch["masks"])
    assert np.any(np.asarray(moved) != batch["masks"])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_images_reach_the_augmentation_unrounded_and_the_network_in_16_bits(policy):
    seen = {}

    class Look(keras.layers.Layer):
        def call(self, images, masks, seeds, training=None):
            seen["dtype"] = images.dtype
            return images, masks

    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(policy)
        network = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(3, 1)])
        model = step.AugmentedModel(network, Look(dtype="float32"))
        batch = {
            "images": np.ones((2, 4, 4, 1), "float32"),
            "masks": np.zeros((2, 4, 4, 3), "uint8"),
            "seed": np.arange(2, dtype="int32"),
            "weight": np.ones(2, "float32"),
        }
        answer = model({name: keras.ops.convert_to_tensor(value) for name, value in batch.items()}, training=True)
        assert keras.backend.standardize_dtype(seen["dtype"]) == "float32"
        assert keras.backend.standardize_dtype(answer["probabilities"].dtype) == policy.removeprefix("mixed_")
        assert keras.backend.standardize_dtype(answer["weight"].dtype) == "float32"
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's kernels")
@pytest.mark.parametrize("layer", [augment.Augment(), augment.paper(), augment.Augment(cutmix=0.5, order=3)])
def test_masks_are_gathered_in_a_type_that_has_a_gpu_kernel(spec, small, layer):
    import tensorflow as tf

    model = step.AugmentedModel(small.builder()(spec.shape), layer)
    batch = {
        "images": tf.TensorSpec((4, *spec.shape)),
        "masks": tf.TensorSpec((4, *spec.shape[:2], 3), tf.uint8),
        "seed": tf.TensorSpec((4,), tf.int32),
        "weight": tf.TensorSpec((4,)),
    }
    graph = tf.function(lambda batch: model(batch, training=True)).get_concrete_function(batch).graph
    gathered = {op.get_attr("Tparams") for op in graph.get_operations() if op.type == "GatherV2"}
    assert tf.float16 in gathered
    assert gathered <= {tf.float16, tf.float32, tf.int32, tf.int64}


def test_weights_and_statistics_are_averaged_together(tmp_path):
    def built():
        layers = keras.layers
        inner = [layers.Conv2D(3, 1), layers.BatchNormalization(momentum=0.5), layers.Activation("sigmoid")]
        network = keras.Sequential([keras.Input((4, 4, 2)), *inner])
        model = step.AugmentedModel(network, average=0.75)
        model.compile(Recipe(learning_rate=0.1, average=0.75).make_optimizer(1), Recipe().made("loss"))
        model.built = True
        model.optimizer.build(model.trainable_variables)
        return model, network

    model, network = built()
    batch = {"masks": np.ones((8, 4, 4, 3)), "seed": np.zeros(8, "int32"), "weight": np.ones(8)}
    expected, steps = None, 40
    for number in range(steps):
        images = np.random.default_rng(number).random((8, 4, 4, 2), dtype=np.float32) + number
        model.train_on_batch(batch | {"images": images})
        now = [weight.numpy() for weight in network.weights]
        shares = [0.75 * (number > 0)] * 4 + [min(0.75, number / (number + 9))] * 2
        expected = now if expected is None else expected
        expected = [s * old + (1 - s) * new for s, old, new in zip(shares, expected, now, strict=True)]
    found = step.averaged_weights(model, network)
    for array, weight, now in zip(expected, found, network.weights, strict=True):
        np.testing.assert_allclose(array, weight, rtol=1e-5, atol=1e-6)
        assert np.abs(weight - now.numpy()).max() > 1e-4
    model.save_weights(tmp_path / "model.weights.h5")
    again, copy = built()
    again.load_weights(tmp_path / "model.weights.h5")
    for array, other in zip(found, step.averaged_weights(again, copy), strict=True):
        np.testing.assert_array_equal(array, other)
    assert float(again.steps) == steps


def test_without_an_average_the_weights_themselves_are_read():
    network = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.BatchNormalization()])
    model = step.AugmentedModel(network)
    model.compile("sgd", "mse")
    assert not model.statistics
    for array, weight in zip(step.averaged_weights(model, network), network.weights, strict=True):
        np.testing.assert_array_equal(array, weight.numpy())


def test_mean_of_epochs_is_their_mean():
    epochs = np.random.default_rng(0).random((5, 2, 3))
    mean = None
    for count, array in enumerate(epochs):
        mean = step.add_to_mean(mean, count, [array])
    np.testing.assert_allclose(mean[0], epochs.mean(axis=0))


def test_a_prior_is_moved_and_mixed_as_masks_are_and_never_shaded():
    rng = np.random.default_rng(0)
    masks = (rng.random((4, 32, 32, 3)) > 0.5).astype("uint8")
    batch = {
        "images": rng.random((4, 32, 32, 3)).astype("float32"),
        "masks": np.concatenate([masks, masks, np.ones((4, 32, 32, 1), "uint8")], axis=-1),
        "seed": np.arange(4, dtype="int32"),
        "weight": np.ones(4, "float32"),
    }
    network = keras.Sequential([keras.Input((32, 32, 7)), keras.layers.Identity()])  # shows what it is given
    for layer in (augment.Augment(cutmix=0.5), augment.Augment(mixup=1.0), None):
        found = step.AugmentedModel(network, layer)(batch, training=True)
        given, moved = (keras.ops.convert_to_numpy(found[name]) for name in ("probabilities", "masks"))
        assert given.shape == (4, 32, 32, 7)
        assert moved.shape == masks.shape
        np.testing.assert_array_equal(given[..., 3:6], moved.astype("float32"))
        assert given[..., 6].max() == 1
        if layer is not None:
            images, expected = layer(batch["images"], masks, batch["seed"], training=True)
            np.testing.assert_allclose(given[..., :3], images, atol=1e-6)
            np.testing.assert_allclose(moved, expected, atol=1e-6)
            assert (given[..., 6] == 0).any()  # beyond the edge there is no prior either
