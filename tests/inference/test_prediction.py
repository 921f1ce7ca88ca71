import json
import shutil
import tracemalloc
import weakref
import zipfile
from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest

from kitlib import inference, postprocess, runs, submission
from kitlib.data import earlier, inputs, scans
from kitlib.inference import networks, prediction, rescue
from kitlib.inference.clock import Deadline
from kitlib.inference.faults import Faults
from kitlib.models import unet
from kitlib.postprocess import cleaning, intervals

SPEC = inputs.InputSpec(32, 32, depth=3)


def save_run(folder, seed, spec=SPEC):
    """Write a run with an untrained network."""
    keras.utils.set_random_seed(seed)
    folder.mkdir()
    unet.build_unet(spec.shape, levels=2, base=4, window_stages=(0,)).save(folder / "model.keras")
    runs.write_record(folder, {"parameters": {}, "input_spec": json.loads(spec.to_json()), "wall_seconds": 0})
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [save_run(root / "a", 0), save_run(root / "b", 1, inputs.InputSpec(48, 32, depth=5))]


@pytest.fixture(scope="module")
def hidden(competition):
    return scans.read(competition, "test")


@pytest.fixture(scope="module")
def members(folders):
    return inference.open_members(folders, Faults(), batch_size=4)


def predicted(*given, **options):
    """The probabilities by scan."""
    return {found.scan: found.probabilities for found in inference.predict(*given, progress=False, **options)}


def test_each_scan_comes_once_at_the_size_of_its_files(members, hidden):
    found = predicted(members[:1], hidden, Faults(), batch_size=4)
    assert list(found) == hidden["scan"].unique().tolist()
    for name, probabilities in found.items():
        rows = hidden[hidden["scan"] == name]
        assert probabilities.shape == (len(rows), rows["height"].iloc[0], rows["width"].iloc[0], 3)
        assert probabilities.dtype == np.float32
        assert 0 <= probabilities.min() <= probabilities.max() <= 1


def test_runs_are_averaged(members, hidden):
    some = hidden[hidden["scan"] == hidden["scan"].iloc[0]]
    one, other, both = (
        next(inference.predict(chosen, some, Faults(), batch_size=4, progress=False))[1]
        for chosen in (members[:1], members[1:], members)
    )
    np.testing.assert_allclose(both, (one + other) / 2, atol=1e-5)


def test_a_run_counts_by_the_weight_in_its_folder(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "cv" / "fold0")
    (tmp_path / "cv" / "weight.json").write_text("0.25", encoding="utf-8")
    (opened,) = inference.open_members([tmp_path / "cv" / "fold0"], Faults(), batch_size=4)
    assert opened.weight == 0.25


def test_boxes_and_whole_slices_are_averaged_at_the_size_of_the_files_and_equal_boxes_on_their_grid(
    hidden, monkeypatch
):
    some, restored = first_scan(hidden), []
    restore = inputs.restore
    monkeypatch.setattr(inputs, "restore", lambda *given: restored.append(given[2]) or restore(*given))
    box = inputs.InputSpec(32, 32, depth=3, box_mm=(-40.0, 30.0, -50.0, 50.0))
    members = [member(spec=spec) for spec in (SPEC, box, replace(box, depth=5), replace(box, height=48))]
    alone = [next(inference.predict([one], some, Faults(), progress=False)).probabilities for one in members]
    restored.clear()
    together = next(inference.predict(members, some, Faults(), progress=False)).probabilities
    np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=1e-5)
    assert [(spec.height, spec.box_mm) for spec in restored] == [(32, None), (32, box.box_mm), (48, box.box_mm)]
    assert np.abs(alone[0] - alone[1]).max() > 0.1


def test_batch_size_does_not_matter(members, hidden):
    some = hidden[hidden["scan"] == hidden["scan"].iloc[0]]
    one, other = (
        next(inference.predict(members[:1], some, Faults(), batch_size=size, progress=False))[1] for size in (3, 4)
    )
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_prediction_of_a_slice_uses_its_own_stack(folders, hidden):
    some = hidden[hidden["scan"] == hidden["scan"].iloc[0]]
    prepared = inputs.prepare(inputs.load(some["path"].tolist()), SPEC)
    network = inference.load(folders[0])
    whole = inference.predict_scan(network, prepared, SPEC, 4)
    stack = prepared[scans.stacks(some, SPEC.depth)[2]].transpose(1, 2, 0)[None]
    np.testing.assert_allclose(whole[2], network.predict_on_batch(stack)[0], atol=1e-5)


def test_missing_runs_and_models_are_named(folders, hidden, tmp_path):
    with pytest.raises(ValueError, match="no run folder"):
        next(inference.predict([], hidden, Faults()))
    with pytest.raises(FileNotFoundError, match=r"is not a run folder"):
        next(inference.predict([tmp_path], hidden, Faults()))
    runs.write_record(tmp_path, runs.read(folders[0]).record)
    with pytest.raises(FileNotFoundError, match=r"no model\.keras"):
        next(inference.predict([tmp_path], hidden, Faults()))


def test_no_scans_give_no_predictions(folders, hidden):
    assert list(inference.predict(folders[:1], hidden.iloc[:0], Faults(), progress=False)) == []


class Standin:
    """A network of no weights: bright pixels are organs, more so on the left."""

    def __init__(self):
        self.shapes = []

    def __call__(self, images):
        self.shapes.append(images.shape)
        middle = images[..., images.shape[-1] // 2]
        slope = np.linspace(1, 0.2, images.shape[2], dtype=np.float32)
        return np.stack([np.clip(middle * slope * share, 0, 1) for share in (1, 0.8, 0.6)], axis=-1)


def broken(images):
    raise RuntimeError("no such kernel")


def member(run=None, name="standin", spec=SPEC):
    return networks.Member(name, spec, run or Standin())


def first_scan(hidden):
    return hidden[hidden["scan"] == hidden["scan"].iloc[0]]


def test_networks_are_flipped_where_they_were_trained_so_unless_told(hidden):
    some, runs_of = first_scan(hidden), {}
    members = [networks.Member(name, SPEC, Standin(), flip) for name, flip in (("flips", True), ("plain", False))]
    for flip in (None, True, False):
        for one in members:
            one.run.shapes.clear()
        next(inference.predict(members, some, Faults(), flip=flip, batch_size=len(some), progress=False))
        runs_of[flip] = [len(one.run.shapes) for one in members]
    assert runs_of == {None: [2, 1], True: [2, 2], False: [1, 1]}


def test_flip_averages_with_the_mirrored_slice(hidden):
    some = first_scan(hidden)
    plain, both = (next(inference.predict([member()], some, flip=flip, faults=Faults()))[1] for flip in (False, True))
    mirrored = member(lambda images: Standin()(images[:, :, ::-1])[:, :, ::-1])
    other = next(inference.predict([mirrored], some, faults=Faults()))[1]
    np.testing.assert_allclose(both, (plain + other) / 2, atol=1e-5)
    assert np.abs(plain - other).max() > 0.1


def test_submission_is_valid_before_the_first_network_opens_and_in_sample_order(hidden, tmp_path):
    target, seen = tmp_path / "submission.csv", []
    sample = submission.expected_rows(hidden).iloc[::-1].reset_index(drop=True)

    def run(images):
        seen.append(submission.check(target, hidden, sample))
        return Standin()(images)

    rows = inference.submit([member(run)], hidden, sample, target, progress=False, faults=Faults())
    assert seen[0] == []
    assert submission.check(target, hidden, sample) == []
    assert (submission.read(target)["predicted"] != "").sum() == (rows["predicted"] != "").sum() > 0


def test_repeated_runs_write_the_same_bytes(folders, hidden, tmp_path):
    files = [tmp_path / "one.csv", tmp_path / "other.csv"]
    some = first_scan(hidden)
    for target in files:
        options = {"flip": True, "batch_size": 4, "progress": False}
        inference.submit(folders[:1], some, submission.expected_rows(some), target, Faults(), **options)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_model_that_fails_is_left_out_and_named(hidden, tmp_path):
    nan = member(lambda images: np.full((*images.shape[:3], 3), np.nan, np.float32), "blind")
    faults = Faults(strict=False)
    found = predicted([member(), member(broken, "broken"), nan], hidden, faults=faults)
    alone = predicted([member()], hidden, faults=Faults())
    for name in alone:
        np.testing.assert_allclose(found[name], alone[name], atol=1e-6)
    named = [(name, one) for name in alone for one in ("broken", "blind")]
    assert [tuple(where.split(", ")) for where, *_ in faults.entries] == named
    with pytest.raises(ValueError, match="broken"):
        next(inference.predict([member(broken, "broken")], hidden, faults=Faults()))


def test_a_pass_that_fails_on_one_scan_comes_back_on_the_next(hidden):
    count = hidden["scan"].nunique()
    calls = []

    def moody(images):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("the device was busy")
        return Standin()(images) / 2

    faults, clock = Faults(strict=False), Deadline(None)
    members = [member(moody, "moody"), member()]
    found = predicted(members, hidden, batch_size=64, faults=faults, clock=clock)
    alone = predicted([member()], hidden, batch_size=64, faults=Faults())
    for number, name in enumerate(alone):
        np.testing.assert_allclose(found[name], alone[name] * (0.75 if number else 1.0), atol=1e-6)
    first = (f"{next(iter(alone))}, moody", "RuntimeError: the device was busy", "this pass is left out of this scan")
    assert faults.entries == [first]
    assert clock.log()["passes"].tolist() == [1] + [2] * (count - 1)


def test_a_pass_that_never_fits_into_memory_is_left_out_for_good_and_one_alone_is_not(hidden):
    def huge(images):
        calls.append(len(images))
        raise MemoryError("too large")

    calls, faults, count = [], Faults(strict=False), hidden["scan"].nunique()
    found = predicted([member(huge, "huge"), member()], hidden, batch_size=4, faults=faults)
    assert len(found) == count
    assert calls == [4, 2, 1]
    assert faults.entries[-1][::2] == ("huge", "left out from here on")
    calls, faults = [], Faults(strict=False)
    assert not predicted([member(huge, "huge")], hidden, batch_size=1, faults=faults)
    assert len(calls) == count
    assert [remedy for *_, remedy in faults.entries].count("left empty") == count


def test_what_has_failed_is_the_first_to_be_shed_until_it_works_again(hidden):
    orders, calls = [], []

    class Watched(Deadline):
        def plan(self, plan, *rest):
            orders.append([one.model for one in plan])
            return super().plan(plan, *rest)

    def moody(images):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("the device was busy")
        return Standin()(images)

    options = {"faults": Faults(strict=False), "clock": Watched(None), "progress": False}
    list(inference.predict([member(moody), member()], hidden, batch_size=64, **options))
    assert orders == [[0, 1], [1, 0], *[[0, 1]] * (hidden["scan"].nunique() - 2)]


def test_memory_that_runs_out_costs_time_and_no_scan(hidden):
    def hungry(images):
        if len(images) > 3:
            raise MemoryError("too many")
        return Standin()(images)

    faults = Faults(strict=False)
    some = first_scan(hidden)
    found = next(inference.predict([member(hungry)], some, faults=faults))[1]
    np.testing.assert_allclose(found, next(inference.predict([member()], some, faults=Faults()))[1], atol=1e-6)
    assert [remedy for *_, remedy in faults.entries] == [
        "again with 8 slices at a time",
        "again with 4 slices at a time",
        "again with 2 slices at a time",
    ]
    with pytest.raises(MemoryError):
        next(inference.predict([member(hungry)], some, faults=Faults()))


VOLUME = inputs.InputSpec(32, 32, depth=4, volume=True)


class Volumes(Standin):
    """The same for volumes: every slice is labelled by itself."""

    def __call__(self, images):
        self.shapes.append(images.shape)
        return np.stack([super(Volumes, self).__call__(images[..., [k]]) for k in range(images.shape[-1])], axis=3)


@pytest.mark.parametrize("flip", [False, True])
def test_a_network_that_labels_volumes_is_a_member_like_others(hidden, flip):
    """Slice by slice the stand-in for stacks of one says the same, alone and averaged with another grid."""
    some, other = first_scan(hidden), member(spec=inputs.InputSpec(48, 32, depth=5))
    slice_by_slice = member(spec=replace(SPEC, depth=1))
    for beside in ([], [other]):
        found, expected = (
            next(inference.predict([one, *beside], some, Faults(), flip=flip, progress=False)).probabilities
            for one in (member(Volumes(), spec=VOLUME), slice_by_slice)
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("batch_size", "volumes"), [(1, 1), (8, 2), (11, 2), (16, 4)])
def test_the_size_of_a_batch_counts_slices(hidden, batch_size, volumes):
    run = Volumes()
    next(inference.predict([member(run, spec=VOLUME)], first_scan(hidden), Faults(), batch_size=batch_size))
    assert {shape for shape in run.shapes if shape[-1] == 4} == {(volumes, 32, 32, 4)}


def test_volumes_that_do_not_fit_in_memory_come_fewer_at_a_time(hidden):
    def hungry(images):
        if len(images) > 1:
            raise MemoryError("too many")
        return Volumes()(images)

    faults = Faults(strict=False)
    next(inference.predict([member(hungry, spec=VOLUME)], first_scan(hidden), faults=faults, batch_size=16))
    assert [remedy for *_, remedy in faults.entries] == [
        "again with 2 volumes at a time",
        "again with 1 volumes at a time",
    ]


def peak_of(members, slices):
    """The most bytes in use while the rows of some scans are made."""
    tracemalloc.start()
    inference.rows(members, slices, Faults(), progress=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_more_passes_take_no_more_memory(hidden):
    some = first_scan(hidden)
    fine = member(spec=replace(SPEC, height=256, width=256))
    peaks = [peak_of([fine] * count, some) for count in (2, 5)]
    assert peaks[1] - peaks[0] < len(some) * 256 * 256 * 3 * 4 / 2  # half of what a pass gives


def test_a_scan_is_let_go_before_the_next_is_predicted(hidden, monkeypatch):
    alive = []

    def predict(*_, **__):
        for name, rows in hidden.groupby("scan"):
            found = inference.Prediction(name, np.zeros((len(rows), *scans.common_size(rows), 3), np.float32), None)
            held = weakref.ref(found.probabilities)
            yield found
            del found
            alive.append(held() is not None)

    monkeypatch.setattr(prediction, "predict", predict)
    inference.rows([], hidden, Faults())
    assert alive == [False] * hidden["scan"].nunique()


def test_a_scan_larger_than_memory_stays_empty(hidden, tmp_path, monkeypatch):
    monkeypatch.setattr(rescue, "_BYTES_PER_VOXEL", 1 << 40)
    faults, target = Faults(strict=False), tmp_path / "submission.csv"
    inference.submit([member()], hidden, submission.expected_rows(hidden), target, faults=faults, progress=False)
    assert submission.check(target, hidden) == []
    assert len(faults) == hidden["scan"].nunique()
    assert "MiB" in str(faults)


def test_the_deadline_leaves_scans_empty_and_says_so(hidden, tmp_path):
    faults, target = Faults(strict=False), tmp_path / "submission.csv"
    seconds = iter(range(0, 10**6, 600))
    clock = Deadline(1.0, now=lambda: next(seconds), spent=0.0)
    inference.submit(
        [member()], hidden, submission.expected_rows(hidden), target, faults=faults, clock=clock, progress=False
    )
    assert submission.check(target, hidden) == []
    assert "deadline" in str(faults)
    assert 0 < len(clock.log()) < hidden["scan"].nunique() + 1


def test_settings_that_fail_give_way_to_a_plain_threshold(hidden, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of order")

    monkeypatch.setattr(cleaning, "fill_gaps", fail)
    faults = Faults(strict=False)
    sample = submission.expected_rows(hidden)
    options = {"settings": postprocess.Settings(gap=(1, 1, 1)), "progress": False}
    rows = inference.submit([member()], hidden, sample, tmp_path / "a.csv", faults, **options)
    plain = inference.submit(
        [member()], hidden, sample, tmp_path / "b.csv", settings=postprocess.Settings(), faults=Faults()
    )
    pd.testing.assert_frame_equal(rows, plain)
    assert len(faults) == hidden["scan"].nunique()


def test_without_one_network_that_opens_there_is_an_error_in_the_rerun_too(hidden, tmp_path):
    runs.write_record(tmp_path / "a", {"parameters": {}})
    (tmp_path / "a/model.keras").write_bytes(b"no model")
    target = tmp_path / "submission.csv"
    with pytest.raises(ValueError, match="none of the 1 runs"):
        inference.submit(
            [tmp_path / "a"], hidden, submission.expected_rows(hidden), target, faults=Faults(strict=False)
        )
    assert submission.check(target, hidden) == []


def newer(folder, target, value):
    """Copy a run as a newer Keras might have written it: with settings that this one does not know."""
    runs.write_record(target, runs.read(folder).record)
    with zipfile.ZipFile(folder / "model.keras") as source, zipfile.ZipFile(target / "model.keras", "w") as copy:
        for name in source.namelist():
            data = source.read(name)
            if name == "config.json":
                network = json.loads(data)
                for layer in network["config"]["layers"]:
                    if layer["class_name"] == "Conv2D":
                        layer["config"] |= {"swirl": value, "swirl_rate": 0.9}
                        layer["config"]["kernel_initializer"]["config"]["new_axes"] = None
                data = json.dumps(network).encode()
            copy.writestr(name, data)
    return target


def test_a_network_of_a_newer_keras_loads_where_its_new_settings_are_off(folders, hidden, tmp_path):
    wanted = predicted(folders[:1], first_scan(hidden), faults=Faults())
    found = predicted([newer(folders[0], tmp_path / "off", False)], first_scan(hidden), faults=Faults())
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])
    with pytest.raises((TypeError, ValueError), match="swirl"):
        inference.load(newer(folders[0], tmp_path / "on", True))


GATE_SPEC = inputs.InputSpec(20, 28, depth=1)


def plays(role, level=1.0, spec=None, weight=1.0, run=None):
    """A member of a role, whose probabilities are those of the stand-in times a level."""
    spec = spec or (GATE_SPEC if role == "gate" else SPEC)
    run = run or (lambda images: level * Standin()(images))
    return networks.Member(f"{role} {level}", spec, run, role=role, weight=weight)


def only(members, some, faults=None, **options):
    """The prediction of one scan."""
    return next(inference.predict(members, some, Faults() if faults is None else faults, progress=False, **options))


def on_grid(spec, some, level=1.0):
    """The stand-in's probabilities of a scan on its own grid."""
    prepared = inputs.prepare(inputs.load(some["path"].tolist()), spec)
    stacks = prepared[scans.stacks(some, spec.depth)].transpose(0, 2, 3, 1)
    return level * Standin()(stacks)


def test_gates_give_the_presence_on_their_own_grid_and_segmenters_the_contours(hidden):
    some = first_scan(hidden)
    found = only([plays("segmenter"), plays("gate", 0.3), plays("gate", 0.5)], some)
    np.testing.assert_array_equal(found.probabilities, only([plays("both")], some).probabilities)
    np.testing.assert_allclose(found.presence, intervals.presence(on_grid(GATE_SPEC, some, 0.4)), rtol=1e-5)
    assert found.presence.shape == (len(some), 3)
    assert found.presence.dtype == np.float32


def test_without_a_gate_the_masks_are_those_of_the_probabilities_alone(hidden):
    some = first_scan(hidden)
    for role in ("both", "segmenter"):
        assert only([plays(role)], some).presence is None
    settings = postprocess.Settings(threshold=(0.2, 0.2, 0.2), presence=(0.6, 0.6, 0.6))
    rows = inference.rows([plays("both")], some, Faults(), settings=settings, progress=False)
    wanted = submission.encode(some, postprocess.masks(only([plays("both")], some).probabilities, settings))
    assert rows["predicted"].tolist() == wanted["predicted"].tolist()


def test_a_gate_alone_plays_both(hidden):
    some = first_scan(hidden)
    found = only([plays("gate", 0.5, SPEC)], some)
    np.testing.assert_array_equal(found.probabilities, only([plays("both", 0.5)], some).probabilities)
    np.testing.assert_allclose(found.presence, intervals.presence(on_grid(SPEC, some, 0.5)), rtol=1e-5)


def test_a_network_that_plays_both_is_a_segmenter_beside_a_gate(hidden):
    some = first_scan(hidden)
    found = only([plays("both", 0.8), plays("gate", 0.2)], some)
    np.testing.assert_array_equal(found.probabilities, only([plays("both", 0.8)], some).probabilities)
    np.testing.assert_allclose(found.presence, intervals.presence(on_grid(GATE_SPEC, some, 0.2)), rtol=1e-5)


def test_members_count_by_their_weight_also_on_different_grids(hidden):
    some, other = first_scan(hidden), inputs.InputSpec(48, 32, depth=5)
    segmenters = [plays("segmenter", 0.2, weight=3.0), plays("segmenter", 1.0, other)]
    gates = [plays("gate", 0.2, weight=3.0), plays("gate", 1.0, SPEC)]
    found = only([*segmenters, *gates], some)
    alone = [only([one], some).probabilities for one in segmenters]
    np.testing.assert_allclose(found.probabilities, 0.75 * alone[0] + 0.25 * alone[1], atol=1e-6)
    parts = [intervals.presence(on_grid(spec, some, level)) for spec, level in ((GATE_SPEC, 0.2), (SPEC, 1.0))]
    np.testing.assert_allclose(found.presence, 0.75 * parts[0] + 0.25 * parts[1], atol=1e-6)
    one_grid = only([plays("segmenter", 0.2, weight=3.0), plays("segmenter", 1.0)], some)
    np.testing.assert_allclose(one_grid.probabilities, 0.4 * only([plays("both")], some).probabilities, atol=1e-6)


def test_flips_divide_the_weight_of_their_network(hidden):
    some = first_scan(hidden)
    flipped = replace(plays("segmenter", 0.2, weight=0.4), flip=True)
    other = plays("segmenter", 1.0, weight=0.6)
    found = only([flipped, other], some)
    alone = [only([one], some).probabilities for one in (flipped, other)]
    np.testing.assert_allclose(found.probabilities, 0.4 * alone[0] + 0.6 * alone[1], atol=1e-6)


@pytest.mark.parametrize(
    ("failing", "works", "words"),
    [
        ("gate", "segmenter", "the segmenters also decide on which slices an organ is"),
        ("segmenter", "gate", "the gates also draw the contours"),
    ],
)
def test_the_other_role_steps_in_for_one_that_fails_on_a_scan(hidden, failing, works, words):
    some, faults = first_scan(hidden), Faults(strict=False)
    found = only([plays(failing, run=broken), plays(works)], some, faults)
    alone = only([plays(works)], some)
    np.testing.assert_array_equal(found.probabilities, alone.probabilities)
    np.testing.assert_array_equal(found.presence, alone.presence)
    scan = some["scan"].iloc[0]
    assert [where for where, *_ in faults.entries] == [f"{scan}, {failing} 1.0", scan]
    assert faults.entries[-1][1:] == (f"no {failing} works on it", words)


def test_a_gate_that_never_fits_into_memory_is_left_out_and_listed_once(hidden):
    def huge(images):
        raise MemoryError("too large")

    faults = Faults(strict=False)
    members = [plays("segmenter"), plays("gate", run=huge)]
    found = list(inference.predict(members, hidden, faults, batch_size=1, progress=False))
    assert len(found) == hidden["scan"].nunique()
    assert [where for where, *_ in faults.entries].count("gate 1.0") == 1
    assert len(faults) == 3


def test_the_presence_reaches_the_settings(hidden):
    some, members = first_scan(hidden), [plays("segmenter"), plays("gate", 0.6)]
    found = only(members, some)
    plain = postprocess.Settings(threshold=(0.2, 0.2, 0.2))
    gated = replace(plain, presence=tuple(np.median(found.presence, axis=0).astype(float)))
    rows, others = (inference.rows(members, some, Faults(), settings=each, progress=False) for each in (gated, plain))
    wanted = submission.encode(some, postprocess.masks(found.probabilities, gated, found.presence))
    assert rows["predicted"].tolist() == wanted["predicted"].tolist()
    assert (rows["predicted"] != "").sum() < (others["predicted"] != "").sum()


def test_a_scan_with_an_earlier_day_comes_with_its_line(hidden, slices):
    expected = earlier.stop_lines(hidden, slices)
    found = list(inference.predict([member()], hidden, Faults(), known=slices, progress=False))
    assert {each.scan: each.line for each in found} == {scan: expected(scan) for scan in hidden["scan"].unique()}
    assert any(each.line is not None for each in found)
    assert only([member()], hidden).line is None


def with_earlier_day(hidden, slices):
    """The rows of a hidden scan with an earlier day, and of that day."""
    later, before = next(iter(earlier.days(hidden, slices).items()))
    return hidden[hidden["scan"] == later], slices[slices["scan"] == before]


def test_the_line_reaches_the_settings(hidden, slices):
    some, _ = with_earlier_day(hidden, slices)
    found = only([member()], some, known=slices)
    drawn = postprocess.Settings(threshold=(0.1,) * 3, ends="interval", offset=(-2.0,) * 3, line_weight=9.0)
    rows, others = (
        inference.rows([member()], some, Faults(), settings=each, known=slices, progress=False)
        for each in (drawn, replace(drawn, line_weight=0.0))
    )
    wanted = submission.encode(some, postprocess.masks(found.probabilities, drawn, line=found.line))
    assert rows["predicted"].tolist() == wanted["predicted"].tolist()
    assert rows["predicted"].tolist() != others["predicted"].tolist()


def test_an_earlier_day_that_cannot_be_read_costs_the_line_and_not_the_scan(hidden, slices, tmp_path):
    some, before = with_earlier_day(hidden, slices)
    damaged = tmp_path / "slice.png"
    damaged.write_bytes(b"no picture")
    for paths in ("", str(damaged)):
        faults = Faults(strict=False)
        found = only([member()], some, faults, known=before.assign(path=paths))
        assert found.line is None
        np.testing.assert_array_equal(found.probabilities, only([member()], some).probabilities)
        assert before["scan"].iloc[0] in {where for where, *_ in faults.entries}
    with pytest.raises(ValueError, match=r"slice\.png"):
        only([member()], some, known=before.assign(path=str(damaged)))


def test_an_earlier_day_on_which_registration_fails_costs_the_line_and_not_the_scan(hidden, slices, monkeypatch):
    some, before = with_earlier_day(hidden, slices)
    monkeypatch.setattr(earlier, "stop_line", lambda *given: 1 / 0)
    faults = Faults(strict=False)
    assert only([member()], some, faults, known=before).line is None
    assert [remedy for _, _, remedy in faults.entries] == ["its bowels end without the line of the earlier day"]


def test_the_clock_keeps_one_pass_of_each_role(hidden):
    class Late(Deadline):
        def forecast(self, slices, plan):
            return 1e9 if self.lines else None

    clock, some = Late(1.0, spent=0.0), hidden
    members = [plays("segmenter", 0.1), plays("segmenter", 0.2), plays("gate", 0.3), plays("gate", 0.4)]
    found = list(inference.predict(members, some, Faults(), flip=True, clock=clock, progress=False))
    assert len(found) == hidden["scan"].nunique()
    assert clock.log()["passes"].tolist() == [8] + [2] * (len(found) - 1)
    flips = [f"{name}, flipped" for name in ("gate 4", "gate 3", "model 2", "model 1")]
    assert [str(run) for run in clock.shed] == [*flips, "model 2", "gate 4"]
