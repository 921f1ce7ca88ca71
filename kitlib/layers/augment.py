"""Augmentation as one Keras layer: images and masks of a sample move together, in one sampling pass on the device.

The layer draws parameters from one seed per sample (`draw`) and applies them (`apply`), so every sample can be logged,
replayed and tested. The geometry comes first and moves all slices of the stack and the masks alike; the intensity
changes follow and touch the images only. The layer runs inside the compiled training step or, on TensorFlow, inside
tf.data's `map`.
"""

import math

import keras
from keras import ops

from kitlib.layers import elastic, randomness, sampling

_SCALARS, _NOISE = 2, 3  # streams of the sample's seed; elastic uses 1
_GEOMETRY = ("rotation", "scale", "down", "across", "flip")
_INTENSITY = ("gamma", "contrast", "brightness", "noise", "blur")
_DRAWN = (*_GEOMETRY, *_INTENSITY, "mix", "amount", "box_row", "box_column")
_SETTINGS = ("strength", "field", "points", "smoothness", "order", "mode")
_FIELDS = ("grid", "smooth", None)


def paper(strength=1.0):
    """Return the paper's augmentation: elastic distortion by smoothed noise (Simard), Gaussian noise and blur.

    The paper names noise in its experiments and blur in its summary but gives no strengths; these are `Augment`'s.
    """
    return Augment(
        strength, field="smooth", rotation=0, scale=0, shift=0, flip=0, gamma=0, contrast=0, brightness=0, name="paper"
    )


@keras.saving.register_keras_serializable(package="kitlib")
class Augment(keras.layers.Layer):
    """Random geometry for images and masks in one pass, then random intensities for the images.

    position(p) = M (p - centre) + centre + shift + field[p]; images linear, masks by nearest pixel;
    then blur, gamma, contrast, brightness and noise on the images; then CutMix or MixUp with the previous sample.

    M is rotation, scale and flip. Lengths are fractions of the image's shorter side, so a setting means the same
    anatomy at every input size. Each default is the range at `strength` 1; `strength` multiplies all ranges, not the
    probabilities.

    The layer computes in float32 under every dtype policy, because positions need 24 bits. It cannot restore what was
    rounded before: under a mixed policy the model or layer that calls it must have `autocast=False`, else Keras casts
    the images to 16 bits on the way in.

    Shapes: images (B, H, W, C) floats of about [0, 1], masks (B, H, W, K) uint8, of volumes (B, H, W, C, K), seeds (B,)
        int32; returns images in float32 and masks in their dtype (float32 with MixUp), in the same shapes. B may be
        unknown.

    Args:
        strength: factor of all ranges; 0 returns the input.
        field: "grid" (elasticdeform's control grid), "smooth" (Simard's smoothed noise) or None.
        elastic: standard deviation of the elastic displacement. 0.03 of a 400 mm field of view is 12 mm, a plausible
            motion of bowel between two days.
        points: control points of "grid" along each axis. 4 bend whole organs.
        smoothness: standard deviation of the Gaussian of "smooth". At 0.1 the slopes stay near 0.2; the map folds at 1.
        rotation: degrees, plus or minus. 10: patients lie on their backs on every day.
        scale: plus or minus, as a logarithm. 0.15: patients differ in size.
        shift: plus or minus. 0.05: the body is not centred on the same organ in every scan.
        flip: probability of a left-right flip. 0.5: mirrored anatomy is not real, but flips at inference gained the
            contest's best teams 0.001 to 0.002, and they need a network trained on flips.
        gamma: plus or minus, as a logarithm of the exponent. 0.25: grey values of MRI have no unit and no fixed curve.
        contrast: plus or minus around the sample's mean. 0.2: the scanner sets its gain for each scan.
        brightness: plus or minus. 0.1: the percentiles that scale an image depend on what else the scan shows.
        noise: largest standard deviation of the Gaussian noise; each sample draws its own. 0.05: the grain is visible,
            and so are the organs' edges.
        blur: largest blend with the image smoothed by a Gaussian of 0.7 pixels (binomial 3 x 3), for half of the
            samples; the rest stay sharp. 0.8: the patient breathes during the scan.
        cutmix: probability of a rectangle from the previous sample of the batch, with its masks (Yun et al., 2019).
        mixup: probability of a blend with the previous sample, its weight uniform in [0, 0.5] (Zhang et al., 2018).
        order: interpolation of the images: 0, 1, or 3 for cubic splines at about five times the cost. Masks use 0.
        mode: border of `sampling.sample`. "constant": outside the field of view there is no signal and no organ.

    Raises:
        ValueError: an unknown field, order or mode, a negative range, or a probability outside [0, 1].
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
        kwargs.setdefault("dtype", "float32")
        super().__init__(autocast=False, **kwargs)
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
        images = ops.cast(images, self.compute_dtype)
        if not training or not self.strength:
            return images, masks
        return self.apply(images, masks, self.draw(seeds, images.shape[1:3]))

    def draw(self, seeds, shape):
        """Draw the parameters of each sample from its seed, as a dict of small tensors.

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
                1.0 - 2.0 * ops.cast(drawn["flip"] < self.chances["flip"], "float32"),
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
        """Apply drawn or stored parameters to images and masks; nothing else is random."""
        images, masks = ops.cast(images, self.compute_dtype), ops.convert_to_tensor(masks)
        parameters = {name: ops.convert_to_tensor(value) for name, value in parameters.items()}
        more = masks.shape[3:]
        flat = ops.reshape(masks, (-1, *masks.shape[1:3], math.prod(more))) if len(more) > 1 else masks
        images, flat = self._move(images, flat, parameters)
        images, flat = self._mix(self._shade(images, parameters), flat, parameters)
        return images, ops.reshape(flat, (-1, *flat.shape[1:3], *more)) if len(more) > 1 else flat

    def get_config(self):
        return {
            **super().get_config(),
            **self.ranges,
            **self.chances,
            **{name: getattr(self, name) for name in _SETTINGS},
        }

    def _move(self, images, masks, parameters):
        height, width = images.shape[1:3]
        rows, columns = self.positions(parameters, height, width)
        if self.order == 1:
            return sampling.sample_pair(images, masks, rows, columns, self.mode)
        images = sampling.sample(images, rows, columns, self.order, self.mode)
        return images, sampling.sample(masks, rows, columns, 0, self.mode)

    def positions(self, parameters, height, width):
        """Compute the rows and columns (B, H, W) at which the parameters read the input."""
        centre = ops.convert_to_tensor([(height - 1) / 2, (width - 1) / 2], dtype="float32")
        matrix = parameters["matrix"][..., None, None]
        down = ops.arange(height, dtype="float32")[:, None] - (height - 1) / 2
        across = ops.arange(width, dtype="float32")[None, :] - (width - 1) / 2
        along_rows = matrix[:, :, 0] * down + (parameters["shift"] + centre)[..., None, None]  # (B, 2, H, 1)
        positions = along_rows + matrix[:, :, 1] * across  # (B, 2, H, W)
        if self.field == "grid":
            positions = positions + elastic.spline_planes(parameters["control"], (height, width))
        elif self.field == "smooth":
            noise = elastic.field_noise(randomness.seeds(parameters["seed"], None), (height, width))
            alpha_px, sigma_px = self.smooth_px((height, width))
            positions = positions + alpha_px * elastic.smoothed(noise, sigma_px)
        return positions[:, 0], positions[:, 1]

    def smooth_px(self, shape):
        """Return alpha and sigma of the smooth field in pixels; its root mean square is then `strength * elastic`."""
        sigma_px = self.smoothness * min(shape)
        step_px = self.strength * self.ranges["elastic"] * min(shape)
        return step_px * sigma_px * 2 * math.sqrt(3 * math.pi), sigma_px

    def _shade(self, images, parameters):
        each = {name: ops.reshape(parameters[name], (-1, 1, 1, 1)) for name in _INTENSITY}
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

    def _mix(self, images, masks, parameters):
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
            raise ValueError(f"field is {self.field!r}; choose 'grid', 'smooth' or None")
        sampling.check_order_and_mode(self.order, self.mode)
        for name, size in {"strength": self.strength, **self.ranges}.items():
            if size < 0:
                raise ValueError(f"{name} is {size}; choose 0 or more")
        for name, chance in self.chances.items():
            if not 0 <= chance <= 1:
                raise ValueError(f"{name} is {chance}; choose a probability between 0 and 1")
        cutmix, mixup = self.chances["cutmix"], self.chances["mixup"]
        if cutmix + mixup > 1:
            raise ValueError(
                f"cutmix {cutmix} and mixup {mixup} add up to more than 1; a sample gets at most one of them, so "
                "choose probabilities with a sum of at most 1"
            )


def _signed(number):
    return 2.0 * number - 1.0


def _matrix(angle, scale, mirror):
    """Give (B, 2, 2): rotation by `angle` times `scale`, columns mirrored where `mirror` is -1; rows first."""
    cos, sin = scale * ops.cos(angle), scale * ops.sin(angle)
    return ops.stack([ops.stack([cos, -sin], axis=1), ops.stack([mirror * sin, mirror * cos], axis=1)], axis=1)


def _mixing(drawn, cutmix, mixup):
    """Give (B, 6): weight of the blend, weight in the box, and the box's top, left, bottom, right as fractions."""
    cut = ops.cast(drawn["mix"] < cutmix, "float32")
    blend = ops.cast(drawn["mix"] >= 1.0 - mixup, "float32")
    half = 0.5 * ops.sqrt(drawn["amount"])
    row, column = drawn["box_row"], drawn["box_column"]
    return ops.stack([0.5 * blend * drawn["amount"], cut, row - half, column - half, row + half, column + half], axis=1)


def _shares(mix, shape):
    """Give the weight of the previous sample in each pixel, (B, H, W, 1)."""
    blend, cut, top, left, bottom, right = (ops.reshape(mix[:, i], (-1, 1, 1, 1)) for i in range(6))
    rows = ((ops.arange(shape[0], dtype="float32") + 0.5) / shape[0])[:, None, None]
    columns = ((ops.arange(shape[1], dtype="float32") + 0.5) / shape[1])[None, :, None]
    boxed = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    return blend + cut * ops.cast(boxed, "float32")


def _blurred(images, share):
    """Blend each sample with its smoothed copy, [1 2 1] / 4 along both axes, by its share (B, 1, 1, 1).

    Two averages of 2 x 2 are that filter; unlike wider Gaussians they are cheap on every device.
    """
    around = ops.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    smooth = around
    for _ in range(2):
        smooth = ops.average_pool(smooth, 2, strides=1, data_format="channels_last")
    return images + share * (smooth - images)
