"""Keras metrics to watch while training. They stream over batches; the contest's score per scan lives in `metric`."""

from __future__ import annotations

import keras
from keras import ops

PACKAGE = "kitlib"


class _Overlap(keras.metrics.Metric):
    """Running sums of |truth and prediction|, |truth|, |prediction| per organ over all pixels seen so far."""

    def __init__(self, organs: int = 3, organ=None, threshold=0.5, empty=1.0, name=None, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.organs, self.organ, self.threshold, self.empty = organs, organ, threshold, empty
        shape = (organs,) if organ is None else (1,)
        for state in ("both", "truth", "predicted"):
            setattr(self, state, self.add_variable(shape, "zeros", name=state, dtype="float32"))

    def update_state(self, y_true, y_pred, sample_weight=None):
        if self.organ is not None:
            y_true, y_pred = (x[..., self.organ : self.organ + 1] for x in (y_true, y_pred))
        truth = ops.cast(ops.cast(y_true, "float32") > 0.5, "float32")
        predicted = ops.cast(ops.cast(y_pred, "float32") > self.threshold, "float32")
        if sample_weight is not None:
            weight = ops.cast(sample_weight, "float32")
            weight = ops.reshape(weight, (*ops.shape(weight), *(1,) * (len(truth.shape) - len(weight.shape))))
            truth, predicted = truth * weight, predicted * weight
            both = ops.minimum(truth, predicted)
        else:
            both = truth * predicted
        pixels = tuple(range(len(truth.shape) - 1))
        self.both.assign_add(ops.sum(both, pixels))
        self.truth.assign_add(ops.sum(truth, pixels))
        self.predicted.assign_add(ops.sum(predicted, pixels))

    def result(self):
        top, bottom = self.ratio()
        values = ops.where(bottom > 0, top / ops.where(bottom > 0, bottom, 1.0), self.empty)
        return ops.mean(values)

    def get_config(self):
        own = {name: getattr(self, name) for name in ("organs", "organ", "threshold", "empty")}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(PACKAGE)
class Dice(_Overlap):
    """2 |X and Y| / (|X| + |Y|), per organ over the whole stream, then the mean over organs."""

    def ratio(self):
        return 2.0 * self.both, self.truth + self.predicted


@keras.saving.register_keras_serializable(PACKAGE)
class IoU(_Overlap):
    """|X and Y| / |X or Y|, per organ over the whole stream, then the mean over organs."""

    def ratio(self):
        return self.both + 0.0, self.truth + self.predicted - self.both
