"""The pictures of the network say what the network is."""

import keras
import numpy as np
import pytest

from kitlib.figures import layers
from kitlib.models.unet import NO_ATTENTION, build_unet


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


def test_the_drawing_of_another_encoder_shows_what_it_hands_over():
    def encoder(images):
        maps = [keras.layers.Conv2D(6, 3, padding="same")(images)]
        for channels in (10, 14):
            maps.append(keras.layers.Conv2D(channels, 3, strides=2, padding="same")(maps[-1]))
        return [None, *maps[1:]]

    model = build_unet((64, 32, 3), levels=2, base=4, window_stages=(1,), encoder=encoder)
    figure = layers.network(model)
    said = words(figure)
    assert [said.count(size) for size in ("64 x 32", "32 x 16", "16 x 8")] == [1, 2, 1]
    assert {"10", "14"} <= set(said)
    assert "6" not in said, "the finest stage hands nothing over"
    assert figure.legends[0].get_texts()[0].get_text().startswith("encoder down")
    marks = [line.get_color() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert marks == [layers.WINDOW, layers.EXTERNAL]


def test_a_model_of_another_make_is_refused():
    images = keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match=r"'other' has no layer up0a: only what unet\.build_unet builds"):
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
