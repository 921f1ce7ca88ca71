"""Pictures of the augmentation: what is drawn is what was computed."""

import elasticdeform
import numpy as np
import pytest
from keras import ops

from kitlib.figures import augment
from kitlib.layers import elastic
from kitlib.layers.augment import Augment

SHAPE = (48, 64)


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
    figure = augment.distortion(image, masks, fields())
    axes = np.reshape(figure.axes, (2, 4))
    for line, (title, field) in zip(axes, fields().items(), strict=True):
        assert line[0].get_title("left") == title
        np.testing.assert_array_equal(line[0].images[0].get_array(), image)
        moved, moved_masks = augment.warped(image, masks, field)
        np.testing.assert_array_equal(line[1].images[0].get_array(), moved)
        assert not np.array_equal(moved_masks, masks)


def test_the_drawn_grid_bends_with_the_slice(slice_and_masks):
    _, masks = slice_and_masks
    field = np.broadcast_to(np.float32([4, 0]), (*SHAPE, 2))
    figure = augment.distortion(np.ones(SHAPE), masks, {"down": field})
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
    figure = augment.beside(image, ours, theirs)
    apart = np.asarray(figure.axes[3].images[0].get_array())
    assert apart.max() < 1e-3
    assert figure.axes[3].get_title("left") == f"apart: {apart.max():.0e} of the range"
    worse = augment.beside(image, image, theirs)
    assert np.asarray(worse.axes[3].images[0].get_array()).max() > 0.05


def test_samples_shows_the_stack_and_one_sample_per_seed(slice_and_masks):
    image, masks = slice_and_masks
    stack = np.repeat((image / 100).astype("float32")[..., None], 5, axis=-1)
    layer = Augment(noise=0.0)
    figure = augment.samples(layer, stack, masks, [5, 9])
    assert [axis.get_title("left") for axis in figure.axes[:3]] == ["as it is", "seed 5", "seed 9"]
    moved, _ = layer(stack[None], masks[None].astype("uint8"), np.int32([9]), training=True)
    drawn = np.asarray(figure.axes[2].images[0].get_array())
    np.testing.assert_allclose(drawn, ops.convert_to_numpy(moved)[0, ..., 2] * 255, atol=1e-2)
