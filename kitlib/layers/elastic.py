"""Elastic displacement fields and the warp that follows them, for images and masks together, in plain `keras.ops`.

A field (B, H, W, 2) holds the displacement (dy, dx) in pixels of each output pixel: out[p] = in[p + field[p]].
Everything is a matrix product or a gather, so it runs inside a compiled training step on any backend. Products use the
device's default precision: with TF32 or bfloat16 a displacement is off by up to one percent.
"""

import keras
from keras import ops

from kitlib.layers import randomness, sampling

_STREAM = 1  # of the seed; Augment uses 2 and 3


def displacement(seed, shape, points=3, sigma_px=5.0):
    """Draw a coarse grid of random steps and interpolate it to every pixel by a cubic spline, as elasticdeform does.

    Control points are independent N(0, sigma_px) for each sample, axis and point (Ronneberger et al., 2015, section
    3.1).

    Shapes: result (B, H, W, 2) float32 for shape (B, H, W).

    Args:
        seed: int, or integer tensor (B,): the same seed gives the same field on every backend.
        shape: (B, H, W); B may be a tensor.
        points: control points along each axis, int or (along height, along width), 2 or more.
        sigma_px: standard deviation of a control point's step in pixels. A field cannot fold if its spline
            coefficients stay below 0.489 of the grid's spacing (Choi and Lee, 2000).

    Raises:
        ValueError: fewer than 2 points.
    """
    batch, height, width = shape
    return spline_field(control_points(randomness.seeds(seed, batch), points) * sigma_px, (height, width))


def control_points(words, points):
    """Draw standard normal steps (B, 2, points, points) from the seeds' words."""
    down, across = (points, points) if isinstance(points, int) else points
    if min(down, across) < 2:
        raise ValueError(f"points is {points}; choose at least 2 control points along each axis")
    return randomness.normal(words, (2, down, across), _STREAM)


def spline_field(control, shape):
    """Interpolate control steps by a cubic spline, corner pixel to corner pixel: field = A_h control A_w^T per axis.

    Shapes: control (B, 2, points, points) steps in pixels, (dy, dx) first, as elasticdeform's `displacement`; shape
        (H, W); result (B, H, W, 2).
    """
    return _last(spline_planes(control, shape))


def spline_planes(control, shape):
    """Compute `spline_field` with the two axes as planes, (B, 2, H, W)."""
    rows, columns = (sampling.interpolation(*sizes) for sizes in zip(control.shape[2:], shape, strict=True))
    return _along_both(rows, control, columns)


def smooth_displacement(seed, shape, alpha_px, sigma_px):
    """Draw noise on every pixel and smooth it: alpha * (Gaussian(sigma) * uniform(-1, 1)) (Simard et al., 2003).

    The field's root mean square along each axis is alpha_px / (sigma_px * 2 sqrt(3 pi)) = 0.163 alpha_px / sigma_px,
    also at the rim, where the smoothing is rescaled instead of padded.

    Shapes: result (B, H, W, 2) float32 for shape (B, H, W).

    Args:
        seed: int, or integer tensor (B,).
        shape: (B, H, W); B may be a tensor.
        alpha_px: strength in pixels.
        sigma_px: standard deviation of the Gaussian in pixels; larger is smoother and, at equal alpha, weaker. The
            slopes' standard deviation is 0.115 alpha_px / sigma_px**2; a slope of -1 folds.
    """
    batch, height, width = shape
    noise = field_noise(randomness.seeds(seed, batch), (height, width))
    return _last(alpha_px * smoothed(noise, sigma_px))


def field_noise(words, shape):
    """Draw uniform noise in [-1, 1) for both axes, (B, 2, H, W)."""
    return 2.0 * randomness.uniform(words, (2, *shape), _STREAM) - 1.0


def smoothed(noise, sigma_px):
    """Smooth noise (B, 2, H, W) by a Gaussian along H and W; its strength is the same at the border."""
    rows, columns = (sampling.gaussian(size, float(sigma_px)) for size in noise.shape[2:])
    return _along_both(rows, noise, columns)


def warp(maps, field, order=1, mode="constant", fill=0.0):
    """Warp maps by a field: out[p] = maps[p + field[p]]; all channels of a sample share the field.

    Shapes: maps (B, H, W, C), field (B, H, W, 2) in pixels (dy, dx), result as maps. B may be unknown.

    Args:
        maps: images as floats, or masks of any dtype with order 0.
        field: displacement in pixels.
        order: 0 nearest pixel (masks stay binary), 1 linear, 3 cubic B-spline with prefilter.
        mode: border, "constant" (value `fill` outside), "nearest" or "mirror", as in elasticdeform.
        fill: value outside.

    Raises:
        ValueError: an unknown order or mode, integers with order 1 or 3, or sizes or batches that differ.

    >>> import numpy as np
    >>> maps = np.arange(6, dtype="float32").reshape(1, 2, 3, 1)
    >>> one_to_the_right = np.broadcast_to(np.float32([0, 1]), (1, 2, 3, 2))
    >>> np.asarray(warp(maps, one_to_the_right, mode="nearest"))[0, :, :, 0]
    array([[1., 2., 2.],
           [4., 5., 5.]], dtype=float32)
    """
    maps, field = ops.convert_to_tensor(maps), ops.convert_to_tensor(field)
    if tuple(maps.shape[1:3]) != tuple(field.shape[1:3]) or field.shape[-1] != 2:
        raise ValueError(
            f"field has shape {tuple(field.shape)} for maps of shape {tuple(maps.shape)}; expected (B, H, W, 2)"
        )
    if None not in (maps.shape[0], field.shape[0]) and maps.shape[0] != field.shape[0]:
        raise ValueError(
            f"field has {field.shape[0]} samples, but maps have {maps.shape[0]}; give one field per sample"
        )
    return sampling.sample(maps, *positions(field), order=order, mode=mode, fill=fill)


def positions(field):
    """Compute the rows and columns (B, H, W) at which a field reads."""
    _, height, width, _ = field.shape
    if keras.backend.standardize_dtype(field.dtype) != "float64":
        field = ops.cast(field, "float32")  # 16 bits cannot index the pixels of a slice
    rows = ops.arange(height, dtype=field.dtype)[:, None]
    columns = ops.arange(width, dtype=field.dtype)[None, :]
    return field[..., 0] + rows, field[..., 1] + columns


def _along_both(rows, values, columns):
    """rows @ values @ columns^T for each sample and plane."""
    rows, columns = (ops.convert_to_tensor(matrix, dtype=values.dtype) for matrix in (rows, columns.T))
    return ops.matmul(ops.matmul(rows, values), columns)


def _last(planes):
    return ops.transpose(planes, (0, 2, 3, 1))
