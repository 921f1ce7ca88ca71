"""The end of a call that trains, whatever ended it: the model, what it says of the scans held out, and the record."""

import json
import os
import shutil
import time
from datetime import UTC, datetime

from kitlib import runs
from kitlib.training.epochs import EpochEnd, lost
from kitlib.training.evaluate import Judge


def close(run: runs.Run, end: EpochEnd, judge: Judge, started: float) -> runs.Run:
    """Write model, out-of-fold probabilities, score and record; a finished run needs no checkpoint any more.

    Args:
        run: as it was opened.
        end: what has trained it.
        judge: measures weights on the held-out scans.
        started: `time.perf_counter()` at the beginning of the call.

    Returns:
        The run as it stands then: "finished", or "stopped" where the time was up.
    """
    began, state = time.perf_counter(), end.state
    weights, source = end.best_weights()
    if state.ended == "not finite":
        print(f"{run.folder} ends with {source}, since {lost(state.history[-1]['val_loss'], state.epoch)}")
    score = judge.write(weights, run.folder)
    with runs.replacing(run.folder / "score.json") as file:
        file.write(json.dumps(score, indent=1))
    draft = run.folder / f"draft-{os.getpid()}.keras"
    judge.network.save(draft)
    os.replace(draft, run.model_path)
    now = time.perf_counter()
    runs.write_record(
        run.folder,
        run.record
        | {
            "state": "finished" if state.ended else "stopped",
            "ended_by": state.ended or "time limit",
            "weights": int(judge.network.count_params()),
            "best_epoch": state.best_epoch,
            "best_weights": source,
            "wall_seconds": round(run.record["wall_seconds"] + now - started, 1),
            "closing_seconds": round(now - began, 1),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    if state.ended:
        shutil.rmtree(end.place, ignore_errors=True)
    return runs.read(run.folder)
