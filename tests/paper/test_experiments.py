import json

import numpy as np
import pandas as pd
import pytest

from kitlib import runs
from kitlib.data import inputs, pipeline
from kitlib.eda import planted
from kitlib.figures import paper
from kitlib.paper import evidence, experiments, published
from kitlib.training import recipes

SPEC = inputs.InputSpec(32, 32)
COLUMNS = ["loss", "dice", "iou", "val_loss", "val_dice", "val_iou", "val_paper_accuracy", "val_binary_accuracy"]


@pytest.fixture(scope="module")
def packed(slices):
    return pipeline.pack(slices, SPEC)


def made(folder, packed, seed=0, dice=(0.2, 0.5, 0.4), probabilities=None):
    """A run folder as a training leaves it, without the training."""
    history = pd.DataFrame({name: np.linspace(0.3, 0.6, len(dice)) for name in COLUMNS})
    history = history.assign(epoch=range(1, len(dice) + 1), val_dice=dice, val_loss=1 - np.array(dice), seconds=1.0)
    folder.mkdir(parents=True)
    history.to_csv(folder / "history.csv", index=False)
    (folder / "score.json").write_text(json.dumps({"score": 0.5, "dice": max(dice)}), encoding="utf-8")
    runs.write_record(folder, {"parameters": {"seed": seed}, "input_spec": json.loads(SPEC.to_json())})
    for scan, rows in packed.slices.groupby("scan"):
        truth = evidence.truth_of(packed, rows).astype(np.float32)
        runs.write_probabilities(folder, scan, truth if probabilities is None else probabilities(truth))
    return runs.read(folder)


@pytest.fixture(scope="module")
def found(packed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("found")
    values = {"BCE": [(0.1, 0.3, 0.2), (0.1, 0.2, 0.4)], experiments.BASE: [(0.2, 0.6, 0.5), (0.3, 0.5, 0.7)]}
    return {
        name: [made(folder / name / str(seed), packed, seed, dice) for seed, dice in enumerate(each)]
        for name, each in values.items()
    }


def test_trainings_that_tables_share_are_run_once():
    names = [trial.name for trial in experiments.trials()]
    assert len(names) == len(set(names)) == 13
    assert names[0] == experiments.BASE
    assert [trial.name for trial in experiments.trials(["levels"])] == [experiments.BASE, "5 levels"]
    with pytest.raises(ValueError, match="no comparison 'colours'"):
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


def test_finished_runs_are_handed_on_and_every_depth_gets_its_stacks(packed, slices, tmp_path):
    asked = []

    def fit(table, *, packed, spec, folder, seed, **options):
        assert packed.spec == spec
        assert packed.stacks.shape == (len(table), spec.depth)
        asked.append(folder)
        return made(folder, packed, seed)

    jobs = experiments.tasks(tmp_path, experiments.trials(["neighbours"]), [0], packed)
    done = experiments.run(slices, jobs, packed, slices["case"] == 1, fit=fit)
    assert asked == [job["folder"] for job in jobs]
    assert {name: len(members) for name, members in done.items()} == dict.fromkeys(done, 1)


def test_a_grid_ends_when_the_next_training_does_not_fit_and_goes_on_when_called_again(
    packed, slices, tmp_path, capsys, monkeypatch
):
    jobs = experiments.tasks(tmp_path, experiments.trials(["neighbours"]), [0], packed)
    ends, begun = {}, []

    def fit(table, *, folder, packed, deadline, **options):
        begun.append(folder)
        ends[folder] = deadline
        if folder.exists():
            return runs.read(folder)
        run = made(folder, packed)
        seconds = 10.0 if len(begun) == 1 else 100.0
        run.history().assign(seconds=seconds).to_csv(folder / "history.csv", index=False)
        return run

    now = 1000.0
    monkeypatch.setattr("kitlib.training.budget.time.time", lambda: now)
    found = experiments.run(slices, jobs, packed, slices["case"] == 1, fit, deadline=now + 150)
    assert list(found) == [experiments.BASE, "one slice, 3 copies"]  # after 10 s per epoch one fits, after 100 s none
    assert begun == [job["folder"] for job in jobs[:2]]
    assert set(ends.values()) == {now + 150}
    assert "2 of 4 trainings are left (1 slice, 3 slices); the same call goes on" in capsys.readouterr().out
    assert experiments.run(slices, jobs[2:], packed, None, fit, now + 150, after=found["one slice, 3 copies"][0]) == {}
    found = experiments.run(slices, jobs, packed, slices["case"] == 1, fit, deadline=now + 1000)
    assert len(found) == 4
    assert "out of time" not in capsys.readouterr().out.splitlines()[-1]


def test_a_run_without_a_finished_epoch_stands_in_no_table_and_ends_the_grid(
    packed, slices, tmp_path, capsys, monkeypatch
):
    clock = [1000.0]
    monkeypatch.setattr("kitlib.training.budget.time.time", lambda: clock[0])

    def fit(table, *, folder, packed, deadline, **options):
        run = made(folder, packed)
        if folder.parent.name == "one-slice-3-copies":
            clock[0] = deadline - 1
            (folder / "history.csv").write_text("", encoding="utf-8")
            runs.write_record(folder, run.record | {"state": "stopped"})
        return runs.read(folder)

    jobs = experiments.tasks(tmp_path, experiments.trials(["neighbours"]), [0], packed)
    found = experiments.run(slices, jobs, packed, slices["case"] == 1, fit, deadline=9000.0)
    assert list(found) == [experiments.BASE]
    assert "3 of 4 trainings are left (one slice, 3 copies, 1 slice, 3 slices)" in capsys.readouterr().out
    table = experiments.table(found, experiments.SETS["neighbours"])
    assert experiments.ahead(table, "5 slices", "1 slice") == "5 slices less 1 slice: 1 slice not trained yet"
    assert len(paper.curves(experiments.histories(found, experiments.SETS["neighbours"])).axes) == 3


def test_a_training_that_diverges_is_named_and_the_others_go_on(packed, slices, tmp_path, capsys):
    def fit(table, *, folder, packed, **options):
        if folder.parent.name == "1-slice":
            raise FloatingPointError(f"{folder}: the loss is nan")
        return made(folder, packed)

    jobs = experiments.tasks(tmp_path, experiments.trials(["neighbours"]), [0], packed)
    found = experiments.run(slices, jobs, packed, slices["case"] == 1, fit)
    assert list(found) == [experiments.BASE, "one slice, 3 copies", "3 slices"]
    said = capsys.readouterr().out.splitlines()
    assert said[2] == f"  3/4 1 slice, seed 0: {jobs[2]['folder']}: the loss is nan"
    assert said[-1] == "diverged: 1 of 4 trainings (1 slice), tried again by the same call"


def test_measures_are_taken_at_their_best_and_at_the_lowest_loss(found):
    line = experiments.measured(found).set_index(["trial", "seed"]).loc[(experiments.BASE, 0)]
    assert (line["best epoch"], line["Dice"], line["Dice at"]) == (2, 0.6, 0.6)
    assert line["IoU"] == pytest.approx(0.6)
    assert line["IoU at"] == pytest.approx(0.45)


def test_interval_pools_the_spread_over_the_rows(found):
    table = experiments.table(found, {"a": "BCE", "b": experiments.BASE})
    assert table.at["a", "Dice"] == pytest.approx(0.35)
    spread = np.sqrt((2 * 0.05**2 + 2 * 0.05**2) / 2)  # by hand: each seed is .05 off its row's mean, two degrees
    assert table.at["b", "Dice +-"] == pytest.approx(4.302653 * spread / np.sqrt(2), rel=1e-6)
    assert "b is ahead of a by 0.300 in Dice" in experiments.ahead(table, "b", "a")


def test_one_seed_has_no_interval(found):
    single = {name: members[:1] for name, members in found.items()}
    table = experiments.table(single, {name: name for name in single})
    assert np.isnan(table.at["BCE", "Dice +-"])
    assert "one seed cannot tell" in experiments.ahead(table, "BCE", experiments.BASE)


def test_a_gain_that_is_missing_is_explained_by_what_was_measured(found):
    text = experiments.why(found, "BCE", experiments.BASE)
    assert "Not as in the paper: BCE less BCE + 0.5 Dice is -0.300" in text
    assert "still rises by +0.050 (BCE) and +0.050 (BCE + 0.5 Dice)" in text
    assert "more seeds are needed" in text
    clear = {name: [members[0], members[0]] for name, members in found.items()}
    assert experiments.why(clear, experiments.BASE, "BCE").startswith("As in the paper")


def test_published_cells_stand_beside_ours_with_their_doubts(found):
    table = experiments.table(found, experiments.SETS["losses"])
    text = published.beside(table, "losses")
    assert text.at["BCE", "accuracy"].endswith("| 0.679?")
    assert text.at[experiments.BASE, "best epoch"].endswith("| 19?")
    assert not published.cells("attention").size


def test_published_iou_is_impossible_for_every_published_dice():
    cells = published.cells("losses").pivot_table(index="row", columns="column", values="value")
    for end in ("", " at"):
        assert (cells[f"IoU{end}"] > cells[f"Dice{end}"] / (2 - cells[f"Dice{end}"]) + 0.05).all()


def test_pictures_take_what_the_tables_give(found, packed, slices):
    labels = experiments.SETS["losses"]
    curves = experiments.histories(found, labels)
    assert len(paper.curves(curves).axes) == 6
    assert len(paper.together(curves, {"val_dice": "Dice"}).axes) == 1
    paper.beside_paper(experiments.table(found, labels), published.cells("losses"))
    paper.border_by_loss(evidence.border_bias(found, slices, (0.5,)))
    assert experiments.gap(curves).startswith("Dice learned from less held out")


def test_a_thousandth_on_the_background_ruins_the_accuracy_of_perfect_masks(packed):
    table = evidence.perfect_masks(evidence.truth_of(packed, packed.slices))
    assert table.iloc[0].tolist() == [1.0, 1.0]
    assert table.loc[table.index.str.startswith("stomach"), "accuracy"].item() < 0.2
    assert table.loc[table.index.str.startswith("large_bowel"), "accuracy"].item() == 1.0
    assert (table["binary accuracy"] == 1.0).all()


def test_accuracy_table_measures_the_background(packed, tmp_path):
    run = made(tmp_path / "run", packed, probabilities=lambda truth: np.maximum(truth, [0.0, 0.2, 0.4]))
    line = evidence.accuracy_by_loss({"any": [run]}, packed).loc["any"]
    assert line["background stomach"] == pytest.approx(0.4, abs=1e-3)
    assert line["background large_bowel"] == line["first largest"] == 0


def test_readings_by_hand():
    rows = [("a", 0, 0, 0), ("b", 3, 4, 4), ("c", 0, 2, 0)]
    counts = pd.DataFrame([(name, *line, "stomach", 16) for name, *line in rows])
    counts.columns = ["id", *evidence.AREAS, "organ", "pixels"]
    table = evidence.readings(counts)
    assert table.at["pooled over everything", "Dice"] == pytest.approx(6 / 10)
    assert table.at["pooled over everything", "IoU"] == pytest.approx(3 / 7)
    assert table.at["per slice and organ, empty = 0 (the paper's words)", "Dice"] == pytest.approx(0.75 / 3)
    assert table.at["per slice and organ, empty = 0 (the paper's words)", "ceiling"] == pytest.approx(2 / 3)
    assert table.at["per slice and organ, empty = 1", "Dice"] == pytest.approx(1.75 / 3)
    assert table.at["per slice and organ, empty left out", "IoU"] == pytest.approx(0.6 / 2)
    both = table.loc["foreground and background (Keras' BinaryIoU)"]
    assert both["IoU"] == pytest.approx((3 / 7 + 41 / 45) / 2)
    assert evidence.near(table).at[both.name, "IoU of that Dice"] == pytest.approx(0.7696, abs=1e-4)


def test_planted_faults_are_found_by_a_perfect_judge(packed, slices, tmp_path):
    spoiled, known = planted.plant(slices, 2)
    assert (spoiled.loc[~spoiled["scan"].isin(known["scan"])] == slices.loc[~slices["scan"].isin(known["scan"])]).all(
        axis=None
    )
    judge = made(tmp_path / "judge", packed)
    ranked = evidence.disagreement(evidence.areas([judge], packed.remasked(spoiled)), known)
    assert set(ranked["scan"].head(2)) == set(known["scan"])
    assert ranked["recall"].tolist()[:2] == [0.5, 1.0]
    assert evidence.found_of(ranked).startswith("2 of 2 faults")
    paper.ranking(ranked)
    for count in (-1, 99):
        with pytest.raises(ValueError, match=f"count={count}"):
            planted.plant(slices, count)


def test_new_masks_leave_the_packed_images_alone(packed, slices):
    bare = packed.remasked(slices.assign(stomach=""))
    assert bare.images is packed.images
    np.testing.assert_array_equal(bare.masks, packed.masks & 3)
    with pytest.raises(ValueError, match="packed slices in their order"):
        packed.remasked(slices.iloc[::-1])
    with pytest.raises(ValueError, match="more than a stack away"):
        packed.restacked(inputs.InputSpec(64, 64))


def test_three_copies_of_a_slice_are_its_own_network():
    network = experiments.copied_slice((32, 32, 1), levels=2, base=4)
    images = np.random.default_rng(0).random((2, 32, 32, 1), np.float32)
    inside = network.layers[-1]
    np.testing.assert_allclose(network(images), inside(np.repeat(images, 3, -1)), atol=1e-6)
