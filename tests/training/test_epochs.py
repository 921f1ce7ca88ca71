"""The rules between two epochs, with an evaluator whose figures are written down beforehand."""

import time
import types

import keras
import numpy as np
import pandas as pd
import pytest

from kitlib import inference, training
from kitlib.training import Recipe, budget, epochs, evaluate, resume, step

NAN = float("nan")


class Figures:
    """An evaluator that gives one score after the other, and NaN where none is asked for."""

    def __init__(self, scores, losses=None):
        self.scores, self.losses, self.network, self.asked = list(scores), losses, dense(), []

    def measure(self, weights, score=True):
        self.network.set_weights(weights)
        epoch = len(self.asked)
        self.asked.append(score)
        loss = self.losses[epoch] if self.losses else 1.0
        value = self.scores[epoch] if score else NAN
        row = {"val_loss": loss, "val_dice": 0.0, "val_iou": 0.0}
        return row | {"score": value, "score_dice": value, "score_hausdorff": value}


def dense():
    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])


class Stops(budget.Budget):
    """A budget for so many epochs."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs, self.notes = epochs, 0

    def note(self, epoch, evaluation=0.0):
        super().note(epoch, evaluation)
        self.notes += 1  # before and after each evaluation

    def fits(self, pending=0.0):
        return (self.notes + 1) // 2 < self.epochs


def train(folder, figures, spend=None, **changes):
    """Run the epochs that the recipe allows; in epoch e the network's weight is e."""
    network = dense()
    model = step.AugmentedModel(network)
    model.compile("sgd", "mse")
    model.built = True
    model.optimizer.build(model.trainable_variables)
    recipe = Recipe(**{"epochs": len(figures.scores), **changes})
    end = epochs.EpochEnd(folder, network, figures, recipe, spend or budget.Budget(), images=10)
    end.set_model(model)
    end.resume(model)
    model.stop_training = False
    for epoch in range(end.state.epoch, recipe.epochs):
        end.on_epoch_begin(epoch)
        network.set_weights([np.full((1, 1), epoch + 1.0)])
        end.on_train_batch_end(0)
        end.on_epoch_end(epoch, {"loss": 0.5, "dice": 0.1, "iou": 0.1})
        if model.stop_training:
            break
    return end


def test_best_epoch_is_that_of_the_score_and_its_weights_are_kept(tmp_path):
    end = train(tmp_path, Figures([0.1, 0.7, 0.6, 0.5], losses=[4.0, 3.0, 2.0, 1.0]))
    weights, source = end.best_weights()
    assert source == "epoch 2"
    assert weights[0].item() == 2.0
    assert end.state.ended == "epochs"
    assert pd.read_csv(tmp_path / "history.csv")["score"].tolist() == [0.1, 0.7, 0.6, 0.5]


def test_another_monitor_chooses_another_epoch(tmp_path):
    figures = Figures([0.1, 0.7, 0.6], losses=[3.0, 2.0, 1.0])
    assert train(tmp_path, figures, monitor="val_loss").state.best_epoch == 3


def test_loss_decides_between_equal_scores(tmp_path):
    end = train(tmp_path, Figures([0.0, 0.0, 0.0], losses=[3.0, 1.0, 2.0]))
    assert end.state.best_epoch == 2


def test_scores_that_are_not_there_never_beat_one_that_is(tmp_path):
    assert train(tmp_path / "a", Figures([NAN, 0.1, NAN])).state.best_epoch == 2
    assert train(tmp_path / "b", Figures([NAN, NAN], losses=[2.0, 1.0])).state.best_epoch == 2


@pytest.mark.parametrize(("score_every", "last"), [(1, 5), (2, 6), (3, 6)])
def test_patience_counts_epochs_and_ends_at_the_first_score_after_it(tmp_path, score_every, last):
    scores = [0.1, 0.9, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    figures = Figures(scores, losses=[2.0, 1.0, 1.0] + [3.0] * 6)
    end = train(tmp_path, figures, patience=3, score_every=score_every)
    assert end.state.ended == "patience"
    assert end.state.epoch == last
    assert [epoch + 1 for epoch, asked in enumerate(figures.asked) if asked] == list(
        range(score_every, last + 1, score_every)
    )


def test_last_epoch_is_scored_whatever_the_interval(tmp_path):
    figures = Figures([0.1] * 5)
    train(tmp_path, figures, score_every=3)
    assert figures.asked == [False, False, True, False, True]


@pytest.mark.parametrize(("of_mean", "source", "weight"), [(0.8, "mean of the last 3", 4.0), (0.4, "epoch 4", 4.0)])
def test_mean_of_the_last_epochs_is_kept_where_it_is_better(tmp_path, of_mean, source, weight):
    figures = Figures([0.1, 0.2, 0.3, 0.6, 0.5])
    end = train(tmp_path, figures, average_last=3)
    figures.scores.append(of_mean)
    weights, found = end.best_weights()
    assert found == source
    assert weights[0].item() == weight


def test_time_that_is_up_ends_between_epochs_and_the_next_call_goes_on(tmp_path):
    end = train(tmp_path, Figures([0.1, 0.9, 0.8, 0.7, 0.6]), Stops(2), average_last=4)
    assert (end.state.epoch, end.state.ended) == (2, "")
    later = Figures([0.1, 0.9, 0.8, 0.7, 0.6])
    later.asked = [True, True]
    again = train(tmp_path, later, average_last=4)
    assert (again.state.epoch, again.state.best_epoch, again.state.ended) == (5, 2, "epochs")
    assert again.mean[0].item() == pytest.approx(np.mean([2, 3, 4, 5]))
    assert pd.read_csv(tmp_path / "history.csv")["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == ["best-0002.weights.h5", "epoch-0005"]


def test_epoch_that_runs_out_of_time_is_given_up(tmp_path):
    end = train(tmp_path, Figures([0.1, 0.2]), budget.Budget(time.time() - 1))
    assert end.abandoned
    assert end.state == resume.State()
    assert end.best_weights()[1] == "unfinished epoch"


def test_resumed_training_knows_how_long_epochs_and_evaluations_take(tmp_path):
    spend = Stops(1)
    end = train(tmp_path, Figures([0.1, 0.2, 0.3]), spend)
    assert end.state.epoch == 1
    took = resume.read_state(end.checkpoints).evaluation
    assert 0 < took <= spend.evaluation
    again = budget.Budget(time.time() - 1)
    train(tmp_path, Figures([0.1, 0.2, 0.3]), again)
    assert (again.epoch, again.evaluation) == (end.state.history[0]["seconds"], took)


def test_last_epoch_before_the_time_is_up_is_scored(tmp_path):
    spend = Stops(3)
    figures = Figures([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], losses=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    end = train(tmp_path, figures, spend, score_every=5)
    assert figures.asked == [False, False, True]
    assert end.best_weights()[1] == "epoch 3"


@pytest.mark.parametrize("monitor", ["score", "val_loss"])
def test_loss_that_is_not_finite_ends_the_training_with_the_best_weights_before(tmp_path, monitor):
    figures = Figures([0.1, 0.7, NAN, 0.8], losses=[2.0, 1.0, NAN, 0.5])
    end = train(tmp_path, figures, monitor=monitor)
    assert (end.state.epoch, end.state.ended) == (3, "not finite")
    assert end.best_weights()[1] == "epoch 2"
    assert "learning_rate" in epochs.diverged(NAN, 3)


def test_loss_that_was_never_finite_leaves_nothing_to_keep(tmp_path):
    with pytest.raises(FloatingPointError, match=r"validation loss is nan after epoch 1: try a lower learning_rate"):
        train(tmp_path, Figures([NAN, 0.1], losses=[NAN, 1.0]))


@pytest.mark.slow
def test_training_that_runs_out_of_time_after_an_epoch_leaves_its_best_model(
    slices, packed, held_out, spec, tmp_path, monkeypatch
):
    """By a clock that only these lines move: epochs of 100 s and evaluations of 20, a closing of 40, 640 s in all."""
    clock = types.SimpleNamespace(now=1000.0)
    monkeypatch.setattr(budget, "time", types.SimpleNamespace(time=lambda: clock.now))
    monkeypatch.setattr(epochs, "time", types.SimpleNamespace(perf_counter=lambda: clock.now))

    def slow(owner, name, seconds):
        plain = getattr(owner, name)

        def call(*arguments, **named):
            clock.now += seconds
            return plain(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    slow(evaluate.Evaluator, "measure", 20.0)
    slow(evaluate.Evaluator, "write", 40.0)
    begin = epochs.EpochEnd.on_epoch_begin

    def slow_epoch(self, epoch, logs=None):
        begin(self, epoch, logs)
        clock.now += 100.0

    monkeypatch.setattr(epochs.EpochEnd, "on_epoch_begin", slow_epoch)
    recipe = training.Recipe(
        network_options={"levels": 1, "base": 2, "window_stages": (), "external_bottleneck": False},
        epochs=9,
        batch_size=8,
        monitor="val_loss",
        learning_rate=0.01,
        score_every=5,
    )
    run = training.fit_fold(
        slices, tmp_path, held_out=held_out, spec=spec, packed=packed, recipe=recipe, deadline=1640.0
    )
    history = run.history()
    assert history["epoch"].tolist() == [1, 2, 3]  # 360 s; twice an epoch of 120 and the closing might take until 645
    assert history["score"].notna().tolist() == [False, False, True]
    assert clock.now - 1000.0 == 3 * 120 + 40 < 640
    best = int(history["val_loss"].idxmin()) + 1
    assert (run.state, run.record["ended_by"]) == ("stopped", "time limit")
    assert (run.record["best_epoch"], run.record["best_weights"]) == (best, f"epoch {best}")
    network = inference.load(tmp_path)
    weights = network.get_weights()
    network.load_weights(resume.best_path(tmp_path / "checkpoint", best))
    for one, other in zip(weights, network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert run.score()["score"] >= 0


def test_watchers_get_the_figures_of_each_epoch(tmp_path):
    logs = {"loss": 0.5, "dice": 0.1, "iou": 0.1}
    end = train(tmp_path, Figures([0.25]))
    end.recipe = Recipe(epochs=9)
    end.evaluator = Figures([0.25])
    end.on_epoch_end(4, logs)
    assert {"val_loss", "score", "images_per_second", "best", "seconds_left"} <= set(logs)
    assert logs["score"] == 0.25
