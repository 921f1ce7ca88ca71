"""Where a network starts: from an encoder's pretrained weights, or from the network of another run."""

import itertools
import os
from pathlib import Path

import keras

from kitlib import inference, runs
from kitlib.models import encoders, weights
from kitlib.training.recipes import Recipe


def check(pretrained: str | os.PathLike | None, recipe: Recipe) -> None:
    """Check that `pretrained` is a name or path, and that a name is the one of the recipe's encoder.

    Raises:
        ValueError: names what it is, and what is possible.
    """
    if not isinstance(pretrained, str | os.PathLike | None):
        raise ValueError(f"pretrained is {pretrained!r}; give a weight file, a run folder, or an encoder's name")
    own = recipe.network_options.get("encoder")
    if _is_name(pretrained) and os.fspath(pretrained) != own:
        raise ValueError(
            f"pretrained is {str(pretrained)!r}, but the recipe's encoder is {own!r}; "
            f"use network_options={{'encoder': {str(pretrained)!r}}}, or the weights of the other"
        )
    if pretrained is None or not recipe.network.startswith("kitlib.") or own is not None:
        return
    if Path(pretrained).expanduser().is_file():
        raise ValueError(
            f"pretrained is {str(pretrained)!r}, a weight file, but the recipe's network has no encoder; "
            "use recipes.encoder(), or the folder of a run"
        )


def find(pretrained: str | os.PathLike) -> Path:
    """Return the weight file: of a name the one that `encoders.find` finds, of a run folder its model.keras.

    Raises:
        FileNotFoundError: no such file, run or name; or a run without a model.
    """
    if _is_name(pretrained):
        try:
            return encoders.find(os.fspath(pretrained))
        except FileNotFoundError as error:
            remedy = 'Or train without an encoder: PRESET = "paper" (--preset paper) needs no weights'
            raise FileNotFoundError(f"{error}. {remedy}") from None
    path = Path(pretrained).expanduser()
    if path.is_dir():
        path = runs.read(path).model_path
        if not path.is_file():
            raise FileNotFoundError(f"pretrained: {path} does not exist; finish that training, or name another run")
    elif not path.is_file():
        raise FileNotFoundError(
            f"pretrained is {str(pretrained)!r}: no such weight file or run folder, and no encoder "
            f"({', '.join(encoders.NAMES)})"
        )
    return path


def describe(pretrained: str | os.PathLike) -> dict:
    """Return the entry of run.json; the sum of a name, and of a file that is not there any more, is None."""
    try:
        known = None if _is_name(pretrained) else weights.digest(find(pretrained))
    except FileNotFoundError:
        known = None
    return {"file": str(pretrained), "sha256": known}


def same(one: dict | None, other: dict | None) -> bool:
    """Whether two entries of run.json stand for the same start: by name, or by the sum of a file that was moved.

    A name is enough, because a run that another one started from may have been continued since.
    """
    if not (one and other):
        return one == other
    return one["file"] == other["file"] or (one["sha256"] is not None and one["sha256"] == other["sha256"])


def load(network: keras.Model, pretrained: str | os.PathLike, held_out: list[str]) -> dict:
    """Load the weights into a network that has not been trained; return the entry of run.json.

    Args:
        network: of the training, with an encoder for a weight file.
        pretrained: a weight file, a run folder, or an encoder's name.
        held_out: validation scans; where the other run was trained on some of them, a line says so.

    Returns:
        The file and its SHA-256; of a run folder also `trained_on`, the scans that its weights have learned from.

    Raises:
        FileNotFoundError: as `find`.
        ValueError: weights that do not fit the network.
    """
    path = find(pretrained)
    if _is_name(pretrained) or not Path(pretrained).expanduser().is_dir():
        return {"file": str(pretrained), "sha256": encoders.load(network, path)}
    other = inference.load(path.parent)
    own, theirs = ([(weight.name, tuple(weight.shape)) for weight in one.weights] for one in (network, other))
    if [shape for _, shape in own] != [shape for _, shape in theirs]:
        pairs = itertools.zip_longest(own, theirs, fillvalue=("nothing", None))
        here, there = next((one, another) for one, another in pairs if one[1] != another[1])
        raise ValueError(
            f"the network of {path.parent} has {len(theirs)} weights, and this one ({network.name}) {len(own)}; the "
            f"first that differs is {there} there and {here} here. Use the same network_options and depth"
        )
    network.set_weights(other.get_weights())
    record = runs.read(path.parent).record
    trained_on = sorted({*record["folds"]["train"], *record.get("pretrained", {}).get("trained_on", ())})
    seen = sorted(set(held_out) & set(trained_on))
    if seen:
        print(
            f"{path.parent} was trained on {len(seen)} of the validation scans, such as {seen[0]}: "
            "their score will be too high"
        )
    return {"file": str(pretrained), "sha256": weights.digest(path), "trained_on": trained_on}


def _is_name(pretrained: str | os.PathLike | None) -> bool:
    """Tell whether it is an encoder's name, which the command line gives as a path."""
    return pretrained is not None and os.fspath(pretrained) in encoders.NAMES
