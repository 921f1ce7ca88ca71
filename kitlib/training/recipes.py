"""`Recipe`: how a network is trained, as one record; ready-made recipes; and the optimizer that a recipe asks for.

A recipe holds text, numbers and what Keras serialises, so that it survives JSON unchanged and travels between
processes. A change is `dataclasses.replace(recipes.paper(), epochs=20)`.
"""

import importlib
import json
import operator
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace

import keras

from kitlib import contest, runs
from kitlib.layers import augment as augmentation
from kitlib.layers import losses
from kitlib.models import encoders

MONITORS = {"score": 1.0, "val_dice": 1.0, "val_iou": 1.0, "val_loss": -1.0}  # the sign that makes higher better
CHOICES = {
    "augment_on": ("device", "cpu"),
    "optimizer": ("adam", "adamw"),
    "schedule": ("constant", "cosine"),
    "monitor": tuple(MONITORS),
    "role": runs.ROLES,
}
FROM_ONE = ("epochs", "patience", "score_every", "batch_size")
NOT_NEGATIVE = ("learning_rate", "weight_decay", "warmup_epochs", "average_last", "seed")
LARGEST_SEED = 2**32 - 1  # that Keras takes
KERAS = ("class_name", "config", "module", "registered_name")  # of what Keras serialises; the rest varies with its use


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        network: the function that builds it, as "module:function"; called with the input shape and `network_options`.
        network_options: keyword arguments of that function: text, numbers, lists.
        loss: a Keras loss, stored as Keras serialises it. BCE + 0.5 Dice is the paper's best (V.F.5).
        augment: a layer such as kitlib.layers.Augment, stored likewise; None for none.
        augment_on: "device", in the training step, or "cpu", while batches are made (TensorFlow only).
        optimizer: "adam" or "adamw".
        learning_rate: at its peak. The paper names none; 1e-3 is Adam's own.
        weight_decay: of AdamW, per step and unit of the learning rate; biases and norms are spared.
        schedule: "constant"; or "cosine": a straight climb from a tenth of the peak, then half a cosine down to zero.
        warmup_epochs: length of that climb, also a fraction, at most half of the training.
        epochs: the largest number of epochs.
        patience: training ends at the first evaluated epoch that is this many epochs past the best one.
        monitor: the measure that chooses the best epoch: "score" (the host score of the validation scans), "val_dice",
            "val_iou" or "val_loss".
        score_every: epochs from one host score to the next; the last epoch always has one. Loss, Dice and IoU are
            measured after each.
        average: share of the old value that a moving average of the weights keeps at each step, such as 0.999; the
            average is then evaluated and saved. 0 is none. A training of few steps keeps less, see `momentum`.
        average_last: the mean of the weights of this many last epochs competes with the best epoch; 0 is none.
        batch_size: slices per step, or volumes, of a network that labels all slices of its stack.
        role: what the network is for. "gate": which slices show an organ; its presence is kept in the run folder.
            "segmenter": the contours on slices that show an organ; it is scored with the presence of the truth. "both":
            one network does both. `with_role` chooses loss and slices for a role.
        empty_share: share of the slices without a mask to train on; 1 is all, 0 leaves the annotated slices alone.
        leave_out: scans not to train on: the hosts' suspects. In the validation set they stay.
        metrics: further Keras metrics of (truth, probabilities), measured on the validation slices after each epoch and
            stored like the loss; each is a column "val_..." of the history.
        seed: of weights, order and augmentation.
        deterministic: the same bits on every run on one kind of machine; slower on a GPU.

    Raises:
        ValueError: names the field, its value and what is possible.

    >>> Recipe.from_json(paper().to_json()) == paper()
    True
    """

    network: str = "kitlib.models:build_unet"
    network_options: dict = field(default_factory=dict)
    loss: dict | keras.losses.Loss = field(default_factory=lambda: losses.BCEDice(dice_weight=0.5))
    augment: dict | keras.layers.Layer | None = None
    augment_on: str = "device"
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup_epochs: float = 1.0
    epochs: int = 40
    patience: int = 15
    monitor: str = "score"
    score_every: int = 1
    average: float = 0.0
    average_last: int = 0
    batch_size: int = 16
    role: str = "both"
    empty_share: float = 1.0
    leave_out: tuple[str, ...] = contest.SUSPECT_SCANS
    metrics: tuple = ()
    seed: int = 0
    deterministic: bool = False

    def __post_init__(self):
        for item in fields(self):
            object.__setattr__(self, item.name, _checked(item, getattr(self, item.name)))
        if not 0 <= self.average < 1:
            raise ValueError(
                f"average is {self.average}; expected the share of the old value kept per step, from 0 to below 1"
            )
        if not 0 <= self.empty_share <= 1:
            raise ValueError(f"empty_share is {self.empty_share}; expected a share from 0 to 1")
        if self.weight_decay and self.optimizer == "adam":
            raise ValueError(f"weight_decay is {self.weight_decay}, which needs optimizer='adamw'; use 0 with 'adam'")

    def to_json(self) -> str:
        """Write the record as JSON text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))

    def builder(self, prior: bool = False) -> Callable[[tuple[int, int, int]], keras.Model]:
        """Import the network's function, with its options; it takes the input shape.

        Args:
            prior: of the InputSpec; the function is then called with prior=True.

        Raises:
            ValueError: names the network that cannot be imported, and the reason; and the option `prior`, which the
                InputSpec decides.
        """
        if "prior" in self.network_options:
            raise ValueError(
                f"network_options has prior={self.network_options['prior']!r}, but the input decides on it; leave it "
                "out and use InputSpec(prior=True)"
            )
        options = self.network_options | ({"prior": True} if prior else {})
        module, _, name = self.network.partition(":")
        try:
            function = getattr(importlib.import_module(module), name)
            if not callable(function):
                raise TypeError(f"{name} is a {type(function).__name__}, not a function")
        except (ImportError, AttributeError, ValueError, TypeError) as reason:
            raise ValueError(
                f"network {self.network!r} cannot be imported: {reason}. Give 'module:function', such as "
                "'kitlib.models:build_unet', with the module's folder on the Python path"
            ) from reason

        def build(shape: tuple[int, int, int]) -> keras.Model:
            try:
                return function(shape, **options)
            except TypeError as reason:
                raise ValueError(
                    f"network {self.network!r} cannot be built with network_options {options}: {reason}; "
                    "correct the name or value of the option"
                ) from reason

        return build

    def made(self, name: str):
        """Make the Keras object or objects of a field: "loss", "augment" or "metrics"."""
        value = getattr(self, name)
        if isinstance(value, tuple):
            return [keras.saving.deserialize_keras_object(item) for item in value]
        return None if value is None else keras.saving.deserialize_keras_object(value)

    @property
    def flips(self) -> bool:
        """Whether the augmentation mirrors slices, so that inference may average with the mirrored slice."""
        config = (self.augment or {}).get("config", {})
        return bool(config.get("flip", 0) and config.get("strength", 1))

    def rate(self, steps: int):
        """Make the learning rate: a number, or a function of the step alone, so that a resumed run continues it.

        Args:
            steps: batches per epoch.
        """
        peak, warmup = self.learning_rate, int(min(self.warmup_epochs, self.epochs / 2) * steps)
        if self.schedule == "constant":
            return peak
        decay = max(steps * self.epochs - warmup, 1)
        if not warmup:
            return keras.optimizers.schedules.CosineDecay(peak, decay)
        return keras.optimizers.schedules.CosineDecay(peak / 10, decay, warmup_target=peak, warmup_steps=warmup)

    def momentum(self, steps: int) -> float:
        """Return the share of the old value that the moving average keeps at each step: `average` at most.

        An average over n steps has a momentum of 1 - 1/n. More than a tenth of the training would keep the weights that
        it started from.

        Args:
            steps: batches per epoch.

        >>> Recipe(average=0.999, epochs=10).momentum(steps=20)
        0.95
        """
        return min(self.average, max(0.0, 1 - 10 / max(steps * self.epochs, 1)))

    def make_optimizer(self, steps: int) -> keras.optimizers.Optimizer:
        """Make the optimizer, which keeps the moving average of the weights where one is asked for."""
        averaging = {"use_ema": True, "ema_momentum": self.momentum(steps)} if self.average else {}
        if self.optimizer == "adam":
            return keras.optimizers.Adam(self.rate(steps), **averaging)
        made = keras.optimizers.AdamW(self.rate(steps), weight_decay=self.weight_decay, **averaging)
        made.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        return made


def paper() -> Recipe:
    """The paper's best training (V.D to V.F): 4 levels, BCE + 0.5 Dice, elastic distortion, noise, patience 15 of 40.

    The paper names neither optimizer settings nor batch size: Adam's own rate of 1e-3, held constant, and 16 slices are
    ours. It stops on the validation loss, and its experiments name noise alone: here the host score stops
    (`monitor="val_loss"` for the paper's way), and images are blurred too, as its summary says.

    >>> paper().epochs
    40
    """
    return Recipe(network_options={"levels": 4}, augment=augmentation.paper())


def paper_first() -> Recipe:
    """The paper's first training (V.C, Figure 7): BCE, no augmentation, patience 5. It shows the overfitting."""
    return Recipe(network_options={"levels": 4}, loss=losses.BCE(), patience=5)


def strong() -> Recipe:
    """What the competition's winners added: AdamW with warm-up and cosine, averaged weights, CutMix and MixUp, longer.

    The weights evaluated are a moving average over some thousand steps; at the end the mean of the last epochs competes
    with the best of them. There is no early stopping: a cosine is only worth its end.
    """
    return Recipe(
        network_options={"levels": 4, "dropout": 0.1},
        augment=augmentation.Augment(cutmix=0.25, mixup=0.25, name="strong"),
        optimizer="adamw",
        learning_rate=2e-3,
        weight_decay=0.02,
        schedule="cosine",
        epochs=60,
        patience=60,
        average=0.999,
        average_last=8,
    )


def short() -> Recipe:
    """Minutes on a CPU, for 64 x 96 pixels of the box: EfficientNet-Lite0, seven epochs, a quarter of the empty slices.

    In the same minutes the pretrained encoder is far ahead of the paper's network: benchmarks/results/encoders.md.
    """
    return Recipe(
        network_options={"encoder": "efficientnet-lite0"},
        augment=augmentation.Augment(),
        optimizer="adamw",
        learning_rate=1e-3,
        schedule="cosine",
        epochs=7,
        patience=7,
        batch_size=8,
        empty_share=0.25,
    )


def volume() -> Recipe:
    """A SegResNet on volumes of 32 slices, 192 x 288 pixels of the box: what one slice hides, its neighbours show.

    It sees 3D, as no 2.5D network does, so that its errors are others, and their mean is better than either. AdamW with
    a cosine; a moving average of the weights; no mixing, which needs larger batches.

    Source: Myronenko (2018) for the network. The competition's first place fused a 3D branch at a weight of .4; MONAI's
    3D networks alone reached .868 to .877 on its leaderboard. The exact numbers are the kit's choice.

    Cost, estimated: 123 GMAC a volume; two volumes in half floats take about 6 GB of a T4's 15, and a fold
    3 to 5 hours (`kaggle/hours.py`).

    >>> volume().network_options
    {'init': 16}
    """
    return Recipe(
        network="kitlib.models:build_segresnet",
        network_options={"init": 16},
        augment=augmentation.Augment(name="volume"),
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.02,
        schedule="cosine",
        epochs=60,
        patience=60,
        batch_size=2,
        average=0.999,
        average_last=6,
    )


def volume_short() -> Recipe:
    """A network for volumes that learns on two cores: half the channels of `volume`, 64 x 96 pixels, 20 epochs.

    Cost, estimated: 3.4 GMAC a volume.
    """
    return replace(
        volume(), network_options={"init": 8}, learning_rate=2e-3, epochs=20, patience=20, average=0.98, average_last=0
    )


def along(recipe: Recipe, axis: str) -> Recipe:
    """Make a recipe that for pictures along an axis: sagittal ones are not mirrored, which would turn front and back.

    >>> along(short(), "y").flips, along(short(), "x").flips
    (True, False)
    """
    layer = recipe.made("augment")
    if axis != "x" or not isinstance(layer, augmentation.Augment):
        return recipe
    return replace(recipe, augment=augmentation.Augment.from_config(layer.get_config() | {"flip": 0.0}))


def with_role(recipe: Recipe, role: str) -> Recipe:
    """Make a recipe that of a gate or of a segmenter, which together replace one network.

    |        | gate                     | segmenter                                     |
    |--------|--------------------------|-----------------------------------------------|
    | slices | all but suspects         | those with a mask; `empty_share` adds others  |
    | loss   | 3 BCE : 1 Dice           | 0.5 BCE + 0.5 Dice + Lovasz                   |
    | epochs | half, which take longer  | as they are                                   |
    | mixing | none                     | CutMix and MixUp, a third of the samples each |

    Source: the competition's first and third place used such pairs, with a gain of .005 on the private leaderboard.

    Args:
        recipe: its other fields are kept. An augmentation of your own is too.
        role: "gate" or "segmenter".

    >>> with_role(short(), "segmenter").empty_share
    0.0
    """
    if role not in ("gate", "segmenter"):
        raise ValueError(f"role is {role!r}; choose gate or segmenter")
    layer, mixed = recipe.made("augment"), 1 / 3 if role == "segmenter" else 0.0
    if isinstance(layer, augmentation.Augment):
        layer = augmentation.Augment.from_config(layer.get_config() | {"cutmix": mixed, "mixup": mixed})
    changes = {
        "role": role,
        "augment": layer,
        "empty_share": 0.0,
        "loss": losses.Weighted(bce=0.5, dice=0.5, lovasz=1.0),
    }
    if role == "gate":
        changes |= {"empty_share": 1.0, "loss": losses.BCEDice(bce_weight=0.75, dice_weight=0.25)}
        changes |= {name: -(-getattr(recipe, name) // 2) for name in ("epochs", "patience")}
    return replace(recipe, **changes)


def encoder(name: str = "efficientnetv2-s") -> Recipe:
    """A U-Net whose way down is a pretrained encoder, as in every medalled 2.5D network of the competition.

    AdamW at 4e-4 with one epoch of warm-up and a cosine; a moving average of the weights, and the mean of the last six
    epochs; CutMix and MixUp for a third of the samples each; no attention. All layers learn at one rate from the first
    step. Give the weights to `fit_fold(pretrained=name)`, and see `presets.suited` for a grid.

    Source: write-ups of the competition's winners, who report +.004 on the private leaderboard for averaged weights and
    name CutMix and MixUp; none froze layers or split rates. The exact numbers are the kit's choice.

    Args:
        name: one of `kitlib.models.encoders.NAMES`.

    >>> encoder("efficientnet-lite0").network_options
    {'encoder': 'efficientnet-lite0'}
    """
    if name not in encoders.NAMES:
        raise ValueError(f"encoder is {name!r}; choose one of {', '.join(encoders.NAMES)}")
    return Recipe(
        network_options={"encoder": name},
        augment=augmentation.Augment(cutmix=1 / 3, mixup=1 / 3, name="encoder"),
        optimizer="adamw",
        learning_rate=4e-4,
        weight_decay=0.02,
        schedule="cosine",
        epochs=40,
        patience=40,
        average=0.997,
        average_last=6,
    )


def gate(name: str = "efficientnetv2-s") -> Recipe:
    """Find the slices of each organ: `encoder` for 20 epochs on all slices, see `with_role`; 192 x 288 pixels do.

    >>> gate().epochs
    20
    """
    return with_role(encoder(name), "gate")


def segmenter(name: str = "efficientnetv2-s") -> Recipe:
    """Draw the contours: `encoder` for 40 epochs on slices with a mask, see `with_role`; at 256 x 384 pixels.

    >>> segmenter().epochs
    40
    """
    return with_role(encoder(name), "segmenter")


def _checked(item, value):
    """Check a field of a recipe, and bring it to the form in which it is stored."""
    name = item.name
    if name in CHOICES and value not in CHOICES[name]:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(CHOICES[name])}")
    if name in ("loss", "augment"):
        return None if value is None and name == "augment" else _stored(name, value)
    if name == "metrics":
        if not isinstance(value, list | tuple):
            raise ValueError(f"metrics is {value!r}; expected a list of Keras metrics, such as [{value!r}]")
        return tuple(_stored(name, metric) for metric in value)
    if name == "leave_out":
        if isinstance(value, str):
            raise ValueError(f"leave_out is {value!r}; expected a tuple of scans; write ({value!r},)")
        return tuple(value)
    if name == "network_options":
        try:
            return json.loads(json.dumps(value))
        except TypeError as reason:
            raise ValueError(
                f"network_options is {value}: {reason}; use text, numbers, booleans, lists and dicts of them"
            ) from None
    if item.type is str:
        if not isinstance(value, str):
            raise ValueError(f"{name} is {value!r}; expected text")
        return value
    if item.type is bool:
        if value not in (True, False):
            raise ValueError(f"{name} is {value!r}; expected True or False")
        return bool(value)
    return _number(name, value, item.type is int)


def _number(name: str, value, whole: bool):
    """Check a number; those of NumPy are taken too."""
    try:
        number = operator.index(value) if whole else float(operator.truediv(value, 1))
    except TypeError:
        raise ValueError(f"{name} is {value!r}; expected {'an integer' if whole else 'a number'}") from None
    least = 1 if name in FROM_ONE else 0
    if isinstance(value, bool) or (name in (*FROM_ONE, *NOT_NEGATIVE) and not number >= least):
        raise ValueError(f"{name} is {value!r}; expected {'an integer' if whole else 'a number'} of {least} or more")
    if name == "seed" and number > LARGEST_SEED:
        raise ValueError(f"seed is {value!r}; expected an integer from 0 to {LARGEST_SEED}")
    return number


def _stored(name: str, value) -> dict:
    """Serialise a Keras object, the same whatever it has been used for; keep one that is serialised already."""
    if not isinstance(value, dict):
        if not isinstance(value, keras.losses.Loss | keras.layers.Layer | keras.metrics.Metric):
            raise ValueError(f"{name} is {value!r}; expected a Keras object, such as kitlib.layers.losses.BCE()")
        value = keras.saving.serialize_keras_object(value)
    value = json.loads(json.dumps({key: value[key] for key in KERAS if key in value}))
    config = value.get("config") or {}
    if isinstance(config.get("name"), str):
        config["name"] = re.sub(r"_\d+$", "", config["name"])  # Keras counts the layers of a process
    return value
