"""Trials and their tables, from run folders that were not trained."""

import re
from pathlib import Path

import numpy as np
import pytest

from kitlib import runs
from kitlib.data import inputs
from kitlib.figures import paper
from kitlib.paper import evidence, experiments, published
from kitlib.training import recipes

ROOT = Path(__file__).parents[2]


def test_trainings_that_tables_share_are_run_once():
    names = [trial.name for trial in experiments.trials()]
    assert len(names) == len(set(names)) == 13
    assert names[0] == experiments.BASE
    assert [trial.name for trial in experiments.trials(["levels"])] == [experiments.BASE, "5 levels"]
    with pytest.raises(ValueError, match="unknown comparison 'colours'"):
        experiments.trials(["colours"])


def test_rows_differ_from_the_base_in_one_thing(packed, tmp_path):
    jobs = experiments.tasks(tmp_path, experiments.trials(), [0, 1], packed, network_options={"base": 4})
    assert len({job["folder"] for job in jobs}) == len(jobs) == 26
    base = next(job for job in jobs if job["trial"] == experiments.BASE)
    for job in jobs[:13]:
        apart = {key for key in job if key not in ("watch", "folder", "trial") and _differ(job[key], base.get(key))}
        several = {"one slice, 3 copies": {"network", "spec"}, experiments.FIRST: {"loss", "augment", "patience"}}
        assert apart == several.get(job["trial"], apart)
        assert len(apart) <= 2 or job["trial"] in several
        assert job["network_options"]["base"] == 4
    assert next(job for job in jobs if job["trial"] == "5 levels")["network_options"]["levels"] == 5


def test_first_course_of_the_paper_is_its_preset_and_carries_the_numbers_of_figure_7(packed, tmp_path):
    job = experiments.tasks(tmp_path, [experiments.TRIALS[experiments.FIRST]], [0], packed)[0]
    for name, value in recipes.paper_first().items():
        assert not _differ(job[name], value), name
    rows = published.cells("augmentation").set_index(["row", "column"])["value"]
    assert rows[(experiments.FIRST, "Dice")] == 0.5
    assert set(rows.index.get_level_values("row")) <= set(experiments.SETS["augmentation"])
    assert "without" not in rows.index.get_level_values("row")


def _differ(one, other):
    if hasattr(one, "get_config") and hasattr(other, "get_config"):
        return one.get_config() != other.get_config()
    return one is not other and one != other


def test_finished_runs_are_handed_on_and_every_depth_gets_its_stacks(packed, slices, tmp_path, make_run):
    asked = []

    def fit(table, *, packed, spec, folder, seed, **options):
        assert packed.spec == spec
        assert packed.stacks.shape == (len(table), spec.depth)
        asked.append(folder)
        return make_run(folder, packed, seed)

    jobs = experiments.tasks(tmp_path, experiments.trials(["neighbours"]), [0], packed)
    done = experiments.run(slices, jobs, packed, slices["case"] == 1, fit=fit)
    assert asked == [job["folder"] for job in jobs]
    assert {name: len(members) for name, members in done.items()} == dict.fromkeys(done, 1)


def test_a_grid_ends_when_the_next_training_does_not_fit_and_goes_on_when_called_again(
    packed, slices, tmp_path, capsys, monkeypatch, make_run
):
    jobs = experiments.tasks(tmp_path, experiments.trials(["neighbours"]), [0], packed)
    ends, begun = {}, []

    def fit(table, *, folder, packed, deadline, **options):
        begun.append(folder)
        ends[folder] = deadline
        if folder.exists():
            return runs.read(folder)
        run = make_run(folder, packed)
        seconds = 10.0 if len(begun) == 1 else 100.0
        run.history().assign(seconds=seconds).to_csv(folder / "history.csv", index=False)
        return run

    now = 1000.0
    monkeypatch.setattr("kitlib.training.budget.time.time", lambda: now)
    trained = experiments.run(slices, jobs, packed, slices["case"] == 1, fit, deadline=now + 150)
    assert list(trained) == [experiments.BASE, "one slice, 3 copies"]  # after 10 s per epoch one fits, after 100 s none
    assert begun == [job["folder"] for job in jobs[:2]]
    assert set(ends.values()) == {now + 150}
    assert "2 of 4 trainings are left (1 slice, 3 slices); the same call goes on" in capsys.readouterr().out
    slow = trained["one slice, 3 copies"][0]
    assert experiments.run(slices, jobs[2:], packed, None, fit, now + 150, after=slow) == {}
    trained = experiments.run(slices, jobs, packed, slices["case"] == 1, fit, deadline=now + 1000)
    assert len(trained) == 4
    assert "out of time" not in capsys.readouterr().out.splitlines()[-1]


def test_a_run_without_a_finished_epoch_stands_in_no_table_and_ends_the_grid(
    packed, slices, tmp_path, capsys, monkeypatch, make_run
):
    clock = [1000.0]
    monkeypatch.setattr("kitlib.training.budget.time.time", lambda: clock[0])

    def fit(table, *, folder, packed, deadline, **options):
        run = make_run(folder, packed)
        if folder.parent.name == "one-slice-3-copies":
            clock[0] = deadline - 1
            (folder / "history.csv").write_text("", encoding="utf-8")
            runs.write_record(folder, run.record | {"state": "stopped"})
        return runs.read(folder)

    jobs = experiments.tasks(tmp_path, experiments.trials(["neighbours"]), [0], packed)
    trained = experiments.run(slices, jobs, packed, slices["case"] == 1, fit, deadline=9000.0)
    assert list(trained) == [experiments.BASE]
    assert "3 of 4 trainings are left (one slice, 3 copies, 1 slice, 3 slices)" in capsys.readouterr().out
    table = experiments.table(trained, experiments.SETS["neighbours"])
    assert experiments.ahead(table, "5 slices", "1 slice") == "5 slices - 1 slice: 1 slice not trained yet"
    assert len(paper.curves(experiments.histories(trained, experiments.SETS["neighbours"])).axes) == 3


def test_a_training_that_diverges_is_named_and_the_others_go_on(packed, slices, tmp_path, capsys, make_run):
    def fit(table, *, folder, packed, **options):
        if folder.parent.name == "1-slice":
            raise FloatingPointError(f"{folder}: the loss is nan")
        return make_run(folder, packed)

    jobs = experiments.tasks(tmp_path, experiments.trials(["neighbours"]), [0], packed)
    trained = experiments.run(slices, jobs, packed, slices["case"] == 1, fit)
    assert list(trained) == [experiments.BASE, "one slice, 3 copies", "3 slices"]
    said = capsys.readouterr().out.splitlines()
    assert said[2] == f"  3/4 1 slice, seed 0: {jobs[2]['folder']}: the loss is nan"
    assert said[-1] == "diverged: 1 of 4 trainings (1 slice), tried again by the same call"


def test_measures_are_taken_at_their_best_and_at_the_lowest_loss(trained):
    line = experiments.measured(trained).set_index(["trial", "seed"]).loc[(experiments.BASE, 0)]
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


def test_the_long_form_is_the_papers(packed, tmp_path):
    job = experiments.tasks(tmp_path, experiments.trials(["levels"]), [0], packed, **experiments.LONG.course())[0]
    assert job["epochs"] == recipes.paper()["epochs"] == 40
    assert job["patience"] == 15
    assert experiments.LONG.size == inputs.InputSpec().height == inputs.InputSpec().width == 128
    assert experiments.LONG.course(7)["epochs"] == 7


@pytest.mark.parametrize("name", ["SEEDS", "EPOCHS", "SIZE"])
def test_comments_of_the_notebook_name_the_defaults_of_both_forms(name):
    script = (ROOT / "notebooks" / "05_experiments.py").read_text(encoding="utf-8")
    comment = re.search(rf"^{name} = 0  # .*; 0: (\d+).*, or (\d+) in the short form$", script, re.MULTILINE)
    field = name.lower()
    long, short = (getattr(form, field) for form in (experiments.LONG, experiments.SHORT))
    assert [int(text) for text in comment.groups()] == [long, short]
    assert f"{name} or form.{field}" in script or f"form.course({name})" in script
