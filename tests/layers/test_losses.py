"""The losses: values worked out by hand, gradients, empty batches, weights, and their life in `compile`."""

from unittest import mock

import keras
import numpy as np
import pytest
from keras import ops

from kitlib.layers import losses, monitors

if keras.backend.backend() == "jax":
    import jax

    jax.config.update("jax_enable_x64", True)

# Two slices of 1 x 2 pixels, two organs; the second organ is absent from the first slice.
TRUTH = np.array([[[[1, 0], [0, 0]]], [[[1, 1], [1, 0]]]], "uint8")
GUESS = np.array([[[[0.8, 0.1], [0.4, 0.2]]], [[[0.6, 0.5], [0.9, 0.3]]]])
# Per organ over the batch: sum(y p) = 2.3, 0.5; sum(y) = 3, 1; sum(p) = 2.7, 1.1.
BCE = -np.log([0.8, 0.9, 0.6, 0.8, 0.6, 0.5, 0.9, 0.7])
DICE = 1 - np.mean([(2 * 2.3 + 1) / (3 + 2.7 + 1), (2 * 0.5 + 1) / (1 + 1.1 + 1)])
PAPER_DICE = np.mean([2 * 0.8 / (1 + 1.2) + 0, 2 * 1.5 / (2 + 1.5) + 2 * 0.5 / (1 + 0.8)])
SOFT = np.array([2 * p / (1 + p * p) for p in (0.8, 0.6, 0.5, 0.9)])

CLASSES = [losses.BCE, losses.Dice, losses.SoftDice, losses.BCEDice, losses.Tversky, losses.Focal, losses.Lovasz]
CLASSES += [losses.LovaszHinge, losses.Weighted]
ALL = [kind.function for kind in CLASSES]


def value(loss, *arguments, **settings):
    return float(ops.convert_to_numpy(loss(*arguments, **settings)))


def random_case(seed=0, shape=(3, 5, 7, 2)):
    rng = np.random.default_rng(seed)
    return (rng.random(shape) > 0.6).astype("uint8"), rng.uniform(0.05, 0.95, shape)


# Values


@pytest.mark.parametrize(
    ("loss", "settings", "expected"),
    [
        (losses.bce, {}, BCE.mean()),
        (losses.bce, {"paper": True}, BCE.sum() / 4),
        (losses.dice, {}, DICE),
        (losses.dice, {"smooth": 0.0}, 1 - np.mean([4.6 / 5.7, 1 / 2.1])),
        (losses.dice, {"paper": True}, PAPER_DICE),
        (losses.soft_dice, {}, -SOFT.sum() / 8),
        (losses.soft_dice, {"paper": True}, -SOFT.sum() / 4),
        (losses.bce_dice, {}, BCE.mean() + DICE),
        (losses.bce_dice, {"dice_weight": 0.5}, BCE.mean() + 0.5 * DICE),
        (losses.bce_dice, {"bce_weight": 0.0, "dice_weight": 2.0}, 2 * DICE),
        (losses.tversky, {"alpha": 0.5, "beta": 0.5}, DICE),
        (
            losses.tversky,
            {"alpha": 0.2, "beta": 0.8, "smooth": 0.0},
            1 - np.mean([2.3 / (2.3 + 0.2 * 0.4 + 0.8 * 0.7), 0.5 / (0.5 + 0.2 * 0.6 + 0.8 * 0.5)]),
        ),
        (losses.weighted, {"bce": 0.75, "dice": 0.25, "lovasz": 0.0}, 0.75 * BCE.mean() + 0.25 * DICE),
        (losses.weighted, {"bce": 0, "dice": 2, "lovasz": 0, "smooth": 0.0}, 2 - 2 * np.mean([4.6 / 5.7, 1 / 2.1])),
        (losses.focal, {}, (BCE * (1 - np.exp(-BCE)) ** 2).mean()),
        (losses.focal, {"gamma": 0.0}, BCE.mean()),
        (losses.focal, {"gamma": 0.0, "alpha": 0.25}, (BCE * [0.25, 0.75, 0.75, 0.75, 0.25, 0.25, 0.25, 0.75]).mean()),
    ],
)
def test_values_by_hand(loss, settings, expected):
    assert value(loss, TRUTH, GUESS, **settings) == pytest.approx(expected, rel=1e-6)


def test_lovasz_hinge_by_hand():
    """Errors 3, 1.5, 0.5 with truths 0, 1, 1: Jaccard losses 1/3, 2/3, 1, so each weighs a third."""
    truth = np.array([0, 1, 1]).reshape(1, 1, 3, 1)
    logits = np.array([2.0, -0.5, 0.5]).reshape(1, 1, 3, 1)
    assert value(losses.lovasz_hinge, truth, logits, from_logits=True) == pytest.approx(5 / 3)
    chances = 1 / (1 + np.exp(-logits))
    assert value(losses.lovasz_hinge, truth, chances) == pytest.approx(5 / 3)


def jaccard_loss(truth, predicted):
    """1 - intersection over union; 0 where both are empty."""
    union = (truth | predicted).sum()
    return 1 - (truth & predicted).sum() / union if union else 0.0


def lovasz_extension(truth, errors):
    """The definition: sort the pixels, and add what each further wrong pixel costs in Jaccard index."""
    total, before, predicted = 0.0, 0.0, truth.copy()
    for k in np.argsort(-errors, kind="stable"):
        predicted[k] = 1 - truth[k]
        now = jaccard_loss(truth, predicted)
        total += max(errors[k], 0) * (now - before)
        before = now
    return total


def by_organ(function, truth, values):
    """The mean over organs of a function of two flat arrays."""
    return np.mean([function(truth[..., organ].ravel(), values[..., organ].ravel()) for organ in range(2)])


def test_lovasz_losses_agree_with_a_slow_reference():
    truth, guess = random_case()
    logits = np.log(guess / (1 - guess))
    hinge = by_organ(lovasz_extension, truth, 1 - logits * (2.0 * truth - 1))
    assert value(losses.lovasz_hinge, truth, guess) == pytest.approx(hinge, rel=1e-6)
    expected = by_organ(lovasz_extension, truth, np.abs(truth - guess))
    assert value(losses.lovasz, truth, guess) == pytest.approx(expected, rel=1e-6)
    assert abs(hinge - expected) > 0.1
    assert value(losses.weighted, truth, guess) == pytest.approx(
        0.5 * value(losses.bce, truth, guess) + 0.5 * value(losses.dice, truth, guess) + expected, rel=1e-6
    )


@pytest.mark.parametrize("shares", [(0.6, 0.5), (0.6, 0.0), (0.0, 0.3), (0.0, 0.0), (1.0, 1.0)])
def test_lovasz_of_masks_is_their_jaccard_loss(shares):
    rng = np.random.default_rng(2)
    truth, predicted = ((rng.random((3, 5, 7, 2)) < share).astype("uint8") for share in shares)
    assert value(losses.lovasz, truth, predicted.astype("float32")) == pytest.approx(
        by_organ(jaccard_loss, truth, predicted), abs=1e-6
    )


def test_lovasz_of_blended_masks_is_least_where_the_guess_is_the_blend():
    truth, other = random_case()[0], random_case(7)[0]
    blend = 0.7 * truth + 0.3 * other
    assert value(losses.lovasz, blend, blend) == pytest.approx(0, abs=1e-7)
    assert value(losses.lovasz, blend, truth.astype(float)) > 0.05


@pytest.mark.parametrize("loss", ALL)
def test_logits_give_what_their_probabilities_give(loss):
    truth, guess = random_case()
    logits = np.log(guess / (1 - guess))
    assert value(loss, truth, logits, from_logits=True) == pytest.approx(value(loss, truth, guess), rel=1e-5)


@pytest.mark.parametrize("loss", ALL)
def test_truth_may_have_any_dtype_and_half_precision_is_widened(loss):
    truth, guess = random_case()
    guess = guess.astype("float16")
    expected = value(loss, truth.astype("float32"), guess.astype("float32"))
    assert value(loss, truth.astype(bool), guess) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", ALL)
def test_better_guesses_cost_less(loss):
    truth, guess = random_case()
    assert value(loss, truth, 0.5 * (guess + truth)) < value(loss, truth, guess)


# What the docstrings say of the paper's forms


def test_the_papers_dice_has_the_sign_of_a_score():
    assert value(losses.dice, TRUTH, TRUTH * 0.9 + 0.05, paper=True) > value(
        losses.dice, TRUTH, 0.5 + 0 * GUESS, paper=True
    )


def test_the_papers_dice_has_no_gradient_on_an_empty_slice_and_ours_has():
    empty = np.zeros((1, 2, 3, 2))
    assert np.all(gradient(losses.dice, empty, 0.3 + empty, paper=True) == 0)
    assert np.all(gradient(losses.dice, empty, 0.3 + empty) > 0)


def test_soft_dice_ignores_false_positives():
    truth, guess = random_case()
    worse = np.where(truth, guess, 0.99)
    assert value(losses.soft_dice, truth, worse) == pytest.approx(value(losses.soft_dice, truth, guess))
    assert value(losses.soft_dice, 0 * truth, 0 * guess) == 0  # 0 / 0


# Gradients


def gradient(loss, truth, guess, **settings):
    """Gradient of the loss with respect to the guess, on whichever backend runs."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        guess = tf.Variable(guess)
        with tf.GradientTape() as tape:
            cost = loss(truth, guess, **settings)
        return tape.gradient(cost, guess).numpy()
    if backend == "jax":
        return np.asarray(jax.grad(lambda x: loss(truth, x, **settings))(ops.convert_to_tensor(guess)))
    guess = ops.convert_to_tensor(guess)
    guess.requires_grad_(True)
    loss(truth, guess, **settings).backward()
    return guess.grad.cpu().numpy()


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras on PyTorch takes sums of float64 in float32")
@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("seed", [0, 1])
def test_gradients_agree_with_finite_differences(loss, seed):
    truth, guess = random_case(seed, (2, 2, 3, 2))
    slope = gradient(loss, truth, guess)
    for place in np.ndindex(*guess.shape):
        step = np.zeros_like(guess)
        step[place] = 1e-6
        difference = (value(loss, truth, guess + step) - value(loss, truth, guess - step)) / 2e-6
        assert slope[place] == pytest.approx(difference, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("loss", ALL)
def test_empty_batches_give_finite_values_and_gradients(loss):
    truth = np.zeros((2, 3, 5, 3))
    for level in (0.0, 0.3, 1.0):
        assert np.isfinite(value(loss, truth, truth + level))
        assert np.isfinite(gradient(loss, truth, truth + level)).all()
    if loss is not losses.soft_dice:  # which has no term on background
        assert gradient(loss, truth, truth + 0.3).max() > 0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_has_a_gradient_where_a_pixel_is_perfectly_right(gamma):
    truth, guess = np.array([0, 1, 1]).reshape(1, 1, 3, 1), np.array([0.0, 1.0, 0.5]).reshape(1, 1, 3, 1)
    slope = gradient(losses.focal, truth, guess, gamma=gamma)
    assert np.isfinite(slope).all()
    assert slope[0, 0, 2, 0] < 0


@pytest.mark.parametrize("loss", [losses.lovasz, losses.weighted])
@pytest.mark.parametrize("truth", [[0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
@pytest.mark.parametrize("guess", [[0.5, 0.5, 0.5, 0.5], [0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0]])
def test_lovasz_has_finite_gradients_at_ties_and_at_masks(loss, truth, guess):
    shape = (1, 2, 2, 1)
    slope = gradient(loss, np.reshape(truth, shape), np.reshape(guess, shape))
    assert np.isfinite(slope).all()
    signs = np.sign(np.reshape(guess, shape) - np.reshape(truth, shape))
    assert (slope * signs >= 0).all()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.function is TensorFlow's")
def test_lovasz_compiles_and_gives_the_same_in_half_precision():
    import tensorflow as tf

    truth, guess = random_case(3, (2, 8, 8, 3))
    guess = guess.astype("float16")
    compiled = tf.function(losses.weighted, jit_compile=True)
    assert float(compiled(truth, guess)) == pytest.approx(value(losses.weighted, truth, guess), rel=1e-5)
    assert compiled(truth, guess).dtype == tf.float32


# Weights and distribution


@pytest.mark.parametrize("loss", ALL)
def test_samples_of_weight_zero_do_not_count(loss):
    (truth, guess), (other, wild) = random_case(), random_case(5)
    padded = value(loss, np.concatenate([truth, other]), np.concatenate([guess, wild]), np.array([1.0] * 3 + [0.0] * 3))
    assert padded == pytest.approx(value(loss, truth, guess), rel=1e-6)


@pytest.mark.parametrize("kind", CLASSES)
def test_loss_objects_are_their_functions(kind):
    truth, guess = random_case()
    weight = np.array([1.0, 0.0, 1.0])
    assert value(kind(dtype="float64"), truth, guess) == pytest.approx(value(kind.function, truth, guess))
    weighed = value(kind(dtype="float64"), truth, guess, weight)
    assert weighed == pytest.approx(value(kind.function, truth, guess, weight))


@pytest.mark.parametrize(
    "loss",
    [
        losses.BCE(paper=True),
        losses.Dice(smooth=2.0),
        losses.SoftDice(paper=True),
        losses.BCEDice(bce_weight=0.7, dice_weight=0.5),
        losses.Tversky(alpha=0.1, beta=0.9),
        losses.Focal(gamma=1.0, alpha=0.3),
        losses.LovaszHinge(from_logits=True),
        losses.Weighted(bce=0.3, dice=0.5, lovasz=0.9),
    ],
)
def test_a_loss_comes_back_from_its_configuration(loss):
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(twin) is type(loss)
    assert twin.settings == loss.settings
    truth, guess = random_case()
    assert value(twin, truth, guess) == value(loss, truth, guess)


def test_a_loss_and_a_monitor_of_the_same_name_stay_apart():
    for kind in (losses.Dice, monitors.Dice):
        twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(kind()))
        assert type(twin) is kind


def test_an_unknown_setting_is_refused_at_once():
    with pytest.raises(TypeError, match="smoothing"):
        losses.Dice(smoothing=1.0)


@pytest.mark.parametrize("weights", [(0, 0, 0), (1, -0.5, 1)])
def test_a_sum_of_nothing_or_with_a_negative_weight_is_refused(weights):
    with pytest.raises(ValueError, match=rf"bce={weights[0]}, dice={weights[1]}, .*expected none below 0"):
        losses.weighted(TRUTH, GUESS, bce=weights[0], dice=weights[1], lovasz=weights[2])


def test_a_loss_trains_a_model_with_weights():
    model = keras.Sequential([keras.Input((4, 6, 5)), keras.layers.Conv2D(2, 1, activation="sigmoid")])
    model.compile("adam", losses.BCEDice(dice_weight=0.5))
    truth, _ = random_case(shape=(4, 4, 6, 2))
    x = np.random.default_rng(0).normal(size=(4, 4, 6, 5)).astype("float32")
    weight = np.array([1.0, 1.0, 0.0, 0.0], "float32")
    whole = model.evaluate(x, truth, sample_weight=weight, batch_size=4, verbose=0)
    half = model.evaluate(x[:2], truth[:2], batch_size=2, verbose=0)
    assert whole == pytest.approx(half, rel=1e-5)


def test_an_overlap_of_each_half_of_a_batch_is_not_that_of_the_whole():
    """Under a mirrored strategy each replica sees its half: the docstring says which losses then change."""
    truth, guess = random_case(shape=(4, 5, 7, 2))
    truth[:2, ..., 0] = 0  # an organ that only the second half shows
    for loss, agrees in ((losses.bce, True), (losses.focal, True), (losses.dice, False), (losses.tversky, False)):
        halves = [value(loss, truth[rows], guess[rows]) for rows in (slice(2), slice(2, 4))]
        assert (np.mean(halves) == pytest.approx(value(loss, truth, guess), rel=1e-6)) == agrees, loss.__name__


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="MirroredStrategy is TensorFlow's")
def test_the_loss_is_divided_by_the_number_of_replicas():
    """Their gradients add up, so each must carry its share; Keras forgets that for losses without an axis."""
    import tensorflow as tf

    truth, guess = random_case()
    whole = value(losses.Dice(), truth, guess)
    with mock.patch.object(type(tf.distribute.get_strategy()), "num_replicas_in_sync", 2):
        assert value(losses.Dice(), truth, guess) == pytest.approx(whole / 2)
