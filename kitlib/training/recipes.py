"""Courses of training, as keyword arguments for `training.fit_fold`.

Each is a plain dict, made anew with every call; a change is one more keyword, or `presets.paper() | {"epochs": 20}`.
"""

from kitlib.layers import augment, losses

NAMES = ("paper", "paper_first", "strong", "short")


def named(name: str, **changes) -> dict:
    """Give a preset by its name, with changes.

    Raises:
        ValueError: for an unknown name; lists the known ones.
    """
    if name not in NAMES:
        raise ValueError(f"no preset {name!r}; choose one of {', '.join(NAMES)}")
    return globals()[name](**changes)


def paper(**changes) -> dict:
    """The paper's best course (V.D to V.F): 4 levels, BCE + 0.5 Dice, elastic distortion and noise, patience 15 of 40.

    The paper names neither optimizer settings nor batch size: Adam's own rate of 1e-3, held constant, and 16 slices are
    ours. It stops on the validation loss, and its experiments name noise alone: here the host score stops
    (`monitor="val_loss"` for the paper's way), and images are blurred too, as its summary says.

    >>> paper(epochs=20)["epochs"], paper()["epochs"]
    (20, 40)
    """
    course = {
        "network_options": {"levels": 4},
        "loss": losses.BCEDice(dice_weight=0.5),
        "augment": augment.paper(),
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "schedule": "constant",
        "epochs": 40,
        "patience": 15,
        "batch_size": 16,
    }
    return course | changes


def paper_first(**changes) -> dict:
    """The paper's first course (V.C, Figure 7): BCE, no augmentation, patience 5. It overfits, which is its point."""
    return paper(loss=losses.BCE(), augment=None, patience=5) | changes


def strong(**changes) -> dict:
    """What the competition's winners added: AdamW with warm-up and cosine, averaged weights, CutMix and MixUp, longer.

    The weights that are judged are a moving average over some thousand steps; at the end the mean of the last epochs
    competes with the best of them. No early stopping: a cosine is only worth its end.
    """
    course = {
        "network_options": {"levels": 4, "dropout": 0.1},
        "loss": losses.BCEDice(dice_weight=0.5),
        "augment": augment.Augment(cutmix=0.25, mixup=0.25, name="strong"),
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "weight_decay": 0.02,
        "schedule": "cosine",
        "epochs": 60,
        "patience": 60,
        "batch_size": 16,
        "average": 0.999,
        "average_last": 8,
    }
    return course | changes


def short(**changes) -> dict:
    """Some minutes on a CPU, meant for 64 x 64 pixels: nine epochs, a quarter of the empty slices, all of `Augment`."""
    course = {
        "network_options": {"levels": 4},
        "loss": losses.BCEDice(dice_weight=0.5),
        "augment": augment.Augment(),
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "epochs": 9,
        "patience": 9,
        "batch_size": 8,
        "empty_share": 0.25,
    }
    return course | changes
