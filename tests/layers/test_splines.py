"""The matrices of splines and Gaussians, beside SciPy's filters."""

import numpy as np
import pytest
from scipy import ndimage

from kitlib.layers import splines


@pytest.mark.parametrize("size", [1, 2, 3, 17, 128])
def test_prefilter_is_scipys_mirrored_spline_filter(size):
    values = np.random.default_rng(size).normal(size=(size, 4))
    expected = ndimage.spline_filter1d(values, order=3, axis=0, mode="mirror") if size > 1 else values
    np.testing.assert_allclose(splines.prefilter(size) @ values, expected, atol=1e-10)


@pytest.mark.parametrize(("points", "size"), [(2, 5), (3, 64), (5, 47), (7, 7)])
def test_interpolation_is_the_mirrored_cubic_spline_corner_to_corner(points, size):
    values = np.random.default_rng(points).normal(size=points)
    positions = np.linspace(0, points - 1, size)
    expected = ndimage.map_coordinates(values, [positions], order=3, mode="mirror")
    np.testing.assert_allclose(splines.interpolation(points, size) @ values, expected, atol=1e-10)


def test_interpolation_passes_through_its_control_points():
    np.testing.assert_allclose(splines.interpolation(3, 5)[[0, 2, 4]], np.eye(3), atol=1e-12)


def test_basis_sums_to_one_and_is_the_spline_at_the_knots():
    offsets = np.linspace(0, 1, 11)
    np.testing.assert_allclose(sum(splines.basis(offsets)), 1, atol=1e-12)
    np.testing.assert_allclose([float(weight) for weight in splines.basis(0.0)], [1 / 6, 4 / 6, 1 / 6, 0], atol=1e-12)


def test_gaussian_is_scipys_far_from_the_rim():
    noise = np.random.default_rng(0).normal(size=101)
    expected = ndimage.gaussian_filter1d(noise, 3.0, truncate=8, mode="constant")
    np.testing.assert_allclose((splines.gaussian(101, 3.0) @ noise)[30:70], expected[30:70], atol=1e-9)


def test_gaussian_keeps_the_strength_of_noise_at_the_rim():
    lengths = np.linalg.norm(splines.gaussian(64, 4.0), axis=1)
    np.testing.assert_allclose(lengths, (2 * 4.0 * np.pi**0.5) ** -0.5, rtol=1e-9)


def test_mirror_folds_about_pixel_centres():
    assert splines.mirror(np.arange(-4, 9), 4).tolist() == [2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]
