"""Fields and the warp: geometry by hand, laws, elasticdeform as the reference, and the faults of Keras' layer."""

import itertools

import elasticdeform
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from kitlib.layers import elastic, sampling


def test_field_of_sixteen_bits_reads_the_right_pixels():
    maps = np.arange(301 * 307, dtype="float32").reshape(1, 301, 307, 1)
    field = np.full((1, 301, 307, 2), 1.0, "float16")
    moved = ops.convert_to_numpy(elastic.warp(maps, field, order=0))
    np.testing.assert_array_equal(moved[0, :-1, :-1], maps[0, 1:, 1:])


# Choi and Lee (2000): largest coefficient, in grid spacings, of a 2D spline that cannot fold
FOLD_BOUND = 1 / 2.046392675
H, W = 37, 53  # primes, so that a swapped axis cannot pass


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def maps(channels=3, batch=2, seed=0):
    return np.random.default_rng(seed).random((batch, H, W, channels)).astype("float32")


def steps(dy, dx, batch=2):
    return np.broadcast_to(np.float32([dy, dx]), (batch, H, W, 2))


def folds(field):
    """Whether the map p -> p + field[p] of a NumPy field (B, H, W, 2) folds anywhere.

    It folds where the determinant of its Jacobian has both signs, or a zero; below zero everywhere is a mirror image.
    """
    down = field[:, 1:, :-1] - field[:, :-1, :-1]
    across = field[:, :-1, 1:] - field[:, :-1, :-1]
    area = (1 + down[..., 0]) * (1 + across[..., 1]) - down[..., 1] * across[..., 0]
    return (area.min((1, 2)) <= 0) & (area.max((1, 2)) >= 0)


def disc(radius, size=128):
    row, column = np.mgrid[:size, :size] - (size - 1) / 2
    return (row**2 + column**2 <= radius**2)[None, ..., None]


# ---- hand-computed -------------------------------------------------------------------------------------------------


def test_a_step_reads_from_where_it_points():
    found = numpy(elastic.warp(maps(), steps(2, -3)))
    np.testing.assert_array_equal(found[:, :-2, 3:], maps()[:, 2:, :-3])
    assert not found[:, -2:].any()
    assert not found[:, :, :3].any()


def test_half_a_step_is_the_mean_of_two_pixels():
    found = numpy(elastic.warp(maps(), steps(0, 0.5), mode="nearest"))
    np.testing.assert_allclose(found[:, :, :-1], (maps()[:, :, 1:] + maps()[:, :, :-1]) / 2, atol=1e-6)


@pytest.mark.parametrize(("step", "expected"), [(0.49, 0), (0.5, 1), (0.51, 1), (-0.5, 0), (-0.51, -1)])
def test_order_0_rounds_half_a_pixel_up(step, expected):
    column = np.arange(W, dtype="float32").reshape(1, 1, W, 1).repeat(H, axis=1)
    assert numpy(elastic.warp(column, steps(0, step, 1), order=0))[0, 5, 20, 0] == 20 + expected


def test_a_pixel_wide_map_can_be_read():
    line = np.ones((1, 4, 1, 1), "float32")
    for order, mode in itertools.product((0, 1, 3), sampling.MODES):
        np.testing.assert_allclose(
            numpy(elastic.warp(line, np.zeros((1, 4, 1, 2), "float32"), order, mode)), 1, atol=1e-6
        )


def test_folds_tells_a_fold_from_a_shift_and_from_a_mirror_image():
    row = np.arange(H, dtype="float32")[:, None] + np.zeros((H, W), "float32")
    fold = np.where(row > 20, -1.5 * (row - 20), 0)
    mirror = H - 1 - 2 * row
    fields = np.stack([np.stack([dy, 0 * row], -1) for dy in (0 * row + 7, fold, 0.9 * fold / 1.5, mirror)])
    assert folds(fields).tolist() == [False, True, False, False]


# ---- laws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", sampling.MODES)
@pytest.mark.parametrize(("order", "tolerance"), [(0, 0), (1, 0), (3, 1e-5)])
def test_zero_field_is_the_identity(order, tolerance, mode):
    found = numpy(elastic.warp(maps(), steps(0, 0), order, mode))
    np.testing.assert_allclose(found, maps(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", ["uint8", "bool", "int32"])
def test_masks_stay_what_they_are(dtype):
    masks = (maps() > 0.5).astype(dtype)
    found = numpy(elastic.warp(masks, elastic.displacement(1, (2, H, W)), order=0))
    assert found.dtype == masks.dtype
    assert set(np.unique(found).tolist()) == {0, 1}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_maps_of_16_bits_are_read_at_32_bit_positions(dtype):
    field = elastic.displacement(1, (2, H, W))
    found = elastic.warp(ops.cast(maps(), dtype), field)
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    np.testing.assert_allclose(numpy(ops.cast(found, "float32")), numpy(elastic.warp(maps(), field)), atol=6e-3)


def test_one_pass_over_both_is_the_two_passes():
    rows, columns = elastic.positions(elastic.displacement(5, (2, H, W)))
    masks = (maps() > 0.5).astype("uint8")
    for mode in sampling.MODES:
        images, moved = sampling.sample_pair(maps(5), masks, rows, columns, mode)
        np.testing.assert_array_equal(numpy(images), numpy(sampling.sample(maps(5), rows, columns, 1, mode)))
        np.testing.assert_array_equal(numpy(moved), numpy(sampling.sample(masks, rows, columns, 0, mode)))


@settings(max_examples=15, deadline=None)
@given(st.integers(-5, 5), st.integers(-5, 5), st.sampled_from([0, 1, 3]))
def test_whole_steps_there_and_back_return_the_middle(dy, dx, order):
    there = elastic.warp(maps(), steps(dy, dx), order)
    back = numpy(elastic.warp(there, steps(-dy, -dx), order))
    np.testing.assert_allclose(back[:, 11:-11, 11:-11], maps()[:, 11:-11, 11:-11], atol=2e-4)


def test_warp_follows_a_turn_of_the_maps():
    field = numpy(elastic.displacement(3, (2, H, W)))
    turned = np.ascontiguousarray(np.swapaxes(field, 1, 2)[..., ::-1])
    found = elastic.warp(np.ascontiguousarray(np.swapaxes(maps(), 1, 2)), turned)
    np.testing.assert_allclose(numpy(found).swapaxes(1, 2), numpy(elastic.warp(maps(), field)), atol=1e-6)


def test_control_points_are_reached_corner_to_corner():
    control = np.random.default_rng(0).normal(size=(2, 2, 3, 5)).astype("float32")
    field = numpy(elastic.spline_field(control, (37, 53)))
    np.testing.assert_allclose(field[:, ::18, ::13], np.moveaxis(control, 1, -1), atol=1e-5)


def test_displacement_has_the_asked_spread():
    field = numpy(elastic.displacement(0, (400, 33, 33), points=3, sigma_px=7.0))
    assert abs(field[:, ::16, ::16].std() - 7) < 0.3


def test_smooth_displacement_has_the_documented_strength_everywhere():
    field = numpy(elastic.smooth_displacement(0, (300, 48, 40), alpha_px=50.0, sigma_px=5.0))
    expected = 50 / (5 * 2 * (3 * np.pi) ** 0.5)
    for place in (field, field[:, 0, 0], field[:, 24, 20], field[:, -1]):
        assert abs(place.std() / expected - 1) < 0.1
    slopes = np.diff(field, axis=1)
    assert abs(slopes.std() / (expected / (5 * 2**0.5)) - 1) < 0.1


def test_coefficients_below_the_bound_never_fold_and_stripes_of_twice_the_spacing_do():
    spacing, knots = (65 - 1) / 4, np.linalg.inv(sampling.prefilter(5))  # from coefficients to control values
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(200, 2, 5, 5))
    stripes = np.broadcast_to((-1.0) ** np.arange(5)[:, None], (2, 5, 5))[None]
    fields = [
        elastic.spline_field((size * spacing * knots @ coefficients @ knots.T).astype("float32"), (65, 65))
        for size, coefficients in ((0.99 * FOLD_BOUND, signs), (2.0, stripes))
    ]
    assert not folds(numpy(fields[0])).any()
    assert folds(numpy(fields[1])).all()


@pytest.mark.parametrize("radius", [25, 30, 40])
def test_a_disc_as_image_and_as_mask_keeps_its_overlap(radius):
    fields = numpy(elastic.displacement(7, (24, 128, 128), points=4, sigma_px=4.0))
    discs = np.repeat(disc(radius), 24, axis=0)
    image = numpy(elastic.warp(discs.astype("float32"), fields, order=1)) > 0.5
    mask = numpy(elastic.warp(discs, fields, order=0))
    overlap = (image & mask).sum((1, 2, 3)) / (image | mask).sum((1, 2, 3))
    assert overlap.min() > 0.98


# ---- parity: elasticdeform ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", sampling.MODES)
@pytest.mark.parametrize("order", [0, 1, 3])
def test_the_same_control_grid_gives_what_elasticdeform_gives(order, mode):
    random = np.random.default_rng(order)
    for size, points, sigma in itertools.product([(37, 53), (64, 41), (128, 96)], [(2, 2), (3, 3), (3, 5)], [1.0, 8.0]):
        image = random.random((*size, 2)).astype("float32")
        control = random.normal(size=(2, *points)).astype("float32") * np.float32(sigma)
        expected = elasticdeform.deform_grid(image.astype("float64"), control, order=order, mode=mode, axis=(0, 1))
        found = numpy(elastic.warp(image[None], elastic.spline_field(control[None], size), order, mode))[0]
        apart = np.abs(found - expected).max(-1) > (0 if order == 0 else 1e-3)
        # Where a position lies on a pixel's edge (order 0) or on the rim (constant), float32 may fall on either side.
        allowed = 1e-3 if order == 0 or mode == "constant" else 0
        assert apart.mean() <= allowed, f"{size}, {points} points, sigma {sigma}: {apart.sum()} pixels differ"


def test_the_comparison_with_elasticdeform_notices_another_field():
    image = maps(1, 1)[0, :, :, 0]
    control = np.random.default_rng(0).normal(size=(2, 3, 3)) * 3
    expected = elasticdeform.deform_grid(image, control, order=1)
    swapped = elastic.spline_field(control[None, ::-1].astype("float32"), (H, W))
    assert np.abs(numpy(elastic.warp(image[None, ..., None], swapped))[0, ..., 0] - expected).mean() > 0.05


# ---- the three faults of Keras' layer -------------------------------------------------------------------------------


def ours(images, masks, seed=0):
    """Images and masks under one random field, both by nearest pixel."""
    field = elastic.displacement(seed, (ops.shape(images)[0], H, W), points=4, sigma_px=3.0)
    return elastic.warp(images, field, 0, "nearest"), elastic.warp(masks, field, 0, "nearest")


def keras_layer():
    options = {"factor": (1.0, 1.0), "scale": (1.0, 1.0), "value_range": (0, 255), "fill_mode": "nearest", "seed": 3}
    layer = keras.layers.RandomElasticTransform(interpolation="nearest", **options)

    def both(images, masks):
        moved = layer({"images": images, "segmentation_masks": masks}, training=True)
        return moved["images"], moved["segmentation_masks"]

    return both


def axes_are_independent(warp_both):
    """Rows and columns as an image come back as the field itself; inside, its two axes must not be one."""
    row, column = np.mgrid[:H, :W].astype("float32")
    places = np.repeat(np.stack([row, column], -1)[None], 8, axis=0)
    field = (numpy(warp_both(places, places)[0]) - places)[:, 8:-8, 8:-8]
    assert field.std() > 0.3
    return abs(np.corrcoef(field[..., 0].ravel(), field[..., 1].ravel())[0, 1]) < 0.5


def mask_follows_its_image(warp_both):
    values = (maps(1, 4) > 0.5).astype("float32")
    return all(np.array_equal(*map(numpy, warp_both(values, values))) for _ in range(3))


def every_sample_moves_on_its_own(warp_both):
    """In a graph that does not know the batch size: sample k, filled with k, keeps its k, and equal samples part."""
    tensorflow = pytest.importorskip("tensorflow")
    unknown = tensorflow.TensorSpec((None, H, W, 1), "float32")
    compiled = tensorflow.function(warp_both, input_signature=[unknown, unknown])
    filled = np.ones((4, H, W, 1), "float32") * np.arange(4, dtype="float32")[:, None, None, None]
    kept = np.array_equal(numpy(compiled(filled, filled)[0]), filled)
    same = np.repeat(maps(1, 1), 4, axis=0)
    moved = numpy(compiled(same, same)[0])
    return kept and all(not np.array_equal(a, b) for a, b in itertools.combinations(moved, 2))


FAULTS = [axes_are_independent, mask_follows_its_image, every_sample_moves_on_its_own]
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="needs the TensorFlow backend")


@pytest.mark.parametrize("law", [*FAULTS[:2], pytest.param(FAULTS[2], marks=on_tensorflow)])
def test_the_field_obeys(law):
    assert law(ours)


@on_tensorflow
@pytest.mark.parametrize("law", FAULTS)
def test_the_layer_of_keras_does_not_obey(law):
    assert not law(keras_layer())


# ---- contract -------------------------------------------------------------------------------------------------------


def test_gradients_reach_maps_and_field():
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        image, field = tf.constant(maps()), elastic.displacement(1, (2, H, W))
        for order in (1, 3):
            with tf.GradientTape() as tape:
                tape.watch([image, field])
                loss = tf.reduce_sum(elastic.warp(image, field, order) ** 2)
            gradients = tape.gradient(loss, [image, field])
            assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in map(numpy, gradients))
    elif keras.backend.backend() == "jax":
        import jax

        field = elastic.displacement(1, (2, H, W))
        for order in (1, 3):
            gradients = jax.grad(lambda m, f, o=order: (elastic.warp(m, f, o) ** 2).sum(), (0, 1))(maps(), field)
            assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in map(numpy, gradients))
    else:
        pytest.skip("gradients are taken by TensorFlow or JAX here")


def test_the_gradient_of_the_field_is_the_slope_of_the_image():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("needs the TensorFlow backend")
    import tensorflow as tf

    ramp = np.mgrid[:H, :W][0].astype("float32")[None, ..., None] * 3
    field = tf.constant(steps(0.25, 0.25, 1))
    with tf.GradientTape() as tape:
        tape.watch(field)
        total = tf.reduce_sum(elastic.warp(ramp, field, 1, "nearest"))
    slope = numpy(tape.gradient(total, field))[0, :-1, :-1]
    np.testing.assert_allclose(slope[..., 0], 3, atol=1e-4)
    np.testing.assert_allclose(slope[..., 1], 0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 2}, "order is 2; choose 0"),
        ({"mode": "wrap"}, "mode is 'wrap'; choose one of constant"),
    ],
)
def test_unknown_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        elastic.warp(maps(), steps(0, 0), **options)


def test_blending_whole_numbers_is_refused():
    with pytest.raises(ValueError, match="order 1 blends pixels, but the maps are uint8"):
        elastic.warp(maps().astype("uint8"), steps(0, 0))


def test_a_field_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"field has shape \(2, 37, 53, 2\)"):
        elastic.warp(maps()[:, :-1], steps(0, 0))


@pytest.mark.parametrize("order", [0, 1, 3])
def test_one_field_for_two_samples_is_refused(order):
    with pytest.raises(ValueError, match="field has 1 samples, but maps have 2"):
        elastic.warp(maps(), steps(0, 0, 1), order)


def test_one_control_point_is_refused():
    with pytest.raises(ValueError, match="points is 1; choose at least 2"):
        elastic.displacement(0, (2, H, W), points=1)
