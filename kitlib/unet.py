"""The paper's network: a U-Net with attention inside windows on its way down and external attention at the bottom."""

from __future__ import annotations

import keras
from keras import layers

from kitlib.attention import ExternalAttention, LocalWindowAttention

PACKAGE = "kitlib"
HEAD_SIZE = 8  # channels per head of the window attentions, times expansion 4 = 32 in the external one


def build_unet(
    input_shape,
    organs: int = 3,
    levels: int = 4,
    base: int = 16,
    cap: int = 256,
    window_stages=(0, 1, 2),
    external_bottleneck: bool = True,
    padding: str = "same",
    window: int = 4,
    mirror_border: bool = False,
    batch_norm: bool = True,
    dropout: float = 0.0,
    deep_supervision: bool = False,
    activation: str | None = "sigmoid",
    encoder=None,
    name: str = "unet",
) -> keras.Model:
    """Build the network from (B, H, W, C) images to (B, H, W, organs) probabilities."""
    if padding != "same" or encoder is not None or deep_supervision or mirror_border:
        raise NotImplementedError("under way")
    images = keras.Input(input_shape, name="images")
    widths = [min(base * 2**stage, cap) for stage in range(levels + 1)]
    maps, skips = images, []
    for stage, width in enumerate(widths):
        maps = _convolutions(maps, width, padding, batch_norm, f"down{stage}")
        if stage in window_stages:
            attention = LocalWindowAttention(max(1, width // HEAD_SIZE), window, name=f"down{stage}_window")
            maps = _residual(maps, attention, f"down{stage}_window")
        if stage < levels:
            skips.append(maps)
            maps = layers.MaxPooling2D(2, name=f"down{stage}_pool")(maps)
    if external_bottleneck:
        attention = ExternalAttention(max(1, widths[-1] // HEAD_SIZE), name="bottom_external")
        maps = _residual(maps, attention, "bottom_external")
    for stage in reversed(range(levels)):
        maps = layers.Conv2DTranspose(widths[stage], 2, strides=2, name=f"up{stage}_grow")(maps)
        maps = layers.Concatenate(name=f"up{stage}_skip")([skips[stage], maps])
        maps = _convolutions(maps, widths[stage], padding, batch_norm, f"up{stage}")
    head = layers.Conv2D(organs, 1, activation=activation, dtype=_head_dtype(), name="head")
    return keras.Model(images, head(maps), name=name)


def _convolutions(maps, width, padding, batch_norm, name):
    for count in ("a", "b"):
        maps = layers.Conv2D(width, 3, padding=padding, name=f"{name}{count}")(maps)
        if batch_norm:
            maps = layers.BatchNormalization(momentum=0.9, name=f"{name}{count}_norm")(maps)
        maps = layers.ReLU(name=f"{name}{count}_relu")(maps)
    return maps


def _residual(maps, attention, name):
    normal = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm")(maps)
    return layers.Add(name=f"{name}_add")([maps, attention(normal)])


def _head_dtype():
    compute = keras.config.dtype_policy().compute_dtype
    return compute if compute == "float64" else "float32"
