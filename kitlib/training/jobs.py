"""Folds in processes of their own, each with its share of the GPUs; what they exchange are run folders."""

import concurrent.futures
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import pandas as pd

from kitlib import runs
from kitlib.data import folds, pipeline
from kitlib.training import devices as machine
from kitlib.training import locks
from kitlib.training.budget import Budget

AGAIN_SECONDS = 5.0  # between two tries to hold a folder


def train(slices: pd.DataFrame, jobs: Sequence[dict], at_once: int, packed: Path, deadline: float | None) -> None:
    """Call `training.fit_fold` once per job, some at a time.

    The processes end with this one, however it ends: Ctrl-C or a kill costs each fold the epoch it was in. Folds of
    which no epoch would fit are left for the next call.

    Args:
        slices: table of slices.
        jobs: keyword arguments of fit_fold, `folder` and `spec` among them; networks, losses and layers of your own
            must live in a module that the processes can import.
        at_once: processes; at most one per GPU. Process k sees GPUs k, k + at_once, ... of those that this one sees,
            and on TensorFlow needs the memory that this one takes as soon as it computes. Without GPUs all share the
            processors.
        packed: folder for the packed scans, which the processes map into memory; removed at the end. The folder that
            it lies in is held until then.
        deadline: seconds of `time.time()`, or None.

    Raises:
        RuntimeError: with a TPU, which belongs to one process; while another call holds the folder; and when a process
            was killed.
        Exception: what `fit_fold` raised in the first job that failed, when all are done.
    """
    with locks.hold(packed.parent):
        _train(slices, jobs, shares(at_once), packed, deadline)


def _train(slices, jobs, shared: Sequence[str | None], packed: Path, deadline: float | None) -> None:
    """Pack, then keep a process per share at work until all jobs are done."""
    pipeline.pack(slices, jobs[0]["spec"], packed)
    context = multiprocessing.get_context("spawn")
    free = context.Queue()
    for own in shared:
        free.put(own)
    ended, end = context.Pipe(duplex=False)  # never written to: it is closed here, or by the system when this dies
    policy, folders = keras.config.dtype_policy().name, [Path(job["folder"]) for job in jobs]
    pool = concurrent.futures.ProcessPoolExecutor(
        len(shared), mp_context=context, initializer=_begin, initargs=(free, ended)
    )
    try:
        waiting = [pool.submit(fit, slices, plain(job), packed, policy, deadline, folders) for job in jobs]
        concurrent.futures.wait(waiting)
    except BaseException:
        end.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        shutil.rmtree(packed, ignore_errors=True)
    left = [folder.name for folder, task in zip(folders, waiting, strict=True) if not task.result()]
    if left:
        print(f"left for the next call, as no epoch would fit: {', '.join(left)}")


def shares(at_once: int) -> list[str | None]:
    """Deal the GPUs that this process sees: what CUDA_VISIBLE_DEVICES is to be in each of at most so many processes.

    None leaves it as it is, where there is no GPU.

    Raises:
        RuntimeError: with a TPU.
    """
    if machine.listed("tpu"):
        raise RuntimeError(f"at_once={at_once}, but a TPU belongs to one process: at_once=1 trains fold after fold")
    gpus = len(machine.listed("gpu"))
    if not gpus:
        return [None] * at_once
    if gpus < at_once:
        print(f"at_once={at_once}, but {gpus} GPU(s): {gpus} at a time, since each process needs a GPU")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # numbers or names
    names = (visible.split(",") if visible else list(map(str, range(gpus))))[:gpus]
    return [",".join(names[number::at_once]) for number in range(min(at_once, gpus))]


def _begin(free, ended) -> None:
    """Take a share of the GPUs, before anything has looked at them, and leave Ctrl-C and the end to the parent."""
    own = free.get()
    if own is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = own
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(ended,), daemon=True).start()


def _end_with(parent) -> None:
    """Wait until the parent's end of a pipe is closed, by itself or by its death; then end this process."""
    try:
        parent.poll(None)
    finally:
        os._exit(1)


def fit(
    slices: pd.DataFrame,
    job: dict,
    packed: Path,
    policy: str,
    deadline: float | None,
    folders: Sequence[Path] = (),
    patience: float = 0.0,
) -> bool:
    """Train one fold in this process; False when it is left for the next call, as no epoch of it would fit.

    Args:
        folders: of all jobs, whose epochs tell how long one takes.
        patience: seconds to wait for a folder that somebody holds.

    Raises:
        RuntimeError: when somebody holds the folder still: names it and its holder.
    """
    until = time.monotonic() + patience
    while Budget(deadline=deadline).worth_beginning(job["folder"], folders):
        try:
            _fit(slices, job, packed, policy, deadline)
            return True
        except locks.Held:
            if time.monotonic() >= until:
                raise
            time.sleep(AGAIN_SECONDS)
    return False


def _fit(slices: pd.DataFrame, job: dict, packed: Path, policy: str, deadline: float | None) -> None:
    """Make of a job what it was before it travelled, and train."""
    from kitlib.training import fit as training

    keras.config.set_dtype_policy(policy)
    options = {name: _keras(value) for name, value in job.items()}
    devices = machine.detect() if options.pop("devices", None) else None
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


def fold_table(slices: pd.DataFrame, path: Path, count: int) -> pd.Series:
    """Read the table of folds of a run, or deal the cases and keep it: a run that goes on must not deal again.

    Raises:
        ValueError: when the table on disk has another number of folds or lacks a case.
    """
    if not path.is_file():
        dealt = slices[["case"]].assign(fold=folds.by_case(slices, count)).drop_duplicates()
        with runs.replacing(path) as file:
            file.write(dealt.to_csv(index=False))
    kept = folds.read(path)
    missing = set(slices["case"]) - set(kept.index)
    if missing or kept.nunique() != count:
        raise ValueError(
            f"{path} deals {kept.nunique()} folds and lacks cases {sorted(missing)}; choose another folder"
        )
    return slices["case"].map(kept)


def adopt_table(slices: pd.DataFrame, path: Path, count: int, folders: Sequence[Path]) -> None:
    """Copy the table of folds of an earlier run, where there is none yet and one of these folders fits the cases."""
    for folder in folders:
        if path.is_file():
            return
        try:
            table = folds.read(folder / "folds.csv")
            fits = set(table.index) == set(slices["case"]) and table.nunique() == count
        except ValueError:  # somebody else's folds.csv
            continue
        if fits:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "folds.csv", path)
