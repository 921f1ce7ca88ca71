"""One training: from packed scans to a run folder with the best weights and their score; interrupted, it resumes."""

import contextlib
import functools
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from kitlib import contest, runs
from kitlib.data import folds, pipeline, scans
from kitlib.data.inputs import InputSpec
from kitlib.layers import monitors
from kitlib.models.unet import check_keras
from kitlib.training import initial, resume
from kitlib.training.budget import Budget
from kitlib.training.devices import Devices, cleared, scope, seed, time_xla
from kitlib.training.epochs import EpochEnd, EpochLog
from kitlib.training.evaluate import Evaluator
from kitlib.training.recipes import Recipe
from kitlib.training.step import AugmentedModel, LossScaling

SAMPLES = 8  # on each device, for the statistics of a batch norm


def fit_fold(
    slices: pd.DataFrame,
    folder: str | os.PathLike,
    *,
    held_out: pd.Series,
    spec: InputSpec = InputSpec(),
    recipe: Recipe = Recipe(),
    pretrained: str | os.PathLike | None = None,
    packed: pipeline.Packed | str | os.PathLike | None = None,
    devices: Devices | None = None,
    deadline: float | datetime | None = None,
    earlier: Sequence[str | os.PathLike] = (),
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> runs.Run:
    """Train a network on the slices that are not held out, and score it on those that are.

    Called again with the folder of an unfinished run, it resumes after the last finished epoch, with the same order,
    rates, averages and patience as if it had not been interrupted (to the bit with `recipe.deterministic`). A finished
    run is read and returned.

    Args:
        slices: table of slices, as scans.read gives it for "train".
        folder: the run folder to write or to resume.
        held_out: True for the rows to validate on: whole cases, or `folds.later_days`.
        spec: what the network sees.
        recipe: how it is trained; kitlib.training.recipes has ready-made ones.
        pretrained: what the network starts from: a weight file of its encoder; the encoder's name, whose file
            `encoders.find` finds; or the folder of another run with the same network, such as a gate's. run.json keeps
            its SHA-256. A run that resumes does not read it again. None is random weights.
        packed: scans that were packed before, to be shared between trainings; or a folder to pack them into, where the
            next call finds them. None packs them in memory.
        devices: the result of `devices.detect`; None is the first device, in the precision that Keras is set to. On a
            GPU a few steps are timed, to train with XLA or without; run.json keeps the choice for when it resumes.
        deadline: the moment at which the call should have ended, as datetime or seconds of `time.time()`. Training
            stops when twice the longest epoch and its closing no longer fit, leaves a model with the best weights so
            far, and can be resumed. The last epoch before that has a host score, also between two that `score_every`
            names: with the monitor "score" it counts for the best epoch and patience.
        earlier: run folders among which to look for an earlier part of this run, to be copied into a new `folder`; on
            Kaggle, `contest.attached("run.json")`.
        callbacks: further Keras callbacks, such as `keras.callbacks.TensorBoard(...)`; their logs have every figure of
            the history.

    Returns:
        The run, with its score on the validation scans; `run.state` is "finished" or, out of time, "stopped".

    Raises:
        ValueError: for a case in both sets, an empty set, a network that cannot be imported, `pretrained` that does not
            fit it, and a folder that holds a run with other settings: names the difference.
        FileNotFoundError: when the file or run of `pretrained` is not there.
        RuntimeError: while another process trains in the folder, and with `augment_on="cpu"` on another backend than
            TensorFlow.
        FloatingPointError: when the validation loss is not finite after the first epoch: names the folder and remedies.
            Nothing is kept, and the same call starts anew. Later, the run ends with its best epoch.
    """
    folder, started = Path(folder), time.perf_counter()
    _check(spec, recipe, devices, deadline)
    initial.check(pretrained, recipe)
    build = recipe.builder(spec.prior)
    train, val = folds.split(slices, held_out, recipe.leave_out, recipe.empty_share, recipe.seed)
    record = resume.new_record(train, val, spec, recipe, scans.describe(slices), pretrained)
    with contextlib.nullcontext() if runs.finished(folder) else resume.hold(folder):
        run = resume.open_run(folder, record, earlier)
        if run.state == "finished":
            return run
        packed = packed if isinstance(packed, pipeline.Packed) else pipeline.pack(slices, spec, packed)
        xla, found = _xla(run, recipe, spec, devices)
        seed(recipe.seed, recipe.deterministic)
        steps = pipeline.steps(train, recipe.batch_size, spec)
        with scope(devices.strategy() if devices else None):
            model = _compiled(_labelling(build(spec.shape), recipe, spec), recipe, steps, xla)
        evaluator = Evaluator(lambda: build(spec.shape), val, packed, recipe)
        budget = Budget(deadline, run.record.get("closing_seconds", 0.0))
        end = EpochEnd(folder, model.network, evaluator, recipe, budget, steps * recipe.batch_size)
        end.resume(model)
        first = end.state.epoch
        if pretrained is not None and not first:
            found["pretrained"] = initial.load(model.network, pretrained, run.record["folds"]["held_out"])
        run = resume.reopen(run, end.state.history, found)
        if not end.state.ended and (not first or budget.fits()):
            model.fit(
                pipeline.dataset(
                    train,
                    spec,
                    recipe.batch_size,
                    True,
                    packed=packed,
                    seed=recipe.seed,
                    first_epoch=first,
                    augment=recipe.made("augment") if recipe.augment_on == "cpu" else None,
                ),
                initial_epoch=first,
                epochs=recipe.epochs,
                steps_per_epoch=steps,
                callbacks=[end, EpochLog(recipe.epochs, steps, first), *callbacks],
                shuffle=False,  # the data set has shuffled
                verbose=0,
            )
        return end.close(run, started)


def _check(spec: InputSpec, recipe: Recipe, devices: Devices | None, deadline: float | datetime | None) -> None:
    """Check before anything is read that the arguments are what they should be, and go together with Keras."""
    for name, value, kinds, example in (
        ("spec", spec, InputSpec, "InputSpec(64, 64)"),
        ("recipe", recipe, Recipe, "recipes.paper()"),
        ("deadline", deadline, int | float | datetime | None, "time.time() + 3600"),
    ):
        if not isinstance(value, kinds):
            raise ValueError(f"{name} is {value!r}; give {example} or the like")
    check_keras()
    cards = len(devices.shared) if devices else 0
    if recipe.batch_size % max(cards, 1):
        raise ValueError(
            f"batch_size {recipe.batch_size} is not divisible by {cards}, the number of devices that share it; "
            f"choose a multiple of {cards}"
        )
    if cards > 1 and recipe.batch_size < SAMPLES * cards:
        print(f"batch norm sees {recipe.batch_size // cards} samples on each device; it needs about {SAMPLES}")
    if recipe.augment_on == "cpu" and keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"augment_on='cpu': keras.ops cannot run inside tf.data on the {keras.backend.backend()} backend of Keras; "
            "use augment_on='device', or set KERAS_BACKEND=tensorflow"
        )


def _xla(run: runs.Run, recipe: Recipe, spec: InputSpec, devices: Devices | None) -> tuple[bool | str, dict]:
    """Choose whether XLA compiles the step; return `jit_compile`, and the entry of run.json where steps are timed."""
    if recipe.deterministic and keras.backend.backend() == "tensorflow":
        return False, {}
    begun = len(run.history()) > 0
    if devices is None or not devices.times_xla or (begun and "xla" not in run.record):
        return devices.xla if devices else "auto", {}
    found = run.record.get("xla")
    if found is None:
        found = _timed(replace(recipe, seed=0).to_json(), spec, keras.config.dtype_policy().name)
        took = "cannot be compiled" if found["with"] is None else f"takes {found['with']:.1f} ms"
        print(f"XLA {'on' if found['on'] else 'off'}: a step {took} with it, {found['without']:.1f} ms without")
    return found["on"], {"xla": found}


@functools.cache
def _timed(recipe: str, spec: InputSpec, policy: str) -> dict:
    """Time the steps of a recipe, once per process for all folds."""
    made, size = Recipe.from_json(recipe), Recipe.from_json(recipe).batch_size
    more = spec.shape[-1] - spec.depth  # of a prior
    batch = {
        "images": np.zeros((size, *spec.picture, spec.depth), "float32"),
        "masks": np.zeros((size, *spec.labelled, len(contest.ORGANS) + more), "uint8"),
        "seed": np.arange(size, dtype="int32"),
        "weight": np.ones(size, "float32"),
    }
    with cleared():
        return time_xla(lambda on: _compiled(made.builder(spec.prior)(spec.shape), made, 1, on), batch)


def _labelling(network: keras.Model, recipe: Recipe, spec: InputSpec) -> keras.Model:
    """Return the network; raise ValueError where it labels one slice of a volume, or all slices of a stack."""
    if len(network.output_shape) != len(spec.labelled) + 2:
        raise ValueError(
            f"network {recipe.network!r} gives {network.output_shape}, but with volume={spec.volume} masks are "
            f"{(None, *spec.labelled, len(contest.ORGANS))}; volume=True goes with a network for volumes, such as "
            "'kitlib.models:build_segresnet'"
        )
    return network


def _compiled(network: keras.Model, recipe: Recipe, steps: int, xla: bool | str) -> AugmentedModel:
    """Put a network and its augmentation into one compiled model, with its optimizer built."""
    augment = recipe.made("augment") if recipe.augment_on == "device" else None
    model = AugmentedModel(network, augment, recipe.momentum(steps))
    metrics = [monitors.Dice(name="dice"), monitors.IoU(name="iou")]
    optimizer = recipe.make_optimizer(steps)
    if keras.config.dtype_policy().name == "mixed_float16":
        optimizer = LossScaling(optimizer)
    model.compile(optimizer, recipe.made("loss"), weighted_metrics=metrics, jit_compile=xla)
    model.built = True
    model.optimizer.build(model.trainable_variables)  # under float16 the loss scaling, which holds the optimizer
    return model
