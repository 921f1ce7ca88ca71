"""Trials and their tables, from run folders that were not trained."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kitlib import runs, session
from kitlib.data import inputs
from kitlib.figures import paper
from kitlib.paper import evidence, experiments, published
from kitlib.training import recipes

ROOT = Path(__file__).parents[2]
SPEC = inputs.InputSpec(32, 32)


def test_trainings_that_tables_share_are_run_once():
    names = [trial.name for trial in experiments.trials()]
    assert len(names) == len(set(names)) == 13
    assert names[0] == experiments.BASE
    assert [trial.name for trial in experiments.trials(["levels"])] == [experiments.BASE, "5 levels"]
    assert [trial.name for trial in experiments.trials([])] == [experiments.BASE]
    with pytest.raises(ValueError, match="unknown comparison 'colours'"):
        experiments.trials(["colours"])


def listed(folder, slices, trials, seeds=(0,), form=experiments.SHORT):
    return experiments.tasks(folder, trials, seeds, slices["case"] == 1, SPEC, form.recipe())


def test_rows_differ_from_the_base_in_one_thing(slices, tmp_path):
    jobs = listed(tmp_path, slices, experiments.trials(), [0, 1])
    assert len({job.folder for job in jobs}) == len(jobs) == 26
    base = next(job for job in jobs if job.name == experiments.BASE)
    for job in jobs[:13]:
        apart = {name for name, value in vars(job.recipe).items() if value != getattr(base.recipe, name)}
        apart |= {"spec"} if job.spec != base.spec else set()
        several = {"one slice, 3 copies": {"network", "spec"}, experiments.FIRST: {"loss", "augment", "patience"}}
        assert apart == several.get(job.name, apart)
        assert len(apart) <= 1 or job.name in several
        assert job.recipe.network_options["base"] == 4
    assert next(job for job in jobs if job.name == "5 levels").recipe.network_options["levels"] == 5


def test_every_network_of_a_trial_can_be_imported():
    for trial in experiments.TRIALS.values():
        assert callable(replace(experiments.SHORT.recipe(), **trial.changes).builder())


def test_first_training_of_the_paper_is_its_recipe_and_carries_the_numbers_of_figure_7(slices, tmp_path):
    job = listed(tmp_path, slices, [experiments.TRIALS[experiments.FIRST]], form=experiments.LONG)[0]
    own = vars(recipes.paper_first()) | {
        name: getattr(job.recipe, name) for name in ("monitor", "score_every", "metrics")
    }
    assert vars(job.recipe) == own
    rows = published.cells("augmentation").set_index(["row", "column"])["value"]
    assert rows[(experiments.FIRST, "Dice")] == 0.5
    assert set(rows.index.get_level_values("row")) <= set(experiments.SETS["augmentation"])
    assert "without" not in rows.index.get_level_values("row")


def test_runs_are_grouped_by_trial_and_those_without_a_finished_epoch_are_in_no_table(
    packed, slices, tmp_path, monkeypatch, make_run
):
    def fit(table, folder, *, packed, recipe, earlier, **options):
        assert earlier == ["an earlier session"]
        run = make_run(folder, packed, recipe.seed)
        if folder.parent.name == "one-slice-3-copies":
            (folder / "history.csv").write_text("", encoding="utf-8")
            runs.write_record(folder, run.record | {"state": "stopped"})
        if folder.parent.name == "1-slice":
            raise FloatingPointError(f"{folder}: the loss is nan")
        return runs.read(folder)

    monkeypatch.setattr("kitlib.training.jobs.fit_fold", fit)
    jobs = listed(tmp_path, slices, experiments.trials(["neighbours"]), [0, 1])
    trained = experiments.run(slices, jobs, packed, earlier=["an earlier session"])
    assert {name: len(members) for name, members in trained.items()} == {experiments.BASE: 2, "3 slices": 2}
    table = experiments.table(trained, experiments.SETS["neighbours"])
    assert experiments.ahead(table, "5 slices", "1 slice") == "5 slices - 1 slice: 1 slice not trained yet"
    assert len(paper.curves(experiments.histories(trained, experiments.SETS["neighbours"])).axes) == 6


def test_measures_are_taken_at_their_best_and_at_the_lowest_loss(trained):
    line = experiments.measures_per_run(trained).set_index(["trial", "seed"]).loc[(experiments.BASE, 0)]
    assert (line["best epoch"], line["Dice"], line["Dice at"]) == (2, 0.6, 0.6)
    assert line["IoU"] == pytest.approx(0.6)
    assert line["IoU at"] == pytest.approx(0.45)


def test_interval_pools_the_spread_over_the_rows(trained):
    table = experiments.table(trained, {"a": "BCE", "b": experiments.BASE})
    assert table.at["a", "Dice"] == pytest.approx(0.35)
    spread = np.sqrt((2 * 0.05**2 + 2 * 0.05**2) / 2)  # by hand: each seed is .05 off its row's mean, two degrees
    assert table.at["b", "Dice +-"] == pytest.approx(4.302653 * spread / np.sqrt(2), rel=1e-6)
    assert "b is ahead of a by 0.300 in Dice" in experiments.ahead(table, "b", "a")


def test_one_seed_has_no_interval(trained):
    single = {name: members[:1] for name, members in trained.items()}
    table = experiments.table(single, {name: name for name in single})
    assert np.isnan(table.at["BCE", "Dice +-"])
    assert "one seed cannot show" in experiments.ahead(table, "BCE", experiments.BASE)


def test_a_gain_that_is_missing_is_explained_by_what_was_measured(trained):
    text = experiments.why(trained, "BCE", experiments.BASE)
    assert "Not as in the paper: BCE - BCE + 0.5 Dice is -0.300" in text
    assert "still changes by +0.050 (BCE) and +0.050 (BCE + 0.5 Dice)" in text
    assert "more seeds are needed" in text
    clear = {name: [members[0], members[0]] for name, members in trained.items()}
    assert experiments.why(clear, experiments.BASE, "BCE").startswith("As in the paper")


def test_pictures_take_what_the_tables_give(trained, packed, slices):
    labels = experiments.SETS["losses"]
    curves = experiments.histories(trained, labels)
    assert len(paper.curves(curves).axes) == 6
    assert len(paper.together(curves, {"val_dice": "Dice"}).axes) == 1
    paper.beside_paper(experiments.table(trained, labels), published.cells("losses"))
    paper.border_by_loss(evidence.border_bias(trained, slices, (0.5,)))
    assert experiments.gap(curves).startswith("Dice of training - validation in the last epoch: BCE ")


def test_three_copies_of_a_slice_are_its_own_network():
    network = experiments.copied_slice((32, 32, 1), levels=2, base=4)
    images = np.random.default_rng(0).random((2, 32, 32, 1), np.float32)
    inside = network.layers[-1]
    np.testing.assert_allclose(network(images), inside(np.repeat(images, 3, -1)), atol=1e-6)


def test_the_long_form_is_the_papers(slices, tmp_path):
    job = listed(tmp_path, slices, experiments.trials(["levels"]), form=experiments.LONG)[0]
    assert job.recipe.epochs == recipes.paper().epochs == 40
    assert job.recipe.patience == 15
    assert experiments.LONG.size == inputs.InputSpec().height == inputs.InputSpec().width == 128
    assert experiments.LONG.recipe(7).epochs == 7


@pytest.mark.parametrize("name", ["SEEDS", "EPOCHS", "SIZE"])
def test_comments_of_the_notebook_name_the_defaults_of_both_forms(name):
    script = (ROOT / "notebooks" / "05_experiments.py").read_text(encoding="utf-8")
    comment = re.search(rf"^{name} = 0  # .*; 0: (\d+).*, or (\d+) in the short form$", script, re.MULTILINE)
    field = name.lower()
    long, short = (getattr(form, field) for form in (experiments.LONG, experiments.SHORT))
    assert [int(text) for text in comment.groups()] == [long, short]
    assert f"{name} or form.{field}" in script or f"form.recipe({name})" in script


@pytest.mark.parametrize("name", ["02_train", "05_experiments"])
def test_comments_of_the_notebooks_name_the_time_limit_on_kaggle(name):
    script = (ROOT / "notebooks" / f"{name}.py").read_text(encoding="utf-8")
    hours = re.search(r"^HOURS = 0.0  # .*; 0: (\d+) on Kaggle, else no limit$", script, re.MULTILINE).group(1)
    assert int(hours) == session.SESSION_HOURS
    assert session.ends_at(0) is None
