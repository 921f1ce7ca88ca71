"""The run folder while it is trained: its record, its lock, and the checkpoints from which a training resumes.

    checkpoint/epoch-0007/         model.weights.h5   network, optimizer, moving average and loss scale
                                   mean.npz           mean of the last epochs, where one is asked for
                                   state.json         epochs done, best so far, history
    checkpoint/best-0005.weights.h5                   the best weights, named by their epoch

A checkpoint is written under another name, renamed when it is complete, and only then are older ones removed. Keras'
BackupAndRestore writes in place, and keeps neither the state of early stopping nor the best weights.
"""

import json
import os
import re
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import filelock
import keras
import numpy as np
import pandas as pd

from kitlib import runs
from kitlib.data import scans
from kitlib.data.inputs import InputSpec
from kitlib.training import initial
from kitlib.training.recipes import Recipe

LOCK = ".lock"
COMPARED = ("recipe", "input_spec", "precision", "data", "folds")
_EPOCH, _BEST = re.compile(r"epoch-(\d+)"), re.compile(r"best-(\d+)\.weights\.h5")
_ADDED = ("name", "dtype", "trainable", "reduction")  # by Keras, to the configuration of a loss or a layer


class Held(RuntimeError):
    """Another process is training in the folder."""


@contextmanager
def hold(folder: str | os.PathLike) -> Iterator[None]:
    """Lock a folder for the length of a `with` block; it is created if it does not exist.

    A killed process leaves no lock behind. Where files cannot be locked, as on some network drives, or the folder
    cannot be written to, nothing is held and nobody is refused.

    Raises:
        Held: a RuntimeError, when another process or call holds the folder: names it.
    """
    path = Path(folder).absolute() / LOCK
    lock = filelock.FileLock(path)
    held = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it falls back to something weaker
            lock.acquire(timeout=0)
        held = True
    except (filelock.Timeout, RuntimeError) as reason:  # the second: by this very thread
        if not isinstance(reason, NotImplementedError):
            raise Held(
                f"another process is training in {folder}; wait for it, stop it, or choose another folder"
            ) from None
    except OSError:  # the next who writes there names the fault better
        pass
    try:
        yield
    finally:
        if held:
            with suppress(OSError):
                path.unlink()  # while it is held
            lock.release()


def new_record(
    train: pd.DataFrame,
    val: pd.DataFrame,
    spec: InputSpec,
    recipe: Recipe,
    data: dict | None = None,
    pretrained: str | os.PathLike | None = None,
) -> dict:
    """Describe a run before it starts: a dict that survives JSON unchanged.

    Args:
        train: the slices to train on.
        val: the slices to validate on.
        spec: what the network sees.
        recipe: how it is trained.
        data: what is known of the data set.
        pretrained: what the network starts from, as for `fit_fold`.
    """
    return {
        "state": "running",
        "recipe": json.loads(recipe.to_json()),
        "input_spec": json.loads(spec.to_json()),
        "precision": keras.config.dtype_policy().name,
        **({} if pretrained is None else {"pretrained": initial.describe(pretrained)}),
        "data": (data or {}) | {"train": _fingerprint(train), "val": _fingerprint(val)},
        "folds": {"train": sorted(train["scan"].unique()), "held_out": sorted(val["scan"].unique())},
        **runs.surroundings(),
        "wall_seconds": 0.0,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def differences(old: dict, new: dict) -> list[str]:
    """List the differences of two records, one sentence per setting: "epochs was 40, now 60"."""
    found = []
    for part in COMPARED:
        prefix = "" if part == "recipe" else part
        before, after = (dict(_settings(_filled(record, part), prefix)) for record in (old, new))
        for name in dict.fromkeys([*before, *after]):
            if before.get(name) != after.get(name) and (part != "data" or name in ("data.train", "data.val")):
                found.append(_difference(name, before.get(name), after.get(name)))
    starts = [record.get("pretrained") for record in (old, new)]
    if not initial.same(*starts):
        found.append(_difference("pretrained", *(start and start["file"] for start in starts)))
    return found


def open_run(folder: Path, record: dict, earlier: Sequence[str | os.PathLike] = ()) -> runs.Run:
    """Open the run folder for a call: a new one, one to resume, or a finished one to read.

    Args:
        folder: the run folder.
        record: the result of `new_record`.
        earlier: run folders among which to look for an earlier part of this run, which is copied to `folder` if that is
            new: on Kaggle a run comes back as the read-only input of the next notebook. Of several, the one with the
            most epochs; where there is none, the reason is printed.

    Raises:
        ValueError: when the folder holds a run with other settings, slices or folds: names each difference; and when
            it is a folder of runs: names them.
        FileNotFoundError: when a new run starts from weights that are not there.
    """
    if not (folder / "run.json").is_file():
        below = runs_below(folder)
        table = any(path.is_file() for pattern in ("train.csv", "*/train.csv") for path in folder.glob(pattern))
        if below or table or (folder / "pyproject.toml").is_file():
            what = "a folder of data" if table else "the folder of a program"
            what = f"a folder of runs ({', '.join(below[:5])})" if below else what
            raise ValueError(f"{folder} is {what}, not a run folder; name one of its runs, or a new folder below it")
        found = _furthest(earlier, record)
        if found is not None:
            print(f"resuming {found.folder}, copied to {folder}")
            _copy(found.folder, folder)
        elif "pretrained" in record:
            initial.find(record["pretrained"]["file"])
        runs.write_record(folder, record if found is None else found.record)
    run = runs.read(folder)
    if "recipe" not in run.record:
        raise ValueError(
            f"{folder} was trained by an earlier version of the kit and cannot be resumed; choose another folder"
        )
    apart = differences(run.record, record)
    if apart:
        raise ValueError(
            f"{folder} was started with other settings: {'; '.join(apart)}. "
            "Use the same settings to resume, or choose another folder"
        )
    return run


def runs_below(folder: Path) -> list[str]:
    """Name the folders in a folder that are runs or hold some, such as those of cross-validations."""
    found = (path for pattern in ("*/run.json", "*/*/run.json", "*/*/*/run.json") for path in folder.glob(pattern))
    return sorted({path.relative_to(folder).parts[0] for path in found})


def reopen(run: runs.Run, history: Sequence[dict], found: dict) -> runs.Run:
    """Mark a run as running, and add the seconds of epochs that a killed call could not record.

    Args:
        run: as it was opened.
        history: rows of the epochs done.
        found: more entries of run.json, such as the sum of the weights that were loaded.
    """
    spent = max(run.record["wall_seconds"], round(sum(row["seconds"] for row in history), 1))
    runs.write_record(run.folder, run.record | found | {"state": "running", "wall_seconds": spent})
    return runs.read(run.folder)


@dataclass
class State:
    """The state of a training between two epochs.

    Attributes:
        epoch: epochs done.
        best_epoch: the epoch of the best weights; 0 before there are any.
        best_value: the measure that chose them, higher is better.
        best_loss: their loss on the validation scans.
        averaged: epochs in the mean of the last ones.
        ended: why no epoch follows ("epochs", "patience" or "not finite"); empty while one does.
        history: one row per epoch.
        evaluation: seconds of the longest evaluation; 0 before there is one.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_value: float = float("-inf")
    best_loss: float = float("inf")
    averaged: int = 0
    ended: str = ""
    history: list[dict] = field(default_factory=list)
    evaluation: float = 0.0


def save_checkpoint(folder: Path, model: keras.Model, state: State, mean: Sequence[np.ndarray] | None = None) -> None:
    """Write the checkpoint after an epoch, then remove those before it.

    Args:
        folder: the checkpoint folder of a run.
        model: compiled and built; its optimizer is saved with it.
        state: with the best weights of `state.best_epoch` on disk (`save_best`).
        mean: of the weights of the last epochs.
    """
    target = folder / f"epoch-{state.epoch:04d}"
    with runs.replacing(target, mode=None) as draft:
        draft.mkdir()
        _save_weights(model, draft / "model.weights.h5")
        if mean is not None:
            np.savez(draft / "mean.npz", *mean)
        (draft / "state.json").write_text(json.dumps(asdict(state)), encoding="utf-8")
    _tidy(folder, state)


def load_checkpoint(folder: Path, model: keras.Model) -> tuple[State, list[np.ndarray] | None] | None:
    """Restore the model of the last finished epoch.

    Returns:
        Its state and the mean of the last epochs; None when no epoch was finished.
    """
    epoch = latest(folder)
    if epoch is None:
        return None
    with warnings.catch_warnings():  # Keras only warns of an optimizer that it leaves as it is
        warnings.filterwarnings("error", message="Skipping variable loading")
        load_weights(model, epoch / "model.weights.h5")
    mean = None
    if (epoch / "mean.npz").is_file():
        with np.load(epoch / "mean.npz") as stored:
            mean = [stored[name] for name in stored.files]
    return read_state(folder), mean


def read_state(folder: Path) -> State:
    """Read the state after the last finished epoch; a fresh one when there is none."""
    epoch = latest(folder)
    return State() if epoch is None else State(**json.loads((epoch / "state.json").read_text(encoding="utf-8")))


def latest(folder: Path) -> Path | None:
    """Find the checkpoint of the last finished epoch."""
    found = [entry for entry in folder.glob("epoch-*") if _EPOCH.fullmatch(entry.name)]
    return max(found, key=lambda entry: int(_EPOCH.fullmatch(entry.name)[1]), default=None)


def best_path(folder: Path, epoch: int) -> Path:
    """Return the path of the best weights."""
    return folder / f"best-{epoch:04d}.weights.h5"


def save_best(folder: Path, network: keras.Model, epoch: int) -> None:
    """Save the weights of a network as the best so far; the older best stays until the epoch is saved."""
    with runs.replacing(best_path(folder, epoch), mode=None) as draft:
        _save_weights(network, draft)


def load_weights(model: keras.Model, path: Path) -> None:
    """Load weights from a temporary copy, because HDF5 fails on drives that cannot lock files."""
    with tempfile.TemporaryDirectory() as local:
        model.load_weights(shutil.copyfile(path, Path(local) / path.name))


def _save_weights(model: keras.Model, path: Path) -> None:
    """Save weights to a temporary file and copy it: HDF5 fails on drives that cannot lock files."""
    with tempfile.TemporaryDirectory() as local:
        model.save_weights(Path(local) / "model.weights.h5")
        shutil.copyfile(Path(local) / "model.weights.h5", path)


def _tidy(folder: Path, state: State) -> None:
    """Remove what the state does not need: older epochs, former bests, drafts of a killed process."""
    kept = {f"epoch-{state.epoch:04d}", best_path(folder, state.best_epoch).name}
    for entry in folder.iterdir():
        if entry.name not in kept:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _copy(earlier: Path, folder: Path) -> None:
    """Copy all but the record of a run, into files and folders that can be written to whatever their modes were."""
    left = shutil.ignore_patterns("run.json", LOCK)
    shutil.copytree(earlier, folder, dirs_exist_ok=True, ignore=left, copy_function=shutil.copyfile)
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        path.chmod(path.stat().st_mode | stat.S_IRWXU)


def _furthest(earlier: Sequence[str | os.PathLike], record: dict) -> runs.Run | None:
    """Find the earlier run of this record with the most epochs; without one, print the nearest and what it lacks."""
    best, most, nearest, lacks = None, 0, None, []
    for folder in map(Path, earlier):
        try:
            run = runs.read(folder)
            apart, epochs = differences(run.record, record), _epochs(run)
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as reason:
            print(f"skipped {folder / 'run.json'}: not a run of this kit ({type(reason).__name__})")
            continue
        if not apart and epochs > most:
            best, most = run, epochs
        if not apart and not epochs:
            lacking = "a checkpoint or out-of-fold probabilities; a bundle has neither"
            apart = [f"it is this run, but without {lacking if len(run.history()) else 'a finished epoch'}"]
        if nearest is None or len(apart) < len(lacks):
            nearest, lacks = folder, apart
    if best is None and nearest is not None:
        more = f"; and {len(lacks) - 3} more" if len(lacks) > 3 else ""
        print(f"no earlier run can be resumed here; the nearest is {nearest}: {'; '.join(lacks[:3])}{more}")
    return best


def _epochs(run: runs.Run) -> int:
    """Count the epochs from which a copy of a run can resume, or, where it is finished and complete, all; else 0."""
    if run.state == "finished":
        whole = run.model_path.is_file() and set(run.record["folds"]["held_out"]) <= set(run.scans)
        return len(run.history()) if whole else 0
    checkpoint = latest(run.folder / "checkpoint")
    if checkpoint is None or not (checkpoint / "model.weights.h5").is_file():
        return 0
    state = read_state(checkpoint.parent)
    return state.epoch if best_path(checkpoint.parent, state.best_epoch).is_file() else 0


def _filled(record: dict, part: str):
    """Return a part of a record, with the defaults of fields that the kit did not have yet when it was written."""
    known = {"recipe": Recipe, "input_spec": InputSpec}
    if part not in known or part not in record:
        return record.get(part, {})
    return json.loads(json.dumps(asdict(known[part]()))) | record[part]


def _settings(value, name: str) -> Iterator[tuple[str, object]]:
    """Walk through a part of a record: names such as "loss.dice_weight", and values that are no dicts."""
    if isinstance(value, dict) and "class_name" in value:  # a Keras object
        config = {key: item for key, item in (value.get("config") or {}).items() if key not in _ADDED}
        yield name, value.get("registered_name") or value["class_name"]
        yield from ((f"{name}.{key}", item) for key, item in config.items())
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _settings(item, f"{name}.{key}" if name else key)
    else:
        yield name, value


def _difference(name: str, old, new) -> str:
    if isinstance(old, list) and isinstance(new, list) and all(isinstance(item, str) for item in (*old, *new)):
        gone, come = [item for item in old if item not in new], [item for item in new if item not in old]
        return f"{name}: {len(gone)} removed {gone[:2]}, {len(come)} added {come[:2]}"
    return f"{name} was {old!r}, now {new!r}"


def _fingerprint(slices: pd.DataFrame) -> str:
    return f"{len(slices)} slices, {scans.fingerprint(slices)}"
