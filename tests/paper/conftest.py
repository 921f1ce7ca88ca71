"""Run folders as trainings leave them, without the trainings."""

import json

import numpy as np
import pandas as pd
import pytest

from kitlib import runs
from kitlib.data import inputs, pipeline
from kitlib.paper import experiments

SPEC = inputs.InputSpec(32, 32)
COLUMNS = ["loss", "dice", "iou", "val_loss", "val_dice", "val_iou", "val_paper_accuracy", "val_binary_accuracy"]


@pytest.fixture(scope="package")
def packed(slices):
    return pipeline.pack(slices, SPEC)


def make(folder, packed, seed=0, dice=(0.2, 0.5, 0.4), probabilities=None):
    """A run folder as a training leaves it, without the training."""
    history = pd.DataFrame({name: np.linspace(0.3, 0.6, len(dice)) for name in COLUMNS})
    history = history.assign(epoch=range(1, len(dice) + 1), val_dice=dice, val_loss=1 - np.array(dice), seconds=1.0)
    folder.mkdir(parents=True)
    history.to_csv(folder / "history.csv", index=False)
    (folder / "score.json").write_text(json.dumps({"score": 0.5, "dice": max(dice)}), encoding="utf-8")
    runs.write_record(folder, {"recipe": {"seed": seed}, "input_spec": json.loads(SPEC.to_json())})
    for scan, rows in packed.slices.groupby("scan"):
        truth = packed.truth(rows).astype(np.float32)
        runs.write_probabilities(folder, scan, truth if probabilities is None else probabilities(truth))
    return runs.read(folder)


@pytest.fixture(scope="package")
def make_run():
    """The function that writes a run folder and reads it."""
    return make


@pytest.fixture(scope="package")
def trained(packed, tmp_path_factory):
    """Two trials with two seeds each."""
    folder = tmp_path_factory.mktemp("trained")
    values = {"BCE": [(0.1, 0.3, 0.2), (0.1, 0.2, 0.4)], experiments.BASE: [(0.2, 0.6, 0.5), (0.3, 0.5, 0.7)]}
    return {
        name: [make(folder / name / str(seed), packed, seed, dice) for seed, dice in enumerate(each)]
        for name, each in values.items()
    }
