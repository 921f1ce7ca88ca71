"""Trainings that are killed, stopped or shared between devices, in processes of their own."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from kitlib import inference, runs

COURSE = """
import sys
from kitlib.layers import augment
from kitlib.data import inputs
from kitlib.data import scans
from kitlib import training

for folder in sys.argv[2:]:
    training.cross_validate(
        scans.read(sys.argv[1]),
        folder,
        count=2,
        spec=inputs.InputSpec(32, 32, depth=3),
        recipe=training.Recipe(
            network_options=dict(levels=1, base=4, window_stages=(0,), dropout=0.2),
            augment=augment.Augment(),
            epochs=3,
            batch_size=4,
            optimizer="adamw",
            weight_decay=0.01,
            learning_rate=5e-3,
            schedule="cosine",
            average=0.9,
            average_last=2,
            deterministic=True,
        ),
    )
"""


def start(code: str, *arguments) -> subprocess.Popen:
    """Run Python code in a new process, with a log beside it."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output[-4000:]
    return output


def figures(run: runs.Run) -> pd.DataFrame:
    """The history without what a clock measured."""
    return run.history().drop(columns=["images_per_second", "seconds"])


@pytest.mark.slow
def test_killed_cross_validation_ends_like_one_that_was_left_alone(competition, tmp_path):
    process = start(COURSE, competition, tmp_path / "killed")
    while process.poll() is None and not list((tmp_path / "killed").glob("fold0/checkpoint/epoch-*")):
        time.sleep(0.05)
    seconds = random.SystemRandom().uniform(0, 3)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = [path.name for path in tmp_path.glob("killed/fold*/checkpoint/epoch-*")]
    finish(start(COURSE, competition, tmp_path / "killed", tmp_path / "whole"))
    for fold in ("fold0", "fold1"):
        killed, whole = (runs.read(tmp_path / name / fold) for name in ("killed", "whole"))
        where = f"{fold}, killed {seconds:.3f} s after its first epoch, with {left}"
        assert killed.state == "finished"
        pd.testing.assert_frame_equal(figures(killed), figures(whole), check_exact=True, obj=where)
        assert killed.score() == whole.score(), where
        for one, other in zip(*(inference.load(run.folder).get_weights() for run in (killed, whole)), strict=True):
            np.testing.assert_array_equal(one, other, err_msg=where)
        for scan in whole.scans:
            np.testing.assert_array_equal(killed.probabilities(scan), whole.probabilities(scan))
        assert not (killed.folder / "checkpoint").exists()


STRONG = """
import sys
from dataclasses import replace
import keras
from kitlib.training import budget
from kitlib.data import inputs
from kitlib.training import recipes
from kitlib.data import scans
from kitlib import training

keras.config.set_dtype_policy("mixed_float16")
slices, place, spec = scans.read(sys.argv[1]), sys.argv[2], inputs.InputSpec(32, 32, depth=3)
network = dict(network_options=dict(levels=1, base=4, window_stages=(0,), dropout=0.1))
if sys.argv[3] == "volumes":
    spec = inputs.InputSpec(8, 8, depth=4, volume=True)
    network = dict(network="kitlib.models:build_segresnet", network_options=dict(init=8, blocks=[1, 1]))
recipe = replace(
    recipes.strong(),
    **network,
    epochs=3,
    batch_size=4,
    learning_rate=1e-2,
    average=0.9,
    average_last=1,
    deterministic=True,
)

class Overflow(keras.callbacks.Callback):
    # as if a gradient had overflown: the scale is halved twice and its counter begins anew
    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == 3:
            self.model.optimizer.dynamic_scale.assign(2.0**13)
            self.model.optimizer.step_counter.assign(0)

def until(epochs, folder):
    # fits is asked twice per epoch, before and after its evaluation; and once before a resumed training begins
    answers = iter([True, True] * (epochs - 1) + [False])
    budget.Budget.fits = lambda self, *_: next(answers)
    return training.fit_fold(
        slices, place + folder, held_out=slices["case"] == slices["case"].iloc[0],
        spec=spec, recipe=recipe, callbacks=[Overflow()],
    )

until(2, "/whole")
until(1, "/broken")
until(2, "/broken")
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stacks", "volumes"])
def test_strong_course_in_half_floats_goes_on_to_the_bit_with_its_loss_scale(competition, tmp_path, kind):
    """CutMix and MixUp, AdamW, averages and the loss scaling, all of which the checkpoint has to bring back."""
    finish(start(STRONG, competition, tmp_path, kind))
    broken, whole = (runs.read(tmp_path / name) for name in ("broken", "whole"))
    assert whole.parameters["augment_settings"]["cutmix"] > 0
    pd.testing.assert_frame_equal(figures(broken), figures(whole), check_exact=True)
    one, other = (saved(run.folder / "checkpoint/epoch-0002/model.weights.h5") for run in (broken, whole))
    counter, scale = (other[f"optimizer/vars/{number}"] for number in (2, 3))  # after iterations and learning rate
    assert (counter > 0, scale) == (True, 2.0**13)
    assert one.keys() == other.keys()
    assert all(np.isfinite(array).all() for array in other.values())
    for name, array in other.items():
        np.testing.assert_array_equal(one[name], array, err_msg=name)


def saved(path: Path) -> dict[str, np.ndarray]:
    """Every array of a file of weights, by its place in it."""
    import h5py

    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, one: found.update({name: one[()]}) if isinstance(one, h5py.Dataset) else None)
    return found


SHARED = """
import json
import sys
import keras
import tensorflow as tf
from kitlib.training import budget
from kitlib.data import inputs
from kitlib.layers import losses
from kitlib.training import devices
from kitlib.data import scans
from kitlib import training
from kitlib.models import unet

halves = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], halves)
two = devices.use(devices.Devices(2, "mixed_float16", "two halves of a CPU", ("CPU:0", "CPU:1")))
slices = scans.read(sys.argv[1])
options = dict(
    held_out=slices["case"] == slices["case"].iloc[0],
    spec=inputs.InputSpec(32, 32, depth=3),
    recipe=training.Recipe(
        network_options=dict(levels=1, base=4, batch_norm=False) | unet.NO_ATTENTION,
        loss=losses.BCE(),
        epochs=4,
        batch_size=6,
        learning_rate=1e-2,
        average=0.8,
    ),
)
training.fit_fold(slices, sys.argv[2] + "/one", **options)
fits = budget.Budget.fits
budget.Budget.fits = lambda self, *_: False
stopped = training.fit_fold(slices, sys.argv[2] + "/two", devices=two, **options)
assert stopped.state == "stopped" and len(stopped.history()) == 1, stopped.record
budget.Budget.fits = fits
training.fit_fold(slices, sys.argv[2] + "/two", devices=two, **options)
"""


@pytest.mark.slow
def test_two_devices_with_half_floats_average_and_resume_learn_like_one(competition, tmp_path):
    """Without batch norms, which see half a batch each, nothing but rounding may part the curves."""
    finish(start(SHARED, competition, tmp_path))
    one, two = (runs.read(tmp_path / name) for name in ("one", "two"))
    assert two.state == "finished"
    for column in ("loss", "val_loss"):
        curve = one.history()[column]
        assert curve.iloc[-1] < 0.9 * curve.iloc[0]
        np.testing.assert_allclose(two.history()[column], curve, rtol=0.02)


@pytest.mark.slow
def test_folds_in_processes_of_their_own_are_those_of_one_process(competition, tmp_path):
    from kitlib import training
    from kitlib.data import inputs, scans
    from kitlib.layers import augment
    from kitlib.models import unet

    options = {
        "count": 2,
        "spec": inputs.InputSpec(32, 32, depth=3),
        "recipe": training.Recipe(
            network_options={"levels": 1, "base": 2} | unet.NO_ATTENTION,
            augment=augment.Augment(field=None, blur=0),
            epochs=1,
            batch_size=4,
        ),
    }
    slices, before = scans.read(competition), keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        apart = training.cross_validate(slices, tmp_path / "apart", at_once=2, **options)
        together = training.cross_validate(slices, tmp_path / "apart", **options)
    finally:
        keras.config.set_dtype_policy(before)
    assert [(run.state, run.record["precision"]) for run in apart] == [("finished", "mixed_bfloat16")] * 2
    assert not (tmp_path / "apart/packed").exists()
    assert sorted(scan for run in apart for scan in run.scans) == sorted(slices["scan"].unique())
    assert apart[0].parameters["augment_settings"]["field"] is None
    assert [run.record for run in together] == [run.record for run in apart]


def test_figures_that_were_not_taken_after_every_epoch_keep_their_columns(tmp_path):
    rows = [{"epoch": 1, "loss": 0.5, "seconds": 9.0}, {"epoch": 2, "loss": 0.4, "val_hit": 0.7, "seconds": 8.0}]
    rows.append({"epoch": 3, "val_miss": 0.1, "loss": 0.3, "seconds": 7.0})
    for count in (1, 2, 3):
        runs.write_history(tmp_path, rows[:count])
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "history.csv"), pd.DataFrame(rows), check_like=True)


def test_torn_or_missing_lines_of_the_history_are_mended(tmp_path):
    rows = [{"epoch": epoch, "loss": 0.1 * epoch, "score": float("nan")} for epoch in (1, 2, 3)]
    runs.write_history(tmp_path, rows[:1])
    first = (tmp_path / "history.csv").read_text(encoding="utf-8")
    runs.write_history(tmp_path, rows[:2])
    second = (tmp_path / "history.csv").read_text(encoding="utf-8")
    assert second.startswith(first)
    for torn in (second + "3,0.30000", second[:-1], second + "3,0.5,\n4,0.4,\n", first, ""):
        (tmp_path / "history.csv").write_text(torn, encoding="utf-8")
        runs.write_history(tmp_path, rows)
        table = pd.read_csv(tmp_path / "history.csv")
        assert table["epoch"].tolist() == [1, 2, 3]
        assert table["loss"].tolist() == pytest.approx([row["loss"] for row in rows], rel=1e-12)
    assert json.loads(table.to_json())["score"]["0"] is None
