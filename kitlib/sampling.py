"""Look up maps at fractional positions: nearest pixel, linear, or cubic B-spline, with three borders.

All channels of a sample are read at the same positions, by flat row indices, one gather per neighbour.
"""

import keras
from keras import ops

from kitlib import splines

MODES = ("constant", "nearest", "mirror")


def sample(maps, rows, columns, order=1, mode="constant", fill=0.0):
    """out[b, i, j, :] = maps[b] at (rows[b, i, j], columns[b, i, j]).

    Order 0 takes the pixel at floor(position + .5), order 1 blends four, order 3 is the cubic B-spline through the
    pixels. Borders are elasticdeform's: "constant" gives `fill` wherever the position lies outside [0, n - 1] and
    blends nothing, "nearest" holds the position at the rim, "mirror" folds it about the centres of the end pixels.

    Shapes: maps (B, H, W, C), rows and columns (B, h, w), result (B, h, w, C). H, W, C are static, B may be unknown.

    Args:
        maps: floats for orders 1 and 3, anything for order 0; the result has their dtype.
        rows: positions in pixels, pixel centres at 0, 1, ..., H - 1.
        columns: the same along the width.
        order: 0, 1 or 3.
        mode: "constant", "nearest" or "mirror".
        fill: the value outside, for "constant".

    Raises:
        ValueError: an unknown order or mode, or integers with an order that blends.

    Cost: 1, 4 or 16 gathers of C numbers per pixel; order 3 adds two matrix products along the axes.
    """
    _check(order, mode)
    dtype = keras.backend.standardize_dtype(maps.dtype)
    if order == 0:
        rows, columns, inside = _inside(rows, columns, maps.shape, mode)
        values = Pixels(maps, rows).at(ops.floor(rows + 0.5), ops.floor(columns + 0.5))
        return _filled(values, inside, fill)
    if "float" not in dtype:
        raise ValueError(f"order {order} blends pixels, maps are {dtype}: use order 0, or cast them to a float dtype")
    work = dtype if dtype == "float64" else "float32"
    maps, rows, columns = ops.cast(maps, work), ops.cast(rows, work), ops.cast(columns, work)
    rows, columns, inside = _inside(rows, columns, maps.shape, mode)
    values = _linear(maps, rows, columns) if order == 1 else _cubic(maps, rows, columns)
    return ops.cast(_filled(values, inside, fill), dtype)


def sample_pair(images, masks, rows, columns, mode="constant"):
    """Images by linear blending and masks by nearest pixel, at the same positions, in one pass: four gathers for both.

    A mask takes the value of that corner of the four which is nearest, exactly what `sample(masks, ..., order=0)`
    gives.

    Shapes: images (B, H, W, C) float, masks (B, H, W, K) any dtype, result the two in their dtypes. Outside is 0.
    """
    _check(1, mode)
    channels = images.shape[-1]
    maps = ops.concatenate([ops.cast(images, "float32"), ops.cast(masks, "float32")], axis=-1)
    rows, columns, inside = _inside(rows, columns, maps.shape, mode)
    values = _filled(_linear(maps, rows, columns, nearest_from=channels), inside, 0.0)
    return ops.cast(values[..., :channels], images.dtype), ops.cast(values[..., channels:], masks.dtype)


class Pixels:
    """The rows of a batch of maps laid flat, to be gathered at whole-number positions given as floats."""

    def __init__(self, maps, like):
        _, self.height, self.width, channels = maps.shape
        self.flat = ops.reshape(maps, (-1, channels))
        # int64 where it exists: TensorFlow computes int32 on the host even when the data is on a GPU. JAX has int32
        # alone.
        self.dtype = "int32" if keras.backend.backend() == "jax" else "int64"
        samples = ops.arange(ops.shape(like)[0], dtype=self.dtype)
        self.first = ops.reshape(samples * (self.height * self.width), (-1, 1, 1))

    def at(self, rows, columns):
        """Channels at whole positions inside the map; floats are exact up to 2**24 pixels per sample."""
        return ops.take(self.flat, ops.cast(rows * self.width + columns, self.dtype) + self.first, axis=0)


def _linear(maps, rows, columns, nearest_from=None):
    pixels = Pixels(maps, rows)
    top, left = ops.floor(rows), ops.floor(columns)
    bottom, right = ops.minimum(top + 1, pixels.height - 1), ops.minimum(left + 1, pixels.width - 1)
    down, across = (rows - top)[..., None], (columns - left)[..., None]
    if nearest_from is not None:
        down, across = (_with_nearest(step, maps.shape[-1], nearest_from) for step in (down, across))
    # a + t (b - a) rather than (1 - t) a + t b: at t = 0 it is a to the bit.
    above = _blend(pixels.at(top, left), pixels.at(top, right), across)
    below = _blend(pixels.at(bottom, left), pixels.at(bottom, right), across)
    return _blend(above, below, down)


def _blend(a, b, step):
    return a + step * (b - a)


def _with_nearest(step, channels, first):
    """The step for the channels before `first`, and 0 or 1, whichever is nearer, for those from there on."""
    return ops.where(ops.arange(channels) < first, step, ops.cast(step >= 0.5, step.dtype))


def _cubic(maps, rows, columns):
    _, height, width, _ = maps.shape
    maps = ops.einsum("yh,bhwc->bywc", ops.convert_to_tensor(splines.prefilter(height), dtype=maps.dtype), maps)
    maps = ops.einsum("xw,bywc->byxc", ops.convert_to_tensor(splines.prefilter(width), dtype=maps.dtype), maps)
    pixels = Pixels(maps, rows)
    top, left = ops.floor(rows), ops.floor(columns)
    across = [weight[..., None] for weight in splines.basis(columns - left)]
    total = 0.0
    for i, down in enumerate(splines.basis(rows - top), start=-1):
        line = sum(
            weight * pixels.at(_folded(top + i, height), _folded(left + j, width))
            for j, weight in enumerate(across, start=-1)
        )
        total = total + down[..., None] * line
    return total


def _inside(rows, columns, shape, mode):
    """Positions brought inside the map, and where they already were (None when the mode leaves no outside)."""
    _, height, width, _ = shape
    if mode == "mirror":
        return _folded(rows, height), _folded(columns, width), None
    held = ops.clip(rows, 0, height - 1), ops.clip(columns, 0, width - 1)
    if mode == "nearest":
        return *held, None
    return *held, ops.logical_and(ops.equal(held[0], rows), ops.equal(held[1], columns))[..., None]


def _folded(position, size):
    if size == 1:
        return ops.zeros_like(position)
    position = ops.mod(ops.absolute(position), 2 * size - 2)
    return ops.minimum(position, 2 * size - 2 - position)


def _filled(values, inside, fill):
    return values if inside is None else ops.where(inside, values, ops.cast(fill, values.dtype))


def _check(order, mode):
    if order not in (0, 1, 3):
        raise ValueError(f"order is {order}; choose 0 (nearest), 1 (linear) or 3 (cubic B-spline)")
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; choose one of {', '.join(MODES)}")
