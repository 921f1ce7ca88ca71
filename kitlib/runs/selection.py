"""Selection of runs: the folders to predict with, their settings, and the probabilities that score a run.

A gate and a segmenter belong together if they have the same folds: the same folds.csv, or as single runs the same
validation scans.

Every choice comes with (path, problem) pairs for what was left out because it is damaged or was trained on another kind
of data; whoever asked decides whether a problem stops or is only listed.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from kitlib import contest
from kitlib.data.inputs import InputSpec
from kitlib.postprocess import cleaning
from kitlib.postprocess.cleaning import Settings
from kitlib.runs import folder, manifest

ARCHIVES = ("*.zip", "*.tar", "*.tar.gz", "*.tgz")


@dataclass(frozen=True)
class Choice:
    """The run folders to predict with.

    Attributes:
        folders: the run folders.
        problems: (path, problem) pairs: files that are damaged or missing, runs trained on another kind of data.
        unfinished: runs that stopped within their first epoch; they are chosen only where there is no other.
    """

    folders: list[Path] = field(default_factory=list)
    problems: list[tuple[Path, str]] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)


def choose(root: str | os.PathLike, name: str = "", kind: str = folder.UNKNOWN, bundle: bool = False) -> Choice:
    """Choose the run folders to predict with.

    Args:
        root: a folder of runs. Where it holds a manifest (`make bundle` writes one), every run in the manifest is
            chosen; elsewhere the run that ended last, with the other folds of its cross-validation. A segmenter comes
            with a gate of the same folds, the one in the same folder before a newer one, and a gate with a segmenter.
        name: a run, or a cross-validation with all its folds, by its path below the root; or a folder that holds
            several, such as a gate and a segmenter. Empty chooses.
        kind: kind of the data to predict, as `scans.describe` gives it; runs trained on another kind are left out.
        bundle: `root` is an attached data set, whose runs have to be found first.

    Returns:
        The choice; without any folder where there is no such run.
    """
    root, problems = Path(root), []
    if bundle:
        root, problems = _in_bundle(root)
    damaged = manifest.check(root)
    problems += damaged.items()
    whole = [run for run in _read_all(root, problems) if not any(_spoils(path, run.folder) for path in damaged)]
    if name:
        whole = [run for run in whole if root / name in (run.folder, *run.folder.parents)]
    listed = {path.parent for path in manifest.files(root)}
    if listed:
        text = "is not in the manifest; bundle the runs again"
        problems += [(run.folder, text) for run in whole if run.folder not in listed]
        whole = [run for run in whole if run.folder in listed]
    unfinished = [run for run in whole if not run.trained]
    whole = [run for run in whole if run.trained] or unfinished
    if not name and not bundle and not (root / manifest.NAME).is_file():
        whole = _newest(whole, kind, problems)
    foreign = [run for run in whole if run.foreign(kind)]
    problems += [(run.folder, _foreign(run, kind)) for run in foreign]
    chosen = [run.folder for run in whole if run not in foreign]
    return Choice(chosen, problems, [run.folder for run in unfinished])


def choose_settings(run_folders: Sequence[str | os.PathLike]) -> tuple[Settings, list[tuple[Path, str]]]:
    """Choose post-processing settings among those tuned with the runs.

    Settings are tuned together and therefore never mixed. Several runs take the settings in their common folder, where
    a cross-validation is tuned on all its folds; without those, and where the runs disagree, the settings of the tuned
    run with the best score. A single run's own settings come before those of its folder. Settings for a gate and a
    segmenter are stored with the segmenter; a gate's own are used only if there is no segmenter. Runs never tuned get
    `cleaning.default`.

    Returns:
        The settings, and (path, problem) pairs for settings that cannot be read.
    """
    every = [Path(path) for path in run_folders]
    folders = [path for path in every if _role(path) != "gate"] or every
    default = cleaning.default(gate=len(folders) < len(every))
    common = {path.parent for path in folders}
    damaged = {path for root in {*common, *(path.parent for path in common)} for path in manifest.check(root)}
    found, problems = {}, []
    for where in [*folders, *(common if len(common) == 1 else ())]:
        path = where / "settings.json"
        if path.is_file() and path not in damaged:
            try:
                found[where] = Settings.from_json(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, TypeError) as error:
                problems.append((path, str(error)))
    if len(folders) == 1 and folders[0] in found:
        return found[folders[0]], problems
    for where in common:
        if where in found:
            return found[where], problems
    best = max((path for path in folders if path in found), key=_score, default=None)
    return found.get(best, default), problems


class HeldOut:
    """Out-of-fold probabilities of one or more runs, by the name of a scan: (D, height, width, organs) float32.

    Args:
        found: the runs.
        scans: names of the scans that count, such as those that the data hold; None is all.
        gates: runs of gates of the same folds; those among the runs count too. Gates that lack the presence of a scan
            are left out.

    Attributes:
        runs: the runs.
        gates: the gates; none, or those that hold the presence of every scan.
        lacking: names of the scans whose presence the gates that were left out lack.
        scans: names of the scans, run by run.
        cases: names of their cases.
        folder: where files that belong to all the runs are kept: the run's own folder, or the one that holds them.

    Raises:
        ValueError: names a scan that two runs have held out, since either could answer for it.
    """

    def __init__(
        self, found: Sequence[folder.Run], scans: Collection[str] | None = None, gates: Sequence[folder.Run] = ()
    ):
        self.runs, self._owner = list(found), {}
        for run in self.runs:
            for scan in run.scans:
                other = self._owner.setdefault(scan, run)
                if other is not run:
                    raise ValueError(
                        f"{scan} is held out by {other.folder} and by {run.folder}; name one of the two runs"
                    )
        self.scans = [scan for scan in self._owner if scans is None or scan in scans]
        self._given = [*gates, *(run for run in self.runs if run.role == "gate")]
        present = {scan for gate in self._given for scan in _present(gate)}
        self.lacking = [scan for scan in self.scans if scan not in present] if self._given else []
        self.gates = [] if self.lacking else self._given
        self.cases = list(dict.fromkeys(contest.case_of(scan) for scan in self.scans))
        first = self.runs[0].folder
        self.folder = first if len(self.runs) == 1 else first.parent

    def __call__(self, scan: str) -> np.ndarray:
        return self._owner[scan].probabilities(scan)

    def spec_of(self, scan: str) -> InputSpec:
        """Return the spec of the run that held a scan out: the grid and box of its probabilities."""
        return self._owner[scan].spec

    @property
    def folders(self) -> list[Path]:
        """The folders that predict together: those of the runs and of their gates, also of gates that are left out."""
        return list(dict.fromkeys(run.folder for run in [*self.runs, *self._given]))

    def presence(self, scan: str) -> np.ndarray | None:
        """Read a gate's presence of the organs on a scan, (D, organs) float32; None without a gate that held it out."""
        found = (gate.presence(scan) for gate in self.gates)
        return next((presence for presence in found if presence is not None), None)

    def __str__(self) -> str:
        many = f", {len(self.runs)} folds" if len(self.runs) > 1 else ""
        others = {"/".join(_family(gate).parts[-2:]) for gate in self._given if gate not in self.runs}
        gates = f"the gate {', '.join(sorted(others))}" if others else "its presence"
        if self.lacking:
            many += f", without {gates} (missing for {len(self.lacking)} of the scans, such as {self.lacking[0]})"
        elif others:
            many += f", with {gates}"
        return f"{self.folder.name}{many}: {len(self.scans)} scans of {len(self.cases)} cases held out"


def choose_held_out(
    root: str | os.PathLike,
    name: str = "",
    scans: Collection[str] | None = None,
    kind: str = folder.UNKNOWN,
    attached: Sequence[str | os.PathLike] = (),
) -> tuple[HeldOut | None, list[tuple[Path, str]]]:
    """Choose the runs to score below a folder; the folds of one cross-validation go together.

    Segmenters come with the presence of a gate of the same folds, as in `choose`.

    Args:
        root: folder of runs.
        name: folder of a run, or of a cross-validation (the one that holds its folds.csv), or the folder that holds a
            gate and its segmenter, for the segmenter; empty is the newest that has held out two cases or more, and of a
            gate and its segmenter the segmenter.
        scans: names of the scans that the data hold; None is any.
        kind: kind of the data, as `scans.describe` gives it; runs trained on another kind are left out.
        attached: run folders elsewhere to choose from too; on Kaggle, `contest.attached("run.json")`.

    Returns:
        The choice, or None when nothing was named and there is nothing to choose; and (path, problem) pairs for runs
        that are left out, such as those that stopped within their first epoch.

    Raises:
        ValueError: for a name that is unknown, or that has held out fewer than two cases of the data; lists the runs.
    """
    root, problems, whole = Path(root), [], []
    for run in sorted(_read_all(root, problems, attached), key=folder.age):
        if not run.trained:
            problems.append((run.folder, "stopped within its first epoch; resume it"))
        elif run.foreign(kind):
            problems.append((run.folder, _foreign(run, kind)))
        else:
            whole.append(run)
    choices = _choices(root, whole, None if scans is None else set(scans))
    enough = {key: choice for key, choice in choices.items() if len(choice.cases) > 1}
    if not name:
        scored = [choice.runs[0] for choice in enough.values() if choice.runs[0].role != "gate"]
        free = [choice for choice in enough.values() if not _serves(choice.runs[0], scored)]
        return (free[-1] if free else None), problems
    named = [key for key in choices if name in (key, key.rsplit("/", 1)[-1])]
    named = named or [key for key in _paired(choices) if name in (key.rpartition("/")[0], *key.split("/")[-2:-1])]
    if named and named[-1] in enough:
        return enough[named[-1]], problems
    fault = "is not available"
    if named:
        fault = f"holds out {len(choices[named[-1]].cases)} of the data's cases, but scoring needs two"
    lines = [f"  {key}: {len(choice.scans)} scans of {len(choice.cases)} cases" for key, choice in choices.items()]
    lines += [f"  {path}: {problem}" for path, problem in problems]
    remedy = "\n".join([f"choose a run of {root}:", *lines]) if lines else f"{root} has no finished run: train first"
    raise ValueError(f"run {name!r} {fault}; {remedy}")


def thin(scans: Sequence[str], most: int) -> list[str]:
    """Take at most `most` scans, in their order: one of each case before a second of any; 0 is all, 1 counts as 2.

    >>> thin(["case1_day0", "case1_day9", "case2_day0", "case3_day4"], 2)
    ['case1_day0', 'case2_day0']
    """
    most = min(max(2, most), len(scans)) if most else len(scans)
    cases = pd.Series([contest.case_of(scan) for scan in scans])
    by_turns = cases.groupby(cases).cumcount().sort_values(kind="stable").index
    pool = by_turns[: max(most, cases.nunique())]
    return [scans[index] for index in sorted(pool[k * len(pool) // most] for k in range(most))]


def _in_bundle(dataset: Path) -> tuple[Path, list[tuple[Path, str]]]:
    """Find the folder of runs in an attached data set, however the upload has nested it."""
    found = [path.parent for depth in range(4) for path in sorted(dataset.glob("*/" * depth + manifest.NAME))]
    if found:
        more = [(path / manifest.NAME, f"is a second manifest beside {found[0]}; remove one") for path in found[1:]]
        return found[0], more
    remedy = "upload the bundle again with --dir-mode zip"
    packed = sorted(path for depth in range(4) for name in ARCHIVES for path in dataset.glob("*/" * depth + name))
    if packed:
        return dataset, [(path, f"is not unpacked; {remedy}") for path in packed]
    if any(True for depth in range(5) for _ in dataset.glob("*/" * depth + "run.json")):
        return dataset, [(dataset, f"has runs but no {manifest.NAME}, so some runs may be missing; {remedy}")]
    return dataset, []


def _read_all(
    root: Path, problems: list[tuple[Path, str]], attached: Sequence[str | os.PathLike] = ()
) -> list[folder.Run]:
    """Read the runs with a model below a folder, and those attached; add what cannot be read to the problems."""
    found = []
    for path in dict.fromkeys([*folder.records(root), *(Path(run) / "run.json" for run in attached)]):
        if (path.parent / "model.keras").is_file():
            try:
                found.append(folder.read(path.parent))
            except (OSError, ValueError) as error:
                if path not in dict(problems):
                    problems.append((path, f"cannot be read: {error}"))
    return found


def _spoils(path: Path, run: Path) -> bool:
    """Whether a damaged file costs a run: settings have a default."""
    return path.parent == run and path.name != "settings.json"


def _newest(found: list[folder.Run], kind: str, problems: list[tuple[Path, str]]) -> list[folder.Run]:
    """Find the run that ended last, the other folds of its cross-validation, and the runs of its other role.

    Newer runs on another kind of data are skipped, and added to the problems.
    """
    for newest in sorted(found, key=folder.age, reverse=True):
        if not newest.foreign(kind):
            served = (run for run in _partners(newest, found, kind) if run.role == "segmenter")
            first = next(served, newest)  # a gate's segmenter may have a gate beside it, with which it was tuned
            families = {_family(run) for run in (first, *_partners(first, found, kind))}
            return [run for run in found if _family(run) in families]
        problems.append((newest.folder, _foreign(newest, kind)))
    return []


def _family(run: folder.Run) -> Path:
    """Return the folder of a run's cross-validation; its own without one."""
    return run.folder.parent if (run.folder.parent / "folds.csv").is_file() else run.folder


def _folds(run: folder.Run) -> list[str]:
    """Return the fold of each case, or the validation scans of a single run; runs with the same folds have the same."""
    table = run.folder.parent / "folds.csv"
    if table.is_file():
        return sorted(table.read_text(encoding="utf-8").split())
    return sorted(run.record.get("folds", {}).get("held_out", []))


def _partners(run: folder.Run, found: Sequence[folder.Run], kind: str = folder.UNKNOWN) -> list[folder.Run]:
    """Find the runs of the other role with the same folds: those in the same folder first, then the newest.

    A gate serves a segmenter; only where there is none, a run that plays both. That run itself asks for no gate.
    """
    others = {"gate": ("segmenter", "both"), "segmenter": ("gate",)}.get(run.role, ())
    fitting = [
        other for other in found if other.role in others and not other.foreign(kind) and _folds(other) == _folds(run)
    ]
    if not fitting:
        return []
    beside = _family(run).parent
    best = max(fitting, key=lambda other: (other.role != "both", _family(other).parent == beside, folder.age(other)))
    return [other for other in fitting if _family(other) == _family(best)]


def _serves(run: folder.Run, others: Sequence[folder.Run]) -> bool:
    """Whether a run is a gate for one of the segmenters among the others."""
    return run.role == "gate" and any(other.role == "segmenter" for other in _partners(run, others))


def _role(path: Path) -> str:
    """Read the role of a run; "both" where its record cannot be read."""
    try:
        return folder.read(path).role
    except (OSError, ValueError):
        return "both"


def _foreign(run: folder.Run, kind: str) -> str:
    """Say that a run was trained on another kind of data."""
    return f"was trained on {run.kind} data, not {kind} data; name another run, or set ANY_DATA = True (--any-data)"


def _choices(root: Path, trained: Sequence[folder.Run], scans: Collection[str] | None) -> dict[str, HeldOut]:
    """List runs and cross-validations by their folder, of those below the root as seen from there; the newest last."""
    found = {}
    for run in trained:
        below = run.folder.relative_to(root) if run.folder.is_relative_to(root) else run.folder
        found[below.as_posix()] = [run]
        if (run.folder.parent / "folds.csv").is_file():
            key = below.parent.as_posix()
            found[key] = [*found.pop(key, []), run]
    return {key: HeldOut(group, scans, _gates(group, trained, scans)) for key, group in found.items()}


def _paired(choices: dict[str, HeldOut]) -> list[str]:
    """List the segmenters that lie beside their gate."""
    gates = {key.rpartition("/")[0] for key, choice in choices.items() if choice.runs[0].role == "gate"}
    segmenters = [key for key, choice in choices.items() if choice.runs[0].role == "segmenter"]
    return [key for key in segmenters if key.rpartition("/")[0] in gates]


def _gates(
    group: Sequence[folder.Run], trained: Sequence[folder.Run], scans: Collection[str] | None
) -> list[folder.Run]:
    """Find the gates of some segmenters: with the presence of all their scans, or if there are none, without."""
    if group[0].role != "segmenter":
        return []
    held_out = {scan for run in group for scan in run.scans if scans is None or scan in scans}
    present: dict[Path, set[str]] = {}
    for gate in trained:
        if gate.role == "gate":
            present.setdefault(_family(gate), set()).update(_present(gate))
    whole = [gate for gate in trained if held_out <= present.get(_family(gate), set())]
    return _partners(group[0], whole) or _partners(group[0], trained)


def _present(gate: folder.Run) -> list[str]:
    """List the scans with the presence of a gate."""
    return [path.stem for path in (gate.folder / "presence").glob("*.npy")]


def _score(path: Path) -> float:
    """Read the held-out score of a run; the worst where there is none."""
    try:
        return float(folder.read(path).score().get("score", -1.0))
    except (OSError, ValueError, TypeError, AttributeError):
        return -1.0
