"""From scans to probabilities, one scan at a time, with the networks of one or several runs."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import inputs, runs, scans


def predict(
    run_folders: Sequence[str | os.PathLike], slices: pd.DataFrame, batch_size: int = 16, progress: bool = True
) -> Iterator[tuple[str, np.ndarray]]:
    """Predict scan after scan; the probabilities of several runs are averaged.

    Only one scan is held in memory.

    Args:
        run_folders: runs whose networks are averaged.
        slices: table of slices, whole scans.
        batch_size: slices per call of the network.
        progress: show a bar.

    Yields:
        The name of a scan and its probabilities (D, H, W, organs) float32 at the size of its files.

    Raises:
        FileNotFoundError: names the run folder that is none.
        ValueError: names the file that cannot be decoded.
    """
    if not len(run_folders):
        raise ValueError("no run folder to predict with; train first, or attach a run")
    networks = [load(folder) for folder in run_folders]
    specs = [runs.read(folder).spec for folder in run_folders]
    groups = slices.groupby("scan", sort=False)
    for name, rows in tqdm(groups, desc="predicting", unit=" scans", disable=not progress):
        scan = inputs.load(rows["path"].tolist())
        mean = 0.0
        for network, spec in zip(networks, specs, strict=True):
            probabilities = predict_scan(network, inputs.prepare(scan, spec), rows, spec, batch_size)
            mean = mean + inputs.restore(probabilities, scan.shape[1:]) / len(networks)
        yield name, mean


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
    stacks = scans.stacks(rows, spec.depth, spec.stride)
    count = len(stacks)
    places = np.minimum(np.arange(-(-count // batch_size) * batch_size), count - 1)
    parts = []
    for first in range(0, len(places), batch_size):
        batch = prepared[stacks[places[first : first + batch_size]]]
        images = np.ascontiguousarray(batch.transpose(0, 2, 3, 1), np.float32)
        parts.append(np.asarray(network.predict_on_batch(images)))
    return np.concatenate(parts)[:count]


def load(folder: str | os.PathLike):
    """Load the network of a run.

    Raises:
        FileNotFoundError: names the folder without a model.
    """
    import keras

    from kitlib import attention, losses, monitors, unet  # noqa: F401 (registers the kit's layers for loading)

    run = runs.read(folder)
    if not run.model_path.is_file():
        raise FileNotFoundError(f"{run.folder} has no model.keras; its training did not finish")
    return keras.saving.load_model(run.model_path, compile=False)
