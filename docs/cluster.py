"""A list of trainings as tasks of Ray: on this machine, or on a cluster by its address.

    pip install kitlib[cluster]

A task is one call of `training.fit_fold` and leaves a run folder. When a worker is lost, Ray starts its task again, and
`fit_fold` resumes from the checkpoint in the folder: only the unfinished epoch is trained again. On several machines
the run folders must therefore be on storage that all of them mount.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import keras
import pandas as pd

from kitlib import runs
from kitlib.data import pipeline
from kitlib.training import Job
from kitlib.training import jobs as trainings

LINGERING_SECONDS = 120.0  # a network drive may hold a folder so long for a machine that is lost


def train(
    slices: pd.DataFrame,
    jobs: Sequence[Job],
    packed: str | os.PathLike,
    *,
    address: str | None = None,
    processors: float = 1,
    gpus: float | None = None,
    retries: int = 3,
    deadline: float | None = None,
) -> list[runs.Run]:
    """Train all jobs, as many at a time as the machines have room for; one line is printed as each is done.

    Args:
        slices: table of slices; its files must be readable on every machine.
        jobs: the trainings, such as those of `experiments.tasks`.
        packed: folder for the packed scans, which the tasks map into memory; packed here, before the first task.
        address: of a cluster, such as "auto" or "ray://head:10001"; None starts one on this machine.
        processors: cores that a task takes.
        gpus: GPUs that a task takes. None is one where the machines have any, else none. 0.5 puts two on one, and needs
            TF_FORCE_GPU_ALLOW_GROWTH=true where Ray is started: else the first takes all the memory.
        retries: how often a task whose worker is lost is started again.
        deadline: seconds of `time.time()` at which the tasks should have ended; one without time for an epoch is not
            begun.

    Returns:
        The runs that were begun, in the order of the jobs.

    Raises:
        ImportError: without ray.
        ValueError: when a task asks for more than any machine has, and would never start; names both.
        RuntimeError: when all tasks are done, names the folders whose training failed, or that hold no run here.
    """
    try:
        import ray
    except ImportError as reason:
        raise ImportError("docs.cluster needs ray: pip install kitlib[cluster]") from reason
    jobs = [replace(job, folder=Path(job.folder).absolute()) for job in jobs]  # a task runs elsewhere
    folders, packed = [job.folder for job in jobs], Path(packed).absolute()
    own = not ray.is_initialized()
    if own:
        ray.init(address=address, include_dashboard=False, log_to_driver=False)
    try:
        gpus = affordable([node["Resources"] for node in ray.nodes() if node["Alive"]], processors, gpus)
        for spec in {job.spec for job in jobs}:
            pipeline.pack(slices, spec, packed)
        task = ray.remote(trainings.train).options(num_cpus=processors, num_gpus=gpus, max_retries=retries)
        table, policy = ray.put(slices), keras.config.dtype_policy().name
        waiting = {
            task.remote(
                table, job, packed, policy, deadline=deadline, others=folders, patience=LINGERING_SECONDS
            ): job.folder
            for job in jobs
        }
        failed = _wait(ray, waiting)
    finally:
        if own:
            ray.shutdown()
    if failed:
        raise RuntimeError("; ".join(f"{folder}: {reason}" for folder, reason in failed.items()))
    return [runs.read(folder) for folder in folders if (folder / "run.json").is_file()]


def affordable(machines: Sequence[dict[str, float]], processors: float, gpus: float | None) -> float:
    """Return the number of GPUs that a task takes, and check that some machine has enough.

    Args:
        machines: what each has, as Ray counts it: "CPU" and "GPU".
        processors: cores that a task takes.
        gpus: GPUs that it takes; None is one where there are any.

    Raises:
        ValueError: names what is asked for and what there is, when no machine has both.

    >>> affordable([{"CPU": 8.0}, {"CPU": 4.0, "GPU": 1.0}], 4, None)
    1
    """
    if gpus is None:
        gpus = 1 if any(has.get("GPU", 0) for has in machines) else 0
    if not any(has.get("CPU", 0) >= processors and has.get("GPU", 0) >= gpus for has in machines):
        there = "; ".join(f"{has.get('CPU', 0):g} processors and {has.get('GPU', 0):g} GPUs" for has in machines)
        raise ValueError(
            f"a task needs {processors:g} processors and {gpus:g} GPUs, and no machine has both: {there}. "
            "Lower `processors` or `gpus`"
        )
    return gpus


def _wait(ray, waiting: dict) -> dict[Path, str]:
    """Collect tasks as they end; return the folders of those that failed, and the reasons."""
    failed, count = {}, len(waiting)
    while waiting:
        (done, *_), _ = ray.wait(list(waiting))
        folder = waiting.pop(done)
        try:
            outcome = "done" if ray.get(done) else "left for the next call, without time for an epoch"
            if outcome == "done" and not (folder / "run.json").is_file():
                failed[folder] = "done, but this machine sees no run.json: choose a folder that all machines mount"
        except ray.exceptions.RayError as reason:
            failed[folder] = str(reason).strip().splitlines()[-1]
        if folder in failed:
            outcome = f"failed: {failed[folder]}"
        print(f"{count - len(waiting):3d}/{count} {folder} {outcome}", flush=True)
    return failed
