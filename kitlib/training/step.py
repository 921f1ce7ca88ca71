"""The training step: augmentation and network in one compiled graph, and the log of its epochs."""

import math

import keras
from tqdm import tqdm


class AugmentedModel(keras.Model):
    """A network and the augmentation of its input in one training step.

    The augmentation runs where the network runs, in the same compiled graph, and only in training. Save and load
    `model.network`; this wrapper is only for `fit`.

    Shapes: a batch is a dict of "images" (B, H, W, C), "masks" (B, H, W, organs) uint8, "seed" (B,) int32 and "weight"
        (B,); the result one of "probabilities" and "masks" (B, H, W, organs), both after augmentation, and "weight".

    Args:
        network: from images to probabilities.
        augment: called with images, masks, seeds and `training`, such as `augment.Augment`; None for none.
    """

    def __init__(self, network: keras.Model, augment: keras.layers.Layer | None = None):
        super().__init__()
        self.network = network
        self.augment = augment

    def call(self, batch, training=None):
        images, masks = batch["images"], batch["masks"]
        if self.augment is not None:
            images, masks = self.augment(images, masks, batch["seed"], training=training)
        return {
            "probabilities": self.network(images, training=training),
            "masks": masks,
            "weight": batch["weight"],
        }

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, y_pred["masks"], y_pred["probabilities"], y_pred["weight"], training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y_pred["masks"], y_pred["probabilities"], y_pred["weight"])


class EpochLog(keras.callbacks.Callback):
    """A bar over the steps, and a printed line per epoch; its figures are those that `epochs.EpochEnd` adds."""

    def __init__(self, epochs: int, steps: int, first: int = 0):
        super().__init__()
        self.epochs, self.steps, self.first = epochs, steps, first

    def on_train_begin(self, logs=None):
        total = self.epochs * self.steps
        self.bar = tqdm(total=total, initial=self.first * self.steps, desc="training", unit=" steps")

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()

    def on_epoch_end(self, epoch, logs=None):
        if "val_loss" in (logs or {}):
            self.bar.write(line(epoch + 1, self.epochs, logs))

    def on_train_end(self, logs=None):
        self.bar.close()


def line(epoch: int, epochs: int, row: dict) -> str:
    """Put the figures of an epoch into one line; a star marks the best so far."""
    score = f", score {row['score']:.4f}" if math.isfinite(row["score"]) else ""
    return (
        f"epoch {epoch}/{epochs}{'*' if row['best'] else ' '} "
        f"loss {row['loss']:.4f} Dice {row['dice']:.3f} IoU {row['iou']:.3f} | "
        f"held out: loss {row['val_loss']:.4f} Dice {row['val_dice']:.3f} IoU {row['val_iou']:.3f}{score} | "
        f"{row['images_per_second']:.1f} images/s, {row['seconds_left'] / 60:.1f} min left"
    )
