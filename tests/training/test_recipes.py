"""Recipes as records, the ready-made ones, and the optimizer that they ask for."""

import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest

from kitlib.layers import augment, losses, monitors
from kitlib.training import Recipe, presets, recipes


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_recipe_survives_json(name):
    recipe = presets.PRESETS[name]()
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe == presets.PRESETS[name]()


def test_json_is_the_same_in_another_process_and_after_use():
    code = "from kitlib.training import recipes; print(recipes.strong().to_json())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    layer = augment.Augment(cutmix=0.25, mixup=0.25, name="strong")
    layer(np.zeros((2, 8, 8, 1), "float32"), np.zeros((2, 8, 8, 3), "uint8"), np.arange(2, dtype="int32"))
    assert replace(recipes.strong(), augment=layer) == Recipe.from_json(printed)
    assert replace(recipes.short(), augment=augment.Augment()) == replace(recipes.short(), augment=augment.Augment())


def test_keras_objects_are_stored_and_made_again():
    recipe = Recipe(
        loss=losses.Tversky(alpha=0.4), augment=augment.Augment(flip=0.2), metrics=[monitors.PaperAccuracy()]
    )
    assert isinstance(recipe.loss, dict)
    assert recipe.made("loss").settings == {"alpha": 0.4}
    assert recipe.made("augment").chances["flip"] == 0.2
    assert [type(metric) for metric in recipe.made("metrics")] == [monitors.PaperAccuracy]
    assert Recipe().made("augment") is None


def test_an_average_reaches_back_over_a_tenth_of_the_training_at_most():
    recipe = Recipe(average=0.99, epochs=10)
    assert recipe.momentum(steps=1000) == 0.99
    assert recipe.momentum(steps=20) == 0.95
    assert recipe.momentum(steps=1) == 0
    assert recipe.momentum(steps=0) == 0  # `pipeline.dataset` says what is wrong
    assert Recipe(epochs=10).momentum(steps=1000) == 0
    assert recipe.make_optimizer(20).ema_momentum == 0.95


def test_recipes_share_no_options():
    options = {"levels": 3}
    recipe = Recipe(network_options=options)
    options["levels"] = 4
    assert recipe.network_options == {"levels": 3}
    recipes.paper().network_options["levels"] = 1
    assert recipes.paper().network_options["levels"] == 4


def test_numbers_of_numpy_are_taken():
    recipe = Recipe(seed=np.int64(3), learning_rate=np.float32(0.5))
    assert (type(recipe.seed), type(recipe.learning_rate)) == (int, float)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule": "linear"}, "schedule is 'linear'; choose one of constant, cosine"),
        ({"augment_on": "gpu"}, "augment_on is 'gpu'; choose one of"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'; choose one of"),
        ({"monitor": "accuracy"}, "monitor is 'accuracy'; choose one of score"),
        ({"weight_decay": 0.1}, "needs optimizer='adamw'"),
        ({"average": 1.5}, r"average is 1\.5"),
        ({"empty_share": 2}, r"empty_share is 2\.0"),
        ({"epochs": "20"}, "epochs is '20'; expected an integer"),
        ({"epochs": 0}, "epochs is 0; expected an integer of 1 or more"),
        ({"epochs": True}, "epochs is True"),
        ({"seed": 2**32}, "seed is 4294967296; expected an integer from 0 to 4294967295"),
        ({"leave_out": "case7_day0"}, r"leave_out is 'case7_day0'; expected a tuple.*\('case7_day0',\)"),
        ({"metrics": monitors.PaperAccuracy()}, "metrics is <PaperAccuracy.*expected a list of Keras metrics"),
        ({"seed": 0.5}, r"seed is 0\.5; expected an integer"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'; expected a number"),
        ({"learning_rate": -1.0}, r"learning_rate is -1\.0"),
        ({"deterministic": "yes"}, "deterministic is 'yes'; expected True or False"),
        ({"network": print}, "network is <built-in function print>; expected text"),
        ({"network_options": {"encoder": print}}, "network_options .*not JSON serializable"),
        ({"loss": "bce"}, "loss is 'bce'; expected a Keras object"),
        ({"augment": print}, "augment is <built-in function print>; expected a Keras object"),
    ],
)
def test_wrong_fields_are_named_with_value_and_choices(changes, words):
    with pytest.raises(ValueError, match=words):
        Recipe(**changes)


def test_a_network_is_built_by_name_with_its_options():
    network = Recipe(network_options={"levels": 1, "base": 2, "window_stages": ()}).builder()((16, 16, 5))
    assert network.output_shape == (None, 16, 16, 3)


def test_a_recipe_knows_whether_its_augmentation_flips():
    assert not recipes.paper().flips
    assert not recipes.paper_first().flips
    assert recipes.strong().flips
    assert not replace(recipes.strong(), augment=augment.Augment(strength=0)).flips


def test_paper_recipes_are_those_of_the_paper():
    paper, first = recipes.paper(), recipes.paper_first()
    assert (paper.epochs, paper.patience, first.patience) == (40, 15, 5)
    assert paper.made("loss").settings == {"dice_weight": 0.5}
    assert paper.made("augment").field == "smooth"
    assert paper.made("augment").ranges["noise"] > 0
    assert first.augment is None
    assert isinstance(first.made("loss"), losses.BCE)


def rates(steps, **changes):
    recipe = Recipe(learning_rate=1e-3, **changes)
    rate = recipe.rate(steps)
    return np.array([float(rate(step) if callable(rate) else rate) for step in range(steps * recipe.epochs + 1)])


def test_constant_rate_is_constant():
    assert (rates(3, schedule="constant", epochs=2) == 1e-3).all()


def test_cosine_climbs_for_an_epoch_then_falls_to_zero_at_the_last_step():
    found = rates(10, schedule="cosine", epochs=5)
    assert found[0] == pytest.approx(1e-4)
    assert (np.diff(found[:11]) > 0).all()
    assert found[10] == pytest.approx(1e-3)
    assert (np.diff(found[10:]) < 0).all()
    assert found[30] == pytest.approx(0.5e-3)
    assert found[50] == pytest.approx(0, abs=1e-9)


def test_warm_up_may_be_left_out_and_takes_at_most_half_of_a_short_training():
    assert rates(10, schedule="cosine", epochs=2, warmup_epochs=0)[0] == pytest.approx(1e-3)
    assert rates(10, schedule="cosine", epochs=1, warmup_epochs=3).argmax() == 5


def test_weight_decay_spares_biases_and_norms():
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization()])
    optimizer = Recipe(optimizer="adamw", learning_rate=0.1, weight_decay=0.5).make_optimizer(1)
    optimizer.build(network.trainable_variables)
    before = network.get_weights()
    network.set_weights([array + 1 for array in before])
    before = [weight.numpy() for weight in network.trainable_variables]
    optimizer.apply([keras.ops.zeros_like(weight) for weight in network.trainable_variables])
    kernel, *others = [weight.numpy() for weight in network.trainable_variables]
    np.testing.assert_allclose(kernel, before[0] * (1 - 0.1 * 0.5), rtol=1e-5)
    for one, other in zip(others, before[1:], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"level": 4}, "unexpected keyword argument 'level'"), ({"levels": "4"}, "'levels': '4'")],
)
def test_options_that_a_network_does_not_take_are_named(options, words):
    with pytest.raises(ValueError, match=rf"build_unet' cannot be built with network_options .*{words}"):
        Recipe(network_options=options).builder()((32, 32, 5))
