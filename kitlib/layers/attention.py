"""The two attentions of the paper: inside small windows (its Table 1), and against an external memory (its Table 2).

The mathematics comes first, as pure functions of tensors; the layers below own the weights. Heads are consecutive
channel blocks: (tokens, heads * size) is reshaped to (tokens, heads, size), then transposed to (heads, tokens, size). A
bare reshape to (heads, tokens, size) has the right shape and the wrong values.
"""

from __future__ import annotations

import math

import keras
from keras import ops


def split_windows(maps, blocks: int, window: int):
    """Cut maps into windows of tokens, separately for each block of channels, with one transposition.

    Windows are numbered row by row over the batch, tokens row by row inside their window.

    Shapes: maps (B, H, W, blocks * size) -> (blocks, B * H/window * W/window, window * window, size).
    """
    batch, height, width, channels = ops.shape(maps)
    columns, size = width // window, channels // blocks
    # The first axis counts rows of windows through the whole batch. Where a side is known only when the graph runs, the
    # count is computed: with -1, a side that does not divide would mix samples.
    rows = -1 if isinstance(height, int) and isinstance(width, int) else batch * (height // window)
    cut = ops.reshape(maps, (rows, window, columns, window, blocks, size))
    cut = ops.transpose(cut, (4, 0, 2, 1, 3, 5))
    return ops.reshape(cut, (blocks, -1, window * window, size))


def join_windows(windows, height: int, width: int, window: int):
    """Undo `split_windows`.

    Shapes: windows (blocks, B * H/window * W/window, window * window, size) -> (B, H, W, blocks * size).
    """
    blocks, _, _, size = ops.shape(windows)
    cut = ops.reshape(windows, (blocks, -1, width // window, window, window, size))
    cut = ops.transpose(cut, (1, 3, 2, 4, 0, 5))
    return ops.reshape(cut, (-1, height, width, blocks * size))


def attend(query, key, value):
    """Attention of every token to all tokens of its window: softmax(q k^T) v.

    The queries are already divided by sqrt(size): done on their weights, it costs nothing.

    Shapes: query, key, value and the result (..., tokens, size).
    """
    scores = ops.matmul(query, ops.swapaxes(key, -1, -2))
    return ops.matmul(ops.softmax(scores, axis=-1), value)


def double_normalise(scores, eps: float):
    """Normalise the scores twice: softmax over the positions, then L1 over the memory.

    weights = softmax over positions; weights / (eps + sum over memory of weights). With eps = 0, as in the paper, a
    position whose weights all underflow gives 0 / 0 = NaN.

    Shapes: scores and the result (..., memory, positions).
    """
    shares = ops.softmax(scores, axis=-1)
    return shares / (eps + ops.sum(shares, axis=-2, keepdims=True))


class _Attention(keras.layers.Layer):
    """Base of both attentions: dense sublayers own the weights, and the output has the input's shape."""

    settings: tuple[str, ...] = ()

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), **{name: getattr(self, name) for name in self.settings}}

    def _add_dense(self, name: str, inputs: int, outputs: int) -> None:
        dense = keras.layers.Dense(outputs, use_bias=self.use_bias, dtype=self.dtype_policy, name=name)
        dense.build((None, inputs))
        setattr(self, name, dense)


@keras.saving.register_keras_serializable("kitlib")
class LocalWindowAttention(_Attention):
    """Multi-head self-attention inside windows of `window` x `window` positions.

    Per window X (window^2, C) and head h: softmax(Q_h K_h^T / sqrt(size)) V_h with Q = X W_q + b_q and so on; the
    concatenated heads go through one more dense layer. A pixel sees its own window only, so the cost is linear in the
    number of pixels.

    Source: the paper's Table 1, after Wang et al., Mixed transformer U-Net (ICASSP 2022). The table starts from windows
    of tokens, (H, W, Win); this layer takes whole maps and cuts them. One matrix product computes queries, keys and
    values; the weights belong to the sublayers `query`, `key`, `value` and `project`. The bias of `key` adds the same
    number to all scores of a query, so its gradient is zero by construction.

    Shapes: (B, H, W, C) -> (B, H, W, C); B may be unknown, H and W too.

    Args:
        heads: number of heads, a divisor of C.
        window: side of a window in pixels; H and W must be multiples of it. The paper has 4.
        use_bias: whether the four dense layers have biases.

    Raises:
        ValueError: C is not a multiple of `heads`, or a side not a multiple of `window`.

    >>> LocalWindowAttention(heads=2)(keras.ops.ones((1, 8, 12, 6))).shape == (1, 8, 12, 6)
    True
    """

    settings = ("heads", "window", "use_bias")

    def __init__(self, heads: int, window: int = 4, use_bias: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.window, self.use_bias = heads, window, use_bias

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels % self.heads:
            raise ValueError(
                f"{self.name}: {channels} channels are not divisible by {self.heads} heads; choose heads "
                f"that divide {channels}"
            )
        self._check_sides(input_shape)
        for name in ("query", "key", "value", "project"):
            self._add_dense(name, channels, channels)

    def call(self, maps):
        self._check_sides(maps.shape)
        _, height, width, channels = ops.shape(maps)
        size = channels // self.heads
        windows = split_windows(self._queries_keys_values(maps, size), 3 * self.heads, self.window)
        context = attend(*ops.split(windows, 3, axis=0))
        return self.project(join_windows(context, height, width, self.window))

    def _queries_keys_values(self, maps, size: int):
        """Compute all three projections in one matrix product; the queries are divided by sqrt(size)."""
        owners = ((self.query, 1 / math.sqrt(size)), (self.key, 1), (self.value, 1))
        kernel = ops.concatenate([scale * ops.convert_to_tensor(owner.kernel) for owner, scale in owners], axis=1)
        maps = ops.matmul(maps, kernel)
        if not self.use_bias:
            return maps
        return ops.add(maps, ops.concatenate([scale * ops.convert_to_tensor(owner.bias) for owner, scale in owners]))

    def _check_sides(self, shape):
        for side, length in zip(("height", "width"), shape[1:3], strict=True):
            if length is not None and length % self.window:
                raise ValueError(
                    f"{self.name}: the {side} {length} of maps {tuple(shape)} is not divisible by the window "
                    f"{self.window}; pad the maps, or choose a window that divides {length}"
                )


@keras.saving.register_keras_serializable("kitlib")
class ExternalAttention(_Attention):
    """Multi-head attention of all positions to a small learned memory that all samples share.

    Per head h: Q_h = the h-th block of X W_q + b_q; weights = `double_normalise`(Q_h M_k + b_k); context = weights M_v
    + b_v; the concatenated heads go through one more dense layer. The memory M_k, M_v is one for all heads and is
    learned from all samples, so one sample can use what another taught. The cost is linear in the number of positions.

    Source: the paper's Table 2, after Guo et al., Beyond self-attention (arXiv 2105.02358). The table has expansion 4,
    memory 2 * size and no eps. The biases of `query` and `memory_keys` add the same number to all positions of a memory
    cell, so their gradients are zero by construction. Where the layer computes in 16 bits, the double normalisation
    runs in float32: in float16 eps is 0 and weights of 1 / positions underflow.

    Shapes: (B, N, C) -> (B, N, C), or (B, H, W, C) -> (B, H, W, C); all but C may be unknown.

    Args:
        heads: the true number of heads; size of a head = expansion * C / heads.
        expansion: queries have this many times C channels.
        memory: cells of the memory; None means 2 * size, as in the paper.
        eps: keeps the second division from 0 / 0. The paper has none; 0 may give NaN.
        use_bias: whether the four dense layers have biases.

    Raises:
        ValueError: expansion * C is not a multiple of `heads`, or the input has neither of the two shapes.

    >>> ExternalAttention(heads=4)(keras.ops.ones((1, 3, 5, 6))).shape == (1, 3, 5, 6)
    True
    """

    settings = ("heads", "expansion", "memory", "eps", "use_bias")

    def __init__(
        self,
        heads: int,
        expansion: int = 4,
        memory: int | None = None,
        eps: float = 1e-9,
        use_bias: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.heads, self.expansion, self.memory, self.eps, self.use_bias = heads, expansion, memory, eps, use_bias

    def build(self, input_shape):
        if len(input_shape) not in (3, 4):
            raise ValueError(f"{self.name}: input has shape {tuple(input_shape)}; expected (B, N, C) or (B, H, W, C)")
        channels = input_shape[-1]
        wide = self.expansion * channels
        if wide % self.heads:
            raise ValueError(
                f"{self.name}: {wide} hidden channels (expansion {self.expansion} x {channels} channels) are not "
                f"divisible by {self.heads} heads; choose heads that divide {wide}"
            )
        size = wide // self.heads
        memory = 2 * size if self.memory is None else self.memory
        self._add_dense("query", channels, wide)
        self._add_dense("memory_keys", size, memory)
        self._add_dense("memory_values", memory, size)
        self._add_dense("project", wide, channels)

    def call(self, maps):
        shape = ops.shape(maps)
        tokens = ops.reshape(maps, (shape[0], math.prod(shape[1:-1]), shape[-1]))
        batch, positions, _ = ops.shape(tokens)
        wide = self.query.units
        # Positions come last, (B * heads, size, positions), so that the softmax runs along contiguous memory.
        queries = ops.swapaxes(self.query(tokens), 1, 2)
        queries = ops.reshape(queries, (-1, wide // self.heads, positions))
        scores = _dense_on_columns(self.memory_keys, queries)
        if keras.backend.standardize_dtype(scores.dtype) in ("float16", "bfloat16"):
            scores = ops.cast(scores, "float32")
        weights = ops.cast(double_normalise(scores, self.eps), self.compute_dtype)
        context = ops.reshape(_dense_on_columns(self.memory_values, weights), (batch, wide, positions))
        return ops.reshape(self.project(ops.swapaxes(context, 1, 2)), shape)


def _dense_on_columns(dense, columns):
    """Apply a dense layer to columns instead of rows, W^T x + b: (..., inputs, N) -> (..., outputs, N)."""
    columns = ops.matmul(ops.transpose(ops.convert_to_tensor(dense.kernel)), columns)
    return columns if dense.bias is None else columns + ops.expand_dims(ops.convert_to_tensor(dense.bias), -1)


@keras.saving.register_keras_serializable("kitlib")
class ChannelNormalization(keras.layers.LayerNormalization):
    """Keras' LayerNormalization over the last axis; on a CPU under TensorFlow its sums are matrix products.

    x - mean(x) = x (I - 1/C), and the variance is the square of that times a column of 1/C. TensorFlow reduces a last
    axis of 16 or 32 numbers several times slower than it multiplies by a 16 x 16 matrix. Weights and values (up to
    rounding) are Keras'. Keras' own code runs on a GPU, where a product may use TF32, and on other backends.

    Shapes: (..., C) -> (..., C).
    """

    def call(self, inputs):
        slow = keras.backend.backend() == "tensorflow" and not keras.distribution.list_devices("gpu")
        if not slow or self.axis not in ([len(inputs.shape) - 1], [-1], -1) or self.rms_scaling:
            return super().call(inputs)
        channels = inputs.shape[-1]
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        maps = ops.cast(inputs, dtype)
        share = ops.full((channels, 1), 1 / channels, dtype)
        centred = ops.matmul(maps, ops.eye(channels, dtype=dtype) - 1 / channels)
        maps = centred * ops.rsqrt(ops.matmul(ops.square(centred), share) + self.epsilon)
        if self.scale:
            maps = maps * ops.cast(self.gamma, dtype)
        if self.center:
            maps = ops.add(maps, ops.cast(self.beta, dtype))  # TensorFlow's BiasAdd: its gradient sums faster
        return ops.cast(maps, self.compute_dtype)
