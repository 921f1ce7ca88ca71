"""From scans to probabilities and to the submission, one scan at a time, with the networks of one or several runs.

A pass is one network over one scan, plain or flipped. The probabilities of the segmenters are averaged, those with the
same grid and box on that grid, and brought to the size of the files once. Those of the gates are averaged on their own
grid, and give the presence of each organ on each slice. Where one of the two roles has no pass that works, the other
role's probabilities replace it.

Memory holds one scan, and the networks. A pass that fails costs its scan that pass and is tried again on the next; one
that runs out of memory where others do not is left out from then on.
"""

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import runs, submission
from kitlib.data import alignment, earlier, inputs, priors, scans
from kitlib.inference import rescue
from kitlib.inference.clock import Deadline, Pass, passes
from kitlib.inference.faults import Faults
from kitlib.inference.networks import Member, open_members
from kitlib.inference.stacks import BATCH_SIZE, inputs_per_call, run_scan
from kitlib.postprocess import cleaning, intervals


class Prediction(NamedTuple):
    """What the networks say of a scan.

    Attributes:
        scan: its name.
        probabilities: (D, H, W, organs) float32, at the size of its files (of most of its files, where they differ).
        presence: (D, organs) float32, as `intervals.presence` measures it on the grid of the gates; None without a
            gate, and then `cleaning.masks` measures it on the probabilities.
        line: the slice on which both bowels are expected to end, by the earlier day of the case; None without one.
    """

    scan: str
    probabilities: np.ndarray
    presence: np.ndarray | None
    line: int | None = None


def predict(
    run_folders: Sequence[str | os.PathLike | Member],
    slices: pd.DataFrame,
    faults: Faults,
    *,
    batch_size: int = BATCH_SIZE,
    flip: bool | None = None,
    clock: Deadline | None = None,
    known: pd.DataFrame | None = None,
    progress: bool = True,
) -> Iterator[Prediction]:
    """Predict scans one by one; the probabilities of several runs of one role are averaged.

    Only one scan is held in memory.

    Args:
        run_folders: runs whose networks predict, or members that are open already.
        slices: table of slices, whole scans.
        faults: raises faults or lists them. A scan that cannot be predicted at all is not yielded.
        batch_size: slices per call of the network.
        flip: also predict each slice mirrored left to right, and average: test-time augmentation. None does so with
            the networks that were trained on mirrored slices.
        clock: forecasts the end and sheds passes; None never does.
        known: slice table with masks and images of earlier days of the cases, as `rescue.read_known` gives it; from
            them come the prior of a scan and its line. None gives neither, and `looks_back` tells who needs them.
        progress: show a bar with the time left.

    Yields:
        The probabilities of a scan and, where there is a gate, the presence of each organ on its slices; with an
        earlier day, the line.

    Raises:
        ValueError: without a network that opens, strict or not; names the file that cannot be decoded.
        FileNotFoundError: names the folder that is not a run, or has no model.
    """
    if not len(run_folders):
        raise ValueError("no run folder to predict with; train first, or attach a run")
    members = open_members(run_folders, faults, batch_size)
    rescue.return_memory()
    if not members:
        raise ValueError(f"none of the {len(run_folders)} runs could be opened; repair them, or name others:\n{faults}")
    clock = clock or Deadline(None)
    flips = [member.flip if flip is None else flip for member in members]
    whole, failing = passes(flips, [member.gate for member in members]), set()
    left, scans_left = len(slices), slices["scan"].nunique()
    before = {} if known is None else earlier.days(slices, known)
    with tqdm(total=left, desc="predicting", unit=" slices", disable=not progress) as bar:
        for name, rows in slices.groupby("scan", sort=False):
            # passes that failed on the last scan are tried again, as the last and so the first to be shed
            now = clock.plan(sorted(whole, key=failing.__contains__), left, name)
            if clock.over:
                text = f"the deadline of {clock.hours} hours is reached with {scans_left} scans to go"
                faults.meet(name, text, "they stay empty")
                return
            started, found, day = time.perf_counter(), None, None
            seconds: dict[Pass, float] = {}
            failed: dict[Pass, type[Exception]] = {}
            with faults.survive(name, "left empty"):
                scan = rescue.load(rows, faults)
                if scan is not None and name in before:
                    with faults.survive(name, "predicted without its earlier day"):
                        day = _earlier_day(scan, rows, known[known["scan"] == before[name]], faults)
                if scan is not None:
                    found = _predict_one(members, now, scan, rows, batch_size, faults, seconds, failed, day)
            if found is not None and day is not None:
                with faults.survive(name, "its bowels end without the line of the earlier day"):
                    found = found._replace(line=earlier.stop_line(day.rows, day.shift))
            if found is not None:
                yield found
                for run in [run for run, kind in failed.items() if issubclass(kind, MemoryError)]:
                    text = "does not fit in memory even one input at a time, although other passes do"
                    faults.meet(f"{members[run.model].name}{' flipped' * run.flipped}", text, "left out from here on")
                    whole.remove(run)
            failing = (failing - set(seconds)) | set(failed)
            clock.record(len(rows), time.perf_counter() - started - sum(seconds.values()), seconds, len(failed))
            left, scans_left = left - len(rows), scans_left - 1
            bar.update(len(rows))


def looks_back(members: Sequence[Member | runs.Run], settings: cleaning.Settings) -> bool:
    """Tell whether the earlier days of scans change what is predicted: by the prior of a network, or by the line."""
    return bool(settings.line_weight) or any(member.spec.prior for member in members)


def submit(
    run_folders: Sequence[str | os.PathLike | Member],
    slices: pd.DataFrame,
    sample: pd.DataFrame,
    target: str | os.PathLike,
    faults: Faults,
    *,
    settings: cleaning.Settings = cleaning.DEFAULT,
    **options,
) -> pd.DataFrame:
    """Predict a test set and write its submission, which is valid at all times.

    A file with all rows empty is written before a network is opened, and replaced as a whole after every scan; when the
    process is stopped, the file holds the finished scans.

    Args:
        run_folders: as in `predict`.
        slices, sample: as rescue.read gives them.
        target: the file to write.
        faults: raises faults or lists them.
        settings: how probabilities become masks; `runs.choose_settings` finds the tuned ones.
        **options: of `predict`.

    Returns:
        The rows with masks of all scans that were predicted: id, class, predicted.
    """
    target = Path(target)
    for draft in target.parent.glob(f".{target.name}.*.part"):  # of a process that was stopped while it wrote
        draft.unlink(missing_ok=True)
    submission.write(target, {}, sample)
    asked = pd.Index(sample["id"].unique())

    def keep(found: pd.DataFrame) -> None:
        with faults.survive(target, "the file written after the previous scan is kept"):
            submission.write(target, found[found["id"].isin(asked)], sample)

    found = rows(run_folders, slices, faults, settings=settings, after=keep, **options)
    return found[found["id"].isin(asked)].reset_index(drop=True)


def rows(
    run_folders: Sequence[str | os.PathLike | Member],
    slices: pd.DataFrame,
    faults: Faults,
    *,
    settings: cleaning.Settings = cleaning.DEFAULT,
    after: Callable[[pd.DataFrame], None] | None = None,
    **options,
) -> pd.DataFrame:
    """Predict scans and write their masks as rows.

    Args:
        run_folders, slices, faults, settings, **options: as in `submit`.
        after: called with all rows so far when a scan is done.

    Returns:
        The rows of all scans that were predicted: id, class, predicted.
    """
    groups = dict(list(slices.groupby("scan", sort=False)))
    lines = [submission.expected_rows(slices.iloc[:0]).assign(predicted="")]
    for found in predict(run_folders, slices, faults, **options):
        with faults.survive(found.scan, "left empty"):
            lines.append(submission.encode(groups[found.scan], _masks(found, settings, faults)))
            lines = [pd.concat(lines, ignore_index=True)]
        del found  # before the next scan is predicted
        if after is not None:
            after(lines[0])
    return lines[0]


class _Mean:
    """The weighted mean of the passes of one role; passes with the same grid and box are summed there."""

    def __init__(self):
        self.sums: dict[inputs.InputSpec, np.ndarray] = {}  # by specs that say grid and box alone
        self.weights: dict[inputs.InputSpec, float] = {}

    def add(self, grid: inputs.InputSpec, found: np.ndarray, weight: float) -> None:
        """Add a pass, whose array is then the mean's own."""
        found *= weight  # in place: at a fine grid each copy takes 170 MB
        self.sums[grid] = np.add(self.sums[grid], found, out=self.sums[grid]) if grid in self.sums else found
        self.weights[grid] = weight + self.weights.get(grid, 0.0)

    def probabilities(self, shape: tuple[int, int], spacing_mm: float | None) -> np.ndarray:
        """Bring the mean to the size of the files: (D, H, W, organs). The sums are used up."""
        total, mean = sum(self.weights.values()), None
        for grid in list(self.sums):
            part = self.sums.pop(grid)
            restored = inputs.restore(np.divide(part, total, out=part), shape, grid, spacing_mm)
            del part
            mean = restored if mean is None else np.add(mean, restored, out=mean)
        return np.minimum(mean, 1, out=mean)  # against rounding

    def presence(self) -> np.ndarray:
        """Measure presence on each grid, and average: (D, organs)."""
        total = sum(self.weights.values())
        parts = [(weight / total, self.sums[grid] / weight) for grid, weight in self.weights.items()]
        return np.minimum(sum(share * intervals.presence(part) for share, part in parts), 1)  # against rounding


def _predict_one(members, plan, scan, rows, batch_size, faults, seconds, failed, day=None) -> Prediction | None:
    """Run the passes of a plan over a scan and average those that work; None when none does.

    The seconds of each pass go into `seconds`, and the kinds of error of those that failed into `failed`.
    """
    name = rows["scan"].iloc[0]
    gates, segmenters = _run_passes(members, plan, scan, rows, batch_size, faults, seconds, failed, day)
    if not (gates.sums or segmenters.sums):
        faults.meet(name, "every pass over it failed", "left empty")
        return None
    if not gates.sums and any(run.gate for run in plan):
        faults.meet(name, "no gate works on it", "the segmenters also decide on which slices an organ is")
    if not segmenters.sums and not all(run.gate for run in plan):
        faults.meet(name, "no segmenter works on it", "the gates also draw the contours")
    presence = gates.presence() if gates.sums else None
    contours = segmenters if segmenters.sums else gates
    found = contours.probabilities(scan.shape[1:], scans.spacing_mm(rows))
    return Prediction(name, found, presence)


def _run_passes(members, plan, scan, rows, batch_size, faults, seconds, failed, day) -> tuple[_Mean, _Mean]:
    """Run the passes of a plan over a scan; return the means of the gates and of the segmenters that work."""
    name, gates, segmenters = rows["scan"].iloc[0], _Mean(), _Mean()
    prepared: dict[inputs.InputSpec, np.ndarray] = {}
    made: dict[inputs.InputSpec, np.ndarray | None] = {}
    spacing_mm = scans.spacing_mm(rows)
    for run in plan:
        member, shares = members[run.model], sum(other.model == run.model for other in plan)
        started = time.perf_counter()
        where = f"{name}, {member.name}{' flipped' * run.flipped}"
        with faults.survive(where, "this pass is left out of this scan"):
            try:
                if member.spec.grid not in prepared:
                    prepared[member.spec.grid] = inputs.prepare(scan, member.spec, spacing_mm)
                if member.spec.prior and day is not None and member.spec not in made:
                    made[member.spec] = _prior(day, rows, prepared[member.spec.grid], member.spec, faults)
                prior = made.get(member.spec)
                found = _with_less(member, prepared[member.spec.grid], rows, batch_size, run, faults, prior)
                (gates if run.gate else segmenters).add(member.spec.grid, found, member.weight / shares)
                del found  # the next pass needs the room
            except Exception as error:
                failed[run] = type(error)
                raise
            finally:
                rescue.return_memory()
                seconds[run] = time.perf_counter() - started
    return gates, segmenters


class _EarlierDay(NamedTuple):
    """The earlier day of a scan: its rows of the table with masks, its images, and the slices from it to the scan."""

    rows: pd.DataFrame
    images: np.ndarray
    shift: int


def _earlier_day(scan: np.ndarray, rows: pd.DataFrame, before: pd.DataFrame, faults: Faults) -> _EarlierDay | None:
    """Register a scan with its earlier day, for the line and the priors; None where that cannot be read."""
    images = rescue.load(before, faults)
    if images is None:
        return None
    both = ((scan, rows), (images, before))
    prepared = (inputs.prepare(volume, alignment.SPEC, scans.spacing_mm(table)) for volume, table in both)
    return _EarlierDay(before, images, alignment.register(*prepared)[0])


def _prior(
    day: _EarlierDay, rows: pd.DataFrame, prepared: np.ndarray, spec: inputs.InputSpec, faults: Faults
) -> np.ndarray | None:
    """Make the prior of a prepared scan from its earlier day, registered as in training; None where that fails.

    Packed scans are half floats on the network's grid, and a shift may depend on both.
    """
    with faults.survive(rows["scan"].iloc[0], "predicted without the masks of its earlier day"):
        if priors.comparable(rows, day.rows, spec):
            before, spacing_mm = day.images, scans.spacing_mm(day.rows)
            both = (images.astype(np.float16) for images in (prepared, inputs.prepare(before, spec, spacing_mm)))
            masks = inputs.prepare_masks(scans.masks(day.rows), spec, spacing_mm)
            return priors.channels(masks, len(rows), alignment.register(*both)[0])
    return None


def _with_less(member: Member, prepared, rows, batch_size, run: Pass, faults: Faults, prior=None) -> np.ndarray:
    """Run a pass; where memory runs out, again with half the slices or volumes at a time, down to one."""
    count = inputs_per_call(member.spec, batch_size)
    while True:
        try:
            found = run_scan(member.run, prepared, member.spec, count, prior, run.flipped)
            break
        except MemoryError as error:
            if count == 1:
                raise
            count //= 2
            kind = "volumes" if member.spec.volume else "slices"
            faults.meet(rows["scan"].iloc[0], error, f"again with {count} {kind} at a time")
            gc.collect()
    if not all(np.isfinite(part).all() for part in found):  # slice by slice, without an array for the whole scan
        raise ValueError(
            f"{member.name} predicts values that are not finite; its weights are damaged: copy or train it again"
        )
    return found


def _masks(found: Prediction, settings: cleaning.Settings, faults: Faults) -> np.ndarray:
    """Make masks by the settings; where those fail, by a plain threshold."""
    with faults.survive(found.scan, "a plain threshold is used"):
        return cleaning.masks(found.probabilities, settings, found.presence, found.line)
    return cleaning.masks(found.probabilities, cleaning.PLAIN)
