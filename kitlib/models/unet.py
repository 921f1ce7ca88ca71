"""The paper's network: a U-Net with window attention on the way down and external attention at the bottom."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
from keras import layers

from kitlib.layers.attention import ChannelNormalization, ExternalAttention, LocalWindowAttention
from kitlib.layers.dropout import ResumableDropout
from kitlib.models import encoders
from kitlib.models.padding import MirrorBorder, SizeCheck, check_size, mirrored_border, skip_border
from kitlib.models.prior import Channels, depth_of, pyramid

HEAD_SIZE = 8  # channels per head of the window attention; times expansion 4 that is 32 in the external one
NO_ATTENTION = {"window_stages": (), "external_bottleneck": False}  # options that leave a plain U-Net


def build_unet(
    input_shape: tuple[int | None, int | None, int],
    organs: int = 3,
    levels: int | None = None,
    base: int = 16,
    cap: int = 256,
    window_stages: Sequence[int] | None = None,
    external_bottleneck: bool | None = None,
    padding: str = "same",
    mirror_border: bool = False,
    window: int = 4,
    batch_norm: bool = True,
    dropout: float = 0.0,
    activation: str | None = "sigmoid",
    encoder: str | Callable | None = None,
    stem: str = "mean",
    prior: bool = False,
    name: str = "unet",
) -> keras.Model:
    """Build the network from images (B, H, W, C) to probabilities (B, H, W, organs).

    Down: two 3x3 convolutions with batch norm and ReLU per stage, then a 2x2 pool. Up: a 2x2 up-convolution, the skip,
    two convolutions. Last, a 1x1 head with one sigmoid per organ. An attention is added as maps +
    attention(norm(maps)).

    The paper's networks (V.B.2, V.E) are the defaults with 4 and with 5 levels, on (128, 128, 5): 2,496,819 and
    5,711,411 trainable parameters; 2,499,763 and 5,716,403 with the moving averages of the batch norms. The paper
    reports 2.50 and 5.72 million and does not say where its attentions are. This placement is our reading: window
    attention on the three finest stages down, with heads of 8 channels, and external attention with 32 heads of 32 at
    the bottom.

    With `encoder` the way down is a pretrained network (`models.encoders`): 5 levels, no attention unless asked for,
    and pixels scaled inside. The decoder stays; its full-size stage has no skip.

    With `prior` the masks of another day follow the slices in the input, see `models.prior`. They never enter the way
    down: averaged over 2x2 pixels stage by stage, they are joined to each skip.

    The original U-Net (Ronneberger et al., 2015; the paper's Figure 1) is `padding="valid", base=64, cap=1024,
    window_stages=(), external_bottleneck=False, batch_norm=False`: 572 in, 388 out, 23 convolutions.

    Args:
        input_shape: height, width (None if it varies) and channels, which is the depth of a stack.
        organs: number of masks; each has its own sigmoid, since organs overlap.
        levels: number of poolings; None is 4, and 5 with an encoder by name. Sides must be multiples of 2 ** levels;
            those of a stage with windows, of `window`.
        base: channels of the finest stage; they double with every stage.
        cap: largest number of channels of a stage.
        window_stages: stages with window attention, 0 is the finest; () for none. None is (0, 1, 2), and () with an
            encoder, where a window attends on the skip (or at the bottom) only.
        external_bottleneck: external attention at the bottom; None is True, and False with an encoder.
        padding: "same", or "valid": skips are cropped and the output is smaller than the input.
        mirror_border: with "valid", mirror the image's border (the paper's Figure 2) so that the output has the image's
            size. Needs a fixed height and width.
        window: side of a window, in pixels of its stage.
        batch_norm: normalise after each convolution.
        dropout: share of channels dropped at the bottom while training (`ResumableDropout`).
        activation: "sigmoid", or None for logits. The head computes in float32, or in float64 if the policy does.
        encoder: another way down: one of `encoders.NAMES`, or a callable from images to a list of levels + 1 maps,
            each half the side of the one before, None for no skip.
        stem: how the encoder's kernel for colours takes slices, one of `encoders.STEMS`.
        prior: whether the last four channels are the masks of another day.
        name: of the model.

    Raises:
        ValueError: sizes that do not fit, arguments that exclude each other, or a keras.json with another image format
            or with weights of 16 bits.
    """
    check_keras()
    if levels is None:
        levels = encoders.LEVELS if isinstance(encoder, str) else 4
    if window_stages is None:
        window_stages = (0, 1, 2) if encoder is None else ()
    if external_bottleneck is None:
        external_bottleneck = encoder is None
    stages = tuple(window_stages)
    _check_arguments(levels, stages, padding, mirror_border, encoder, prior)
    blocks = _Blocks(padding, batch_norm, stages, window)
    widths = [min(base * 2**stage, cap) for stage in range(levels + 1)]
    images = maps = keras.Input(input_shape, name="images")
    if mirror_border:
        maps = MirrorBorder(*mirrored_border(input_shape[:2], levels, stages, window), name="mirror_border")(images)
    check_size(maps.shape[1:3], levels, stages, window, padding)  # Keras buries what the layer says
    depth = depth_of(images.shape[-1]) if prior else None
    priors = pyramid(images, levels) if prior else [None] * levels
    if encoder is None:
        maps = SizeCheck(levels, stages, window, padding, name="size_check")(maps)
        if prior:
            maps = Channels(0, depth, name="slices")(maps)
        *skips, maps = blocks.down(maps, widths)
    else:
        *skips, maps = blocks.foreign(images, encoder, levels, stem, depth)
    if external_bottleneck:
        maps = blocks.residual(maps, ExternalAttention(max(1, maps.shape[-1] // HEAD_SIZE), name="bottom_external"))
    if dropout:
        maps = ResumableDropout(dropout, name="bottom_dropout")(maps)
    for stage in reversed(range(levels)):
        maps = blocks.up(maps, skips[stage], widths[stage], stage, skip_border(stage, levels), priors[stage])
    output = head(maps, organs, activation)
    if mirror_border:
        output = _crop_to(input_shape, output)
    return keras.Model(images, output, name=name)


def check_keras() -> None:
    """Raise ValueError if Keras is configured, usually by keras.json, in a way that the networks cannot work with."""
    remedies = {"image_data_format": ("channels_last", keras.config.image_data_format())}
    if keras.config.dtype_policy().variable_dtype in ("float16", "bfloat16"):
        remedies["floatx"] = ("float32", keras.config.dtype_policy().variable_dtype)
    for setting, (needed, value) in remedies.items():
        if value != needed:
            half = " and ask for 16 bits with keras.config.set_dtype_policy('mixed_float16')" * (setting == "floatx")
            raise ValueError(
                f"Keras' {setting} is {value!r}, but the networks need {needed!r}; change it in keras.json (in "
                f"~/.keras, or where KERAS_HOME points) or call keras.config.set_{setting}('{needed}') before{half}"
            )


def receptive_field(levels: int) -> dict[str, list[int]]:
    """Compute the side of the receptive field in pixels, before each pooling and at the bottom, in both conventions.

    Each 3x3 convolution adds 2 * jump, where jump = 2 ** poolings so far. "pool as stride" is the paper's Table 7: the
    pool doubles the jump and adds nothing. "pool as 2x2" also counts the pool's own kernel, which adds one jump; a
    gradient finds this field.

    >>> receptive_field(4)
    {'pool as stride': [5, 13, 29, 61, 125], 'pool as 2x2': [5, 14, 32, 68, 140]}
    """
    fields = {}
    for convention, kernel in (("pool as stride", 1), ("pool as 2x2", 2)):
        side, jump, sides = 1, 1, []
        for _ in range(levels + 1):
            side += 2 * 2 * jump
            sides.append(side)
            side, jump = side + (kernel - 1) * jump, 2 * jump
        fields[convention] = sides
    return fields


def _check_arguments(levels, stages, padding, mirror_border, encoder, prior):
    if padding not in ("same", "valid"):
        raise ValueError(f"padding is {padding!r}; choose 'same' or 'valid'")
    if mirror_border and padding != "valid":
        raise ValueError("mirror_border needs padding='valid'; with 'same' the output has the image's size without it")
    if encoder is not None and padding != "same":
        raise ValueError("padding is 'valid', but an encoder needs padding='same', because its skips cannot be cropped")
    if prior and padding != "same":
        raise ValueError("padding is 'valid', but a prior needs padding='same', because it is not cropped as skips are")
    if isinstance(encoder, str) and levels != encoders.LEVELS:
        raise ValueError(f"levels is {levels}; encoder {encoder!r} has {encoders.LEVELS}, so leave levels out")
    if levels < 1:
        raise ValueError(f"levels is {levels}; choose 1 or more")
    if not set(stages) <= set(range(levels + 1)):
        raise ValueError(f"window_stages is {stages}; choose from 0 to {levels}, the stages of {levels} levels")


class _Blocks:
    """The repeated parts of the network."""

    def __init__(self, padding: str, batch_norm: bool, stages: Sequence[int], window: int):
        self.padding, self.batch_norm, self.stages, self.window = padding, batch_norm, stages, window

    def convolutions(self, maps, width: int, name: str):
        """Apply two 3x3 convolutions, each with batch norm and ReLU."""
        for count in ("a", "b"):
            maps = layers.Conv2D(width, 3, padding=self.padding, name=f"{name}{count}")(maps)
            if self.batch_norm:
                maps = layers.BatchNormalization(momentum=0.9, name=f"{name}{count}_norm")(maps)
            maps = layers.ReLU(name=f"{name}{count}_relu")(maps)
        return maps

    def windows(self, maps, stage: int):
        """Apply window attention if the stage has one."""
        if maps is None or stage not in self.stages:
            return maps
        heads = max(1, maps.shape[-1] // HEAD_SIZE)
        return self.residual(maps, LocalWindowAttention(heads, self.window, name=f"down{stage}_window"))

    def residual(self, maps, attention):
        """Compute maps + attention(norm(maps))."""
        normal = ChannelNormalization(epsilon=1e-6, name=f"{attention.name}_norm")(maps)
        return layers.Add(name=f"{attention.name}_add")([maps, attention(normal)])

    def down(self, maps, widths: Sequence[int]) -> list:
        """Build the way down; give the maps of every stage."""
        stages = []
        for stage, width in enumerate(widths):
            if stage:
                maps = layers.MaxPooling2D(2, name=f"down{stage - 1}_pool")(maps)
            maps = self.windows(self.convolutions(maps, width, f"down{stage}"), stage)
            stages.append(maps)
        return stages

    def up(self, maps, skip, width: int, stage: int, border: int, prior=None):
        """Double the size, concatenate the skip and the prior, apply two convolutions."""
        maps = layers.Conv2DTranspose(width, 2, strides=2, name=f"up{stage}_grow")(maps)
        if skip is not None and self.padding == "valid":
            skip = layers.Cropping2D(border, name=f"up{stage}_crop")(skip)
        parts = [part for part in (skip, maps, prior) if part is not None]
        if len(parts) > 1:
            maps = layers.Concatenate(name=f"up{stage}_skip")(parts)
        return self.convolutions(maps, width, f"up{stage}")

    def foreign(self, images, encoder: str | Callable, levels: int, stem: str, depth: int | None = None) -> list:
        """Build another way down on the first `depth` channels; check its maps and put the attention on them."""
        if isinstance(encoder, str):
            stages = encoders.down(encoder, images, stem, depth)
        else:
            stages = list(encoder(images if depth is None else Channels(0, depth, name="slices")(images)))
        if len(stages) != levels + 1 or stages[-1] is None:
            last = ", the last one None" if stages and stages[-1] is None else ""
            raise ValueError(
                f"the encoder returns {len(stages)} maps{last}; {levels} levels need {levels + 1}, the last not None: "
                "change levels or the encoder"
            )
        for stage, maps in enumerate(stages):
            if maps is None and stage in self.stages:
                raise ValueError(
                    f"window_stages is {self.stages}, but the encoder has no maps at stage {stage}; leave it out"
                )
            for side, image in zip(maps.shape[1:3] if maps is not None else (), images.shape[1:3], strict=False):
                if None not in (side, image) and side * 2**stage != image:
                    raise ValueError(
                        f"stage {stage} of the encoder has a side of {side} pixels; expected {image} / {2**stage}"
                    )
        return [self.windows(maps, stage) for stage, maps in enumerate(stages)]


def head(maps, organs: int, activation: str | None):
    """Map (B, H, W, C), or volumes (B, H, W, D, C), to one channel per organ by a convolution of size 1."""
    compute = keras.config.dtype_policy().compute_dtype
    dtype = compute if compute == "float64" else "float32"
    # An organ covers some 5 % of a slice: starting at that probability saves the steps that would learn it.
    prior = keras.initializers.Constant(-3.0)
    convolution = layers.Conv2D if len(maps.shape) == 4 else layers.Conv3D
    return convolution(organs, 1, activation=activation, bias_initializer=prior, dtype=dtype, name="head")(maps)


def _crop_to(shape, maps):
    """Crop the maps to the given height and width, centred."""
    spare = [have - want for have, want in zip(maps.shape[1:3], shape, strict=False)]
    if not any(spare):
        return maps
    return layers.Cropping2D(tuple((total // 2, total - total // 2) for total in spare), dtype=maps.dtype)(maps)
