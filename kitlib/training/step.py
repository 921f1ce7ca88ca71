"""The training step: augmentation and network in one compiled graph; and the averages of its weights.

Averages are read and put into a second network, which is evaluated and saved; the network that is trained never holds
them, so that nothing has to be swapped back before the next step.
"""

from collections.abc import Sequence

import keras
import numpy as np

from kitlib import contest

STATISTICS = ("moving_mean", "moving_variance")  # of batch norms


class AugmentedModel(keras.Model):
    """A network and the augmentation of its input in one training step.

    The augmentation runs where the network runs, in the same compiled graph, only in training, and in float32: the
    model casts nothing, so that 16 bits begin with the network. Save and load `model.network`; this wrapper is only for
    `fit`.

    Shapes: a batch is a dict of "images" (B, H, W, C), "masks" (B, H, W, organs) uint8, "seed" (B,) int32 and "weight"
        (B,); the result one of "probabilities" and "masks" (B, H, W, organs), both after augmentation, and "weight".
        Of volumes, masks and probabilities are (B, H, W, C, organs). Masks that were augmented are float16, or float32
        after MixUp. A prior follows the organs in "masks", so that it is moved and mixed as masks are and never shaded;
        the network gets it behind the slices.

    Args:
        network: from images to probabilities.
        augment: called with images, masks, seeds and `training`, such as `augment.Augment`; None for none.
        average: share of the old value that a moving average keeps at each step; 0 for none. The optimizer averages
            the weights that it trains, and this model the statistics of batch norms, which belong to them: without it,
            averaged weights would be evaluated with the statistics of the weights of the moment. Both averages begin
            with the first step; that of statistics keeps n / (n + 9) after n steps, until this reaches the share.
    """

    def __init__(self, network: keras.Model, augment: keras.layers.Layer | None = None, average: float = 0.0):
        super().__init__(autocast=False)
        self.network = network
        self.augment = augment
        self.average = average
        self.statistics = [weight for weight in network.non_trainable_weights if average and weight.name in STATISTICS]
        options = {"trainable": False, "autocast": False}  # float32 also where the network computes in 16 bits
        self.averages = [
            self.add_weight(weight.shape, "zeros", "float32", aggregation="mean", **options)
            for weight in self.statistics
        ]
        self.steps = self.add_weight((), "zeros", "float32", aggregation="only_first_replica", **options)

    def call(self, batch, training=None):
        images, masks = batch["images"], batch["masks"]
        if self.augment is not None:
            masks = keras.ops.cast(masks, "float16")  # TensorFlow gathers no 8-bit integers on a GPU
            images, masks = self.augment(images, masks, batch["seed"], training=training)
        images, masks = with_prior(images, masks)
        probabilities = self.network(images, training=training)
        if training and self.statistics:
            self._average()
        return {"probabilities": probabilities, "masks": masks, "weight": batch["weight"]}

    def _average(self) -> None:
        """Bring the averages of the statistics up to date."""
        kept = keras.ops.minimum(self.average, self.steps / (self.steps + 9.0))
        for average, now in zip(self.averages, self.statistics, strict=True):
            average.assign(kept * average + (1.0 - kept) * now)
        self.steps.assign(self.steps + 1.0)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, y_pred["masks"], y_pred["probabilities"], y_pred["weight"], training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y_pred["masks"], y_pred["probabilities"], y_pred["weight"])


class LossScaling(keras.optimizers.LossScaleOptimizer):
    """Keras' loss scaling, which skips a step when the gradients of any replica are not finite.

    Keras 3.13 to 3.15 asks the first replica alone, before the gradients are summed: an overflow on the second would
    leave weights that are not finite for good.
    """

    def check_finite(self, grads):
        finite = super().check_finite(grads)
        if keras.backend.backend() != "tensorflow":
            return finite
        import tensorflow as tf

        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            return finite
        faults = tf.distribute.get_replica_context().all_reduce("sum", keras.ops.cast(~finite, "float32"))
        return faults == 0


def with_prior(images, masks):
    """Bring a prior from behind the organs of the masks to behind the slices of the images, where there is one.

    Shapes: images (B, H, W, depth) and masks (B, H, W, organs + 4) give (B, H, W, depth + 4) and (B, H, W, organs);
        masks (B, H, W, organs) have no prior, and both stay as they are.
    """
    organs = len(contest.ORGANS)
    if masks.shape[-1] <= organs:
        return images, masks
    prior = keras.ops.cast(masks[..., organs:], images.dtype)
    return keras.ops.concatenate([images, prior], axis=-1), masks[..., :organs]


def averaged_weights(model: keras.Model, network: keras.Model) -> list[np.ndarray]:
    """Read the weights to evaluate: their moving averages where the model keeps some, else the weights themselves.

    Args:
        model: the compiled model.
        network: its network, or another whose weights are a part of that network's.

    Returns:
        Arrays in the order of `network.weights`.
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # below the loss scaling
    averages = {id(now): average for now, average in zip(model.statistics, model.averages, strict=True)}
    if optimizer.use_ema:
        pairs = zip(model.trainable_variables, optimizer._model_variables_moving_average, strict=True)
        averages |= {id(variable): average for variable, average in pairs if average is not None}
    return [keras.ops.convert_to_numpy(averages.get(id(variable), variable)) for variable in network.weights]


def add_to_mean(mean: Sequence[np.ndarray] | None, count: int, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Add one more epoch to the mean of `count` epochs: mean + (x - mean) / (count + 1).

    Statistics of batch norms are averaged like weights. At the end of a cosine the epochs are close together, so that
    the pass over the training set that Izmailov et al. (2018) need for a high constant rate is not made.
    """
    if mean is None or not count:
        return [np.array(array) for array in arrays]
    return [old + (array - old) / (count + 1) for old, array in zip(mean, arrays, strict=True)]
