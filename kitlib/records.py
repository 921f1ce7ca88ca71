"""What a run was called with, and on what data: written first, compared when the same folder is called again."""

import json
import shutil
import zlib
from datetime import UTC, datetime
from pathlib import Path

import keras
import pandas as pd

from kitlib import contest, runs
from kitlib.inputs import InputSpec

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
            new: on Kaggle a run comes back as the read-only input of the next notebook.

    Raises:
        ValueError: when the folder holds a run with other parameters, slices or folds; names each difference.
    """
    if not (folder / "run.json").is_file():
        for place in runs.attached(inputs):
            if not differences(runs.read(place).record, record):
                print(f"going on with {place}, copied to {folder}")
                shutil.copytree(place, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("run.json"))
                runs.write_record(folder, runs.read(place).record)
                break
        else:
            runs.write_record(folder, record)
    run = runs.read(folder)
    apart = differences(run.record, record)
    if apart:
        raise ValueError(
            f"{folder} holds a run that was called otherwise: {'; '.join(apart)}. "
            "Call it alike to go on with it, or choose another folder"
        )
    return run


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
