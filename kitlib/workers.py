"""Folds in processes of their own, each with its share of the GPUs; what they exchange are run folders."""

import multiprocessing
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import keras
import pandas as pd

from kitlib import pipeline


def train(slices: pd.DataFrame, jobs: Sequence[dict], at_once: int, packed: Path, deadline: float | None) -> None:
    """Call `training.fit_fold` once per job, some at a time; an error in one of them is raised when all are done.

    Args:
        slices: table of slices.
        jobs: keyword arguments of fit_fold, `folder` and `spec` among them; networks, losses and layers of your own
            must live in a module that the processes can import.
        at_once: processes. Process k sees GPUs k, k + at_once, ...; without GPUs all share the processors.
        packed: folder for the packed scans, which the processes map into memory; removed at the end.
        deadline: seconds of `time.time()`, or None.
    """
    pipeline.pack(slices, jobs[0]["spec"], packed)
    gpus = len(keras.distribution.list_devices("gpu"))
    context = multiprocessing.get_context("spawn")
    free = context.Queue()
    for number in range(at_once):
        free.put(",".join(map(str, range(number, gpus, at_once))))
    policy = keras.config.dtype_policy().name
    try:
        with ProcessPoolExecutor(at_once, mp_context=context, initializer=_claim, initargs=(free,)) as pool:
            waiting = [pool.submit(fit, slices, plain(job), packed, policy, deadline) for job in jobs]
        for task in waiting:
            task.result()
    finally:
        shutil.rmtree(packed, ignore_errors=True)


def _claim(free) -> None:
    """Take a share of the GPUs, before anything has looked at them."""
    os.environ["CUDA_VISIBLE_DEVICES"] = free.get()


def fit(slices: pd.DataFrame, job: dict, packed: Path, policy: str, deadline: float | None) -> None:
    """Train one fold in this process."""
    from kitlib import augment, runtime, training  # noqa: F401 (augment: registers its layer)

    keras.config.set_dtype_policy(policy)
    options = {name: _keras(value) for name, value in job.items()}
    devices = runtime.devices() if options.pop("devices", None) else None
    scans = pipeline.pack(slices, options["spec"], packed)
    training.fit_fold(slices, packed=scans, devices=devices, deadline=deadline, **options)


def plain(job: dict) -> dict:
    """Turn Keras' objects into their configurations, which travel between processes."""
    return {name: [_saved(one) for one in value] if name == "watch" else _saved(value) for name, value in job.items()}


def _saved(value):
    kinds = (keras.layers.Layer, keras.losses.Loss, keras.metrics.Metric)
    return keras.saving.serialize_keras_object(value) if isinstance(value, kinds) else value


def _keras(value):
    if isinstance(value, list):
        return [_keras(one) for one in value]
    return keras.saving.deserialize_keras_object(value) if isinstance(value, dict) and "config" in value else value
