"""Training: from packed scans to a run folder with the best weights and their score; whatever stops it, it goes on.

python -m kitlib.training DATA_FOLDER --held-out case16_day0 --preset paper --time-limit 3600
"""

import contextlib
import operator
import os
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import keras
import pandas as pd

from kitlib import contest, runs, session
from kitlib.data import folds, inputs, pipeline
from kitlib.layers import losses, monitors
from kitlib.models.unet import build_unet
from kitlib.training import closing, locks, resume, schedules, trackers
from kitlib.training import devices as machine
from kitlib.training import jobs as workers
from kitlib.training.budget import Budget
from kitlib.training.epochs import EpochEnd, Rules
from kitlib.training.evaluate import Judge
from kitlib.training.step import AugmentedModel, EpochLog


def fit_fold(
    slices: pd.DataFrame,
    folder: str | os.PathLike,
    *,
    held_out: pd.Series,
    spec: inputs.InputSpec | None = None,
    network: Callable[..., keras.Model] = build_unet,
    network_options: dict | None = None,
    loss: keras.losses.Loss | None = None,
    augment: keras.layers.Layer | None = None,
    elastic: str = "device",
    epochs: int = 40,
    batch_size: int = 16,
    optimizer: str = "adam",
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    schedule: str = "constant",
    warmup_epochs: float = 1.0,
    patience: int = 15,
    monitor: str = "score",
    score_every: int = 1,
    average: float = 0.0,
    average_last: int = 0,
    leave_out: tuple[str, ...] = contest.SUSPECT_SCANS,
    empty_share: float = 1.0,
    packed: pipeline.Packed | None = None,
    seed: int = 0,
    deterministic: bool = False,
    devices: machine.Devices | None = None,
    time_limit: float | None = None,
    deadline: float | datetime | None = None,
    track: Sequence[str] = (),
    watch: Sequence[keras.metrics.Metric] = (),
) -> runs.Run:
    """Train a network on the slices that are not held out, and score it on those that are; `presets` are for here.

    A call with a folder of an unfinished run goes on after its last finished epoch, as if it had never stopped: same
    order, rates, averages and patience. A finished run is read and returned. On Kaggle the earlier run may also be
    among the notebook's inputs; it is copied into the folder first.

    Args:
        slices: table of slices, as scans.read gives it for "train".
        folder: the run folder to write or to go on with.
        held_out: True for the rows to validate on; whole cases (`folds.by_case(slices) == k`) or
            `folds.later_days(slices)`.
        spec: what the network sees.
        network: called with the input shape and `network_options`.
        network_options: keyword arguments of the network.
        loss: None means BCE + 0.5 Dice, the paper's best (V.F.5).
        augment: kitlib.layers.augment.Augment, or None.
        elastic: where it runs: "device", in the training step, or "cpu", while batches are made (TensorFlow only).
        epochs: at most so many.
        batch_size: slices per step, over all devices.
        optimizer: "adam" or "adamw".
        learning_rate: at its peak. The paper names none; 1e-3 is Adam's own.
        weight_decay: of AdamW.
        schedule: "constant", or "cosine": a warm-up, then half a cosine down to zero.
        warmup_epochs: of "cosine".
        patience: training ends at the first epoch judged that lies so many epochs after the best one.
        monitor: what the best epoch is best in: "score", the host score of the whole held-out scans, "val_dice",
            "val_iou" or "val_loss".
        score_every: epochs from one host score to the next. Loss, Dice and IoU are taken after each.
        average: share kept per step of a moving average of the weights, such as 0.999; what is judged and saved is then
            the average. 0 is none.
        average_last: the mean of the weights after so many last epochs competes with the best epoch; 0 is none.
        leave_out: scans not to train on, the hosts' suspects unless told otherwise; they stay in the validation.
        empty_share: share of the slices without a mask to learn from; 1 is all, 0 leaves annotated slices alone.
        packed: scans that were packed before, to be shared between folds; None packs them here.
        seed: of weights, order and augmentation; an integer.
        deterministic: the same bits on every run, on one kind of machine; slower on a GPU.
        devices: what `devices.detect` chose; None is the first device, in the precision that Keras is set to.
        time_limit: seconds after which the call should have ended. It stops between epochs (or gives up the one it is
            in), leaves a model with the best weights so far, and can be called again. The last epoch before that is
            scored, also between two that `score_every` names: by the monitor "score" that one score more, which counts
            for the best epoch and for patience, is where a stopped run can part from one that was left alone.
        deadline: the same as a moment: datetime, or seconds of `time.time()`.
        track: "tensorboard" or "wandb", where installed.
        watch: further metrics of (truth, probabilities) to take on the held-out slices after each epoch, such as
            `monitors.panel()`; each is a column "val_..." of the history. A later call may watch others.

    Returns:
        The run, with its score on the held-out scans; `run.state` is "finished" or, out of time, "stopped".

    Raises:
        ValueError: when a case lies on both sides, when a side is empty, for an unknown choice, and when the folder
            holds a run that was called otherwise: names what differs.
        RuntimeError: while another call trains in the folder: names its process.
        FloatingPointError: when the loss on what is held out is not finite after the first epoch: names the folder and
            what to try. Nothing of it is kept, and the same call begins anew. Later, the run ends with its best epoch.
    """
    folder, spec = Path(folder), spec or inputs.InputSpec()
    options, loss = network_options or {}, loss or losses.BCEDice(dice_weight=0.5)
    rules = Rules(epochs, monitor, patience, score_every, average_last)
    budget, started = Budget(time_limit, deadline), time.perf_counter()
    try:
        seed = operator.index(seed)  # NumPy's integers are taken too
    except TypeError:
        raise ValueError(f"seed {seed!r} is no integer") from None
    if elastic not in ("device", "cpu"):
        raise ValueError(f"elastic {elastic!r} is neither 'device' nor 'cpu'")
    if elastic == "cpu" and keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"keras.ops cannot run inside tf.data on the {keras.backend.backend()} backend of Keras; "
            "augment in the training step instead (elastic='device'), or set KERAS_BACKEND=tensorflow"
        )
    if devices and batch_size % max(len(devices.shared), 1):
        raise ValueError(f"batch_size {batch_size} does not divide by {len(devices.shared)}, the devices that share it")
    learn, check = folds.split(slices, held_out, leave_out, empty_share, seed)
    watched = trackers.callbacks(track, folder)
    record = resume.describe(
        learn,
        check,
        spec,
        network=network,
        network_options=options,
        loss=loss,
        augment=augment,
        elastic=elastic,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        schedule=schedule,
        warmup_epochs=warmup_epochs,
        patience=patience,
        monitor=monitor,
        score_every=score_every,
        average=average,
        average_last=average_last,
        empty_share=empty_share,
        leave_out=list(leave_out),
        seed=seed,
        deterministic=deterministic,
    )
    steps = pipeline.steps(learn, batch_size)
    rate = schedules.rate(learning_rate, schedule, steps, epochs, warmup_epochs)
    strategy = devices.strategy() if devices else None
    with machine.scope(strategy):
        adam = schedules.optimizer(optimizer, rate, weight_decay, average)
    with contextlib.nullcontext() if runs.finished(folder) else locks.hold(folder):
        run = resume.begin(folder, record, (contest.KAGGLE_INPUT,) if session.on_kaggle() else ())
        if run.state == "finished":
            return run
        packed = packed or pipeline.pack(slices, spec)
        machine.seed(seed, deterministic)
        with machine.scope(strategy):
            model = AugmentedModel(network(spec.shape, **options), augment if elastic == "device" else None)
            seen = [monitors.Dice(name="dice"), monitors.IoU(name="iou")]
            model.compile(adam, loss, weighted_metrics=seen, jit_compile=devices.xla if devices else "auto")
            model.built = True
            model.optimizer.build(model.trainable_variables)  # under float16 the loss scaling, which holds adam
        judge = Judge(lambda: network(spec.shape, **options), check, packed, loss, batch_size, watch=watch)
        end = EpochEnd(folder, model.network, judge, rules, budget, steps * batch_size)
        end.resume(model)
        first = end.state.epoch
        run = resume.reopen(run, end.state.history)
        budget.closed = run.record.get("closing_seconds", 0.0)
        if budget.end is not None and not budget.judging:
            budget.judging = judge.rehearse()
        if not end.state.ended and (not first or budget.fits()):
            batches = pipeline.dataset(
                learn,
                spec,
                batch_size,
                True,
                packed=packed,
                seed=seed,
                first_epoch=first,
                augment=augment if elastic == "cpu" else None,
            )
            callbacks = [end, EpochLog(epochs, steps, first), *watched]
            model.fit(
                batches,
                initial_epoch=first,
                epochs=epochs,
                steps_per_epoch=steps,
                callbacks=callbacks,
                shuffle=False,  # the data set has shuffled
                verbose=0,
            )
        return closing.close(run, end, judge, started)


def cross_validate(
    slices: pd.DataFrame,
    folder: str | os.PathLike,
    *,
    count: int = 5,
    spec: inputs.InputSpec | None = None,
    at_once: int = 1,
    time_limit: float | None = None,
    deadline: float | datetime | None = None,
    **options,
) -> list[runs.Run]:
    """Train one network per fold (paper, V.B.1) into folder/fold0, folder/fold1, ...; options go to `fit_fold`.

    Cases are dealt once, into folder/folds.csv. Called again, finished folds are read, and the one that was interrupted
    goes on. Scans are packed once.

    Args:
        slices: table of slices.
        folder: where the folds' folders go.
        count: folds.
        spec: what the networks see.
        at_once: folds that are trained at a time, each in a process of its own with every at_once-th GPU: one fold per
            GPU, and never more than GPUs, where otherwise all GPUs share each batch. Nothing is exchanged between them,
            so that two folds on two GPUs take a little less time than one after the other on both.
        time_limit: seconds for all of it; folds that do not fit are left for the next call.
        deadline: the same as a moment.

    Returns:
        The runs of the folds that were begun, by this call or before, in order.

    Raises:
        FloatingPointError: of the first fold that diverged, when the others are done; `fit_fold` names it.
    """
    folder, spec = Path(folder), spec or inputs.InputSpec()
    budget = Budget(time_limit, deadline)
    if session.on_kaggle():
        workers.adopt_table(slices, folder / "folds.csv", count, contest.attached("folds.csv"))
    table = workers.fold_table(slices, folder / "folds.csv", count)
    places = [folder / f"fold{fold}" for fold in range(count)]
    jobs = [{"folder": place, "held_out": table == fold, "spec": spec} | options for fold, place in enumerate(places)]
    if at_once > 1:
        workers.train(slices, jobs, at_once, folder / "packed", budget.end)
    else:
        _one_by_one(slices, jobs, budget, places)
    return [runs.read(place) for place in places if (place / "run.json").is_file()]


def _one_by_one(slices: pd.DataFrame, jobs: list[dict], budget: Budget, places: list[Path]) -> None:
    """Train folds in this process; one that diverges is raised when the others are done, as in `workers.train`."""
    packed, left, diverged = None, [], []
    for job, place in zip(jobs, places, strict=True):
        if not budget.worth_beginning(place, places):
            left.append(place.name)
            continue
        packed = packed or pipeline.pack(slices, job["spec"])
        try:
            fit_fold(slices, packed=packed, deadline=budget.end, **job)
        except FloatingPointError as reason:
            diverged.append(reason)
    if left:
        print(f"left for the next call, as no epoch would fit: {', '.join(left)}")
    if diverged:
        raise diverged[0]
