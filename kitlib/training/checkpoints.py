"""What an interrupted training needs to go on as if nothing had happened; whole or not there at all.

    checkpoint/epoch-0007/         model.weights.h5   network, optimizer, moving average and loss scale
                                   mean.npz           mean of the last epochs, where one is asked for
                                   state.json         epochs done, best so far, history
    checkpoint/best-0005.weights.h5                   the best weights, named by their epoch

A folder is written under another name, put in place when it is complete, and only then are older ones removed. Keras'
BackupAndRestore writes in place, and keeps neither the state of early stopping nor the best weights.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import keras
import numpy as np

_EPOCH, _BEST = re.compile(r"epoch-(\d+)"), re.compile(r"best-(\d+)\.weights\.h5")


@dataclass
class State:
    """Where a training stands between two epochs.

    Attributes:
        epoch: epochs done.
        best_epoch: the epoch of the best weights; 0 before there are any.
        best_value: what they were chosen by, higher is better.
        best_loss: their loss on the held-out scans.
        averaged: epochs in the mean of the last ones.
        ended: why no epoch follows ("epochs", "patience" or "not finite"); empty while one does.
        history: one row per epoch.
        judging: seconds of the longest judging with a host score; 0 before there is one.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_value: float = float("-inf")
    best_loss: float = float("inf")
    averaged: int = 0
    ended: str = ""
    history: list[dict] = field(default_factory=list)
    judging: float = 0.0


def save(folder: Path, model: keras.Model, state: State, mean: Sequence[np.ndarray] | None = None) -> None:
    """Write the state after an epoch, then remove those before it.

    Args:
        folder: the checkpoint folder of a run.
        model: compiled and built; its optimizer is saved with it.
        state: with the best weights of `state.best_epoch` on disk (`save_best`).
        mean: of the weights of the last epochs.
    """
    target = folder / f"epoch-{state.epoch:04d}"
    draft = folder / f"draft-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    model.save_weights(draft / "model.weights.h5")
    if mean is not None:
        np.savez(draft / "mean.npz", *mean)
    (draft / "state.json").write_text(json.dumps(asdict(state)), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(draft, target)
    _tidy(folder, state)


def load(folder: Path, model: keras.Model) -> tuple[State, list[np.ndarray] | None] | None:
    """Bring the model to the last finished epoch.

    Returns:
        Its state and the mean of the last epochs; None when no epoch was finished.
    """
    place = latest(folder)
    if place is None:
        return None
    with warnings.catch_warnings():  # Keras only warns of an optimizer that it leaves as it is
        warnings.filterwarnings("error", message="Skipping variable loading")
        model.load_weights(place / "model.weights.h5")
    mean = None
    if (place / "mean.npz").is_file():
        with np.load(place / "mean.npz") as stored:
            mean = [stored[name] for name in stored.files]
    return read_state(folder), mean


def read_state(folder: Path) -> State:
    """Read the state after the last finished epoch; a fresh one when there is none."""
    place = latest(folder)
    return State() if place is None else State(**json.loads((place / "state.json").read_text(encoding="utf-8")))


def latest(folder: Path) -> Path | None:
    """Find the folder of the last finished epoch."""
    found = [entry for entry in folder.glob("epoch-*") if _EPOCH.fullmatch(entry.name)]
    return max(found, key=lambda entry: int(_EPOCH.fullmatch(entry.name)[1]), default=None)


def best_path(folder: Path, epoch: int) -> Path:
    """Name the file of the best weights."""
    return folder / f"best-{epoch:04d}.weights.h5"


def save_best(folder: Path, network: keras.Model, epoch: int) -> None:
    """Keep the weights of a network as the best so far; the older best stays until the epoch is saved."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"draft-{os.getpid()}.weights.h5"
    network.save_weights(draft)
    os.replace(draft, best_path(folder, epoch))


def _tidy(folder: Path, state: State) -> None:
    """Remove what the state does not need: older epochs, former bests, drafts of a killed process."""
    kept = {f"epoch-{state.epoch:04d}", best_path(folder, state.best_epoch).name}
    for entry in folder.iterdir():
        if entry.name not in kept:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
