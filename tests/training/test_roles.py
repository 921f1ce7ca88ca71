"""A gate and a segmenter: what each trains on, leaves in its run folder, and is scored with."""

import copy
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from kitlib import contest, postprocess, runs, submission, training
from kitlib.data import inputs, scans
from kitlib.layers import augment, losses
from kitlib.postprocess import intervals
from kitlib.scoring import metric
from kitlib.training import Recipe, evaluate, presets, recipes, resume

SAYS = "presence of the truth"


@pytest.fixture(scope="module")
def tiny():
    """One epoch of a network without attention."""
    options = {"levels": 1, "base": 2, "window_stages": [], "external_bottleneck": False}
    return Recipe(network_options=options, augment=augment.Augment(field=None), epochs=1, batch_size=8)


@pytest.fixture(scope="module")
def pair(slices, packed, held_out, spec, tiny, tmp_path_factory):
    """A finished gate and a finished segmenter."""
    place, same = tmp_path_factory.mktemp("pair"), {"held_out": held_out, "spec": spec, "packed": packed}
    return {
        role: training.fit_fold(slices, place / role, recipe=recipes.with_role(tiny, role), **same)
        for role in ("gate", "segmenter")
    }


@pytest.fixture
def evaluators(slices, packed, held_out, spec, tiny):
    """Evaluators for a network without a role and for a segmenter, and weights that see organs everywhere."""
    recipe = replace(tiny, loss=losses.BCE(), augment=None)
    found = {
        role: evaluate.Evaluator(
            lambda: recipe.builder()(spec.shape), slices[held_out], packed, replace(recipe, role=role)
        )
        for role in ("both", "segmenter")
    }
    weights = [np.zeros_like(weight) for weight in found["both"].network.get_weights()]
    weights[-1] += 3.0  # the bias of the head
    return found, weights


def score(run, slices, gated):
    """The host score of a run's out-of-fold probabilities, with the presence of the truth or without."""
    lines = []
    for name, rows in slices.groupby("scan", sort=False):
        probabilities = run.probabilities(name)
        if gated:
            for slice_, row in enumerate(rows.itertuples()):
                for organ, name in enumerate(contest.ORGANS):
                    if not getattr(row, name):
                        probabilities[slice_, ..., organ] = 0
        restored = inputs.restore(probabilities, (rows["height"].iloc[0], rows["width"].iloc[0]), run.spec)
        lines.append(submission.encode(rows, postprocess.masks(restored, run.settings)))
    return metric.score(scans.rows(slices), pd.concat(lines), slices).value


def test_a_recipe_of_a_role_has_its_slices_loss_and_mixing():
    base = replace(recipes.strong(), empty_share=0.5)
    gate, segmenter = (recipes.with_role(base, role) for role in ("gate", "segmenter"))
    assert (gate.role, gate.empty_share, gate.epochs, gate.patience) == ("gate", 1.0, 30, 30)
    assert gate.made("loss").settings == {"bce_weight": 0.75, "dice_weight": 0.25}
    assert gate.made("augment").chances == {"flip": 0.5, "cutmix": 0.0, "mixup": 0.0}
    assert (segmenter.role, segmenter.empty_share, segmenter.epochs) == ("segmenter", 0.0, 60)
    assert segmenter.made("loss").settings == {"bce": 0.5, "dice": 0.5, "lovasz": 1.0}
    assert segmenter.made("augment").chances == {"flip": 0.5, "cutmix": 1 / 3, "mixup": 1 / 3}
    assert recipes.with_role(replace(base, augment=None), "segmenter").augment is None
    for recipe in (gate, segmenter):
        assert recipe.made("augment").ranges == base.made("augment").ranges
        assert Recipe.from_json(recipe.to_json()) == recipe
    with pytest.raises(ValueError, match="role is 'both'; choose gate or segmenter"):
        recipes.with_role(base, "both")


def test_the_ready_made_pair_has_its_epochs_and_grids():
    gate, segmenter = recipes.gate("convnext-tiny"), recipes.segmenter("convnext-tiny")
    base = recipes.encoder("convnext-tiny")
    for recipe, role, epochs, mixing in ((gate, "gate", 20, 0), (segmenter, "segmenter", 40, 1 / 3)):
        assert (recipe.role, recipe.epochs, recipe.patience) == (role, epochs, epochs)
        assert recipe.made("augment").chances == {"flip": 0.5, "cutmix": mixing, "mixup": mixing}
        same = {name: getattr(base, name) for name in ("role", "epochs", "patience", "loss", "augment", "empty_share")}
        assert replace(recipe, **same) == base
    grids = {role: presets.suited(1, role)[1] for role in ("both", "gate", "segmenter")}
    assert grids == {"both": (256, 384), "gate": (192, 288), "segmenter": (256, 384)}
    assert presets.suited(0, "gate") == presets.suited(0)


def test_a_recipe_without_a_role_is_that_of_one_network():
    record = json.loads(recipes.paper().to_json())
    assert record.pop("role") == "both"
    assert Recipe(**record) == recipes.paper()


def test_a_run_from_before_there_were_roles_still_resumes(pair):
    run = pair["gate"]
    old = run.record | {"recipe": run.record["recipe"] | {"role": "both"}}
    new = copy.deepcopy(old)
    del old["recipe"]["role"]
    assert resume.differences(old, new) == []
    assert resume.differences(old, run.record) == ["role was 'both', now 'gate'"]


def test_a_gate_trains_on_all_slices_and_a_segmenter_on_those_with_masks(pair, slices, held_out, tiny):
    counts = {role: int(run.record["data"]["train"].split()[0]) for role, run in pair.items()}
    kept = slices[~held_out & ~slices["scan"].isin(tiny.leave_out)]
    assert counts == {"gate": len(kept), "segmenter": (scans.organ_count(kept) > 0).sum()}
    assert counts["segmenter"] < counts["gate"]


def test_a_gate_leaves_its_presence_and_a_segmenter_does_not(pair, slices):
    gate = pair["gate"]
    assert (gate.role, pair["segmenter"].role) == ("gate", "segmenter")
    assert not (pair["segmenter"].folder / "presence").exists()  # of role "both": the contract in test_fit.py
    for name in gate.scans:
        presence = gate.presence(name)
        assert presence.shape == ((slices["scan"] == name).sum(), 3)
        np.testing.assert_allclose(presence, intervals.presence(gate.probabilities(name)), atol=0.5 / 255 + 1e-6)
    assert "evaluated_with" not in gate.score() | gate.record


def test_a_segmenter_is_scored_with_the_presence_of_the_truth_and_says_so(pair, evaluators, slices, held_out, tmp_path):
    run = pair["segmenter"]
    assert run.score()["evaluated_with"] == run.record["evaluated_with"] == SAYS
    assert run.score()["score"] == pytest.approx(score(run, slices[held_out], True), abs=1e-9)
    found, weights = evaluators
    written = found["segmenter"].write(weights, tmp_path)
    everywhere = runs.Run(tmp_path, run.record)
    assert everywhere.probabilities(run.scans[0]).min() > 0.9  # as the network gives them, for a gate to choose from
    rows = slices[slices["scan"] == run.scans[0]]
    shown = everywhere.scored(rows) > 0
    assert (shown.any((1, 2)) == (rows[list(contest.ORGANS)] != "")).all(axis=None)
    assert (runs.Run(tmp_path, {}).scored(rows) > 0.9).all()  # a run without a role
    given, alone = (score(everywhere, slices[held_out], gated) for gated in (True, False))
    assert written["score"] == pytest.approx(given, abs=1e-9)
    assert given > alone
    assert found["both"].write(weights, tmp_path)["score"] == pytest.approx(alone, abs=1e-9)


def test_every_figure_of_a_segmenter_takes_the_presence_of_the_truth(evaluators, slices, packed, held_out):
    found, weights = evaluators
    both, segmenter = (evaluator.measure(weights) for evaluator in found.values())
    val, high = slices[held_out], 1 / (1 + np.exp(-3.0))
    truth, present = packed.truth(val), (val[list(contest.ORGANS)] != "").to_numpy()[:, None, None]
    guess = np.where(present, high, 1e-7)
    bce = -(np.log(guess) * truth + np.log(1 - guess) * (1 - truth)).mean()
    assert segmenter["val_loss"] == pytest.approx(bce, rel=1e-3)
    assert both["val_loss"] > bce + 0.5
    for name in ("val_dice", "val_iou", "score", "score_dice"):
        assert segmenter[name] > both[name], name


def test_a_segmenter_that_diverges_is_not_hidden_by_its_empty_slices(evaluators):
    found, weights = evaluators
    measured = found["segmenter"].measure([np.full_like(weight, np.nan) for weight in weights])
    assert np.isnan(measured["val_loss"])


def test_unseen_scans_of_a_segmenter_are_scored_the_same_way(pair, slices):
    run = pair["segmenter"]
    unseen = slices[slices["scan"].isin(run.record["folds"]["held_out"])]
    record = run.record | {"folds": {"train": run.record["folds"]["train"], "held_out": []}}
    found = evaluate.score_unseen(runs.Run(run.folder, record), unseen)
    assert found["evaluated_with"] == SAYS
    assert found["score"] == pytest.approx(run.score()["score"], abs=0.02)


def test_mixing_replaces_the_strength_of_no_other_layer():
    layer = augment.paper(0.5)
    mixed = recipes.with_role(Recipe(augment=layer), "segmenter").made("augment")
    assert mixed.get_config() == layer.get_config() | {"cutmix": 1 / 3, "mixup": 1 / 3}
