"""The training step: augmentation and network in one compiled graph, and the log of its epochs."""

import csv
import time
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm


class AugmentedModel(keras.Model):
    """A network and the augmentation of its input in one training step; a batch is a dict of images, masks, seed,
    weight.

    The augmentation runs where the network runs, in the same compiled graph, and only in training. Save and load
    `model.network`; this wrapper is only for `fit`.
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
    """A bar over the steps, a printed line per epoch, and a line in history.csv as soon as the epoch is over."""

    def __init__(self, path: Path, epochs: int, batch_size: int, steps: int):
        super().__init__()
        self.path, self.epochs, self.batch_size, self.steps = path, epochs, batch_size, steps
        self.best = np.inf

    def on_train_begin(self, logs=None):
        self.started = time.perf_counter()
        self.bar = tqdm(total=self.epochs * self.steps, desc="training", unit=" steps")

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_started = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()
        if batch + 1 == self.steps:
            self.trained = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        images_per_second = self.steps * self.batch_size / (self.trained - self.epoch_started)
        left = (time.perf_counter() - self.started) / (epoch + 1) * (self.epochs - epoch - 1)
        row = {"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}}
        row["images_per_second"] = round(images_per_second, 1)
        new = not self.path.exists()
        with open(self.path, "a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        star = "*" if row["val_loss"] < self.best else " "
        self.best = min(self.best, row["val_loss"])
        self.bar.write(
            f"epoch {epoch + 1:3d}/{self.epochs}{star} loss {row['loss']:.4f}  held out: loss {row['val_loss']:.4f}"
            f"  Dice {row['val_dice']:.4f}  IoU {row['val_iou']:.4f}"
            f"  {images_per_second:5.1f} images/s, at most {left / 60:.1f} min left"
        )

    def on_train_end(self, logs=None):
        self.bar.close()
