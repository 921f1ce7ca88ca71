"""Keras metrics to watch while training. They stream over batches; `kitlib.scoring` has the score per scan.

All counts are sums, so several replicas together give the value of one device. A sample of weight 0 does not count.

Shapes: truth (B, H, W, organs), of volumes (B, H, W, D, organs), of 0 and 1 in any dtype, probabilities the same shape,
sample_weight (B,) or None.
"""

from __future__ import annotations

import keras
from keras import ops

from kitlib import contest

PACKAGE = "kitlib.monitors"  # in saved models; losses and monitors share names
EMPTY = {"one": 1.0, "zero": 0.0}


class _Overlap(keras.metrics.Metric):
    """Ratio of areas per organ, averaged over organs.

    Args:
        organ: name of one organ (`contest.ORGANS`), or None for the mean over all.
        threshold: a pixel is predicted if its probability is above this.
        per: "stream": areas are summed over all slices, then one ratio per organ. "slice": one ratio per slice and
            organ, then their mean per organ, as the paper plots it.
        empty: the ratio if truth and prediction are both empty: "one"; "zero", the paper's choice (V.A.1); or "skip":
            it does not count (and the result is 0 if nothing counts).
        organs: number of organs in the masks.

    Raises:
        ValueError: an unknown organ, `per` or `empty`.
    """

    def __init__(self, organ=None, threshold=0.5, per="stream", empty="one", organs=3, name=None, dtype=None):
        super().__init__(name=name or "_".join(filter(None, (type(self).__name__.lower(), organ))), dtype=dtype)
        if organ is not None and organ not in contest.ORGANS:
            raise ValueError(f"{self.name}: organ={organ!r} is unknown; choose one of {', '.join(contest.ORGANS)}")
        if per not in ("stream", "slice"):
            raise ValueError(f"{self.name}: per={per!r} is unknown; choose 'stream' or 'slice'")
        if empty not in (*EMPTY, "skip"):
            raise ValueError(f"{self.name}: empty={empty!r} is unknown; choose 'one', 'zero' or 'skip'")
        self.organ, self.threshold, self.per, self.empty, self.organs = organ, threshold, per, empty, organs
        shape = (organs if organ is None else 1,)
        self.top = self.add_variable(shape, "zeros", name="top", dtype="float32")
        self.bottom = self.add_variable(shape, "zeros", name="bottom", dtype="float32")

    def areas(self, both, truth, predicted):
        """Return numerator and denominator from the areas of the intersection, the truth and the prediction."""
        raise NotImplementedError

    def update_state(self, y_true, y_pred, sample_weight=None):
        truth, predicted = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        if self.organ is not None:
            channel = contest.ORGANS.index(self.organ)
            truth, predicted = truth[..., channel : channel + 1], predicted[..., channel : channel + 1]
        truth = ops.cast(ops.cast(truth, "float32") > 0.5, "float32")
        predicted = ops.cast(ops.cast(predicted, "float32") > self.threshold, "float32")
        pixels = tuple(range(1, len(truth.shape) - 1))
        top, bottom = self.areas(*(ops.sum(x, pixels) for x in (truth * predicted, truth, predicted)))  # (B, organs)
        if self.per == "slice":
            top, bottom = self._ratio(top, bottom), ops.cast((bottom > 0) | (self.empty != "skip"), "float32")
        if sample_weight is not None:
            weight = ops.reshape(ops.cast(sample_weight, "float32"), (-1, 1))
            top, bottom = weight * top, weight * bottom
        self.top.assign_add(ops.sum(top, 0))
        self.bottom.assign_add(ops.sum(bottom, 0))

    def result(self):
        top, bottom = ops.convert_to_tensor(self.top), ops.convert_to_tensor(self.bottom)
        if self.empty != "skip":
            return ops.mean(self._ratio(top, bottom))
        count = ops.sum(ops.cast(bottom > 0, "float32"))
        return ops.divide_no_nan(ops.sum(self._ratio(top, bottom)), count)

    def _ratio(self, top, bottom):
        return ops.where(bottom > 0, ops.divide_no_nan(top, bottom), EMPTY.get(self.empty, 0.0))

    def get_config(self):
        own = {name: getattr(self, name) for name in ("organ", "threshold", "per", "empty", "organs")}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(PACKAGE)
class Dice(_Overlap):
    """Dice, 2 |X and Y| / (|X| + |Y|), of one organ or as a mean over organs.

    Arguments as in `_Overlap`: organ, threshold, per ("stream" or "slice"), empty ("one", "zero" or "skip"), organs.
    """

    def areas(self, both, truth, predicted):
        return 2.0 * both, truth + predicted


@keras.saving.register_keras_serializable(PACKAGE)
class IoU(_Overlap):
    """Intersection over union of the foreground, |X and Y| / |X or Y|, of one organ or as a mean over organs.

    Arguments as in `Dice`. Keras' BinaryIoU also averages in the background: with a background IoU of .996, a Dice of
    .70 (an IoU of .538) reads .767.
    """

    def areas(self, both, truth, predicted):
        return both, truth + predicted - both


@keras.saving.register_keras_serializable(PACKAGE)
class PaperAccuracy(keras.metrics.CategoricalAccuracy):
    """The paper's "accuracy" as Keras computes it: the share of pixels with argmax(truth) = argmax(probabilities).

    On background all three truths are 0, and argmax takes the first organ. On most pixels the metric therefore compares
    the noise of three small probabilities with organ 0, which is why it wanders in the paper (V.F). `BinaryAccuracy` is
    the meaningful one.
    """

    def __init__(self, name="paper_accuracy", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(ops.cast(y_true, "float32"), y_pred, _per_pixel(y_true, sample_weight))


@keras.saving.register_keras_serializable(PACKAGE)
class BinaryAccuracy(keras.metrics.BinaryAccuracy):
    """Share of pixels and organs on the right side of the threshold; near 1 for empty masks: most pixels are."""

    def __init__(self, name="binary_accuracy", dtype=None, threshold=0.5):
        super().__init__(name=name, dtype=dtype, threshold=threshold)

    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(ops.cast(y_true, "float32"), y_pred, _per_pixel(y_true, sample_weight))


def _per_pixel(truth, sample_weight):
    """Broadcast weights (B,) over the pixels, (B, H, W), as Keras' accuracies need them."""
    if sample_weight is None:
        return None
    shape = ops.shape(truth)[:-1]
    weight = ops.reshape(ops.cast(sample_weight, "float32"), (-1, *(1,) * (len(shape) - 1)))
    return ops.broadcast_to(weight, shape)
