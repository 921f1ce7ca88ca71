"""Losses that train the network: the paper's five (V.F), and those that the competition's winners used.

Each is a function of (truth, probabilities) and a registered `keras.losses.Loss`. Overlaps (`dice`, `tversky`,
`lovasz`, `lovasz_hinge`) are computed over all slices of a batch: 57 % of the slices are empty, and on them a Dice per
slice has no gradient. The competition's score uses thresholded masks per scan; `kitlib.scoring` computes it.

Several devices. Under TensorFlow's MirroredStrategy "the batch" is a replica's part of it: each replica computes its
overlap from its own samples, and the losses are averaged. A mean of ratios is not the ratio of sums, so the same 16
samples give another Dice on two replicas (.75 in one example) than on one device (.64); cross-entropies are means and
agree. On JAX the batch is one array, sharded or not, and the values agree. Train one fold per device where the
numbers must compare with a single device.

Shapes: truth (B, H, W, organs), of volumes (B, H, W, D, organs), with values in [0, 1] and any dtype; probabilities the
same shape, or logits with `from_logits=True`; sample_weight (B,) or None, 0 for the padding of a batch. Sums are at
least float32.
"""

from __future__ import annotations

import inspect

import keras
from keras import ops

PACKAGE = "kitlib.losses"  # in saved models; losses and monitors share names


def bce(truth, probabilities, sample_weight=None, from_logits=False, paper=False):
    """Binary cross-entropy, -(y log p + (1 - y) log(1 - p)), averaged over pixels and organs.

    Paper, V.F.1: it averages over pixels and sums over organs (`paper=True`), which scales the gradient by the number
    of organs. The loss is smooth everywhere, but background pixels dominate it.
    """
    truth, probabilities, weight = _prepare(truth, probabilities, sample_weight)
    values = ops.binary_crossentropy(truth, probabilities, from_logits=from_logits)
    return _mean(values, weight) * (truth.shape[-1] if paper else 1)


def dice(truth, probabilities, sample_weight=None, smooth=1.0, from_logits=False, paper=False):
    """Dice loss, 1 - mean over organs of (2 sum(y p) + s) / (sum(y) + sum(p) + s).

    The sums run over all pixels and slices of the batch; under several replicas, of a replica's part of it (see the
    module).

    Paper, V.F.2 (`paper=True`): sum over organs of 2 sum(y p) / (sum(y) + sum(p)) per slice, averaged over slices. The
    paper finds that it "cannot be optimised", and its equation shows why: it has the sign of a score, so gradient
    descent drives the overlap to 0; and on a slice without the organ it is 0 for every p, so 57 % of the slices give no
    gradient (0 / 0 counts as 0, as in V.A.1).
    """
    if paper:
        return _paper_dice(truth, probabilities, sample_weight, from_logits)
    return tversky(truth, probabilities, sample_weight, 0.5, 0.5, smooth / 2, from_logits)


def soft_dice(truth, probabilities, sample_weight=None, from_logits=False, paper=False):
    """Dice per pixel, -2 y p / (y^2 + p^2), averaged over pixels and organs; 0 / 0 counts as 0.

    Paper, V.F.3, after UNet++: it averages over pixels and sums over organs (`paper=True`). On a background pixel
    (y = 0) it is 0 for every p. False positives therefore cost nothing, and it trains no usable mask by itself.
    """
    truth, probabilities, weight = _prepare(truth, probabilities, sample_weight, from_logits)
    squares = ops.square(truth) + ops.square(probabilities)
    values = -2.0 * truth * probabilities / ops.where(squares > 0, squares, 1.0)
    return _mean(values, weight) * (truth.shape[-1] if paper else 1)


def bce_dice(truth, probabilities, sample_weight=None, bce_weight=1.0, dice_weight=1.0, smooth=1.0, from_logits=False):
    """Weighted sum of `bce` and `dice`: the paper's V.F.4 with weights (1, 1), and its best loss, V.F.5, with (1, 0.5).

    Both parts are means over organs, so their ratio is the paper's. The Dice part is `1 - Dice`, since the paper's sign
    would work against its cross-entropy; under several replicas it is computed per replica (see the module).
    """
    cross = bce(truth, probabilities, sample_weight, from_logits)
    overlap = dice(truth, probabilities, sample_weight, smooth, from_logits)
    return bce_weight * cross + dice_weight * overlap


def tversky(truth, probabilities, sample_weight=None, alpha=0.3, beta=0.7, smooth=0.5, from_logits=False):
    """Dice with a weight per kind of error: 1 - mean over organs of (TP + s) / (TP + alpha FP + beta FN + s).

    alpha = beta = 0.5 is Dice; beta > alpha favours larger masks. Keras' Tversky has no smoothing: an absent organ
    costs 1 and has no gradient.
    """
    truth, probabilities, weight = _prepare(truth, probabilities, sample_weight, from_logits)
    pixels = tuple(range(len(truth.shape) - 1))
    hit = ops.sum(weight * truth * probabilities, pixels)
    false = ops.sum(weight * probabilities, pixels) - hit
    missed = ops.sum(weight * truth, pixels) - hit
    return 1.0 - ops.sum((hit + smooth) / (hit + alpha * false + beta * missed + smooth)) / truth.shape[-1]


def focal(truth, probabilities, sample_weight=None, gamma=2.0, alpha=None, from_logits=False):
    """Cross-entropy with less weight on easy pixels: mean of (1 - p_t)^gamma * BCE, p_t = p if y = 1, else 1 - p.

    `alpha` (None: off) weighs truth against background. Keras' own takes no weight per sample and, on some backends,
    averages in float32.
    Source: Lin et al., Focal loss (2017), the paper's reference [7].
    """
    truth, probabilities, weight = _prepare(truth, probabilities, sample_weight, from_logits)
    wrong = truth * (1.0 - probabilities) + (1.0 - truth) * probabilities
    wrong = ops.maximum(wrong, keras.config.epsilon())  # for gamma < 1 the slope at 0 is infinite
    values = ops.power(wrong, gamma) * ops.binary_crossentropy(truth, probabilities)
    if alpha is not None:
        values = values * (alpha * truth + (1.0 - alpha) * (1.0 - truth))
    return _mean(values, weight)


def lovasz(truth, probabilities, sample_weight=None, from_logits=False):
    """Jaccard loss, 1 - |Y and P| / |Y or P|, extended to probabilities; per organ over the batch, then averaged.

    Errors e = |y - p| are sorted in descending order, and each is weighted by what the Jaccard loss rises when that
    pixel becomes wrong: e_k (J_k - J_(k-1)), J_k = 1 - (|Y| - hits_k) / (|Y| + false_k). Where every p is 0 or 1 that
    is the Jaccard loss itself; between them it is piecewise linear. An absent organ costs its worst pixel, 0 at best.
    Blended masks (MixUp) are rounded where pixels are counted, and taken as they are in the errors.
    Cost: one sort of the batch's pixels per organ.
    Source: Berman et al., The Lovasz-softmax loss (CVPR 2018), equations 8, 9 and 11, on sigmoids in place of a
    softmax.
    """
    truth, probabilities, weight = _prepare(truth, probabilities, sample_weight, from_logits)
    real = ops.broadcast_to(weight, ops.shape(truth)) > 0
    errors = ops.where(real, ops.abs(truth - probabilities), ops.zeros_like(truth))
    return _lovasz_extension(errors, ops.where(real & (truth > 0.5), 1.0, ops.zeros_like(truth)))


def lovasz_hinge(truth, probabilities, sample_weight=None, from_logits=False):
    """Convex extension of the Jaccard loss, per organ over the batch, averaged over organs.

    Hinge errors e = 1 - logit * (2 y - 1) are sorted in descending order, and max(e, 0) is weighted by the loss of
    Jaccard index when that pixel becomes wrong: J_k - J_(k-1), J_k = 1 - (|Y| - hits_k) / (|Y| + false_k).
    Probabilities are converted to logits. If an organ is absent, only the worst pixel counts.
    Cost: one sort of the batch's pixels per organ.
    Source: Berman et al., The Lovasz-softmax loss (CVPR 2018), equation 9 and section 3.1.
    """
    truth, scores, weight = _prepare(truth, probabilities, sample_weight)
    if not from_logits:
        scores = ops.clip(scores, 1e-6, 1 - 1e-6)
        scores = ops.log(scores) - ops.log(1 - scores)
    real = ops.broadcast_to(weight, ops.shape(truth)) > 0
    truth = ops.where(real & (truth > 0.5), 1.0, ops.zeros_like(truth))
    errors = ops.where(real, 1.0 - scores * (2.0 * truth - 1.0), -1.0)  # padding sorts last, without error
    return _lovasz_extension(errors, truth)


def weighted(truth, probabilities, sample_weight=None, bce=0.5, dice=0.5, lovasz=1.0, smooth=1.0, from_logits=False):
    """Weighted sum of the losses `bce`, `dice` and `lovasz`; a part of weight 0 is not computed.

    Cross-entropy has a gradient on every pixel, and the overlaps follow the score. The defaults are those with which
    the competition's winners trained their segmenters.
    """
    weights = (bce, dice, lovasz)
    if min(weights) < 0 or not any(weights):
        raise ValueError(
            f"the weights are bce={bce}, dice={dice}, lovasz={lovasz}; expected none below 0 and one above"
        )
    options = ({}, {"smooth": smooth}, {})
    return sum(
        factor * part(truth, probabilities, sample_weight, from_logits=from_logits, **more)
        for factor, part, more in zip(weights, _PARTS, options, strict=True)
        if factor
    )


_PARTS = bce, dice, lovasz  # the functions, whose names are weights in `weighted`


def _lovasz_extension(errors, truth):
    """Sum the positive errors (..., organs), each by what its pixel adds to the Jaccard loss; mean over organs."""
    organs = truth.shape[-1]
    errors, truth = (ops.transpose(ops.reshape(x, (-1, organs))) for x in (errors, truth))
    order = ops.argsort(-ops.stop_gradient(errors), axis=-1)
    errors, truth = (ops.take_along_axis(x, order, axis=-1) for x in (errors, truth))
    total = ops.sum(truth, axis=-1, keepdims=True)
    jaccard = 1.0 - (total - ops.cumsum(truth, -1)) / (total + ops.cumsum(1.0 - truth, -1))
    steps = ops.concatenate([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], axis=-1)
    return ops.sum(ops.relu(errors) * steps) / organs


def _paper_dice(truth, probabilities, sample_weight, from_logits):
    truth, probabilities, weight = _prepare(truth, probabilities, sample_weight, from_logits)
    pixels = tuple(range(1, len(truth.shape) - 1))
    both = 2.0 * ops.sum(truth * probabilities, pixels, keepdims=True)
    total = ops.sum(truth, pixels, keepdims=True) + ops.sum(probabilities, pixels, keepdims=True)
    return _mean(ops.divide_no_nan(both, total), weight) * truth.shape[-1]


def _prepare(truth, probabilities, sample_weight, from_logits=False):
    """Cast truth, probabilities and weight (B, 1, 1, 1) to one float dtype of at least 32 bits."""
    probabilities = ops.convert_to_tensor(probabilities)
    dtype = "float64" if keras.backend.standardize_dtype(probabilities.dtype) == "float64" else "float32"
    probabilities, truth = ops.cast(probabilities, dtype), ops.cast(truth, dtype)
    if from_logits:
        probabilities = ops.sigmoid(probabilities)
    rank = len(truth.shape)
    if sample_weight is None:
        return truth, probabilities, ops.ones((1,) * rank, dtype)
    weight = ops.cast(sample_weight, dtype)
    return truth, probabilities, ops.reshape(weight, (*ops.shape(weight), *(1,) * (rank - len(weight.shape))))


def _mean(values, weight):
    """Weighted mean of values; 0 if all weights are 0."""
    weight = ops.broadcast_to(weight, ops.shape(values))
    return ops.divide_no_nan(ops.sum(values * weight), ops.sum(weight))


class BatchLoss(keras.losses.Loss):
    """Base of the losses below: one number per batch, with sample weights and the number of replicas.

    Keras applies sample weights to per-sample losses, which an overlap over a batch does not have; here the weights
    enter its sums. Keras divides by the number of replicas only if it reduces an axis, so the value has shape (1,).
    The dtype is at least float32 whatever `floatx` in keras.json says, since Keras casts probabilities to it.
    """

    function = None

    def __init__(self, name=None, dtype=None, **settings):
        wide = "float64" if keras.config.floatx() == "float64" else "float32"
        super().__init__(name=name or type(self).function.__name__, dtype=dtype or wide)
        inspect.signature(type(self).function).bind(None, None, **settings)  # unknown settings raise here
        self.settings = settings

    def __call__(self, y_true, y_pred, sample_weight=None):
        weight = {} if sample_weight is None else {"weight": sample_weight}
        return super().__call__({"truth": y_true, **weight}, y_pred)

    def call(self, y_true, y_pred):
        value = type(self).function(y_true["truth"], y_pred, y_true.get("weight"), **self.settings)
        return ops.reshape(value, (1,))

    def get_config(self):
        return {"name": self.name, "dtype": keras.saving.serialize_keras_object(self._dtype_policy), **self.settings}


@keras.saving.register_keras_serializable(PACKAGE)
class BCE(BatchLoss):
    """`bce` as a loss for `compile`."""

    function = staticmethod(bce)


@keras.saving.register_keras_serializable(PACKAGE)
class Dice(BatchLoss):
    """`dice` as a loss for `compile`."""

    function = staticmethod(dice)


@keras.saving.register_keras_serializable(PACKAGE)
class SoftDice(BatchLoss):
    """`soft_dice` as a loss for `compile`."""

    function = staticmethod(soft_dice)


@keras.saving.register_keras_serializable(PACKAGE)
class BCEDice(BatchLoss):
    """`bce_dice` as a loss for `compile`."""

    function = staticmethod(bce_dice)


@keras.saving.register_keras_serializable(PACKAGE)
class Tversky(BatchLoss):
    """`tversky` as a loss for `compile`."""

    function = staticmethod(tversky)


@keras.saving.register_keras_serializable(PACKAGE)
class Focal(BatchLoss):
    """`focal` as a loss for `compile`."""

    function = staticmethod(focal)


@keras.saving.register_keras_serializable(PACKAGE)
class Lovasz(BatchLoss):
    """`lovasz` as a loss for `compile`."""

    function = staticmethod(lovasz)


@keras.saving.register_keras_serializable(PACKAGE)
class LovaszHinge(BatchLoss):
    """`lovasz_hinge` as a loss for `compile`."""

    function = staticmethod(lovasz_hinge)


@keras.saving.register_keras_serializable(PACKAGE)
class Weighted(BatchLoss):
    """`weighted` as a loss for `compile`."""

    function = staticmethod(weighted)
