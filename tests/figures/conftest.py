"""Run folders for the pictures, without a training."""

import json

import numpy as np
import pytest

from kitlib import contest, runs
from kitlib.data import inputs

SPEC = inputs.InputSpec(32, 24, depth=3)


@pytest.fixture
def finished_run():
    """Write a run folder with a history of two epochs, a score, and empty predictions of one scan."""

    def write(folder, scan, depth, score):
        record = {"parameters": {}, "input_spec": json.loads(SPEC.to_json()), "wall_seconds": 1}
        runs.write_record(folder, record)
        (folder / "score.json").write_text(json.dumps({"score": score}), encoding="utf-8")
        (folder / "model.keras").write_bytes(b"")
        row = dict.fromkeys(("loss", "dice", "iou", "val_loss", "val_dice", "val_iou", "score"), 0.1)
        runs.write_history(folder, [{"epoch": epoch, **row} for epoch in (1, 2)])
        runs.write_probabilities(folder, scan, np.zeros((depth, 32, 24, len(contest.ORGANS))))

    return write
