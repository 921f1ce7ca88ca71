"""What a run was called with, and on what data: written first, compared when the same folder is called again."""

import json
import shutil
import stat
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import keras
import pandas as pd

from kitlib import contest, runs
from kitlib.data.inputs import InputSpec
from kitlib.training import checkpoints, locks

COMPARED = ("parameters", "input_spec", "data", "folds")


def describe(
    learn: pd.DataFrame,
    check: pd.DataFrame,
    spec: InputSpec,
    *,
    network,
    network_options: dict,
    loss: keras.losses.Loss,
    augment: keras.layers.Layer | None,
    **parameters,
) -> dict:
    """Describe a run before it starts: a dict that survives JSON unchanged."""
    record = {
        "state": "running",
        "parameters": {
            "network": network.__name__,
            **network_options,
            "loss": loss.name,
            "loss_settings": _settings(loss),
            "augment": augment.name if augment is not None else None,
            "augment_settings": _settings(augment),
            "precision": keras.config.dtype_policy().name,
            **parameters,
        },
        "input_spec": json.loads(spec.to_json()),
        "data": _fingerprint(learn, check),
        "folds": {"train": sorted(learn["scan"].unique()), "held_out": sorted(check["scan"].unique())},
        **runs.surroundings(),
        "wall_seconds": 0.0,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return json.loads(json.dumps(record))


def differences(old: dict, new: dict) -> list[str]:
    """Say in what two records differ, one sentence per parameter: "epochs is 40 in the folder and 60 now"."""
    found = []
    for part in COMPARED:
        one, other = old.get(part, {}), new[part]
        for name in dict.fromkeys([*one, *other]):
            if one.get(name) != other.get(name):
                found += _apart(name, one.get(name), other.get(name))
    return found


def begin(folder: Path, record: dict, inputs: tuple[str, ...] = ()) -> runs.Run:
    """Open the run folder for a call: a new one, one to go on with, or a finished one to read.

    Args:
        folder: the run folder.
        record: what `describe` gives.
        inputs: folders in which to look for an earlier run of the same record, which is copied to `folder` if that is
            new: on Kaggle a run comes back as the read-only input of the next notebook. Of several, the one that got
            furthest; where there is none, it is printed why not.

    Raises:
        ValueError: when the folder holds a run with other parameters, slices or folds; names each difference.
    """
    if not (folder / "run.json").is_file():
        earlier = _furthest(inputs, record)
        if earlier is not None:
            print(f"going on with {earlier.folder}, copied to {folder}")
            _copy(earlier.folder, folder)
        runs.write_record(folder, record if earlier is None else earlier.record)
    run = runs.read(folder)
    apart = differences(run.record, record)
    if apart:
        raise ValueError(
            f"{folder} holds a run that was called otherwise: {'; '.join(apart)}. "
            "Call it alike to go on with it, or choose another folder"
        )
    return run


def reopen(run: runs.Run, history: Sequence[dict]) -> runs.Run:
    """Note in a run's record that it goes on, and the seconds of epochs whose call was killed before it could."""
    spent = max(run.record["wall_seconds"], round(sum(row["seconds"] for row in history), 1))
    runs.write_record(run.folder, run.record | {"state": "running", "wall_seconds": spent})
    return runs.read(run.folder)


def _copy(earlier: Path, folder: Path) -> None:
    """Copy all but the record of a run, into files and folders that can be written to whatever their modes were."""
    left = shutil.ignore_patterns("run.json", locks.NAME)
    shutil.copytree(earlier, folder, dirs_exist_ok=True, ignore=left, copy_function=shutil.copyfile)
    for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        place.chmod(place.stat().st_mode | stat.S_IRWXU)


def _furthest(inputs: tuple[str, ...], record: dict) -> runs.Run | None:
    """Find the attached run of this record with the most epochs; without one, say what is nearest and what it lacks."""
    best, most, nearest, lacks = None, 0, None, []
    for place in contest.attached("run.json", inputs):
        try:
            one = runs.read(place)
            apart, epochs = differences(one.record, record), _epochs(one)
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as reason:
            print(f"{place / 'run.json'} is not a run of this kit ({type(reason).__name__}) and is passed over")
            continue
        if not apart and epochs > most:
            best, most = one, epochs
        if not apart and not epochs:
            lacking = "a checkpoint or out-of-fold probabilities; a bundle leaves both out"
            apart = [f"it is this run, but without {lacking if len(one.history()) else 'a finished epoch'}"]
        if nearest is None or len(apart) < len(lacks):
            nearest, lacks = place, apart
    if best is None and nearest is not None:
        more = f"; and {len(lacks) - 3} more" if len(lacks) > 3 else ""
        print(f"starting anew, none of the attached runs is this one; nearest {nearest}: {'; '.join(lacks[:3])}{more}")
    return best


def _epochs(run: runs.Run) -> int:
    """Count the epochs that a copy of a run can go on from, or, finished and with all its files, show; else 0."""
    if run.state == "finished":
        whole = run.model_path.is_file() and set(run.record["folds"]["held_out"]) <= set(run.scans)
        return len(run.history()) if whole else 0
    place = checkpoints.latest(run.folder / "checkpoint")
    if place is None or not (place / "model.weights.h5").is_file():
        return 0
    state = checkpoints.read_state(place.parent)
    return state.epoch if checkpoints.best_path(place.parent, state.best_epoch).is_file() else 0


def _apart(name, old, new) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
        return [f"{name}.{key} is {old.get(key)!r} in the folder and {new.get(key)!r} now" for key in keys]
    if isinstance(old, list) and isinstance(new, list):
        gone, come = [one for one in old if one not in new], [one for one in new if one not in old]
        return [f"{name}: {len(gone)} only in the folder {gone[:2]}, {len(come)} only now {come[:2]}"]
    return [f"{name} is {old!r} in the folder and {new!r} now"]


def _settings(thing) -> dict:
    """The configuration of a loss or a layer, without what Keras adds."""
    config = thing.get_config() if thing is not None else {}
    return {name: value for name, value in config.items() if name not in ("name", "dtype", "trainable", "reduction")}


def _fingerprint(learn: pd.DataFrame, check: pd.DataFrame) -> dict:
    """Number the slices of both sides and sum up their ids and masks, so that other data is told apart."""
    columns = ["id", *contest.ORGANS]
    return {
        name: f"{len(side)} slices, {zlib.crc32(pd.util.hash_pandas_object(side[columns], index=False).to_numpy()):08x}"
        for name, side in (("learned", learn), ("checked", check))
    }
