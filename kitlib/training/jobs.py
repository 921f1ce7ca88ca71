"""A list of trainings: one after the other in this process, or side by side in a process per GPU.

Cross-validation, experiments and comparisons are such lists. Processes exchange run folders and nothing else.
"""

import concurrent.futures
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import pandas as pd

from kitlib import runs
from kitlib.data import folds, pipeline
from kitlib.data.inputs import InputSpec
from kitlib.training import initial, resume
from kitlib.training.budget import has_time
from kitlib.training.devices import Devices, cleared, detect, listed
from kitlib.training.fit import fit_fold
from kitlib.training.recipes import Recipe

AGAIN_SECONDS = 5.0  # between two tries to hold a folder


@dataclass(frozen=True, eq=False)
class Job:
    """One training of a list.

    Attributes:
        folder: its run folder.
        held_out: True for the rows to validate on.
        spec: what the network sees.
        recipe: how it is trained.
        name: printed in the progress with the folder's name; several jobs may share one.
        pretrained: what the network starts from, as for `fit_fold`.
    """

    folder: Path
    held_out: pd.Series
    spec: InputSpec = InputSpec()
    recipe: Recipe = Recipe()
    name: str = ""
    pretrained: str | os.PathLike | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.folder.name})" if self.name else self.folder.name


@dataclass(frozen=True, eq=False)
class Outcome:
    """The end of a job: its run, or the reason why it diverged; neither when there was no time to begin it."""

    job: Job
    run: runs.Run | None = None
    error: FloatingPointError | None = None


def run(
    slices: pd.DataFrame,
    jobs: Sequence[Job],
    *,
    packed: pipeline.Packed | str | os.PathLike | None = None,
    devices: Devices | None = None,
    at_once: int = 1,
    deadline: float | None = None,
    earlier: Sequence[str | os.PathLike] = (),
    like: Sequence[str | os.PathLike] = (),
) -> list[Outcome]:
    """Train what is not trained yet and print the progress; finished run folders are read.

    Trainings without time for two epochs before the deadline are listed; the same call continues with them. One that
    was stopped has its run as it is. One that diverges in its first epoch is named, and the others go on; one that
    diverges later keeps its best epoch. Precision and distribution are the same for all.

    Args:
        slices: table of slices.
        jobs: the trainings.
        packed: the scans of `slices` on the jobs' grid, with any depth; or a folder to pack them into, which is kept.
            None packs them where they are needed.
        devices: as for `fit_fold`.
        at_once: trainings at a time, each in a process of its own with every at_once-th GPU, at most one per GPU.
            Networks and losses of your own must be in a module that the processes can import. The processes end with
            this one, however it ends: Ctrl-C or a kill costs each training the epoch it was in.
        deadline: seconds of `time.time()` at which all should have ended.
        earlier: as for `fit_fold`.
        like: run folders of finished trainings whose epochs tell how long one takes.

    Returns:
        An outcome per job, in order.

    Raises:
        FileNotFoundError: before anything is packed, when weights to start from are not there.
        RuntimeError: with `at_once` above 1, with a TPU, which belongs to one process; while another call trains side
            by side in the same folder; and when a process was killed.
        Exception: the error of the first job that failed otherwise.
    """
    for job in jobs:
        initial.check(job.pretrained, job.recipe)
        if not (job.pretrained is None or earlier or (job.folder / "run.json").is_file()):
            initial.find(job.pretrained)
    began, outcomes, failed = time.perf_counter(), {}, []
    known = [*(job.folder for job in jobs), *like]
    if at_once > 1:
        ended = _side_by_side(slices, jobs, packed, devices, shares(at_once), deadline, earlier, known)
    else:
        ended = _one_by_one(slices, jobs, packed, devices, deadline, earlier, known)
    for number, (job, result) in enumerate(ended, start=1):
        if isinstance(result, Exception) and not isinstance(result, FloatingPointError):
            failed.append(result)
            continue
        error = result if isinstance(result, FloatingPointError) else None
        outcomes[job] = Outcome(job, None if error else result, error)
        if result is not None:
            gone = (time.perf_counter() - began) / 60
            left = f"{gone:.1f} min, {gone / number * (len(jobs) - number):.1f} min left"
            text = error or f"Dice {result.score().get('dice', float('nan')):.3f}, {left}"
            print(f"{number:3d}/{len(jobs)} {job}: {text}", flush=True)
    if failed:
        raise failed[0]
    ordered = [outcomes[job] for job in jobs]
    _report("diverged; run the same call again to retry", [outcome.job for outcome in ordered if outcome.error], jobs)
    unfinished = [
        outcome.job
        for outcome in ordered
        if not outcome.error and (outcome.run is None or outcome.run.state != "finished")
    ]
    _report("out of time; run the same call again to continue", unfinished, jobs)
    return ordered


def cross_validate(
    slices: pd.DataFrame,
    folder: str | os.PathLike,
    *,
    count: int = 5,
    only: Sequence[int] | None = None,
    spec: InputSpec = InputSpec(),
    recipe: Recipe = Recipe(),
    pretrained: str | os.PathLike | None = None,
    packed: pipeline.Packed | str | os.PathLike | None = None,
    devices: Devices | None = None,
    at_once: int | None = None,
    deadline: float | None = None,
    earlier: Sequence[str | os.PathLike] = (),
    like: Sequence[str | os.PathLike] = (),
    folds_of: str | os.PathLike | None = None,
) -> list[runs.Run]:
    """Train one network per fold (paper, V.B.1) into folder/fold0, folder/fold1, ...

    The folds are drawn once, into folder/folds.csv. Called again, finished folds are read, and the interrupted one
    resumes. Scans are packed once.

    Args:
        slices: table of slices.
        folder: for the folds' run folders.
        count: folds.
        only: the folds to train, such as (0, 1); None is all.
        pretrained: as for `fit_fold`; of the folder of a cross-validation, such as the gates', each fold starts from
            its own, and `folds_of` is that folder.
        spec, recipe, packed, devices, deadline, earlier, like: as for `run`.
        at_once: folds at a time, as for `run`; None is one per GPU of `devices`, where they do not share each batch.
        folds_of: folder of another cross-validation whose folds this one has: a gate and its segmenter need the same.

    Returns:
        The runs of the folds that were begun, by this call or before, in order.

    Raises:
        ValueError: when the folder is a run folder or a folder of other runs, or its folds.csv does not fit the slices,
            or differs from that of `folds_of`; or when that of `pretrained` does.
        FloatingPointError: of the first fold that diverged, when the others are done; it names the fold's folder.
    """
    initial.check(pretrained, recipe)
    folder = Path(folder)
    if (folder / "run.json").is_file():
        raise ValueError(f"{folder} is the folder of a single run, not of a cross-validation; choose another folder")
    others = resume.runs_below(folder)
    if others and not (folder / "folds.csv").is_file():
        raise ValueError(f"{folder} is a folder of runs ({', '.join(others[:5])}); choose a new folder below it")
    if _has_folds(pretrained):
        if folds_of is None:
            folds_of = pretrained
        else:
            folds.check_same(*(Path(other).expanduser() / "folds.csv" for other in (pretrained, folds_of)))
    table = folds.table(slices, folder / "folds.csv", count, earlier, folds_of)
    folders = [folder / f"fold{fold}" for fold in range(count)]
    chosen = range(count) if only is None else only
    starts = {fold: start_of(pretrained, fold) for fold in chosen}
    jobs = [Job(folders[fold], table == fold, spec, recipe, pretrained=starts[fold]) for fold in chosen]
    at_once = trainings_at_once(devices, len(jobs)) if at_once is None else at_once
    outcomes = run(
        slices,
        jobs,
        packed=packed,
        devices=devices,
        at_once=at_once,
        deadline=deadline,
        earlier=earlier,
        like=[*folders, *like],
    )
    for outcome in outcomes:
        if outcome.error:
            raise outcome.error
    return [runs.read(path) for path in folders if (path / "run.json").is_file()]


def start_of(pretrained: str | os.PathLike | None, fold: int) -> str | os.PathLike | None:
    """Return what a fold starts from: of the folder of a cross-validation its own fold, otherwise the same for all."""
    return Path(pretrained) / f"fold{fold}" if _has_folds(pretrained) else pretrained


def _has_folds(pretrained: str | os.PathLike | None) -> bool:
    """Tell whether it is the folder of a cross-validation."""
    return pretrained is not None and (Path(pretrained).expanduser() / "folds.csv").is_file()


def train(
    slices: pd.DataFrame,
    job: Job,
    packed: Path,
    policy: str,
    on_devices: bool = False,
    deadline: float | None = None,
    others: Sequence[Path] = (),
    earlier: Sequence[str | os.PathLike] = (),
    patience: float = 0.0,
) -> bool:
    """Train one job in this process, which was started for it.

    Args:
        slices: table of slices.
        job: the training.
        packed: folder of the packed scans, which are mapped into memory.
        policy: the precision, for Keras.
        on_devices: choose devices with `detect`.
        deadline: as for `run`.
        others: run folders of trainings like it, whose epochs tell how long one takes.
        earlier: as for `fit_fold`.
        patience: seconds to wait for a folder that another process holds.

    Returns:
        False when there is no time for an epoch, and nothing was done.

    Raises:
        RuntimeError: when the folder is still held: names it.
    """
    until = time.monotonic() + patience
    while has_time(deadline, job.folder, others):
        try:
            keras.config.set_dtype_policy(policy)
            fit_fold(
                slices,
                job.folder,
                held_out=job.held_out,
                spec=job.spec,
                recipe=job.recipe,
                pretrained=job.pretrained,
                packed=pipeline.pack(slices, job.spec, packed),
                devices=detect() if on_devices else None,
                deadline=deadline,
                earlier=earlier,
            )
            return True
        except resume.Held:
            if time.monotonic() >= until:
                raise
            time.sleep(AGAIN_SECONDS)
    return False


def trainings_at_once(devices: Devices | None, count: int) -> int:
    """Count the trainings to run at once: one per GPU, at most `count`; 1 where GPUs share batches or are absent."""
    if devices is None or devices.shared or not listed("gpu"):
        return 1
    return max(1, min(count, devices.accelerators))


def shares(at_once: int) -> list[str | None]:
    """Share the GPUs that this process sees among processes: CUDA_VISIBLE_DEVICES of each; None leaves it as it is.

    Raises:
        RuntimeError: with a TPU.
    """
    if listed("tpu"):
        raise RuntimeError(f"at_once={at_once}, but only one process can use a TPU; choose at_once=1")
    gpus = len(listed("gpu"))
    if not gpus:
        return [None] * at_once
    if gpus < at_once:
        print(f"at_once={at_once}, but {gpus} GPU(s) found: training {gpus} at a time, one per GPU")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # numbers or names
    names = (visible.split(",") if visible else list(map(str, range(gpus))))[:gpus]
    return [",".join(names[number::at_once]) for number in range(min(at_once, gpus))]


def _one_by_one(slices, jobs, packed, devices, deadline, earlier, known) -> Iterator[tuple[Job, object]]:
    """Train in this process; yield each job with its run, the reason why it diverged, or None without time for it."""
    for job in jobs:
        result = None
        if has_time(deadline, job.folder, known):
            if not isinstance(packed, pipeline.Packed) and not runs.finished(job.folder):
                packed = pipeline.pack(slices, job.spec, packed)
            with cleared():
                try:
                    result = fit_fold(
                        slices,
                        job.folder,
                        held_out=job.held_out,
                        spec=job.spec,
                        recipe=job.recipe,
                        pretrained=job.pretrained,
                        packed=packed.restacked(job.spec) if isinstance(packed, pipeline.Packed) else None,
                        devices=devices,
                        deadline=deadline,
                        earlier=earlier,
                    )
                except FloatingPointError as reason:
                    result = reason
        yield job, result


def _side_by_side(slices, jobs, packed, devices, visible, deadline, earlier, known) -> Iterator[tuple[Job, object]]:
    """Pack, then keep a process per share of the GPUs at work; yield jobs as they end, as `_one_by_one` does."""
    home = Path(os.path.commonpath([job.folder.absolute().parent for job in jobs]))
    kept = packed if isinstance(packed, str | os.PathLike) else None
    packed, policy = Path(kept or home / "packed"), keras.config.dtype_policy().name
    context = multiprocessing.get_context("spawn")
    free = context.Queue()
    for own in visible:
        free.put(own)
    ended, end = context.Pipe(duplex=False)  # never written to: it is closed here, or by the system when this dies
    with resume.hold(home):
        if not all(runs.finished(job.folder) for job in jobs):
            pipeline.pack(slices, jobs[0].spec, packed)
        pool = concurrent.futures.ProcessPoolExecutor(
            len(visible), mp_context=context, initializer=_begin, initargs=(free, ended)
        )
        try:
            waiting = {
                pool.submit(train, slices, job, packed, policy, devices is not None, deadline, known, earlier): job
                for job in jobs
                if not runs.finished(job.folder)
            }
            yield from ((job, runs.read(job.folder)) for job in jobs if job not in waiting.values())
            for task in concurrent.futures.as_completed(waiting):
                job, error = waiting[task], task.exception()
                yield job, error or (runs.read(job.folder) if task.result() else None)
        except BaseException:
            end.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            if not kept:
                shutil.rmtree(packed, ignore_errors=True)


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


def _report(what: str, some: Sequence[Job], jobs: Sequence[Job]) -> None:
    if some:
        names = ", ".join(map(str, some))
        print(f"{len(some)} of {len(jobs)} trainings {what}: {names}", flush=True)
