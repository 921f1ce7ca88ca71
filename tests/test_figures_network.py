"""The pictures of the network say what the network is."""

import numpy as np
import pytest

from kitlib import figures_network
from kitlib.unet import build_unet


def words(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


@pytest.mark.parametrize("levels", [4, 5])
def test_the_drawing_names_every_stage_of_the_model(levels):
    figure = figures_network.network(build_unet((128, 128, 5), levels=levels))
    said = words(figure)
    for stage in range(levels + 1):
        assert said.count(f"{128 // 2**stage} x {128 // 2**stage}") == (2 if stage < levels else 1)
    assert sorted(int(text) for text in said if text.isdigit())[-1] == 256
    assert {"images\n128 x 128\n5 channels", "organs\n128 x 128\n3 channels"} <= set(said)
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [mark.get_color() for mark in marks] == [figures_network.WINDOW] * 3 + [figures_network.EXTERNAL]


def test_the_drawing_of_a_plain_network_has_no_attention():
    model = build_unet((None, None, 5), window_stages=(), external_bottleneck=False)
    figure = figures_network.network(model)
    assert not [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert "images\nany x any\n5 channels" in words(figure)


def test_the_mirrored_border_frames_the_slice_itself():
    image = np.random.default_rng(0).integers(0, 1000, (61, 47)).astype("uint16")
    figure = figures_network.mirrored_border(image, levels=2)
    shown = np.asarray(figure.axes[1].images[0].get_array())
    frame = figure.axes[1].patches[0]
    left, top = int(frame.get_x() + 0.5), int(frame.get_y() + 0.5)
    assert (frame.get_height(), frame.get_width()) == image.shape
    np.testing.assert_array_equal(shown[top : top + 61, left : left + 47], image)
    assert shown[top - 1, left] == image[1, 0]
