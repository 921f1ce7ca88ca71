"""TensorBoard and Weights & Biases, only where asked for: the run folder holds everything without them."""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import keras

from kitlib import runs

_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


def callbacks(names: Sequence[str], folder: Path) -> list[keras.callbacks.Callback]:
    """Make the callbacks of the trackers named, which get what history.csv gets.

    Args:
        names: any of "tensorboard" (writes folder/tensorboard) and "wandb" (a run named by the last two folders).
        folder: the run folder.

    Raises:
        ValueError: for an unknown name.
        ModuleNotFoundError: for a tracker that is not installed, with the command that installs it.
    """
    for name in names:
        if name not in _PACKAGES:
            raise ValueError(f"no tracker {name!r}; choose among {', '.join(_PACKAGES)}")
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise ModuleNotFoundError(
                f"track: {name!r} needs the package {_PACKAGES[name]}, which is not installed: "
                f"pip install {_PACKAGES[name]}, or leave it out; history.csv holds the same figures"
            )
    made = []
    if "tensorboard" in names:
        made.append(keras.callbacks.TensorBoard(str(folder / "tensorboard"), write_graph=False))
    if "wandb" in names:
        made.append(_WeightsAndBiases(folder))
    return made


def identity(record: dict) -> str:
    """Name a run by when it began, its parameters and its folds: none of them changes when it goes on elsewhere."""
    fixed = [record[part] for part in ("began", "parameters", "folds")]
    return hashlib.blake2b(json.dumps(fixed).encode(), digest_size=8).hexdigest()


class _WeightsAndBiases(keras.callbacks.Callback):
    """Send the figures of each epoch to a run of Weights & Biases; a resumed training goes on in the same one."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def on_train_begin(self, logs=None):
        import wandb

        name = "-".join(self.folder.resolve().parts[-2:])
        own = identity(runs.read(self.folder).record)
        self.run = wandb.init(project="kitlib", name=name, id=own, resume="allow", dir=str(self.folder))

    def on_epoch_end(self, epoch, logs=None):
        self.run.log(dict(logs or {}), step=epoch + 1)

    def on_train_end(self, logs=None):
        self.run.finish()
