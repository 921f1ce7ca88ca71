"""Evaluation of weights on the validation scans, and the score on scans that nothing was chosen on."""

import shutil

import numpy as np
import pytest

from kitlib import runs
from kitlib.data import scans
from kitlib.training import evaluate


@pytest.fixture(scope="module")
def evaluator(slices, packed, held_out, small, spec):
    return evaluate.Evaluator(lambda: small.builder()(spec.shape), slices[held_out], packed, small)


def test_weights_that_are_no_numbers_have_no_score(evaluator):
    measured = evaluator.measure([np.full_like(weight, np.nan) for weight in evaluator.network.get_weights()])
    assert np.isnan([measured["val_loss"], measured["score"], measured["score_hausdorff"]]).all()


def test_score_is_left_out_where_it_is_not_asked_for(evaluator):
    zeros = [np.zeros_like(weight) for weight in evaluator.network.get_weights()]
    measured = evaluator.measure(zeros, score=False)
    assert np.isnan(measured["score"])
    assert np.isfinite(measured["val_loss"])


def test_unseen_scans_are_scored_into_the_run_and_seen_ones_refused(run, slices, held_out, tmp_path):
    shutil.copytree(run.folder, tmp_path / "run")
    folds = run.record["folds"]
    trained = slices[slices["scan"].isin(folds["train"])]
    unseen = trained[trained["case"] == trained.loc[scans.organ_count(trained).idxmax(), "case"]]
    unseen = unseen.reset_index(drop=True)
    kept = [scan for scan in folds["train"] if scan not in set(unseen["scan"])]
    runs.write_record(tmp_path / "run", run.record | {"folds": folds | {"train": kept}})
    copy = runs.read(tmp_path / "run")
    found = evaluate.score_unseen(copy, unseen)
    assert copy.score()["unseen"] == found
    assert copy.score()["score"] == run.score()["score"]
    assert found["scans"] == sorted(unseen["scan"].unique())
    assert 0 <= found["score"] <= 1
    for seen in (slices[held_out], slices[slices["scan"] == kept[0]]):
        with pytest.raises(ValueError, match=f"{seen['scan'].min()} is in the training or validation set of"):
            evaluate.score_unseen(copy, seen)
