"""Reading maps at positions; the matrices of splines and Gaussians, beside SciPy's filters."""

import numpy as np
import pytest
from keras import ops
from scipy import ndimage

from kitlib.layers import sampling


@pytest.mark.parametrize(
    ("mode", "expected"), [("constant", [9, 0, 1, 2, 9]), ("nearest", [0, 0, 1, 2, 2]), ("mirror", [1, 0, 1, 2, 1])]
)
@pytest.mark.parametrize("order", [0, 1, 3])
def test_borders(mode, expected, order):
    line = np.tile(np.arange(3, dtype="float32").reshape(1, 1, 3, 1), (1, 5, 1, 1))
    rows, columns = np.meshgrid(np.arange(5.0), np.arange(-1.0, 4.0), indexing="ij")
    found = sampling.sample(line, *(x[None].astype("float32") for x in (rows, columns)), order, mode, fill=9.0)
    np.testing.assert_allclose(ops.convert_to_numpy(found)[0, :, :, 0], np.tile(expected, (5, 1)), atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 17, 128])
def test_prefilter_is_scipys_mirrored_spline_filter(size):
    values = np.random.default_rng(size).normal(size=(size, 4))
    expected = ndimage.spline_filter1d(values, order=3, axis=0, mode="mirror") if size > 1 else values
    np.testing.assert_allclose(sampling.prefilter(size) @ values, expected, atol=1e-10)


@pytest.mark.parametrize(("points", "size"), [(2, 5), (3, 64), (5, 47), (7, 7)])
def test_interpolation_is_the_mirrored_cubic_spline_corner_to_corner(points, size):
    values = np.random.default_rng(points).normal(size=points)
    positions = np.linspace(0, points - 1, size)
    expected = ndimage.map_coordinates(values, [positions], order=3, mode="mirror")
    np.testing.assert_allclose(sampling.interpolation(points, size) @ values, expected, atol=1e-10)


def test_interpolation_passes_through_its_control_points():
    np.testing.assert_allclose(sampling.interpolation(3, 5)[[0, 2, 4]], np.eye(3), atol=1e-12)


def test_basis_sums_to_one_and_is_the_spline_at_the_knots():
    offsets = np.linspace(0, 1, 11)
    np.testing.assert_allclose(sum(sampling.basis(offsets)), 1, atol=1e-12)
    np.testing.assert_allclose([float(weight) for weight in sampling.basis(0.0)], [1 / 6, 4 / 6, 1 / 6, 0], atol=1e-12)


def test_gaussian_is_scipys_far_from_the_rim():
    noise = np.random.default_rng(0).normal(size=101)
    expected = ndimage.gaussian_filter1d(noise, 3.0, truncate=8, mode="constant")
    np.testing.assert_allclose((sampling.gaussian(101, 3.0) @ noise)[30:70], expected[30:70], atol=1e-9)


def test_gaussian_keeps_the_strength_of_noise_at_the_rim():
    lengths = np.linalg.norm(sampling.gaussian(64, 4.0), axis=1)
    np.testing.assert_allclose(lengths, (2 * 4.0 * np.pi**0.5) ** -0.5, rtol=1e-9)


def test_mirror_folds_about_pixel_centres():
    assert sampling.mirror(np.arange(-4, 9), 4).tolist() == [2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]
