"""The augmentation layer: one motion for images and masks, replayable, the same in every mode and on every backend."""

import keras
import numpy as np
import pytest
from keras import ops

from kitlib.layers.augment import Augment, paper

H, W = 37, 53
SHAPE = (H, W)
SEEDS = np.array([11, -7, 0, 2**31 - 1], "int32")
GEOMETRY = {"gamma": 0, "contrast": 0, "brightness": 0, "noise": 0, "blur": 0}
STILL = {"field": None, "rotation": 0, "scale": 0, "shift": 0, "flip": 0}
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="needs the TensorFlow backend")


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def waves(channels=5, batch=4):
    """Smooth images in [0, 1] without any random number."""
    row, column = np.mgrid[:H, :W].astype("float32")
    planes = [np.sin(row / (3 + c) + b) * np.cos(column / (4 + c)) for b in range(batch) for c in range(channels)]
    return (np.stack(planes, -1).reshape(H, W, batch, channels).transpose(2, 0, 1, 3) * 0.5 + 0.5).astype("float32")


def masks():
    return (waves(3) > 0.6).astype("uint8")


def run(layer, images=None, seeds=SEEDS):
    images = waves() if images is None else images
    return tuple(map(numpy, layer(images, masks(), seeds, training=True)))


# ---- one motion ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["grid", "smooth", None])
@pytest.mark.parametrize("mode", ["constant", "nearest", "mirror"])
def test_mask_follows_its_image(field, mode):
    layer = Augment(field=field, mode=mode, order=0, **GEOMETRY)
    images, moved = run(layer, masks().astype("float32"))
    np.testing.assert_array_equal(images, moved)
    assert not np.array_equal(moved, masks())


@pytest.mark.parametrize("order", [0, 1, 3])
def test_the_whole_stack_moves_together(order):
    stack = np.repeat(waves(1), 5, axis=-1)
    images, _ = run(Augment(order=order, noise=0), stack)
    for channel in range(1, 5):
        np.testing.assert_allclose(images[..., channel], images[..., 0], atol=1e-6)


@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_masks_of_a_volume_move_like_those_of_each_slice(mixup):
    layer, several = Augment(cutmix=0.5, mixup=mixup, noise=0), (waves(6) > 0.6).astype("uint8")
    volumes = several.reshape(4, H, W, 2, 3)
    images, moved = map(numpy, layer(waves(2), volumes, SEEDS, training=True))
    same, flat = map(numpy, layer(waves(2), several, SEEDS, training=True))
    np.testing.assert_array_equal(moved, flat.reshape(volumes.shape))
    np.testing.assert_array_equal(images, same)
    assert not np.array_equal(moved, volumes)


@pytest.mark.parametrize("field", ["grid", "smooth", None])
def test_every_sample_moves_on_its_own(field):
    images, _ = run(Augment(field=field, noise=0), np.repeat(waves()[:1], 4, axis=0))
    assert min(np.abs(images[i] - images[j]).mean() for i in range(4) for j in range(i)) > 0.01


def test_a_sample_does_not_depend_on_its_place_in_the_batch():
    layer = Augment()
    images, moved = run(layer)
    alone = layer(waves()[2:3], masks()[2:3], SEEDS[2:3], training=True)
    np.testing.assert_allclose(numpy(alone[0])[0], images[2], atol=1e-5)
    assert (numpy(alone[1])[0] == moved[2]).mean() > 0.999


def test_nothing_happens_outside_training_or_without_strength():
    still = Augment(strength=0.0)
    for found in (Augment()(waves(), masks(), SEEDS), still(waves(), masks(), SEEDS, training=True)):
        np.testing.assert_array_equal(numpy(found[0]), waves())
        np.testing.assert_array_equal(numpy(found[1]), masks())


def test_strength_scales_every_motion():
    weak, strong = (Augment(strength, flip=0, mode="nearest", **GEOMETRY) for strength in (0.2, 1.0))
    rows = np.tile(np.mgrid[:H, :W][0].astype("float32")[None, ..., None], (4, 1, 1, 5))
    moved = [np.abs(run(layer, rows)[0] - rows)[:, 10:-10, 10:-10].mean() for layer in (weak, strong)]
    assert 3 < moved[1] / moved[0] < 7


# ---- each part alone ------------------------------------------------------------------------------------------------


def test_flip_turns_left_and_right_to_the_bit():
    images, moved = run(Augment(**{**STILL, "flip": 1}, **GEOMETRY))
    np.testing.assert_array_equal(images, waves()[:, :, ::-1])
    np.testing.assert_array_equal(moved, masks()[:, :, ::-1])


def test_flip_hits_its_share_of_the_samples():
    parameters = Augment().draw(np.arange(2000, dtype="int32"), SHAPE)
    handed = np.sign(np.linalg.det(numpy(parameters["matrix"])))
    assert abs((handed < 0).mean() - 0.5) < 0.05


def test_a_quarter_turn_is_a_quarter_turn():
    layer = Augment(**STILL, **GEOMETRY)
    parameters = layer.draw(SEEDS, (H, H))
    quarter = np.tile(np.float32([[0, -1], [1, 0]]), (4, 1, 1))
    images, _ = layer.apply(waves()[:, :, :H], masks()[:, :, :H], {**parameters, "matrix": quarter})
    np.testing.assert_allclose(numpy(images), np.rot90(waves()[:, :, :H], -1, (1, 2)), atol=1e-6)


def test_shift_and_scale_stay_inside_their_ranges_and_fill_them():
    parameters = Augment(2.0, rotation=5, scale=0.1, shift=0.03).draw(np.arange(4000, dtype="int32"), (100, 200))
    matrix, shift = numpy(parameters["matrix"]), numpy(parameters["shift"])
    scales = np.log(np.sqrt(np.abs(np.linalg.det(matrix))))
    angles = np.degrees(np.arctan2(-matrix[:, 0, 1], matrix[:, 0, 0]))
    for values, limit in ((shift[:, 0], 6), (shift[:, 1], 6), (scales, 0.2), (angles, 10)):
        assert 0.97 * limit < np.abs(values).max() <= limit * 1.00001
        assert abs(values.mean()) < 0.05 * limit


def test_noise_has_the_drawn_standard_deviation_and_touches_no_mask():
    layer = Augment(**STILL, **{**GEOMETRY, "noise": 0.2})
    images, moved = run(layer)
    noise = (images - waves()).reshape(4, -1)
    np.testing.assert_allclose(noise.std(1), numpy(layer.draw(SEEDS, SHAPE)["noise"]), rtol=0.05)
    assert np.abs(np.corrcoef(noise) - np.eye(4)).max() < 0.05
    np.testing.assert_array_equal(moved, masks())


def test_contrast_keeps_the_mean_and_brightness_moves_it():
    spread = Augment(**STILL, **{**GEOMETRY, "contrast": 0.5})
    images, factors = run(spread)[0], numpy(spread.draw(SEEDS, SHAPE)["contrast"])
    np.testing.assert_allclose(images.mean((1, 2, 3)), waves().mean((1, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(images.std((1, 2, 3)), waves().std((1, 2, 3)) * factors, rtol=1e-4)
    lifted = Augment(**STILL, **{**GEOMETRY, "brightness": 0.5})
    offsets = numpy(lifted.draw(SEEDS, SHAPE)["brightness"])
    np.testing.assert_allclose(run(lifted)[0] - waves(), offsets[:, None, None, None] + 0 * waves(), atol=1e-5)


def test_gamma_is_a_power():
    layer = Augment(**STILL, **{**GEOMETRY, "gamma": 0.5})
    exponents = numpy(layer.draw(SEEDS, SHAPE)["gamma"])[:, None, None, None]
    np.testing.assert_allclose(run(layer)[0], waves() ** exponents, atol=1e-4)


def test_blur_is_the_binomial_filter_for_half_of_the_samples():
    layer = Augment(**STILL, **{**GEOMETRY, "blur": 1.0})
    share = numpy(layer.draw(SEEDS, SHAPE)["blur"])[:, None, None, None]
    around = np.pad(waves(), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    rows = (around[:, :-2] + 2 * around[:, 1:-1] + around[:, 2:]) / 4
    smooth = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4
    np.testing.assert_allclose(run(layer)[0], waves() + share * (smooth - waves()), atol=1e-5)
    shares = numpy(layer.draw(np.arange(2000, dtype="int32"), SHAPE)["blur"])
    assert abs((shares == 0).mean() - 0.5) < 0.05


def test_cutmix_pastes_a_box_of_the_sample_before_with_its_masks():
    images, moved = run(Augment(**STILL, **GEOMETRY, cutmix=1.0))
    pasted = np.isclose(images, np.roll(waves(), 1, axis=0), atol=1e-6).all(-1) & (images != waves()).any(-1)
    assert (pasted | (images == waves()).all(-1)).all()
    assert 0.02 < pasted.mean() < 0.98
    np.testing.assert_array_equal(moved, np.where(pasted[..., None], np.roll(masks(), 1, axis=0), masks()))


def test_mixup_blends_images_and_masks_by_the_same_share():
    layer = Augment(**STILL, **GEOMETRY, mixup=1.0)
    images, moved = run(layer)
    share = numpy(layer.draw(SEEDS, SHAPE)["mix"])[:, 0, None, None, None]
    assert ((share >= 0) & (share <= 0.5)).all()
    np.testing.assert_allclose(images, (1 - share) * waves() + share * np.roll(waves(), 1, axis=0), atol=1e-6)
    np.testing.assert_allclose(moved, (1 - share) * masks() + share * np.roll(masks(), 1, axis=0), atol=1e-6)


@pytest.mark.parametrize("layer", [Augment(flip=0), paper()], ids=["full", "paper"])
def test_the_presets_hardly_ever_fold(layer):
    seeds = np.arange(200, dtype="int32")
    positions = np.stack(layer.positions(layer.draw(seeds, (128, 128)), 128, 128), -1)
    field = positions - np.stack(np.mgrid[:128, :128], -1)
    down, across = np.diff(field, axis=1)[:, :, :-1], np.diff(field, axis=2)[:, :-1]
    area = (1 + down[..., 0]) * (1 + across[..., 1]) - down[..., 1] * across[..., 0]
    signs = np.sign(area).reshape(len(seeds), -1)
    assert (np.ptp(signs, axis=1) > 0).mean() <= 0.01


def test_paper_is_elastic_noise_and_blur_alone():
    layer = paper()
    parameters = {name: numpy(value) for name, value in layer.draw(SEEDS, SHAPE).items()}
    np.testing.assert_array_equal(parameters["matrix"], np.tile(np.eye(2), (4, 1, 1)))
    assert not parameters["shift"].any()
    assert (parameters["gamma"] == 1).all()
    assert (parameters["contrast"] == 1).all()
    assert not parameters["brightness"].any()
    assert parameters["noise"].all()
    assert layer.field == "smooth"
    positions = np.stack(layer.positions(layer.draw(np.arange(50, dtype="int32"), (96, 96)), 96, 96), -1)
    assert abs((positions - np.stack(np.mgrid[:96, :96], -1)).std() / (0.03 * 96) - 1) < 0.1


# ---- the same everywhere --------------------------------------------------------------------------------------------


def test_drawn_parameters_replay_the_sample():
    layer = Augment(cutmix=0.3, mixup=0.3)
    stored = {name: numpy(value) for name, value in layer.draw(SEEDS, SHAPE).items()}
    for once, again in zip(run(layer), layer.apply(waves(), masks(), stored), strict=True):
        np.testing.assert_allclose(numpy(again), once, atol=1e-6)


EXPECTED = {  # 16 pixels of channel 2, and the area of all masks
    "full": (
        "1.07496 .49617 .02172 .83586 .43796 .97209 .47908 .46729 "
        ".21036 .70738 .80056 .21565 .59192 .15118 .55424 1.04869",
        7278,
    ),
    "paper": (
        ".42467 .99003 .61754 -.03295 .44636 .76689 .47913 .51231 "
        ".76526 .11167 .39352 .81375 .53304 .07515 .38427 .95202",
        7677,
    ),
}


@pytest.mark.parametrize(("name", "layer"), [("full", Augment()), ("paper", paper())])
def test_a_seed_gives_these_numbers_on_every_backend(name, layer):
    images, moved = run(layer)
    pixels, area = EXPECTED[name]
    np.testing.assert_allclose(images[:, 9::17, 11::29, 2].ravel(), np.float32(pixels.split()), atol=1e-4)
    assert abs(int(moved.sum()) - area) <= 3


@on_tensorflow
@pytest.mark.parametrize("layer", [Augment(cutmix=0.5), paper()], ids=["full", "paper"])
def test_eager_graph_compiled_and_data_pipeline_agree(layer):
    import tensorflow as tf

    def step(images, masks, seeds):
        return layer(images, masks, seeds, training=True)

    unknown, known = (
        [tf.TensorSpec((count, *x.shape[1:]), x.dtype) for x in (waves(), masks(), SEEDS)]
        for count in (None, len(SEEDS))  # TensorFlow rewrites more of a graph whose sizes it knows
    )
    data = tf.data.Dataset.from_tensor_slices((waves(), masks(), SEEDS)).batch(4).map(step)
    images, moved = run(layer)
    for found in (
        tf.function(step, input_signature=unknown)(waves(), masks(), SEEDS),
        tf.function(step, input_signature=known)(waves(), masks(), SEEDS),
        tf.function(step, jit_compile=True)(waves(), masks(), SEEDS),
        next(iter(data)),
    ):
        np.testing.assert_allclose(numpy(found[0]), images, atol=1e-4)
        assert (numpy(found[1]) == moved).mean() > 0.999


# ---- the contract of a layer ----------------------------------------------------------------------------------------


def test_config_round_trip():
    layer = Augment(0.7, field="smooth", points=(3, 4), cutmix=0.2, order=3, mode="mirror", rotation=3)
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert again.get_config() == layer.get_config()
    np.testing.assert_allclose(run(again)[0], run(layer)[0], atol=1e-6)


def augmenting_model():
    inputs = [keras.Input((16, 16, 5)), keras.Input((16, 16, 3), dtype="uint8"), keras.Input((), dtype="int32")]
    images, moved = Augment()(*inputs, training=True)
    outputs = keras.layers.Conv2D(3, 3, padding="same", activation="sigmoid", dtype="float32")(images)
    return keras.Model(inputs, {"probabilities": outputs, "masks": moved})


def test_a_saved_model_augments_as_before(tmp_path):
    model = augmenting_model()
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    batch = [waves()[:, :16, :16], masks()[:, :16, :16], SEEDS]
    for name, value in model(batch).items():
        np.testing.assert_allclose(numpy(again(batch)[name]), numpy(value), atol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_positions_keep_32_bits_under_mixed_precision(policy):
    previous = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(policy)
        images, moved = run(Augment())
    finally:
        keras.config.set_dtype_policy(previous)
    assert images.dtype == "float32"
    np.testing.assert_allclose(images, run(Augment())[0], atol=1e-6)
    assert moved.dtype == "uint8"


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_layer_without_autocast_hands_on_images_of_32_bits(policy):
    """A caller that autocasts would round them; `Augment` itself never does, whatever its caller's policy."""

    class Caller(keras.layers.Layer):
        def __init__(self, augment, **kwargs):
            super().__init__(**kwargs)
            self.augment = augment

        def call(self, images, masks, seeds):
            return self.augment(images, masks, seeds, training=True)

    expected, _ = run(Augment())
    exact, _ = Caller(Augment(), dtype=policy, autocast=False)(waves(), masks(), SEEDS)
    rounded, _ = Caller(Augment(), dtype=policy)(waves(), masks(), SEEDS)
    np.testing.assert_allclose(numpy(exact), expected, atol=1e-6)
    assert np.abs(numpy(rounded) - expected).max() > 1e-5


def test_images_of_16_bits_are_augmented_in_32():
    images, _ = run(Augment(), waves().astype("float16"))
    assert images.dtype == "float32"
    np.testing.assert_allclose(images, run(Augment())[0], atol=2e-3)
    still, _ = Augment()(waves().astype("float16"), masks(), SEEDS)
    assert keras.backend.standardize_dtype(still.dtype) == "float32"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"field": "wavy"}, "field is 'wavy'"),
        ({"order": 2}, "order is 2"),
        ({"mode": "wrap"}, "mode is 'wrap'"),
        ({"noise": -0.1}, "noise is -0.1; choose 0 or more"),
        ({"flip": 1.5}, "flip is 1.5; choose a probability"),
        ({"cutmix": 0.6, "mixup": 0.6}, "cutmix 0.6 and mixup 0.6 add up to more than 1"),
    ],
)
def test_settings_that_make_no_sense_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Augment(**options)


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"masks are \(4, 37, 52, 3\), but images are \(4, 37, 53, 5\)"):
        Augment()(waves(), masks()[:, :, 1:], SEEDS, training=True)
