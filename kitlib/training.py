"""Training one fold: from packed scans to a run folder with the best weights and their score."""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import (
    contest,
    inference,
    inputs,
    losses,
    metric,
    monitors,
    pipeline,
    postprocess,
    runs,
    runtime,
    scans,
    submission,
)
from kitlib.augment import paper
from kitlib.steps import AugmentedModel, EpochLog
from kitlib.unet import build_unet


def fit_fold(
    slices: pd.DataFrame,
    folder: str | os.PathLike,
    *,
    held_out: pd.Series,
    spec: inputs.InputSpec | None = None,
    network: Callable[..., keras.Model] = build_unet,
    network_options: dict | None = None,
    loss: keras.losses.Loss | None = None,
    augment: keras.layers.Layer | None = None,
    elastic: str = "device",
    epochs: int = 40,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    schedule: str = "constant",
    patience: int = 15,
    leave_out: tuple[str, ...] = contest.SUSPECT_SCANS,
    empty_share: float = 1.0,
    packed: pipeline.Packed | None = None,
    seed: int = 0,
) -> runs.Run:
    """Train a network on the slices that are not held out, and score it on those that are.

    The defaults are the paper's: BCE + 0.5 Dice, Adam, at most 40 epochs, stopped after 15 without a lower loss on the
    held-out slices (section V.F). The paper names no learning rate; 1e-3 is Adam's own.

    Args:
        slices: table of slices, as scans.read gives it for "train".
        folder: the run folder to write; it must not hold a finished run.
        held_out: True for the rows to validate on; whole cases (`scans.folds(slices) == k`) or
        `scans.later_days(slices)`. spec: what the network sees.
        network: called with the input shape and `network_options`.
        network_options: keyword arguments of the network.
        loss: None means BCE + 0.5 Dice.
        augment: kitlib.augment.Augment, or None.
        elastic: where it runs: "device", in the training step, or "cpu", while batches are made (TensorFlow only).
        epochs: at most so many.
        batch_size: slices per step.
        learning_rate: of Adam, at its peak.
        schedule: "constant", or "cosine": one epoch of warm-up, then half a cosine down to zero.
        patience: epochs without a lower loss on the held-out slices before training stops.
        leave_out: scans not to train on, the hosts' suspects unless told otherwise; they stay in the validation.
        empty_share: share of the slices without a mask to learn from; 1 is all, 0 leaves annotated slices alone.
        packed: scans that were packed before, to be shared between folds; None packs them here.
        seed: of weights, order and augmentation.

    Returns:
        The run, with its score on the held-out scans.

    Raises:
        ValueError: when a scan lies on both sides, when a side is empty, or for an unknown choice.
        FileExistsError: when the folder holds a finished run.
    """
    folder = Path(folder)
    if (folder / "model.keras").exists():
        raise FileExistsError(f"{folder} holds a finished run; choose another folder or delete it")
    if schedule not in ("constant", "cosine"):
        raise ValueError(f"schedule {schedule!r} is neither 'constant' nor 'cosine'")
    if elastic not in ("device", "cpu"):
        raise ValueError(f"elastic {elastic!r} is neither 'device' nor 'cpu'")
    spec = spec or inputs.InputSpec()
    network_options = network_options or {}
    learn, check = _sides(slices, held_out, leave_out)
    learn = _thinned(learn, empty_share, seed)
    started = time.perf_counter()
    keras.utils.set_random_seed(seed)
    packed = packed or pipeline.pack(slices, spec)
    in_step, in_batches = (augment, None) if elastic == "device" else (None, augment)
    model = AugmentedModel(network(spec.shape, **network_options), in_step)
    steps = pipeline.steps(learn, batch_size)
    training_set = pipeline.dataset(learn, spec, batch_size, True, packed=packed, seed=seed, augment=in_batches)
    check_set = pipeline.dataset(check, spec, batch_size, False, packed=packed)
    loss = loss or losses.BCEDice(dice_weight=0.5)
    model.compile(
        optimizer=keras.optimizers.Adam(_rate(learning_rate, schedule, steps, epochs)),
        loss=loss,
        weighted_metrics=[monitors.Dice(name="dice"), monitors.IoU(name="iou")],
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "history.csv").unlink(missing_ok=True)
    stop = keras.callbacks.EarlyStopping("val_loss", patience=patience, mode="min", restore_best_weights=True)
    log = EpochLog(folder / "history.csv", epochs, batch_size, steps)
    model.fit(
        training_set,
        validation_data=check_set,
        epochs=epochs,
        steps_per_epoch=steps,
        callbacks=[stop, log],
        shuffle=False,  # the data set has shuffled
        verbose=0,
    )
    _save_model(model.network, folder / "model.keras")
    score = _score_held_out(model.network, check, packed, folder, batch_size)
    record = {
        "parameters": {
            "network": network.__name__,
            **network_options,
            "loss": loss.name,
            "augment": augment.name if augment is not None else None,
            "elastic": elastic,
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "schedule": schedule,
            "precision": keras.config.dtype_policy().name,
            "patience": patience,
            "empty_share": empty_share,
            "leave_out": list(leave_out),
            "seed": seed,
        },
        "input_spec": json.loads(spec.to_json()),
        "weights": int(model.network.count_params()),
        "folds": {"train": sorted(learn["scan"].unique()), "held_out": sorted(check["scan"].unique())},
        **runs.surroundings(),
        "wall_seconds": round(time.perf_counter() - started, 1),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    runs.write_text(folder / "score.json", json.dumps(score, indent=1))
    runs.write_record(folder, record)
    return runs.read(folder)


def cross_validate(
    slices: pd.DataFrame, folder: str | os.PathLike, *, count: int = 5, spec: inputs.InputSpec | None = None, **options
) -> list[runs.Run]:
    """Train one network per fold (paper, V.B.1) into folder/fold0, folder/fold1, ...; options go to `fit_fold`.

    Folds that are finished are read, not trained again; scans are packed once.
    """
    folder = Path(folder)
    spec = spec or inputs.InputSpec()
    table = _fold_table(slices, folder / "folds.csv", count)
    packed = None
    finished = []
    for fold in range(count):
        place = folder / f"fold{fold}"
        if not (place / "run.json").exists():
            packed = packed or pipeline.pack(slices, spec)
            fit_fold(slices, place, held_out=table == fold, spec=spec, packed=packed, **options)
        finished.append(runs.read(place))
    return finished


def _fold_table(slices, path, count):
    """Read the run's table of folds, or deal the cases and keep it: a run that is continued must not deal again."""
    if not path.is_file():
        dealt = slices[["case"]].assign(fold=scans.folds(slices, count)).drop_duplicates()
        runs.write_text(path, dealt.to_csv(index=False))
    kept = pd.read_csv(path).set_index("case")["fold"]
    missing = set(slices["case"]) - set(kept.index)
    if missing or kept.nunique() != count:
        raise ValueError(
            f"{path} deals {kept.nunique()} folds and lacks cases {sorted(missing)}; choose another folder"
        )
    return slices["case"].map(kept)


def _sides(slices, held_out, leave_out):
    """Part the slices into those to learn from and those to check on, and make sure that no scan is on both sides."""
    check, learn = slices[held_out], slices[~held_out & ~slices["scan"].isin(leave_out)]
    both = set(check["scan"]) & set(learn["scan"])
    if both:
        raise ValueError(f"scan {min(both)} is both learned from and held out; hold out whole scans")
    if not len(check) or not len(learn):
        raise ValueError(f"{len(learn)} slices to learn from and {len(check)} held out: neither side may be empty")
    return learn, check


def _thinned(learn, empty_share, seed):
    """Leave out some of the slices without a mask, drawn once for the whole run."""
    empty = (scans.organ_count(learn) == 0).to_numpy()
    drawn = np.random.default_rng(seed).random(len(learn)) < empty_share
    return learn[~empty | drawn]


def _rate(peak, schedule, steps, epochs):
    """Make the learning rate of Adam."""
    if schedule == "constant":
        return peak
    decay = max(steps * (epochs - 1), 1)
    return keras.optimizers.schedules.CosineDecay(peak / 10, decay, warmup_target=peak, warmup_steps=steps)


def _save_model(network, path):
    """Save a network whole or not at all."""
    draft = path.with_name(f"draft-{os.getpid()}.keras")
    network.save(draft)
    os.replace(draft, path)


def _score_held_out(network, check, packed, folder, batch_size):
    """Predict the held-out scans, keep their probabilities, and score them at the size of their files."""
    lines = []
    for name, rows in tqdm(check.groupby("scan", sort=False), desc="scoring", unit=" scans"):
        prepared = packed.images[packed.places(rows)]
        probabilities = inference.predict_scan(network, prepared, rows, packed.spec, batch_size)
        runs.write_probabilities(folder, name, probabilities)
        restored = inputs.restore(probabilities, (rows["height"].iloc[0], rows["width"].iloc[0]))
        lines.append(submission.encode(rows, postprocess.masks(restored, postprocess.HABITS)))
    result = metric.score(scans.rows(check), pd.concat(lines), check)
    return {"score": result.value, "dice": result.dice, "hausdorff": result.hausdorff}


def _case_of(slices, scan):
    """Mark all days of the case that a scan belongs to: days of one case look alike."""
    if scan not in set(slices["scan"]):
        raise ValueError(f"no scan {scan} among {', '.join(sorted(slices['scan'].unique())[:8])}, ...")
    return slices["case"] == slices.loc[slices["scan"] == scan, "case"].iloc[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train on a folder in the official layout and score the scans held out, from the command line."""
    parser = argparse.ArgumentParser(prog="python -m kitlib.training", description=main.__doc__)
    parser.add_argument("root", nargs="?", help="folder of the competition; found when not given")
    parser.add_argument(
        "--held-out", help="a scan, such as case16_day0, with all days of its case; else fold 0 of five"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run folder goes")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--size", type=int, default=128, help="pixels of the grid, each way")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--plain", action="store_true", help="without the attentions")
    parser.add_argument("--submission", type=Path, help="write the held-out scans' masks as a submission")
    given = parser.parse_args(arguments)
    print(runtime.use(runtime.devices()))
    slices = scans.read(scans.find_root(given.root))
    held_out = _case_of(slices, given.held_out) if given.held_out else scans.folds(slices) == 0
    run = fit_fold(
        slices,
        given.runs / datetime.now().strftime("%Y%m%d-%H%M%S"),
        held_out=held_out,
        spec=inputs.InputSpec(given.size, given.size),
        network_options={"window_stages": (), "external_bottleneck": False} if given.plain else {},
        augment=paper(),
        epochs=given.epochs,
        batch_size=given.batch_size,
    )
    check = slices[held_out].reset_index(drop=True)
    if given.submission:
        lines = [
            submission.encode(check[check["scan"] == name], postprocess.masks(probabilities, run.settings))
            for name, probabilities in inference.predict([run.folder], check)
        ]
        submission.write(given.submission, pd.concat(lines), submission.expected_rows(check))
        print(f"{given.submission}: {'; '.join(submission.check(given.submission, check)) or 'no problems'}")
    score = run.score()
    print(
        f"{run.folder}: host score {score['score']:.4f}, Dice {score['dice']:.4f}, Hausdorff {score['hausdorff']:.4f}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
