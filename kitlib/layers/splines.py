"""Small matrices that make cubic splines and Gaussians matrix products: NumPy, computed once per size.

A spline or a Gaussian along an axis of n pixels is linear in its n values, so one (n, n) or (n, points) matrix does
what a recursive filter does, and a matrix product runs on every device.
"""

import functools

import numpy as np

FOLD_BOUND = (
    1 / 2.046392675
)  # Choi and Lee (2000): largest coefficient, in grid spacings, of a 2D spline that cannot fold


@functools.cache
def prefilter(size):
    """Coefficients c of the cubic B-spline through `size` values v, c = prefilter @ v, mirrored about the end pixels.

    The inverse of the matrix that evaluates the spline at its knots, (c[i-1] + 4 c[i] + c[i+1]) / 6 (Unser, 1999).

    Returns:
        (size, size) float64, read-only.

    >>> prefilter(3) @ [1, 1, 1]
    array([1., 1., 1.])
    """
    if size == 1:
        return _frozen(np.ones((1, 1)))
    knots = np.diag(np.full(size, 4.0)) + np.diag(np.ones(size - 1), 1) + np.diag(np.ones(size - 1), -1)
    knots[0, 1] = knots[-1, -2] = 2.0
    return _frozen(np.linalg.inv(knots / 6))


def basis(offset):
    """The cubic B-spline's weights of the four knots around a point `offset` in [0, 1) after the second one."""
    t = offset
    s = 1 - t
    return [s * s * s / 6, 2 / 3 - t * t * (2 - t) / 2, 2 / 3 - s * s * (2 - s) / 2, t * t * t / 6]


@functools.cache
def interpolation(points, size):
    """Matrix from values at `points` control points to the cubic spline through them at `size` pixels.

    The first control point lies on the first pixel and the last on the last: positions linspace(0, points - 1, size).

    Returns:
        (size, points) float64, read-only.
    """
    positions = np.linspace(0, points - 1, size)
    first = np.floor(positions).astype(int)
    matrix = np.zeros((size, points))
    for tap, weights in enumerate(basis(positions - first), start=-1):
        np.add.at(matrix, (np.arange(size), mirror(first + tap, points)), weights)
    return _frozen(matrix @ prefilter(points))


@functools.cache
def gaussian(size, sigma_px):
    """Matrix that smooths `size` values by a Gaussian of `sigma_px` pixels.

    Each row has the length (not the sum) of a row far from the ends, so that smoothed noise is as strong at the rim
    as in the middle.

    Returns:
        (size, size) float64, read-only.
    """
    steps = np.arange(size)[:, None] - np.arange(size)
    rows = np.exp(-0.5 * (steps / sigma_px) ** 2)
    far = np.exp(-0.5 * (np.arange(-int(8 * sigma_px) - 1, int(8 * sigma_px) + 2) / sigma_px) ** 2)
    length = np.sqrt((far**2).sum()) / far.sum()
    return _frozen(rows * (length / np.sqrt((rows**2).sum(1, keepdims=True))))


def mirror(index, size):
    """Whole-number positions folded back into 0..size-1 about the centres of the end pixels."""
    if size == 1:
        return np.zeros_like(index)
    index = np.abs(index) % (2 * size - 2)
    return np.minimum(index, 2 * size - 2 - index)


def _frozen(matrix):
    matrix.setflags(write=False)
    return matrix
