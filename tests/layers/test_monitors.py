"""The monitors: streams against one pass, empty masks, weights, and what the paper's accuracy is worth."""

import keras
import numpy as np
import pytest
from keras import ops

from kitlib import contest
from kitlib.layers import losses, monitors

# Three slices of 1 x 4 pixels, three organs.
TRUTH = np.zeros((3, 1, 4, 3), "uint8")
GUESS = np.full((3, 1, 4, 3), 0.1)
TRUTH[0, 0, :2, 0], GUESS[0, 0, 1:4, 0] = 1, 0.9  # organ 0: 1 of 2 true, 3 predicted
TRUTH[1, 0, :4, 0], GUESS[1, 0, :4, 0] = 1, 0.8  # organ 0: perfect
GUESS[2, 0, :1, 1] = 0.6  # organ 1: predicted where it never is; organ 2: never, nowhere


def panel():
    """Dice and IoU, mean and per organ, and both accuracies."""
    overlaps = [kind(organ) for kind in (monitors.Dice, monitors.IoU) for organ in (None, *contest.ORGANS)]
    return [*overlaps, monitors.BinaryAccuracy(), monitors.PaperAccuracy()]


def streamed(monitor, truth, guess, *weight, batch=1):
    for start in range(0, len(truth), batch):
        monitor.update_state(*(x[start : start + batch] for x in (truth, guess, *weight)))
    return float(ops.convert_to_numpy(monitor.result()))


@pytest.mark.parametrize(
    ("settings", "dice", "iou"),
    [
        ({}, np.mean([2 * 5 / 13, 0, 1]), np.mean([5 / 8, 0, 1])),
        ({"empty": "zero"}, np.mean([10 / 13, 0, 0]), np.mean([5 / 8, 0, 0])),
        ({"empty": "skip"}, np.mean([10 / 13, 0]), np.mean([5 / 8, 0])),
        ({"organ": "large_bowel"}, 10 / 13, 5 / 8),
        ({"organ": "stomach"}, 1, 1),
        ({"organ": "stomach", "empty": "zero"}, 0, 0),
        ({"organ": "stomach", "empty": "skip"}, 0, 0),
        ({"threshold": 0.7, "organ": "small_bowel"}, 1, 1),
        ({"per": "slice"}, np.mean([0.4, 1, 1, 1, 1, 1, 1, 0, 1]), np.mean([0.25, 1, 1, 1, 1, 1, 1, 0, 1])),
        ({"per": "slice", "empty": "zero"}, 1.4 / 9, 1.25 / 9),
        ({"per": "slice", "empty": "skip"}, np.mean([1.4 / 2, 0]), np.mean([1.25 / 2, 0])),
    ],
)
def test_overlaps_by_hand(settings, dice, iou):
    for kind, expected in ((monitors.Dice, dice), (monitors.IoU, iou)):
        for batch in (1, 2, 3):
            assert streamed(kind(**settings), TRUTH, GUESS, batch=batch) == pytest.approx(expected)


@pytest.mark.parametrize("per", ["stream", "slice"])
@pytest.mark.parametrize("empty", ["one", "zero", "skip"])
def test_an_untouched_or_empty_stream_has_a_stated_value(per, empty):
    monitor = monitors.Dice(per=per, empty=empty)
    expected = 1.0 if empty == "one" else 0.0
    nothing = np.zeros((2, 3, 5, 3))
    assert streamed(monitor, nothing, nothing) == expected
    monitor.reset_state()
    assert float(ops.convert_to_numpy(monitor.result())) == (0.0 if per == "slice" and empty == "zero" else expected)


@pytest.mark.parametrize("monitor", [*panel(), monitors.Dice(per="slice", empty="skip", name="paper")])
def test_streams_and_weights_agree_with_one_pass(monitor):
    rng = np.random.default_rng(0)
    truth, guess = (rng.random((6, 5, 7, 3)) > 0.7).astype("uint8"), rng.random((6, 5, 7, 3))
    whole = streamed(monitor, truth, guess, batch=6)
    monitor.reset_state()
    assert streamed(monitor, truth, guess, batch=2) == pytest.approx(whole, rel=1e-5)
    monitor.reset_state()
    pad = np.concatenate([truth, 1 - truth]), np.concatenate([guess, guess]), np.repeat([1.0, 0.0], 6)
    assert streamed(monitor, *pad, batch=4) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("monitor", [*panel(), monitors.IoU("stomach", 0.3, "slice", "skip")])
def test_a_monitor_comes_back_from_its_configuration(monitor):
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(monitor))
    assert type(twin) is type(monitor)
    assert twin.get_config() == monitor.get_config()
    assert streamed(twin, TRUTH, GUESS) == streamed(type(monitor).from_config(monitor.get_config()), TRUTH, GUESS)


def test_names_tell_organs_apart():
    names = [monitor.name for monitor in panel()]
    assert len(set(names)) == len(names) == 10
    assert monitors.IoU("stomach").name == "iou_stomach"


@pytest.mark.parametrize("wrong", [{"organ": "liver"}, {"per": "scan"}, {"empty": "nan"}])
def test_unknown_choices_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong.values()))):
        monitors.Dice(**wrong)


def test_binary_accuracy_counts_pixels_and_organs():
    assert streamed(monitors.BinaryAccuracy(), TRUTH, GUESS) == pytest.approx(1 - 4 / 36)


def test_the_papers_accuracy_compares_noise_on_background():
    """Perfect masks, one background channel raised by a thousandth: nothing else notices."""
    truth = np.zeros((1, 10, 10, 3), "float32")
    truth[0, :3, :2, 0] = 1
    guess = truth.copy()
    assert streamed(monitors.PaperAccuracy(), truth, guess) == 1
    guess[..., 1] += 0.001 * (truth.sum(-1) == 0)
    assert streamed(monitors.PaperAccuracy(), truth, guess) == pytest.approx(0.06)
    assert streamed(monitors.BinaryAccuracy(), truth, guess) == 1
    assert streamed(monitors.Dice(), truth, guess) == 1


def test_monitors_work_in_compile():
    model = keras.Sequential([keras.Input((4, 6, 3)), keras.layers.Conv2D(3, 1, activation="sigmoid")])
    model.compile("adam", losses.BCE(), weighted_metrics=panel())
    x = np.random.default_rng(0).normal(size=(4, 4, 6, 3)).astype("float32")
    logs = model.fit(
        x, (x > 0).astype("uint8"), sample_weight=np.array([1.0, 1, 1, 0]), batch_size=2, verbose=0
    ).history
    assert {"dice", "iou", *(f"dice_{organ}" for organ in contest.ORGANS), "paper_accuracy"} <= set(logs)
    model.reset_metrics()
    found = model.evaluate(x[:3], (x[:3] > 0).astype("uint8"), batch_size=3, verbose=0, return_dict=True)
    guess = ops.convert_to_numpy(model(x[:3])) > 0.5
    both, total = (guess & (x[:3] > 0)).sum((0, 1, 2)), guess.sum((0, 1, 2)) + (x[:3] > 0).sum((0, 1, 2))
    assert found["dice"] == pytest.approx((2 * both / total).mean(), rel=1e-5)
