import numpy as np
import pytest
from scipy import ndimage

from kitlib.data import alignment, inputs


def texture(shape, seed=0, sigma=1.5):
    """A smooth random volume with no preferred place."""
    noise = np.random.default_rng(seed).normal(size=shape)
    return ndimage.gaussian_filter(noise, sigma).astype(np.float32)


def pair(offset, fixed_shape, moving_shape, seed=0):
    """Two windows of one texture: what lies at p in `moving` lies at p + offset in `fixed`."""
    start = np.array([20, 20, 20])
    whole = texture((60, 70, 80), seed)
    cut = [
        whole[tuple(slice(first, first + size) for first, size in zip(corner, shape, strict=True))]
        for corner, shape in ((start, fixed_shape), (start + offset, moving_shape))
    ]
    return cut


def slow_shift(fixed, moving, most):
    """The shift of the highest correlation over the overlap, one shift after the other."""
    best, found = 0.0, (0, 0, 0)
    for lag in np.ndindex(*(2 * each + 1 for each in most)):
        lag = np.array(lag) - most
        there = [
            slice(max(-each, 0), min(m, f - each)) for each, f, m in zip(lag, fixed.shape, moving.shape, strict=True)
        ]
        here = [slice(part.start + each, part.stop + each) for part, each in zip(there, lag, strict=True)]
        f, m = fixed[tuple(here)].ravel().astype(float), moving[tuple(there)].ravel().astype(float)
        if min(part.stop - part.start for part in there) <= 0 or f.size < min(fixed.size, moving.size) / 2:
            continue
        value = np.corrcoef(f, m)[0, 1]
        if value > best:
            best, found = value, tuple(lag.tolist())
    return found


@pytest.mark.parametrize("offset", [(0, 0, 0), (3, -2, 5), (-4, 5, -1)])
def test_a_known_shift_is_found_between_volumes_of_other_depths(offset):
    fixed, moving = pair(offset, (17, 23, 29), (13, 23, 29))
    assert alignment.shift(fixed, moving, (5, 6, 7)) == offset
    assert alignment.shift(moving, fixed, (5, 6, 7)) == tuple(-each for each in offset)


@pytest.mark.parametrize("seed", range(4))
def test_the_shift_is_that_of_a_search_one_by_one(seed):
    offset = np.random.default_rng(seed).integers(-3, 4, 3)
    fixed, moving = pair(offset, (7, 11, 13), (11, 7, 5), seed)
    moving = moving + texture(moving.shape, seed + 50)
    most = (4, 3, 5)
    assert alignment.shift(fixed, moving, most) == slow_shift(fixed, moving, most)


def test_scale_and_offset_of_the_grey_values_do_not_matter():
    fixed, moving = pair((2, 1, -3), (17, 23, 29), (17, 23, 29))
    assert alignment.shift(700 * fixed + 9000, 0.01 * moving - 3, 4) == (2, 1, -3)


def test_the_search_keeps_to_its_reach():
    fixed, moving = pair((0, 6, 0), (17, 23, 29), (17, 23, 29))
    assert alignment.shift(fixed, moving, (0, 6, 0)) == (0, 6, 0)
    assert np.abs(alignment.shift(fixed, moving, 3)).max() <= 3


def test_flat_volumes_give_no_shift():
    flat, some = np.full((5, 7, 11), 0.3), texture((5, 7, 11))
    assert alignment.shift(flat, some, 3) == (0, 0, 0)
    assert alignment.shift(some, flat, 3) == (0, 0, 0)
    assert alignment.shift(flat, flat, 3) == (0, 0, 0)
    half = np.where(np.arange(11) < 8, 0.0, some)  # flat in some of the overlaps
    assert np.isfinite(alignment.shift(half, some, 5)).all()


def test_what_is_no_volume_is_refused():
    with pytest.raises(ValueError, match=r"moving has shape \(5, 7\)"):
        alignment.shift(texture((5, 7, 11)), texture((5, 7)), 2)
    with pytest.raises(ValueError, match=r"fixed has shape .* values that are not finite"):
        alignment.shift(np.full((5, 7, 11), np.nan), texture((5, 7, 11)), 2)
    with pytest.raises(ValueError, match="most=-1: must be 0 or more"):
        alignment.shift(texture((5, 7, 11)), texture((5, 7, 11)), -1)
    with pytest.raises(ValueError, match="prepare both with one spec"):
        alignment.register(texture((5, 7, 11)), texture((5, 11, 7)))


def test_scans_are_registered_in_pixels_of_their_own_grid_whatever_the_shading():
    whole = texture((40, 190, 230), sigma=4)
    whole = (whole - whole.min()) / np.ptp(whole)
    fixed, moving = whole[5:35, 20:148, 30:190], whole[8:36, 12:140, 36:196]
    shading = np.linspace(0.3, 2.5, 160, dtype=np.float32)  # of the coils; it stays where it is
    assert alignment.register(fixed * shading, moving * shading) == (3, -8, 6)
    assert alignment.register((fixed * shading).astype(np.float16), moving) == (3, -8, 6)


def test_local_contrast_leaves_its_input_and_a_flat_scan_has_no_shift():
    slices = texture((2, 17, 23))
    before = slices.copy()
    assert not np.allclose(alignment.local_contrast(slices), slices)
    assert (slices == before).all()
    assert alignment.register(np.zeros((9, 17, 23), np.float32), np.ones((7, 17, 23), np.float32)) == (0, 0, 0)


def test_two_days_on_other_image_sizes_are_registered_in_the_box():
    body = texture((20, 300, 300), sigma=6)
    body = ((body - body.min()) / np.ptp(body) * 1000).astype(np.uint16)
    later = inputs.prepare(body[:, 10:276, 10:276], alignment.SPEC, 1.5)
    before = inputs.prepare(body[2:, 20:280, 10:270], alignment.SPEC, 1.5)  # its centre: 7 pixels down, 3 to the left
    assert alignment.register(later, before) == (2, 2, -1)
