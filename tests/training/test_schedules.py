import keras
import numpy as np
import pytest

from kitlib import training
from kitlib.layers import losses
from kitlib.training import averages, recipes, schedules


def rates(schedule, steps, epochs, **options):
    rate = schedules.rate(1e-3, schedule, steps, epochs, **options)
    return np.array([float(rate(step) if callable(rate) else rate) for step in range(steps * epochs + 1)])


def test_constant_rate_is_constant():
    assert (rates("constant", 3, 2) == 1e-3).all()


def test_cosine_climbs_for_an_epoch_then_falls_to_zero_at_the_last_step():
    found = rates("cosine", 10, 5)
    assert found[0] == pytest.approx(1e-4)
    assert (np.diff(found[:11]) > 0).all()
    assert found[10] == pytest.approx(1e-3)
    assert (np.diff(found[10:]) < 0).all()
    assert found[30] == pytest.approx(0.5e-3)
    assert found[50] == pytest.approx(0, abs=1e-9)


def test_warm_up_may_be_left_out_and_takes_at_most_half_of_a_short_course():
    assert rates("cosine", 10, 2, warmup_epochs=0)[0] == pytest.approx(1e-3)
    assert rates("cosine", 10, 1, warmup_epochs=3).argmax() == 5


def test_weight_decay_spares_biases_and_norms():
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization()])
    optimizer = schedules.optimizer("adamw", 0.1, weight_decay=0.5)
    optimizer.build(network.trainable_variables)
    before = network.get_weights()
    network.set_weights([array + 1 for array in before])
    before = [weight.numpy() for weight in network.trainable_variables]
    optimizer.apply([keras.ops.zeros_like(weight) for weight in network.trainable_variables])
    kernel, *others = [weight.numpy() for weight in network.trainable_variables]
    np.testing.assert_allclose(kernel, before[0] * (1 - 0.1 * 0.5), rtol=1e-5)
    for one, other in zip(others, before[1:], strict=True):
        np.testing.assert_array_equal(one, other)


def test_wrong_choices_are_explained():
    with pytest.raises(ValueError, match="'linear'"):
        schedules.rate(1e-3, "linear", 1, 1)
    with pytest.raises(ValueError, match="'sgd'"):
        schedules.optimizer("sgd", 1e-3)
    with pytest.raises(ValueError, match="needs optimizer='adamw'"):
        schedules.optimizer("adam", 1e-3, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"average is 1\.5"):
        schedules.optimizer("adam", 1e-3, average=1.5)


def test_moving_average_is_read_from_the_optimizer_and_statistics_from_the_network():
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization()])
    network.compile(schedules.optimizer("adam", 0.1, average=0.75), "mse")
    expected = None
    for step in range(4):
        network.train_on_batch(np.full((8, 4), step + 1.0), np.ones((8, 3)))
        now = [weight.numpy() for weight in network.trainable_variables]
        expected = now if expected is None else [0.75 * a + 0.25 * b for a, b in zip(expected, now, strict=True)]
    found = dict(zip([weight.path for weight in network.weights], averages.weights(network, network), strict=True))
    for weight, array in zip(network.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(found[weight.path], array, rtol=1e-5, atol=1e-6)
        assert np.abs(array - weight.numpy()).max() > 1e-3
    for weight in network.non_trainable_variables:
        if weight.path in found:
            np.testing.assert_array_equal(found[weight.path], weight.numpy())


def test_mean_of_epochs_is_their_mean():
    epochs = np.random.default_rng(0).random((5, 2, 3))
    mean = None
    for count, array in enumerate(epochs):
        mean = averages.add_to_mean(mean, count, [array])
    np.testing.assert_allclose(mean[0], epochs.mean(axis=0))


@pytest.mark.parametrize("name", recipes.NAMES)
def test_presets_are_arguments_of_fit_fold_and_new_ones_with_every_call(name):
    known = training.fit_fold.__kwdefaults__
    course = recipes.named(name)
    assert set(course) <= set(known)
    course["network_options"]["levels"] = 1
    assert recipes.named(name)["network_options"]["levels"] == 4
    assert recipes.named(name, epochs=3)["epochs"] == 3


def test_paper_presets_are_what_the_paper_names():
    paper, first = recipes.paper(), recipes.paper_first()
    assert (paper["epochs"], paper["patience"], first["patience"]) == (40, 15, 5)
    assert paper["loss"].get_config() == losses.BCEDice(dice_weight=0.5).get_config()
    assert paper["augment"].field == "smooth"
    assert paper["augment"].ranges["noise"] > 0
    assert first["augment"] is None
    assert isinstance(first["loss"], losses.BCE)
    with pytest.raises(ValueError, match="no preset 'papr'; choose one of paper"):
        recipes.named("papr")
