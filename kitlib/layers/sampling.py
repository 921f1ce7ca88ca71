"""Read maps at fractional positions: nearest pixel, linear, or cubic B-spline, with three borders.

All channels of a sample are read at the same positions, by flat row indices, one gather per neighbour.
"""

import functools

import keras
import numpy as np
from keras import ops

MODES = ("constant", "nearest", "mirror")


def check_order_and_mode(order, mode):
    """Raise ValueError for an unknown order or mode of `sample`."""
    if order not in (0, 1, 3):
        raise ValueError(f"order is {order}; choose 0 (nearest), 1 (linear) or 3 (cubic B-spline)")
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; choose one of {', '.join(MODES)}")


def sample(maps, rows, columns, order=1, mode="constant", fill=0.0):
    """Read maps at fractional positions: out[b, i, j, :] = maps[b] at (rows[b, i, j], columns[b, i, j]).

    Order 0 takes the pixel at floor(position + .5), order 1 blends four pixels, order 3 is the cubic B-spline through
    the pixels. Borders are elasticdeform's: "constant" gives `fill` wherever the position lies outside [0, n - 1],
    without blending, "nearest" clips the position, "mirror" reflects it about the centres of the end pixels.

    Shapes: maps (B, H, W, C), rows and columns (B, h, w), result (B, h, w, C). H, W, C are static, B may be unknown.

    Args:
        maps: floats for orders 1 and 3, any dtype for order 0; the result has their dtype.
        rows: positions in pixels, pixel centres at 0, 1, ..., H - 1.
        columns: the same along the width.
        order: 0, 1 or 3.
        mode: "constant", "nearest" or "mirror".
        fill: the value outside, for "constant".

    Raises:
        ValueError: an unknown order or mode, or integer maps with order 1 or 3.

    Cost: 1, 4 or 16 gathers of C numbers per pixel; order 3 adds two matrix products along the axes.
    """
    check_order_and_mode(order, mode)
    maps = ops.convert_to_tensor(maps)
    dtype = keras.backend.standardize_dtype(maps.dtype)
    if order == 0:
        return _Pixels(rows, columns, maps.shape, mode).nearest(maps, fill)
    if "float" not in dtype:
        raise ValueError(f"order {order} blends pixels, but the maps are {dtype}; use order 0 or cast them to float32")
    work = dtype if dtype == "float64" else "float32"
    pixels = _Pixels(ops.cast(rows, work), ops.cast(columns, work), maps.shape, mode)
    maps = ops.cast(maps, work)
    return ops.cast(pixels.linear(maps, fill) if order == 1 else pixels.cubic(maps, fill), dtype)


def sample_pair(images, masks, rows, columns, mode="constant"):
    """Read images (linear) and masks (nearest pixel) at the same positions; outside is 0.

    Equal to `sample(images, ..., order=1)` and `sample(masks, ..., order=0)`; the border is computed once.

    Shapes: images (B, H, W, C) float32, masks (B, H, W, K) any dtype, rows and columns (B, h, w), result (B, h, w, C)
        and (B, h, w, K) in their dtypes.

    Raises:
        ValueError: an unknown mode, or masks of another height or width than the images.
    """
    check_order_and_mode(1, mode)
    if tuple(images.shape[1:3]) != tuple(masks.shape[1:3]):
        raise ValueError(
            f"masks are {tuple(masks.shape)}, but images are {tuple(images.shape)}; use one height and width"
        )
    pixels = _Pixels(rows, columns, images.shape, mode)
    return pixels.linear(images, 0.0), pixels.nearest(masks, 0)


class _Pixels:
    """Positions after the border rule, and flat indices of the pixels around them."""

    def __init__(self, rows, columns, shape, mode):
        _, self.height, self.width, _ = shape
        self.rows, self.columns, self.inside = _inside(rows, columns, self.height, self.width, mode)
        # int64 where the backend has it: TensorFlow computes int32 on the host even when the data is on a GPU.
        self.dtype = "int32" if keras.backend.backend() == "jax" else "int64"
        samples = ops.arange(ops.shape(rows)[0], dtype=self.dtype)
        self.first = ops.reshape(samples * (self.height * self.width), (-1, 1, 1))

    def index(self, rows, columns):
        """Give the flat index of whole positions (floats); exact up to 2**24 pixels per sample."""
        return ops.cast(rows * self.width + columns, self.dtype) + self.first

    def nearest(self, maps, fill):
        index, flat = self.index(ops.floor(self.rows + 0.5), ops.floor(self.columns + 0.5)), _flat(maps)
        if self.inside is not None:  # an extra row holds `fill`: cheaper than a choice per channel
            flat = ops.concatenate([flat, ops.full((1, maps.shape[-1]), fill, dtype=maps.dtype)])
            index = ops.where(self.inside, index, ops.cast(ops.shape(flat)[0] - 1, self.dtype))
        return ops.take(flat, index, axis=0)

    def linear(self, maps, fill):
        # Four weighted gathers cost less than three lerps: on a CPU, scaling all channels by one number per pixel takes
        # the time. For the same reason the border's 0 is part of the weights. At the far rim the four pixels start
        # one pixel early, so that none lies outside.
        top = ops.minimum(ops.floor(self.rows), max(self.height - 2, 0))
        left = ops.minimum(ops.floor(self.columns), max(self.width - 2, 0))
        down, across = self.rows - top, self.columns - left
        whole = ops.ones_like(down) if self.inside is None else ops.cast(self.inside, down.dtype)
        below = down * whole
        above = whole - below
        below_right, above_right = below * across, above * across
        here = self.index(top, left)
        right = min(self.width - 1, 1)
        under = here + min(self.height - 1, 1) * self.width
        flat = _flat(maps)
        parts = [
            weight[..., None] * ops.take(flat, index, axis=0)
            for weight, index in (
                (above - above_right, here),
                (above_right, here + right),
                (below - below_right, under),
                (below_right, under + right),
            )
        ]
        values = parts[0] + parts[1] + parts[2] + parts[3]
        return values + (fill * (1.0 - whole))[..., None] if fill else values

    def cubic(self, maps, fill):
        maps = ops.einsum("yh,bhwc->bywc", ops.convert_to_tensor(prefilter(self.height), maps.dtype), maps)
        maps = ops.einsum("xw,bywc->byxc", ops.convert_to_tensor(prefilter(self.width), maps.dtype), maps)
        flat, top, left = _flat(maps), ops.floor(self.rows), ops.floor(self.columns)
        across = [weight[..., None] for weight in basis(self.columns - left)]
        columns = [_folded(left + j, self.width) for j in range(-1, 3)]
        values = 0.0
        for i, down in enumerate(basis(self.rows - top), start=-1):
            row = _folded(top + i, self.height)
            line = sum(
                weight * ops.take(flat, self.index(row, column), axis=0)
                for weight, column in zip(across, columns, strict=True)
            )
            values = values + down[..., None] * line
        return values if self.inside is None else ops.where(self.inside[..., None], values, ops.cast(fill, maps.dtype))


def _flat(maps):
    return ops.reshape(maps, (-1, maps.shape[-1]))


def _inside(rows, columns, height, width, mode):
    """Apply the border rule to positions; also give where they were inside, or None if the mode has no outside."""
    if mode == "mirror":
        return _folded(rows, height), _folded(columns, width), None
    held = ops.clip(rows, 0, height - 1), ops.clip(columns, 0, width - 1)
    if mode == "nearest":
        return *held, None
    return *held, ops.logical_and(ops.equal(held[0], rows), ops.equal(held[1], columns))


def _folded(position, size):
    if size == 1:
        return ops.zeros_like(position)
    position = ops.mod(ops.absolute(position), 2 * size - 2)
    return ops.minimum(position, 2 * size - 2 - position)


# Splines and Gaussians along one axis are linear in its n values, so a matrix, computed once per size, does what a
# recursive filter does, and a matrix product runs on every device.


@functools.cache
def prefilter(size):
    """Matrix from `size` values v to the cubic B-spline's coefficients c: c = prefilter @ v, mirrored.

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
    """Weights of the four knots of a cubic B-spline around a point at `offset` in [0, 1) after the second."""
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

    Each row is scaled to the Euclidean length of a row far from the ends, so that smoothed noise is as strong at the
    rim as in the middle.

    Returns:
        (size, size) float64, read-only.
    """
    steps = np.arange(size)[:, None] - np.arange(size)
    rows = np.exp(-0.5 * (steps / sigma_px) ** 2)
    far = np.exp(-0.5 * (np.arange(-int(8 * sigma_px) - 1, int(8 * sigma_px) + 2) / sigma_px) ** 2)
    length = np.sqrt((far**2).sum()) / far.sum()
    return _frozen(rows * (length / np.sqrt((rows**2).sum(1, keepdims=True))))


def mirror(index, size):
    """Reflect whole positions into 0..size-1 about the centres of the end pixels."""
    if size == 1:
        return np.zeros_like(index)
    index = np.abs(index) % (2 * size - 2)
    return np.minimum(index, 2 * size - 2 - index)


def _frozen(matrix):
    matrix.setflags(write=False)
    return matrix
