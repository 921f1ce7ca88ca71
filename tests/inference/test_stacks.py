"""A network over one prepared scan: what it gets, and that each value comes back in its place."""

import keras
import numpy as np
import pytest

from kitlib.data import axes, inputs
from kitlib.inference import stacks

HEIGHT, WIDTH, LENGTH = 7, 11, 12


def spec_of(axis):
    return inputs.InputSpec(HEIGHT, WIDTH, depth=3, axis=axis, length=LENGTH)


def middle(images):
    """A network that returns the middle picture of its stack."""
    return np.repeat(images[..., 1:2], 3, axis=-1)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("slices", [9, LENGTH, 20])
@pytest.mark.parametrize("axis", inputs.AXES)
def test_each_value_comes_back_in_its_place_with_a_last_call_that_is_not_full(axis, slices, flipped):
    scan, seen = np.random.default_rng(0).random((slices, HEIGHT, WIDTH), np.float32), []
    found = stacks.run_scan(lambda images: seen.append(images) or middle(images), scan, spec_of(axis), 5, None, flipped)
    np.testing.assert_allclose(found, np.repeat(scan[..., None], 3, axis=-1), atol=1e-6)
    assert {images.shape for images in seen} == {(5, *spec_of(axis).shape)}


@pytest.mark.parametrize("axis", "yx")
def test_below_a_short_scan_a_network_sees_zeros_as_in_training(axis):
    scan, seen = np.random.default_rng(1).random((9, HEIGHT, WIDTH), np.float32) + 1, []
    stacks.run_scan(lambda images: seen.append(images) or middle(images), scan, spec_of(axis), 5)
    for images in seen:
        assert images[:, :9].min() >= 1
        assert not images[:, 9:].any()


def test_neighbours_of_the_first_and_the_last_picture_are_themselves():
    scan = np.random.default_rng(2).random((9, HEIGHT, WIDTH), np.float32)
    for axis in inputs.AXES:
        turned = axes.turn(scan, axis)
        for place, neighbour in ((0, 0), (-1, 2)):
            found = axes.turn(
                stacks.run_scan(lambda images, n=neighbour: images[..., [n] * 3], scan, spec_of(axis), 4), axis
            )
            np.testing.assert_array_equal(found[place, ..., 0], turned[place])


@pytest.mark.parametrize(("gpus", "expected"), [([], (2, 4, 16)), (["gpu:0"], (16, 16, 16))])
def test_only_a_cpu_takes_fewer_large_pictures_at_once(monkeypatch, gpus, expected):
    monkeypatch.setattr(keras.distribution, "list_devices", lambda kind: gpus)
    coronal = inputs.InputSpec(256, 384, axis="y", length=160)
    specs = (inputs.InputSpec(256, 384), coronal, inputs.InputSpec(96, 128))
    assert tuple(stacks.inputs_per_call(spec, 16) for spec in specs) == expected
