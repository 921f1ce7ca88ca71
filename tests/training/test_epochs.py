"""The rules between two epochs, with a judge whose verdicts are written down beforehand."""

import time
import types
from datetime import datetime, timedelta

import keras
import numpy as np
import pandas as pd
import pytest

from kitlib import inference, runs, training
from kitlib.data import folds, pipeline, scans
from kitlib.data.inputs import InputSpec
from kitlib.models import unet
from kitlib.training import budget, checkpoints, epochs, evaluate

NAN = float("nan")


class Verdicts:
    """A judge that gives one score after the other, and NaN where none is asked for."""

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


def train(folder, verdicts, spend=None, **rules):
    """Run the epochs that the rules allow; in epoch e the network's weight is e."""
    model = dense()
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    rules = epochs.Rules(**{"epochs": len(verdicts.scores), **rules})
    end = epochs.EpochEnd(folder, model, verdicts, rules, spend or budget.Budget(), images=10)
    end.set_model(model)
    end.resume(model)
    model.stop_training = False
    for epoch in range(end.state.epoch, rules.epochs):
        end.on_epoch_begin(epoch)
        model.set_weights([np.full((1, 1), epoch + 1.0)])
        end.on_train_batch_end(0)
        end.on_epoch_end(epoch, {"loss": 0.5, "dice": 0.1, "iou": 0.1})
        if model.stop_training:
            break
    return end


def test_best_epoch_is_that_of_the_score_and_its_weights_are_kept(tmp_path):
    end = train(tmp_path, Verdicts([0.1, 0.7, 0.6, 0.5], losses=[4.0, 3.0, 2.0, 1.0]))
    weights, source = end.best_weights()
    assert source == "epoch 2"
    assert weights[0].item() == 2.0
    assert end.state.ended == "epochs"
    assert pd.read_csv(tmp_path / "history.csv")["score"].tolist() == [0.1, 0.7, 0.6, 0.5]


def test_another_monitor_chooses_another_epoch(tmp_path):
    verdicts = Verdicts([0.1, 0.7, 0.6], losses=[3.0, 2.0, 1.0])
    assert train(tmp_path, verdicts, monitor="val_loss").state.best_epoch == 3


def test_loss_decides_between_equal_scores(tmp_path):
    end = train(tmp_path, Verdicts([0.0, 0.0, 0.0], losses=[3.0, 1.0, 2.0]))
    assert end.state.best_epoch == 2


def test_scores_that_are_not_there_never_beat_one_that_is(tmp_path):
    assert train(tmp_path / "a", Verdicts([NAN, 0.1, NAN])).state.best_epoch == 2
    assert train(tmp_path / "b", Verdicts([NAN, NAN], losses=[2.0, 1.0])).state.best_epoch == 2


@pytest.mark.parametrize(("score_every", "last"), [(1, 5), (2, 6), (3, 6)])
def test_patience_counts_epochs_and_ends_at_the_first_score_after_it(tmp_path, score_every, last):
    scores = [0.1, 0.9, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    verdicts = Verdicts(scores, losses=[2.0, 1.0, 1.0] + [3.0] * 6)
    end = train(tmp_path, verdicts, patience=3, score_every=score_every)
    assert end.state.ended == "patience"
    assert end.state.epoch == last
    assert [epoch + 1 for epoch, asked in enumerate(verdicts.asked) if asked] == list(
        range(score_every, last + 1, score_every)
    )


def test_last_epoch_is_scored_whatever_the_interval(tmp_path):
    verdicts = Verdicts([0.1] * 5)
    train(tmp_path, verdicts, score_every=3)
    assert verdicts.asked == [False, False, True, False, True]


@pytest.mark.parametrize(("of_mean", "source", "weight"), [(0.8, "mean of the last 3", 4.0), (0.4, "epoch 4", 4.0)])
def test_mean_of_the_last_epochs_is_kept_where_it_is_better(tmp_path, of_mean, source, weight):
    verdicts = Verdicts([0.1, 0.2, 0.3, 0.6, 0.5])
    end = train(tmp_path, verdicts, average_last=3)
    verdicts.scores.append(of_mean)
    weights, found = end.best_weights()
    assert found == source
    assert weights[0].item() == weight


def test_time_that_is_up_ends_between_epochs_and_the_next_call_goes_on(tmp_path):
    spend = budget.Budget(100.0)
    spend.fits = lambda trained=None: len(spend.epochs) < 2
    end = train(tmp_path, Verdicts([0.1, 0.9, 0.8, 0.7, 0.6]), spend, average_last=4)
    assert (end.state.epoch, end.state.ended) == (2, "")
    later = Verdicts([0.1, 0.9, 0.8, 0.7, 0.6])
    later.asked = [True, True]
    again = train(tmp_path, later, average_last=4)
    assert (again.state.epoch, again.state.best_epoch, again.state.ended) == (5, 2, "epochs")
    assert again.mean[0].item() == pytest.approx(np.mean([2, 3, 4, 5]))
    assert pd.read_csv(tmp_path / "history.csv")["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == ["best-0002.weights.h5", "epoch-0005"]


def test_epoch_that_runs_out_of_time_is_given_up(tmp_path):
    spend = budget.Budget(-1.0)
    end = train(tmp_path, Verdicts([0.1, 0.2]), spend)
    assert end.abandoned
    assert end.state == checkpoints.State()
    assert end.best_weights()[1] == "unfinished epoch"


def test_budget_takes_the_earlier_end_and_plans_for_the_closing():
    assert budget.Budget().left() == float("inf")
    assert budget.Budget(50.0, datetime.now() + timedelta(seconds=1000)).left() == pytest.approx(50, abs=1)
    assert budget.Budget(5000.0, time.time() + 20).left() == pytest.approx(20, abs=1)
    spend = budget.Budget(100.0)
    spend.note(900.0, 1.0)
    assert not spend.fits()
    for _ in range(3):
        spend.note(50.0, 8.0)
    assert spend.closing() == 3 * 8.0 + budget.CLOSING_SECONDS
    assert spend.fits()  # 55 for the epoch, 8 for its judging, 29 for the closing
    assert not spend.fits(50.0)  # with one more judging before
    assert not spend.over()
    spend.closed = 70.0
    assert not spend.fits()
    assert not spend.over()
    spend.closed = 90.0
    assert spend.over()


def test_a_training_among_others_is_worth_two_of_their_slowest_epochs_and_a_finished_one_is_always_read(tmp_path):
    new, begun = tmp_path / "new", tmp_path / "begun"
    assert not budget.Budget(budget.CLOSING_SECONDS - 1).worth_beginning(new)
    assert budget.Budget(budget.CLOSING_SECONDS + 9).worth_beginning(new)
    runs.write_record(begun, {"state": "stopped"})
    runs.write_history(begun, [{"epoch": 1, "seconds": 100.0}, {"epoch": 2, "seconds": 30.0}])
    for folder in (new, begun):
        assert not budget.Budget(190.0).worth_beginning(folder, [new, begun])
        assert budget.Budget(210.0).worth_beginning(folder, [new, begun])
        assert budget.Budget().worth_beginning(folder, [new, begun])
    runs.write_record(begun, {"state": "finished"})
    assert budget.Budget(-1.0).worth_beginning(begun, [new, begun])


def test_resumed_training_knows_what_judging_takes(tmp_path):
    spend = budget.Budget()
    spend.fits = lambda trained=None: not spend.epochs
    end = train(tmp_path, Verdicts([0.1, 0.2, 0.3]), spend)
    assert end.state.epoch == 1
    took = checkpoints.read_state(end.place).judging
    assert 0 < took <= spend.judging
    again = budget.Budget(-1.0)
    train(tmp_path, Verdicts([0.1, 0.2, 0.3]), again)
    assert again.judging == took


def test_a_judging_without_a_score_does_not_tell_a_resumed_training_what_the_closing_takes(tmp_path):
    spend = budget.Budget()
    spend.fits = lambda trained=None: trained is not None
    verdicts = Verdicts([0.1, 0.2, 0.3])
    assert train(tmp_path, verdicts, spend, score_every=3).state.epoch == 1
    assert verdicts.asked == [False]
    again = budget.Budget(-1.0)
    train(tmp_path, Verdicts([0.1, 0.2, 0.3]), again, score_every=3)
    assert again.judging == 0, "so that it is rehearsed"


def test_resumed_training_counts_the_judging_of_an_epoch_once(tmp_path):
    end = train(tmp_path, Verdicts([0.1]))
    state = checkpoints.read_state(end.place)
    state.judging = 20.0
    for epoch, (rate, seconds) in enumerate([(0.1, 120.0), (0.0, 150.0)]):  # 10 images in 100 s; too slow to tell
        state.history = [*state.history[:epoch], state.history[0] | {"images_per_second": rate, "seconds": seconds}]
    checkpoints.save(end.place, end.model, state)
    spend = budget.Budget()
    train(tmp_path, Verdicts([0.1]), spend)
    assert (spend.epochs, spend.judging) == (pytest.approx([100.0, 150.0]), 20.0)


def test_last_epoch_before_the_time_is_up_is_scored(tmp_path):
    spend = budget.Budget(100.0)
    spend.fits = lambda trained=None: len(spend.epochs) + (trained is not None) < 3
    verdicts = Verdicts([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], losses=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    end = train(tmp_path, verdicts, spend, score_every=5)
    assert verdicts.asked == [False, False, True]
    assert end.best_weights()[1] == "epoch 3"


@pytest.mark.parametrize("monitor", ["score", "val_loss"])
def test_loss_that_is_not_finite_ends_the_training_with_the_best_weights_before(tmp_path, monitor):
    verdicts = Verdicts([0.1, 0.7, NAN, 0.8], losses=[2.0, 1.0, NAN, 0.5])
    end = train(tmp_path, verdicts, monitor=monitor)
    assert (end.state.epoch, end.state.ended) == (3, "not finite")
    assert end.best_weights()[1] == "epoch 2"
    assert "learning_rate" in epochs.lost(NAN, 3)


def test_loss_that_was_never_finite_leaves_nothing_to_keep(tmp_path):
    with pytest.raises(FloatingPointError, match=r"is nan after epoch 1: try a lower learning_rate.*nothing to keep"):
        train(tmp_path, Verdicts([NAN, 0.1], losses=[NAN, 1.0]))


def test_wrong_rules_are_explained():
    with pytest.raises(ValueError, match="patience is 0"):
        epochs.Rules(epochs=3, patience=0)
    with pytest.raises(ValueError, match="'loss' is not one of score"):
        epochs.Rules(epochs=3, monitor="loss")


@pytest.mark.slow
def test_training_out_of_its_budget_leaves_a_model_that_loads_and_a_run_that_goes_on(slices, tmp_path):
    spec = InputSpec(32, 32, depth=3)
    options = {
        "held_out": slices["case"] == slices["case"].iloc[0],
        "spec": spec,
        "packed": pipeline.pack(slices, spec),
        "network_options": {"levels": 1, "base": 2} | unet.NO_ATTENTION,
        "epochs": 2,
        "batch_size": 4,
        "average": 0.5,
    }
    stopped = training.fit_fold(slices, tmp_path / "run", time_limit=0.001, **options)
    assert stopped.state == "stopped"
    assert stopped.record["best_weights"] == "unfinished epoch"
    assert inference.load(stopped.folder).output_shape[1:] == (32, 32, 3)
    assert set(stopped.scans) == set(slices.loc[options["held_out"], "scan"])
    assert [run.state for run in runs.find(tmp_path)] == ["stopped"]
    ended = training.fit_fold(slices, tmp_path / "run", **options)
    assert ended.state == "finished"
    assert len(ended.history()) == 2
    assert ended.record["wall_seconds"] > stopped.record["wall_seconds"]


@pytest.mark.slow
def test_training_that_runs_out_of_time_after_an_epoch_leaves_its_best_model(slices, tmp_path, monkeypatch):
    """By a clock that only these lines move: epochs of 100 s, judgings of 20, a closing of 40, and 460 s in all."""
    clock = types.SimpleNamespace(now=1000.0)
    monkeypatch.setattr(budget, "time", types.SimpleNamespace(time=lambda: clock.now))
    monkeypatch.setattr(epochs, "time", types.SimpleNamespace(perf_counter=lambda: clock.now))

    def slow(owner, name, seconds):
        plain = getattr(owner, name)

        def call(*arguments, **named):
            clock.now += seconds
            return plain(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    slow(evaluate.Judge, "measure", 20.0)
    slow(evaluate.Judge, "write", 40.0)
    monkeypatch.setattr(evaluate.Judge, "rehearse", lambda self: 20.0)
    begin = epochs.EpochEnd.on_epoch_begin

    def slow_epoch(self, epoch, logs=None):
        begin(self, epoch, logs)
        clock.now += 100.0

    monkeypatch.setattr(epochs.EpochEnd, "on_epoch_begin", slow_epoch)
    spec = InputSpec(32, 32, depth=3)
    options = {
        "held_out": slices["case"] == slices["case"].iloc[0],
        "spec": spec,
        "network_options": {"levels": 1, "base": 2, "window_stages": (), "external_bottleneck": False},
        "epochs": 9,
        "batch_size": 8,
        "monitor": "val_loss",
        "learning_rate": 0.01,
        "score_every": 5,
    }
    run = training.fit_fold(slices, tmp_path, time_limit=460.0, **options)
    history = run.history()
    assert history["epoch"].tolist() == [1, 2, 3]  # 360 s; a fourth and what follows might take until 555
    assert history["score"].notna().tolist() == [False, False, True]
    assert clock.now - 1000.0 == 3 * 120 + 40 < 460
    best = int(history["val_loss"].idxmin()) + 1
    assert (run.state, run.record["ended_by"]) == ("stopped", "time limit")
    assert (run.record["best_epoch"], run.record["best_weights"]) == (best, f"epoch {best}")
    saved = checkpoints.best_path(tmp_path / "checkpoint", best)
    network = inference.load(tmp_path)
    weights = network.get_weights()
    network.load_weights(saved)
    for one, other in zip(weights, network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert run.score()["score"] >= 0


def test_pixels_and_masks_of_held_out_scans_never_reach_what_is_learned_from(slices, tmp_path):
    """Normalisation is per scan: training batches are the same to the bit when the held-out scans are noise."""
    import cv2

    spec, held_out = InputSpec(32, 32, depth=3), slices["case"] == slices["case"].iloc[0]
    spoiled = slices.copy()
    noise = np.random.default_rng(0)
    for row in slices[held_out].itertuples():
        path = tmp_path / f"{row.id}.png"
        cv2.imwrite(str(path), noise.integers(0, 65535, (row.height, row.width), dtype=np.uint16))
        spoiled.loc[row.Index, ["path", *training.contest.ORGANS]] = [str(path), "1 5", "", "7 9"]
    sets = []
    for table in (slices, spoiled):
        learn, _ = folds.split(table, held_out)
        assert not set(learn["case"]) & set(table.loc[held_out, "case"])
        packed = pipeline.pack(table, spec)
        batches = pipeline.dataset(learn, spec, 4, True, packed=packed).take(pipeline.steps(learn, 4))
        sets.append(list(batches.as_numpy_iterator()))
    assert (scans.organ_count(spoiled[held_out]) == 2).all()
    for one, other in zip(*sets, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_watchers_get_the_figures_of_each_epoch(tmp_path):
    logs = {"loss": 0.5, "dice": 0.1, "iou": 0.1}
    end = train(tmp_path, Verdicts([0.25]))
    end.rules = epochs.Rules(epochs=9)
    end.judge = Verdicts([0.25])
    end.on_epoch_end(4, logs)
    assert {"val_loss", "score", "images_per_second", "best", "seconds_left"} <= set(logs)
    assert logs["score"] == 0.25
