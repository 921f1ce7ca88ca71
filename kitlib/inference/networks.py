"""The networks of an inference run: which runs, in what order, with which settings, and how each is run."""

import importlib
import inspect
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kitlib import postprocess, runs
from kitlib.data import inputs
from kitlib.inference.engine import Engine
from kitlib.inference.faults import Faults
from kitlib.runs import manifest


@dataclass(frozen=True)
class Member:
    """One network of an ensemble, ready to run.

    Attributes:
        name: what faults call it.
        spec: what it sees.
        run: from a batch (B, height, width, depth) float32 to (B, height, width, organs) float32.
        kind: how it is run, in words.
    """

    name: str
    spec: inputs.InputSpec
    run: Callable[[np.ndarray], np.ndarray]
    kind: str = ""


def load(folder: str | os.PathLike):
    """Load the network of a run, saved by this Keras or by a newer one.

    A newer Keras writes settings that an older one does not know and refuses. Where they are all off, as in the kit's
    networks, the older one computes the same without them.

    Raises:
        FileNotFoundError: names the folder without a model.
    """
    import keras

    from kitlib.models import unet  # noqa: F401 (registers the kit's layers for loading)

    run = runs.read(folder)
    if not run.model_path.is_file():
        raise FileNotFoundError(f"{run.folder} has no model.keras; its training did not finish")
    try:
        return keras.saving.load_model(run.model_path, compile=False)
    except (TypeError, ValueError):
        with tempfile.TemporaryDirectory() as place:
            older = Path(place) / "model.keras"
            if not _write_for_older(run.model_path, older):
                raise
            return keras.saving.load_model(older, compile=False)


def open_members(
    run_folders: Sequence[str | os.PathLike | Member],
    faults: Faults | None = None,
    batch_size: int = 16,
    missing_ok: bool = False,
) -> list[Member]:
    """Load networks and make them ready to run; one that does not load is left out, unless faults are strict.

    Args:
        run_folders: runs, or members that are open already.
        faults: None raises them.
        batch_size: slices per call.
        missing_ok: without any network give an empty list, for those who have something else to hand in.

    Raises:
        ValueError: when no network is left, strict or not: a submission without one is a choice to be made openly.
    """
    faults = Faults(strict=True) if faults is None else faults
    if not len(run_folders) and not missing_ok:
        raise ValueError("no run folder to predict with; train first, or attach a run")
    members = []
    for folder in run_folders:
        if isinstance(folder, Member):
            members.append(folder)
            continue
        with faults.survive(folder, "this model is left out"):
            engine = Engine(load(folder), batch_size)
            members.append(Member(Path(folder).name, runs.read(folder).spec, engine, engine.kind))
    if not members and not missing_ok:
        raise ValueError(f"none of the {len(run_folders)} runs could be opened:\n{faults}")
    return members


def choose(
    root: str | os.PathLike, name: str = "", faults: Faults | None = None, missing_ok: bool = False
) -> list[Path]:
    """Choose the run folders to predict with.

    Args:
        root: a folder of runs. When it holds a manifest (`make bundle` writes one), every run in it was chosen, and a
            run with a file that is not what was packed is left out, unless faults are strict.
        name: a run, or a cross-validation with all its folds, by its path below the root; empty takes all runs of a
            bundle, and elsewhere the newest, with the other folds of its cross-validation. Runs that were stopped
            within their first epoch are left out (`trained`).
        faults: None raises them.
        missing_ok: without any such run give an empty list, for those who have something else to hand in.

    Raises:
        FileNotFoundError: when there is no such run, strict or not.
    """
    root, faults = Path(root), Faults(strict=True) if faults is None else faults
    problems = manifest.check(root)
    bad = set()
    for path, problem in problems.items():
        settings = path.name == "settings.json"
        faults.meet(path, problem, "settings by habit are used" if settings else "this run is left out")
        bad |= set() if settings else {path.parent}
    found = [path.parent for path in sorted(root.rglob("run.json")) if (path.parent / "model.keras").is_file()]
    whole = [folder for folder in found if folder not in bad]
    if name:
        whole = [folder for folder in whole if (root / name) in (folder, *folder.parents)]
    whole = trained(whole)
    if not name and not (root / manifest.NAME).is_file() and whole:
        whole = _newest(whole, faults)
    if not whole and not missing_ok:
        what = f"run {name!r}" if name else "finished run"
        raise FileNotFoundError(f"no {what} below {root.resolve()}: run 02_train first, or attach a run")
    return whole


def trained(folders: Sequence[Path]) -> list[Path]:
    """Leave out runs that were stopped within their first epoch, unless there is no other; prints which.

    Such a run has a network for want of a better one: its weights are little more than what they were drawn as.
    """
    raw = [folder for folder in folders if _best_weights(folder) == runs.UNFINISHED]
    if raw:
        names = ", ".join(map(str, raw))
        what = "left out" if len(raw) < len(folders) else "taken, as there is no other"
        print(f"{what}: {names}, stopped before the first epoch was finished; train on with the same call")
    return [folder for folder in folders if folder not in raw] or list(folders)


def _newest(folders: Sequence[Path], faults: Faults) -> list[Path]:
    """Find the run that ended last, and the other folds of its cross-validation."""
    ended = {}
    for folder in folders:
        with faults.survive(folder / "run.json", "this run is left out"):
            ended[folder] = runs.read(folder).record.get("ended", "")
    if not ended:
        return []
    newest = max(ended, key=lambda folder: (ended[folder], str(folder)))
    family = (newest.parent / "folds.csv").is_file()
    return [folder for folder in ended if folder == newest or (family and folder.parent == newest.parent)]


def choose_settings(run_folders: Sequence[str | os.PathLike], faults: Faults | None = None) -> postprocess.Settings:
    """Choose how probabilities become masks, from what was tuned with the runs.

    Settings are tuned together and are therefore never mixed: those that stand in the common folder of several runs,
    where a cross-validation tunes on all its folds; else, when the runs disagree, those of the run with the best
    held-out score. A single run's own come before those of its folder; a run without any goes by habit.
    """
    faults = Faults(strict=True) if faults is None else faults
    folders = [Path(folder) for folder in run_folders]
    found: dict[Path, postprocess.Settings] = {}
    common = {folder.parent for folder in folders}
    broken = {path for root in {*common, *(folder.parent for folder in common)} for path in manifest.check(root)}
    for folder in [*folders, *(common if len(common) == 1 else ())]:
        path = folder / "settings.json"
        if path.is_file() and path not in broken:
            with faults.survive(path, "these settings are left out"):
                found[folder] = postprocess.Settings.from_json(path.read_text(encoding="utf-8"))
    shared = [found[folder] for folder in common if len(common) == 1 and folder in found]
    if len(folders) == 1 and folders[0] in found:
        shared = []
    own = {folder: found.get(folder, postprocess.DEFAULT) for folder in folders}
    if shared or not folders:
        return next(iter(shared), postprocess.DEFAULT)
    return own[max(folders, key=_held_out)] if len(set(own.values())) > 1 else own[folders[0]]


def _write_for_older(path: Path, target: Path) -> bool:
    """Copy a network without the settings that this Keras does not know and that are off; tell if there were any."""
    with zipfile.ZipFile(path) as source:
        content = {name: source.read(name) for name in source.namelist()}
    network = json.loads(content["config.json"])
    if not _drop_unknown(network):
        return False
    content["config.json"] = json.dumps(network).encode()
    with zipfile.ZipFile(target, "w") as copy:
        for name, data in content.items():
            copy.writestr(name, data)
    return True


def _drop_unknown(part) -> int:
    """Take out of a network's description what Keras' own classes do not know and what is off; count it.

    Off is None or False, and whatever is named after a switch that is off: `renorm_momentum` after `renorm`.
    """
    if isinstance(part, list):
        return sum(map(_drop_unknown, part))
    if not isinstance(part, dict):
        return 0
    dropped = sum(map(_drop_unknown, part.values()))
    config, module = part.get("config"), str(part.get("module"))
    if not isinstance(config, dict) or module.split(".")[0] != "keras":
        return dropped
    kind = getattr(importlib.import_module(module), part["class_name"])
    known = {name for parent in kind.__mro__ for name in inspect.signature(parent.__init__).parameters}
    off = [name for name in config if name not in known and config[name] in (None, False)]
    off += [name for name in config if name not in known and name.startswith(tuple(f"{switch}_" for switch in off))]
    for name in set(off):
        del config[name]
    return dropped + len(set(off))


def _best_weights(folder: Path) -> str:
    """Read where a run's weights are from; nothing where its record does not say or is broken."""
    try:
        return str(runs.read(folder).record.get("best_weights", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _held_out(folder: Path) -> float:
    """Read the held-out score of a run; the worst where there is none."""
    try:
        return float(runs.read(folder).score().get("score", -1.0))
    except (OSError, ValueError, TypeError, AttributeError):
        return -1.0
