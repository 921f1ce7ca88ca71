"""From scans to probabilities and to the submission, one scan at a time, with the networks of one or several runs.

A pass is one network over one scan, plain or flipped; the probabilities of all passes are averaged on the network's
grid and brought back to the size of the files once. Memory holds one scan, and the networks. A pass that fails costs
its scan that pass and is tried again on the next; one that runs out of memory where others do not is left out for good.
"""

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import postprocess, submission
from kitlib.data import inputs, scans
from kitlib.inference import rescue, tiling
from kitlib.inference.clock import Deadline, Pass, passes
from kitlib.inference.faults import Faults
from kitlib.inference.networks import Member, choose_settings, load, open_members  # noqa: F401 (load: for those who look here)


def predict(
    run_folders: Sequence[str | os.PathLike | Member],
    slices: pd.DataFrame,
    batch_size: int = 16,
    progress: bool = True,
    *,
    flip: bool = False,
    grid: tuple[int, int] | None = None,
    clock: Deadline | None = None,
    faults: Faults | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Predict scan after scan; the probabilities of several runs are averaged.

    Only one scan is held in memory.

    Args:
        run_folders: runs whose networks are averaged, or members that are open already.
        slices: table of slices, whole scans.
        batch_size: slices per call of the network.
        progress: show a bar with the time left.
        flip: also predict each slice mirrored left to right, and average: test-time augmentation.
        grid: height and width to bring the slices to, when it is larger than the networks' own; they then go over it
            in tiles that overlap by half (`tiling.run`). For networks that were trained on cut-outs. None is each
            network's own grid.
        clock: forecasts the end and sheds passes; None never does.
        faults: what to do about faults; None raises them. A scan that nothing can be saved of is not yielded.

    Yields:
        The name of a scan and its probabilities (D, H, W, organs) float32 at the size of its files (of most of its
        files, where they differ).

    Raises:
        FileNotFoundError: names the run folder that is none, or has no model.
        ValueError: names the file that cannot be decoded.
    """
    faults = Faults(strict=True) if faults is None else faults
    clock = clock or Deadline(None)
    members = open_members(run_folders, faults, batch_size)
    whole, failing = passes(len(members), flip), set()
    groups = slices.groupby("scan", sort=False)
    left = len(slices)
    with tqdm(total=left, desc="predicting", unit=" slices", disable=not progress) as bar:
        for name, rows in groups:
            # what failed on its last scan is tried again, as the last and so the first to be shed
            now = clock.plan(sorted(whole, key=failing.__contains__), left, name)
            if clock.over:
                scans_left = slices["scan"].nunique() - len(clock.lines) + 1
                text = f"the deadline of {clock.hours} hours is reached with {scans_left} scans to go"
                faults.meet(name, text, "they stay empty")
                return
            started, probabilities = time.perf_counter(), None
            seconds: dict[Pass, float] = {}
            failed: dict[Pass, type[Exception]] = {}
            with faults.survive(name, "left empty"):
                scan = rescue.load(rows, faults)
                if scan is not None:
                    probabilities = _average(members, now, scan, rows, batch_size, grid, faults, seconds, failed)
            if probabilities is not None:
                yield name, probabilities
                for one in [one for one, kind in failed.items() if issubclass(kind, MemoryError)]:
                    text = "does not fit into memory, one slice at a time, where other passes do"
                    faults.meet(f"{members[one.model].name}{' flipped' * one.flipped}", text, "left out from here on")
                    whole.remove(one)
            failing = (failing - set(seconds)) | set(failed)
            clock.record(len(rows), time.perf_counter() - started - sum(seconds.values()), seconds, len(failed))
            left -= len(rows)
            bar.update(len(rows))


def submit(
    run_folders: Sequence[str | os.PathLike | Member],
    slices: pd.DataFrame,
    sample: pd.DataFrame,
    target: str | os.PathLike,
    *,
    settings: postprocess.Settings | None = None,
    faults: Faults | None = None,
    **options,
) -> pd.DataFrame:
    """Predict a test set and write its submission, which is valid from the first moment on.

    A file with all rows empty is written before a network is opened, and replaced as a whole after every scan; whoever
    stops the process leaves what was finished.

    Args:
        run_folders: as in `predict`.
        slices, sample: as rescue.read gives them.
        target: the file to write.
        settings: how probabilities become masks; None takes the runs' own (`choose_settings`).
        faults: what to do about faults; None raises them.
        **options: of `predict`.

    Returns:
        The rows with masks of all scans that were predicted: id, class, predicted.
    """
    faults = Faults(strict=True) if faults is None else faults
    target = Path(target)
    for draft in target.parent.glob(f".{target.name}.*.part"):  # of a process that was stopped while it wrote
        draft.unlink(missing_ok=True)
    submission.write(target, {}, sample)
    asked = pd.Index(sample["id"].unique())

    def keep(found: pd.DataFrame) -> None:
        with faults.survive(target, "the file of the scan before stays"):
            submission.write(target, found[found["id"].isin(asked)], sample)

    found = rows(run_folders, slices, settings=settings, faults=faults, after=keep, **options)
    return found[found["id"].isin(asked)].reset_index(drop=True)


def rows(
    run_folders: Sequence[str | os.PathLike | Member],
    slices: pd.DataFrame,
    *,
    settings: postprocess.Settings | None = None,
    faults: Faults | None = None,
    after: Callable[[pd.DataFrame], None] | None = None,
    **options,
) -> pd.DataFrame:
    """Predict scans and write their masks as rows.

    Args:
        run_folders, slices, settings, faults, **options: as in `submit`.
        after: called with all rows so far when a scan is done.

    Returns:
        The rows of all scans that were predicted: id, class, predicted.
    """
    faults = Faults(strict=True) if faults is None else faults
    folders = [folder for folder in run_folders if not isinstance(folder, Member)]
    settings = settings or choose_settings(folders, faults)
    groups = dict(list(slices.groupby("scan", sort=False)))
    lines = [submission.expected_rows(slices.iloc[:0]).assign(predicted="")]
    for name, probabilities in predict(run_folders, slices, faults=faults, **options):
        with faults.survive(name, "left empty"):
            lines.append(submission.encode(groups[name], _masks(name, probabilities, settings, faults)))
            lines = [pd.concat(lines, ignore_index=True)]
        if after is not None:
            after(lines[0])
    return lines[0]


def predict_scan(
    network, prepared: np.ndarray, rows: pd.DataFrame, spec: inputs.InputSpec, batch_size: int = 16
) -> np.ndarray:
    """Run a network over the stacks of one prepared scan.

    Args:
        network: keras.Model from (B, height, width, depth) to (B, height, width, organs).
        prepared: (D, height, width) as inputs.prepare gives it.
        rows: the scan's rows of the table of slices.
        spec: the stack.
        batch_size: every batch has this size, the last one filled up, so that one compiled graph serves all.

    Returns:
        (D, height, width, organs) float32.
    """
    return _run_scan(lambda images: np.asarray(network.predict_on_batch(images)), prepared, rows, spec, batch_size)


def _average(members, plan, scan, rows, batch_size, grid, faults, seconds, failed) -> np.ndarray | None:
    """Run the passes of a plan over a scan and average those that work.

    `seconds` takes down what each pass cost, and `failed` the kind of error of those that failed.
    """
    sums: dict[tuple[int, int], np.ndarray] = {}
    prepared: dict[inputs.InputSpec, np.ndarray] = {}
    for one in plan:
        member = members[one.model]
        started = time.perf_counter()
        where = f"{rows['scan'].iloc[0]}, {member.name}{' flipped' * one.flipped}"
        with faults.survive(where, "this pass is left out of this scan"):
            try:
                seen = replace(member.spec, height=grid[0], width=grid[1]) if grid else member.spec
                if seen not in prepared:
                    prepared[seen] = inputs.prepare(scan, seen)
                found = _with_less(member, prepared[seen], rows, batch_size, one, faults)
                sums[seen.shape[:2]] = found + sums.get(seen.shape[:2], 0.0)
            except Exception as error:
                failed[one] = type(error)
                raise
            finally:
                seconds[one] = time.perf_counter() - started
    if not sums:
        faults.meet(rows["scan"].iloc[0], "not one pass over it works", "left empty")
    mean = None
    for part in sums.values():
        part /= len(seconds) - len(failed)
        restored = inputs.restore(part, scan.shape[1:])
        mean = restored if mean is None else mean + restored
    return mean


def _with_less(member: Member, prepared, rows, batch_size, one: Pass, faults: Faults) -> np.ndarray:
    """Run a pass; where memory runs out, again with half the slices at a time, down to one."""
    while True:
        try:
            found = _run_scan(member.run, prepared, rows, member.spec, batch_size, one.flipped)
            break
        except MemoryError as error:
            if batch_size == 1:
                raise
            faults.meet(rows["scan"].iloc[0], error, f"again with {batch_size // 2} slices at a time", error)
            batch_size //= 2
            gc.collect()
    if not np.isfinite(found).all():
        raise ValueError(f"{member.name} gives numbers that are not finite; its weights are damaged")
    return found


def _run_scan(run, prepared, rows, spec, batch_size, flipped=False) -> np.ndarray:
    """Run a network over the stacks of a scan, in tiles where the grid is larger than the network's."""
    stacks = scans.stacks(rows, spec.depth, spec.stride)
    count = len(stacks)
    places = np.minimum(np.arange(-(-count // batch_size) * batch_size), count - 1)
    parts = []
    for first in range(0, len(places), batch_size):
        batch = prepared[stacks[places[first : first + batch_size]]].transpose(0, 2, 3, 1)
        images = np.ascontiguousarray(batch[:, :, ::-1] if flipped else batch, np.float32)
        found = tiling.run(run, images, (spec.height, spec.width))
        parts.append(found[:, :, ::-1] if flipped else found)
    return np.concatenate(parts)[:count]


def _masks(name: str, probabilities: np.ndarray, settings: postprocess.Settings, faults: Faults) -> np.ndarray:
    """Make masks by the settings; where those fail, by a plain threshold."""
    with faults.survive(name, "a plain threshold is used"):
        return postprocess.masks(probabilities, settings)
    return postprocess.masks(probabilities, postprocess.PLAIN)
