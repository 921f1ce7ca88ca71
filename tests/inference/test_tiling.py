import numpy as np
import pytest

from kitlib.inference import tiling


@pytest.mark.parametrize("length", [13, 14, 29, 64, 101])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
def test_tiles_cover_a_side_and_overlap_enough(length, overlap):
    tile = 13
    places = tiling.starts(length, tile, overlap)
    assert places[0] == 0
    assert places[-1] == length - tile
    covered = np.zeros(length, int)
    for place in places:
        covered[place : place + tile] += 1
    assert covered.min() >= 1
    assert np.diff(places).max(initial=0) <= np.ceil(tile * (1 - overlap))


def test_a_network_of_single_pixels_gives_the_same_in_tiles():
    images = np.random.default_rng(0).random((2, 29, 37, 3), np.float32)
    tiled = tiling.run(lambda tile: tile**2, images, (13, 17))
    np.testing.assert_allclose(tiled, images**2, rtol=1e-5)


def test_a_network_sees_tiles_of_its_own_size_only():
    shapes = set()

    def network(tile):
        shapes.add(tile.shape)
        return tile[..., :1]

    assert tiling.run(network, np.zeros((2, 29, 37, 5), np.float32), (13, 17)).shape == (2, 29, 37, 1)
    assert shapes == {(2, 13, 17, 5)}


def test_the_middle_of_a_tile_counts_more_than_its_border():
    weights = tiling.tent(13, 17)
    assert weights[6, 8] == weights.max() == 1
    assert 0 < weights.min() == weights[0, 0]


def test_a_grid_smaller_than_a_tile_is_refused():
    with pytest.raises(ValueError, match="smaller than a tile"):
        tiling.starts(12, 13)
