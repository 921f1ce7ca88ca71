"""Augmentation as one Keras layer: a sample's images and masks move together, in one sampling pass on the device.

The layer only draws parameters from a seed per sample (`draw`) and applies them (`apply`), so any sample can be logged,
replayed and tested. Geometry comes first and moves all channels of the stack and the masks alike; intensities follow
and touch the images only. It runs inside the compiled training step, or, on TensorFlow, inside tf.data's `map`.
"""

import math

import keras
from keras import ops

from kitlib.layers import elastic, randomness, sampling

_SCALARS, _NOISE = 2, 3  # streams of the sample's seed; elastic takes 1
_PLACED = ("rotation", "scale", "down", "across", "flip")
_SHADED = ("gamma", "contrast", "brightness", "noise", "blur")
_DRAWN = (*_PLACED, *_SHADED, "mix", "amount", "box_row", "box_column")
_SETTINGS = ("strength", "field", "points", "smoothness", "order", "mode")
_FIELDS = ("grid", "smooth", None)


def paper(strength=1.0):
    """The paper's augmentation: elastic distortion by smoothed noise (Simard), Gaussian noise and blur, nothing else.

    The paper names noise in its experiments and blur in its summary, and gives no strengths: ours are `Augment`'s.
    """
    return Augment(
        strength, field="smooth", rotation=0, scale=0, shift=0, flip=0, gamma=0, contrast=0, brightness=0, name="paper"
    )


@keras.saving.register_keras_serializable(package="kitlib")
class Augment(keras.layers.Layer):
    """Rotation, scale, shift, flip and elastic field in one pass over images and masks; then grey values of the images.

    position(p) = M (p - centre) + centre + shift + field[p];  images linear, masks by nearest pixel;
    then blur, gamma, contrast, brightness and noise on the images; then CutMix or MixUp with the sample before.

    Lengths are shares of the image's shorter side, so that a setting means the same anatomy at every input size. Each
    default is the range at `strength` 1; `strength` multiplies all of them but the probabilities.

    Shapes: images (B, H, W, C) floats of about [0, 1], masks (B, H, W, K) uint8, seeds (B,) int32; returns images and
        masks of the same shapes and dtypes (with MixUp the masks come back as float32). B may be unknown.

    Args:
        strength: one factor for everything; 0 returns the input.
        field: "grid" (elasticdeform's control grid), "smooth" (Simard's smoothed noise) or None.
        elastic: standard deviation of the elastic steps. 0.03 of a 400 mm field of view is 12 mm, a plausible motion of
            bowel between two days.
        points: control points of "grid" along each axis. 4 bend single organs, not single pixels.
        smoothness: standard deviation of the Gaussian of "smooth". At 0.1 slopes stay near 0.2, far from folding at 1.
        rotation: degrees, plus or minus. 10: patients lie on their backs on every day.
        scale: plus or minus, as a logarithm. 0.15: patients differ in girth.
        shift: plus or minus. 0.05: the body is not centred on the same organ in every scan.
        flip: probability of left-right. 0.5: mirrored anatomy is not real, but flips as test-time augmentation gained
            the contest's best teams 0.001 to 0.002, and need a network that has seen them.
        gamma: plus or minus, as a logarithm of the exponent. 0.25: grey values of MRI have no unit, and no fixed curve.
        contrast: plus or minus around the sample's mean. 0.2: the scanner's gain is set anew for every scan.
        brightness: plus or minus. 0.1: the percentiles that scale an image depend on what else the scan shows.
        noise: largest standard deviation of Gaussian noise; each sample draws its own. 0.05: grain
            that can be seen, under which an organ's edge still can.
        blur: largest share of the way to the image smoothed by a Gaussian of 0.7 pixels (binomial 3 x 3), for half of
            the samples, none for the rest. 0.8: the patient breathes during the scan.
        cutmix: probability of a rectangle from the sample before, with its masks (Yun et al., 2019). Off: an option.
        mixup: probability of a blend with the sample before (Zhang et al., 2018), its share uniform in [0, 0.5]. Off.
        order: of the images: 1, or 3 for cubic splines at about five times the cost, or 0. Masks always have 0.
        mode: border of `sampling.sample`. "constant": outside the field of view there is no signal and no organ.

    Raises:
        ValueError: an unknown field, order or mode, a negative range, or probabilities outside [0, 1].
    """

    def __init__(
        self,
        strength=1.0,
        field="grid",
        elastic=0.03,
        points=4,
        smoothness=0.1,
        rotation=10.0,
        scale=0.15,
        shift=0.05,
        flip=0.5,
        gamma=0.25,
        contrast=0.2,
        brightness=0.1,
        noise=0.05,
        blur=0.8,
        cutmix=0.0,
        mixup=0.0,
        order=1,
        mode="constant",
        **kwargs,
    ):
        kwargs.setdefault("dtype", "float32")  # positions need 24 bits, also under mixed precision
        super().__init__(**kwargs)
        self.ranges = {
            "elastic": elastic,
            "rotation": rotation,
            "scale": scale,
            "shift": shift,
            "gamma": gamma,
            "contrast": contrast,
            "brightness": brightness,
            "noise": noise,
            "blur": blur,
        }
        self.chances = {"flip": flip, "cutmix": cutmix, "mixup": mixup}
        self.strength, self.field, self.points, self.smoothness = strength, field, points, smoothness
        self.order, self.mode = order, mode
        self._check()

    def call(self, images, masks, seeds, training=None):
        if not training or not self.strength:
            return images, masks
        return self.apply(images, masks, self.draw(seeds, images.shape[1:3]))

    def draw(self, seeds, shape):
        """What happens to each sample, as a dict of small tensors, from its seed alone.

        Shapes: seeds (B,) int32, shape (H, W); every value has B first.
        """
        seeds = ops.convert_to_tensor(seeds)
        words = randomness.seeds(seeds, None)
        numbers = randomness.uniform(words, (len(_DRAWN),), _SCALARS)
        drawn = {name: numbers[:, i] for i, name in enumerate(_DRAWN)}
        span = {name: self.strength * size for name, size in self.ranges.items()}
        side = min(shape)
        parameters = {
            "seed": seeds,
            "matrix": _matrix(
                math.radians(span["rotation"]) * _signed(drawn["rotation"]),
                ops.exp(span["scale"] * _signed(drawn["scale"])),
                ops.where(drawn["flip"] < self.chances["flip"], -1.0, 1.0),
            ),
            "shift": span["shift"] * side * _signed(ops.stack([drawn["down"], drawn["across"]], axis=1)),
            "gamma": ops.exp(span["gamma"] * _signed(drawn["gamma"])),
            "contrast": 1.0 + span["contrast"] * _signed(drawn["contrast"]),
            "brightness": span["brightness"] * _signed(drawn["brightness"]),
            "noise": span["noise"] * drawn["noise"],
            "blur": ops.clip(span["blur"] * _signed(drawn["blur"]), 0.0, 1.0),
            "mix": _mixing(drawn, self.chances["cutmix"], self.chances["mixup"]),
        }
        if self.field == "grid":
            parameters["control"] = span["elastic"] * side * elastic.control_points(words, self.points)
        return parameters

    def apply(self, images, masks, parameters):
        """Do to images and masks what the parameters say, drawn just now or stored as arrays: nothing else is drawn."""
        images, masks = ops.convert_to_tensor(images), ops.convert_to_tensor(masks)
        parameters = {name: ops.convert_to_tensor(value) for name, value in parameters.items()}
        images, masks = self._moved(images, masks, parameters)
        return self._mixed(self._shaded(images, parameters), masks, parameters)

    def get_config(self):
        return {
            **super().get_config(),
            **self.ranges,
            **self.chances,
            **{name: getattr(self, name) for name in _SETTINGS},
        }

    def _moved(self, images, masks, parameters):
        height, width = images.shape[1:3]
        rows, columns = self.positions(parameters, height, width)
        if self.order == 1:
            return sampling.sample_pair(images, masks, rows, columns, self.mode)
        images = sampling.sample(images, rows, columns, self.order, self.mode)
        return images, sampling.sample(masks, rows, columns, 0, self.mode)

    def positions(self, parameters, height, width):
        """Rows and columns (B, H, W) at which the parameters read the input."""
        centre = ops.convert_to_tensor([(height - 1) / 2, (width - 1) / 2], dtype="float32")
        matrix = parameters["matrix"][..., None, None]
        down = ops.arange(height, dtype="float32")[:, None] - (height - 1) / 2
        across = ops.arange(width, dtype="float32")[None, :] - (width - 1) / 2
        along_rows = matrix[:, :, 0] * down + (parameters["shift"] + centre)[..., None, None]  # (B, 2, H, 1)
        places = along_rows + matrix[:, :, 1] * across  # (B, 2, H, W)
        if self.field == "grid":
            places = places + elastic.spline_planes(parameters["control"], (height, width))
        elif self.field == "smooth":
            noise = elastic.field_noise(randomness.seeds(parameters["seed"], None), (height, width))
            alpha_px, sigma_px = self.smooth_px((height, width))
            places = places + alpha_px * elastic.smoothed(noise, sigma_px)
        return places[:, 0], places[:, 1]

    def smooth_px(self, shape):
        """alpha and sigma in pixels of the smooth field, so that its root mean square is `strength * elastic`."""
        sigma_px = self.smoothness * min(shape)
        step_px = self.strength * self.ranges["elastic"] * min(shape)
        return step_px * sigma_px * 2 * math.sqrt(3 * math.pi), sigma_px

    def _shaded(self, images, parameters):
        each = {name: ops.reshape(parameters[name], (-1, 1, 1, 1)) for name in _SHADED}
        if self._uses("blur"):
            images = _blurred(images, each["blur"])
        if self._uses("gamma"):
            images = ops.exp(each["gamma"] * ops.log(ops.maximum(images, 1e-6)))  # faster than a power
        if self._uses("contrast") or self._uses("brightness"):
            mean = ops.mean(images, axis=(1, 2, 3), keepdims=True)
            images = images * each["contrast"] + (mean * (1.0 - each["contrast"]) + each["brightness"])
        if self._uses("noise"):
            words = randomness.seeds(parameters["seed"], None)
            images = images + each["noise"] * randomness.normal(words, tuple(images.shape[1:]), _NOISE)
        return images

    def _mixed(self, images, masks, parameters):
        if not self.chances["cutmix"] and not self.chances["mixup"]:
            return images, masks
        share = _shares(parameters["mix"], images.shape[1:3])
        mixed = images + share * (ops.roll(images, 1, axis=0) - images)
        dtype = masks.dtype
        masks = ops.cast(masks, "float32")
        masks = masks + share * (ops.roll(masks, 1, axis=0) - masks)
        return mixed, masks if self.chances["mixup"] else ops.cast(masks, dtype)

    def _uses(self, name):
        return bool(self.strength * self.ranges[name])

    def _check(self):
        if self.field not in _FIELDS:
            raise ValueError(f"field is {self.field!r}; choose one of {_FIELDS}")
        sampling.check(self.order, self.mode)
        for name, size in {"strength": self.strength, **self.ranges}.items():
            if size < 0:
                raise ValueError(f"{name} is {size}; give 0 or more")
        for name, chance in self.chances.items():
            if not 0 <= chance <= 1:
                raise ValueError(f"{name} is {chance}; give a probability between 0 and 1")
        if self.chances["cutmix"] + self.chances["mixup"] > 1:
            raise ValueError(
                f"cutmix and mixup exclude each other per sample; their sum is {self.chances}, give at most 1"
            )


def _signed(number):
    return 2.0 * number - 1.0


def _matrix(angle, scale, mirror):
    """(B, 2, 2): rotation by `angle` times `scale`, columns mirrored where `mirror` is -1; rows first."""
    cos, sin = scale * ops.cos(angle), scale * ops.sin(angle)
    return ops.stack([ops.stack([cos, -sin], axis=1), ops.stack([mirror * sin, mirror * cos], axis=1)], axis=1)


def _mixing(drawn, cutmix, mixup):
    """(B, 6): blend share everywhere, share in the box, and the box's top, left, bottom, right in shares."""
    cut = ops.cast(drawn["mix"] < cutmix, "float32")
    blend = ops.cast(drawn["mix"] >= 1.0 - mixup, "float32")
    half = 0.5 * ops.sqrt(drawn["amount"])
    row, column = drawn["box_row"], drawn["box_column"]
    return ops.stack([0.5 * blend * drawn["amount"], cut, row - half, column - half, row + half, column + half], axis=1)


def _shares(mix, shape):
    """The share of the sample before of each pixel, (B, H, W, 1)."""
    blend, cut, top, left, bottom, right = (ops.reshape(mix[:, i], (-1, 1, 1, 1)) for i in range(6))
    rows = ((ops.arange(shape[0], dtype="float32") + 0.5) / shape[0])[:, None, None]
    columns = ((ops.arange(shape[1], dtype="float32") + 0.5) / shape[1])[None, :, None]
    boxed = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    return blend + cut * ops.cast(boxed, "float32")


def _blurred(images, share):
    """Each sample moved by its share (B, 1, 1, 1) of the way towards itself under [1 2 1] / 4 along both axes.

    Two averages of 2 x 2 are that filter; they are cheap on every device, which wider Gaussians are not.
    """
    around = ops.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    smooth = ops.average_pool(ops.average_pool(around, 2, strides=1), 2, strides=1)
    return images + share * (smooth - images)
