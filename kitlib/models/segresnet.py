"""The SegResNet: a residual U-Net for volumes, which labels every slice of its stack at once."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers, ops

from kitlib.models.unet import check_keras, head


def build_segresnet(
    input_shape: tuple[int, int, int],
    organs: int = 3,
    init: int = 16,
    blocks: Sequence[int] = (1, 2, 2, 4),
    activation: str | None = "sigmoid",
    name: str = "segresnet",
) -> keras.Model:
    """Build the network from stacks (B, H, W, depth) to probabilities (B, H, W, depth, organs).

    A residual block is maps + conv(ReLU(norm(conv(ReLU(norm(maps)))))) with 3x3x3 convolutions and group norms. Down: a
    convolution of stride 2, which doubles the channels, before the blocks of each further stage. Up: a 1x1x1
    convolution halves the channels, linear interpolation doubles the sides, the skip is added, and one block follows.
    Last, norm, ReLU and a 1x1x1 head with one sigmoid per organ, in float32.

    Source: Myronenko, 3D MRI brain tumor segmentation using autoencoder regularization (2018, arXiv 1810.11654),
    Figure 1 and Table 1 without the autoencoder, in the form of MONAI's `SegResNet`: 8 groups in a norm and no bias
    beside it. `init` 16 has its 4,700,931 weights. Values differ in one point: at stride 2 Keras' "same" pads at
    the end of each axis, MONAI on both sides, so that a mirrored volume gives what mirrored kernels give there.

    Args:
        input_shape: height, width and depth, multiples of 2 ** (stages - 1): 8.
        organs: number of masks of a slice.
        init: channels of the first stage, a multiple of 8.
        blocks: residual blocks of each stage on the way down.
        activation: "sigmoid", or None for logits.
        name: of the model.

    Cost: with `init` 16 and four stages 69 kMAC a voxel; halved channels cost a quarter.

    Raises:
        ValueError: sizes that do not fit, or a keras.json as for `build_unet`.
    """
    check_keras()
    _check_arguments(input_shape, init, blocks)
    images = keras.Input(input_shape, name="images")
    maps = layers.Reshape((*input_shape, 1), name="volume")(images)
    maps, skips = _convolution(init, "stem")(maps), []
    for stage, count in enumerate(blocks):
        if stage:
            maps = _convolution(init * 2**stage, f"down{stage}_shrink", strides=2)(maps)
        for block in range(count):
            maps = _residual(maps, f"down{stage}{'abcdefgh'[block]}")
        skips.append(maps)
    for stage in reversed(range(len(blocks) - 1)):
        maps = _convolution(init * 2**stage, f"up{stage}_narrow", kernel=1)(maps)
        maps = LinearUpsampling(name=f"up{stage}_grow")(maps)
        maps = layers.Add(name=f"up{stage}_skip")([skips[stage], maps])
        maps = _residual(maps, f"up{stage}a")
    return keras.Model(images, head(_activated(maps, "last"), organs, activation), name=name)


@keras.saving.register_keras_serializable("kitlib")
class VolumeNormalization(layers.GroupNormalization):
    """Keras' GroupNormalization over the last axis of volumes; its statistics are taken channel by channel first.

    mean = mean of m_c and var = mean of (v_c + (m_c - mean)^2) over the channels c of a group, m_c and v_c those of a
    channel; then maps * (gamma / sqrt(var + eps)) + (beta - mean * gamma / sqrt(var + eps)). Keras reduces positions
    and the few channels of a group at once, which is up to twice as slow on a CPU. Weights and values (up to rounding)
    are Keras'. Statistics are in float32 at least, in every Keras.

    Shapes: (B, ..., C) -> (B, ..., C).
    """

    def call(self, inputs):
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        maps, channels = ops.cast(inputs, dtype), inputs.shape[-1]
        positions = tuple(range(1, len(inputs.shape) - 1))
        own = ops.mean(maps, positions, keepdims=True)
        spread = ops.mean(ops.square(maps - own), positions, keepdims=True)
        mean = self._over_groups(own, channels)
        variance = self._over_groups(spread + ops.square(own - mean), channels)
        factor = ops.rsqrt(variance + self.epsilon) * ops.cast(self.gamma, dtype)
        return ops.cast(maps * factor + (ops.cast(self.beta, dtype) - mean * factor), self.compute_dtype)

    def _over_groups(self, values, channels):
        """Average (B, 1, ..., C) over the channels of each group; the shape stays."""
        size = channels // self.groups
        grouped = ops.mean(ops.reshape(values, (-1, self.groups, size)), axis=-1)
        return ops.reshape(ops.repeat(grouped, size, axis=-1), (-1, *(1,) * (len(values.shape) - 2), channels))


@keras.saving.register_keras_serializable("kitlib")
class LinearUpsampling(layers.Layer):
    """Double the sides of volumes by linear interpolation between voxel centres; beyond the border voxels repeat.

    Along each axis out[2 i] = (x[i - 1] + 3 x[i]) / 4 and out[2 i + 1] = (3 x[i] + x[i + 1]) / 4: PyTorch's "trilinear"
    with align_corners=False.

    Shapes: (B, H, W, D, C) -> (B, 2 H, 2 W, 2 D, C).
    """

    def call(self, maps):
        for axis in (3, 2, 1):  # the largest copies last
            maps = _doubled(maps, axis)
        return maps

    def compute_output_shape(self, input_shape):
        batch, *sides, channels = input_shape
        return (batch, *(2 * side for side in sides), channels)


def _doubled(maps, axis: int):
    """Double one side of (B, H, W, D, C)."""
    every = (slice(None),) * axis
    before = ops.concatenate([maps[(*every, slice(None, 1))], maps[(*every, slice(None, -1))]], axis)
    after = ops.concatenate([maps[(*every, slice(1, None))], maps[(*every, slice(-1, None))]], axis)
    pairs = ops.stack([0.25 * before + 0.75 * maps, 0.75 * maps + 0.25 * after], axis + 1)
    shape = [-1, *maps.shape[1:]]
    shape[axis] *= 2
    return ops.reshape(pairs, shape)


def _residual(maps, name: str):
    """Add to the maps what two convolutions make of them."""
    found = maps
    for count in "12":
        found = _convolution(maps.shape[-1], f"{name}{count}")(_activated(found, f"{name}{count}"))
    return layers.Add(name=f"{name}_add")([maps, found])


def _activated(maps, name: str):
    """Normalise, then ReLU."""
    return layers.ReLU(name=f"{name}_relu")(VolumeNormalization(8, epsilon=1e-5, name=f"{name}_norm")(maps))


def _convolution(width: int, name: str, kernel: int = 3, strides: int = 1):
    return layers.Conv3D(width, kernel, strides, padding="same", use_bias=False, name=name)


def _check_arguments(sides, init, blocks):
    if len(sides) != 3 or None in sides:
        raise ValueError(f"input_shape is {tuple(sides)}; give a fixed height, width and depth")
    if init % 8:
        raise ValueError(f"init is {init}; choose a multiple of 8, the groups of a norm")
    multiple = 2 ** (len(blocks) - 1)
    for name, side in zip(("height", "width", "depth"), sides, strict=True):
        if side % multiple or not side:
            lower = side // multiple * multiple
            near = " or ".join(str(fit) for fit in (lower, lower + multiple) if fit)
            raise ValueError(f"the {name} {side} does not fit {len(blocks)} stages; choose {near}")
