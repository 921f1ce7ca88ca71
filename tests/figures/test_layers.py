"""The pictures of the network show what the network is, those of the augmentation what was computed."""

import elasticdeform
import keras
import numpy as np
import pytest
from keras import ops

from kitlib.figures import layers
from kitlib.layers import elastic
from kitlib.layers.augment import Augment
from kitlib.models.unet import NO_ATTENTION, build_unet

SHAPE = (48, 64)


def words(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


@pytest.mark.parametrize("levels", [4, 5])
def test_the_drawing_names_every_stage_of_the_model(levels):
    figure = layers.network(build_unet((128, 128, 5), levels=levels))
    said = words(figure)
    for stage in range(levels + 1):
        assert said.count(f"{128 // 2**stage} x {128 // 2**stage}") == (2 if stage < levels else 1)
    assert sorted(int(text) for text in said if text.isdigit())[-1] == 256
    assert {"images\n128 x 128\n5 channels", "organs\n128 x 128\n3 channels"} <= set(said)
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [mark.get_color() for mark in marks] == [layers.WINDOW] * 3 + [layers.EXTERNAL]


def test_the_drawing_of_a_plain_network_has_no_attention():
    model = build_unet((None, None, 5), **NO_ATTENTION)
    figure = layers.network(model)
    assert not [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert "images\nany x any\n5 channels" in words(figure)


def test_the_drawing_of_another_encoder_shows_its_skips():
    def encoder(images):
        maps = [keras.layers.Conv2D(6, 3, padding="same")(images)]
        for channels in (10, 14):
            maps.append(keras.layers.Conv2D(channels, 3, strides=2, padding="same")(maps[-1]))
        return [None, *maps[1:]]

    model = build_unet((64, 32, 3), levels=2, base=4, window_stages=(1,), external_bottleneck=True, encoder=encoder)
    figure = layers.network(model)
    said = words(figure)
    assert [said.count(size) for size in ("64 x 32", "32 x 16", "16 x 8")] == [1, 2, 1]
    assert {"10", "14"} <= set(said)
    assert "6" not in said, "the finest stage has no skip"
    assert figure.legends[0].get_texts()[0].get_text().startswith("encoder down")
    marks = [line.get_color() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert marks == [layers.WINDOW, layers.EXTERNAL]


def test_a_model_of_another_make_is_refused():
    images = keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match=r"'other' has no layer up0a; pass a model built by kitlib\.models"):
        layers.network(keras.Model(images, keras.layers.Conv2D(3, 1)(images), name="other"))


def test_the_mirrored_border_frames_the_slice_itself():
    image = np.random.default_rng(0).integers(0, 1000, (61, 47)).astype("uint16")
    figure = layers.mirrored_border(image, levels=2)
    shown = np.asarray(figure.axes[1].images[0].get_array())
    frame = figure.axes[1].patches[0]
    left, top = int(frame.get_x() + 0.5), int(frame.get_y() + 0.5)
    assert (frame.get_height(), frame.get_width()) == image.shape
    np.testing.assert_array_equal(shown[top : top + 61, left : left + 47], image)
    assert shown[top - 1, left] == image[1, 0]


# Augmentation


@pytest.fixture
def slice_and_masks():
    row, column = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = 100.0 * np.exp(-((row - 20) ** 2 + (column - 30) ** 2) / 200)
    return image, np.stack([image > 50, image > 80, column > 40], axis=-1)


def fields():
    return {
        "grid": ops.convert_to_numpy(elastic.displacement(3, (1, *SHAPE), sigma_px=3.0))[0],
        "smooth": ops.convert_to_numpy(elastic.smooth_displacement(3, (1, *SHAPE), 90.0, 6.0))[0],
    }


def test_distortion_has_a_row_per_field_and_shows_the_warped_slice(slice_and_masks):
    image, masks = slice_and_masks
    figure = layers.distortion(image, masks, fields())
    axes = np.reshape(figure.axes, (2, 4))
    for line, (title, field) in zip(axes, fields().items(), strict=True):
        assert line[0].get_title("left") == title
        np.testing.assert_array_equal(line[0].images[0].get_array(), image)
        moved, moved_masks = layers.warped(image, masks, field)
        np.testing.assert_array_equal(line[1].images[0].get_array(), moved)
        assert not np.array_equal(moved_masks, masks)


def test_the_drawn_grid_bends_with_the_slice(slice_and_masks):
    _, masks = slice_and_masks
    field = np.broadcast_to(np.float32([4, 0]), (*SHAPE, 2))
    figure = layers.distortion(np.ones(SHAPE), masks, {"down": field})
    lines = [[path.vertices[:, 1] for path in axis.collections[0].get_paths()] for axis in figure.axes[:2]]
    straight, moved = (np.unique(np.concatenate(line).round(3)) for line in lines)
    np.testing.assert_allclose(straight, [6, 18, 30, 42])
    np.testing.assert_allclose(moved, [2, 14, 26, 38])


def test_beside_names_the_largest_difference(slice_and_masks):
    image, _ = slice_and_masks
    control = np.random.default_rng(0).normal(size=(2, 3, 3)).astype("float32") * 4
    theirs = elasticdeform.deform_grid(image, control, order=3)
    field = elastic.spline_field(control[None], SHAPE)
    ours = ops.convert_to_numpy(elastic.warp(image[None, ..., None].astype("float32"), field, order=3))[0, ..., 0]
    figure = layers.warp_difference(image, ours, theirs)
    apart = np.asarray(figure.axes[3].images[0].get_array())
    assert apart.max() < 1e-3
    assert figure.axes[3].get_title("left") == f"difference: {apart.max():.0e} of the range"
    worse = layers.warp_difference(image, image, theirs)
    assert np.asarray(worse.axes[3].images[0].get_array()).max() > 0.05


def test_samples_shows_the_stack_and_one_sample_per_seed(slice_and_masks):
    image, masks = slice_and_masks
    stack = np.repeat((image / 100).astype("float32")[..., None], 5, axis=-1)
    augment = Augment(noise=0.0)
    figure = layers.samples(augment, stack, masks, [5, 9])
    assert [axis.get_title("left") for axis in figure.axes[:3]] == ["original", "seed 5", "seed 9"]
    moved, _ = augment(stack[None], masks[None].astype("uint8"), np.int32([9]), training=True)
    drawn = np.asarray(figure.axes[2].images[0].get_array())
    np.testing.assert_allclose(drawn, ops.convert_to_numpy(moved)[0, ..., 2] * 255, atol=1e-2)
