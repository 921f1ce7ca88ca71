"""The two attentions of the paper: inside 4x4 windows, and against an external memory (its Tables 1 and 2).

The mathematics comes first, as pure functions of tensors; the layers below only own weights. Heads are consecutive
channel blocks: (..., tokens, heads * size) is cut into (..., tokens, heads, size) and then transposed. A bare reshape
to (..., heads, tokens, size) has the right shape and the wrong values.
"""

from __future__ import annotations

import math

import keras
from keras import ops

PACKAGE = "kitlib"


def split_windows(maps, window: int):
    """Cut maps (B, H, W, C) into squares (B, H/window, W/window, window * window, C), row-major inside a square."""
    batch, height, width, channels = ops.shape(maps)
    rows, columns = height // window, width // window
    cut = ops.reshape(maps, (batch, rows, window, columns, window, channels))
    cut = ops.transpose(cut, (0, 1, 3, 2, 4, 5))
    return ops.reshape(cut, (batch, rows, columns, window * window, channels))


def join_windows(windows, window: int):
    """Put squares (B, H/window, W/window, window * window, C) back into maps (B, H, W, C)."""
    batch, rows, columns, _, channels = ops.shape(windows)
    cut = ops.reshape(windows, (batch, rows, columns, window, window, channels))
    cut = ops.transpose(cut, (0, 1, 3, 2, 4, 5))
    return ops.reshape(cut, (batch, rows * window, columns * window, channels))


def attend(query, key, value, heads: int):
    """Scaled dot-product attention, softmax(q k^T / sqrt(size)) v, over the last-but-one axis and per head.

    Shapes: query, key, value and the result (..., tokens, heads * size).
    """
    *leading, tokens, channels = ops.shape(query)
    size = channels // heads

    def per_head(x):
        return ops.swapaxes(ops.reshape(x, (-1, tokens, heads, size)), 1, 2)  # (windows, heads, tokens, size)

    scores = ops.matmul(per_head(query) / math.sqrt(size), ops.swapaxes(per_head(key), -1, -2))
    context = ops.matmul(ops.softmax(scores, axis=-1), per_head(value))
    return ops.reshape(ops.swapaxes(context, 1, 2), (*leading, tokens, channels))


def double_normalise(scores, eps: float):
    """Softmax over positions (axis 1), then divide by eps + the sum over the memory (last axis).

    Shapes: scores (B, N, heads, memory).
    """
    weights = ops.softmax(scores, axis=1)
    return weights / (eps + ops.sum(weights, axis=-1, keepdims=True))


@keras.saving.register_keras_serializable(PACKAGE)
class LocalWindowAttention(keras.layers.Layer):
    """Multi-head self-attention inside squares of `window` x `window` positions."""

    def __init__(self, heads: int, window: int = 4, use_bias: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.window, self.use_bias = heads, window, use_bias

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels % self.heads:
            raise ValueError(f"{self.name}: {channels} channels do not divide by {self.heads} heads")
        self._check_sides(input_shape)
        for name in ("query", "key", "value", "project"):
            dense = keras.layers.Dense(channels, use_bias=self.use_bias, dtype=self.dtype_policy, name=name)
            dense.build((None, channels))
            setattr(self, name, dense)
        self.built = True

    def call(self, maps):
        self._check_sides(maps.shape)
        windows = split_windows(maps, self.window)
        context = attend(self.query(windows), self.key(windows), self.value(windows), self.heads)
        return join_windows(self.project(context), self.window)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "heads": self.heads, "window": self.window, "use_bias": self.use_bias}

    def _check_sides(self, shape):
        for side, length in zip(("height", "width"), shape[1:3], strict=True):
            if length is not None and length % self.window:
                raise ValueError(
                    f"{self.name}: {side} {length} of maps {tuple(shape)} does not divide by window {self.window}"
                )


@keras.saving.register_keras_serializable(PACKAGE)
class ExternalAttention(keras.layers.Layer):
    """Multi-head attention against a learned memory that all samples share."""

    def __init__(self, heads, expansion=4, memory=None, eps=1e-9, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.expansion, self.memory, self.eps, self.use_bias = heads, expansion, memory, eps, use_bias

    def build(self, input_shape):
        channels = input_shape[-1]
        wide = self.expansion * channels
        if wide % self.heads:
            raise ValueError(
                f"{self.name}: expansion {self.expansion} x {channels} channels does not divide by {self.heads} heads"
            )
        size = wide // self.heads
        memory = 2 * size if self.memory is None else self.memory
        for name, inputs, outputs in (
            ("query", channels, wide),
            ("memory_keys", size, memory),
            ("memory_values", memory, size),
            ("project", wide, channels),
        ):
            dense = keras.layers.Dense(outputs, use_bias=self.use_bias, dtype=self.dtype_policy, name=name)
            dense.build((None, inputs))
            setattr(self, name, dense)
        self.built = True

    def call(self, maps):
        shape = ops.shape(maps)
        tokens = maps if len(shape) == 3 else ops.reshape(maps, (shape[0], shape[1] * shape[2], shape[3]))
        query = self.query(tokens)
        batch, positions, wide = ops.shape(query)
        query = ops.reshape(query, (batch, positions, self.heads, wide // self.heads))
        scores = self.memory_keys(query)
        if keras.backend.standardize_dtype(scores.dtype) in ("float16", "bfloat16"):
            scores = ops.cast(scores, "float32")
        weights = ops.cast(double_normalise(scores, self.eps), self.compute_dtype)
        context = ops.reshape(self.memory_values(weights), (batch, positions, wide))
        return ops.reshape(self.project(context), shape)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        own = {name: getattr(self, name) for name in ("heads", "expansion", "memory", "eps", "use_bias")}
        return {**super().get_config(), **own}
