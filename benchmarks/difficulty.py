"""How hard the phantom is: `python benchmarks/difficulty.py [--epochs N] [--save]`.

The paper's network with both attentions is trained on 8 cases of a phantom and scored on 4 others, beside two guesses
that need no training: an atlas of the 8 cases, and a range of grey values on the usual slices.
"""

import argparse
import importlib.metadata
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

import phantom
from kitlib import files, training
from kitlib.data import inputs, pipeline, scans
from kitlib.postprocess import baselines
from kitlib.scoring import metric
from kitlib.training import recipes
from phantom.likeness import guesses, measures

RESULTS = Path(__file__).parent / "results"
TRAINED, UNSEEN = 8, 4


def write(root: Path, seed: int, days: int) -> tuple[pd.DataFrame, pd.Series]:
    """Write 12 open cases (and 3 hidden ones, left alone): the slices, and True for those of the 4 unseen cases."""
    phantom.write(root, TRAINED + UNSEEN + 3, seed, days=days, processes=2)
    slices = scans.read(root)
    cases = sorted(slices["case"].unique())
    assert len(cases) == TRAINED + UNSEEN
    return slices, slices["case"].isin(cases[TRAINED:])


def foreground(truth: np.ndarray, found: np.ndarray) -> dict[str, list[float]]:
    """Foreground Dice per organ, (N, H, W, organs) bool: pooled over all slices, over those that hold the organ, and
    the mean over slices that hold it.
    """
    pooled, held, mean = [], [], []
    for channel in range(truth.shape[-1]):
        both = (truth[..., channel] & found[..., channel]).sum(axis=(1, 2), dtype=float)
        one, other = (some[..., channel].sum(axis=(1, 2), dtype=float) for some in (truth, found))
        here = one > 0
        pooled.append(2 * both.sum() / (one.sum() + other.sum()))
        held.append(2 * both[here].sum() / (one[here].sum() + other[here].sum()))
        mean.append((2 * both[here] / (one[here] + other[here])).mean())
    return {"pooled": pooled, "pooled, slices with the organ": held, "mean of slices with the organ": mean}


def small(masks: np.ndarray, spec: inputs.InputSpec) -> np.ndarray:
    """Masks (D, H, W, organs) on the network's grid."""
    return inputs.prepare_masks(masks, spec)


def main():
    """Train, compare, print, and save when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--size", type=int, default=128, help="pixels of the grid, each way")
    parser.add_argument("--days", type=int, default=1, help="scans per case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/difficulty.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = compare(Path(folder), given)
    print(text)
    if given.save:
        with files.replacing(RESULTS / "difficulty.md") as file:
            file.write(text)


def compare(folder: Path, given: argparse.Namespace) -> str:
    """Write the phantom, train on it and compare the three predictions."""
    slices, held_out = write(folder / "phantom", given.seed, given.days)
    spec = inputs.InputSpec(given.size, given.size)
    packed = pipeline.pack(slices, spec)
    recipe = replace(
        recipes.paper(),
        epochs=given.epochs,
        batch_size=8,
        learning_rate=2e-3,
        schedule="cosine",
        empty_share=0.35,
        seed=given.seed,
    )
    start = time.perf_counter()
    run = training.fit_fold(
        slices,
        folder / "run",
        held_out=held_out,
        spec=spec,
        packed=packed,
        recipe=recipe,
    )
    minutes = (time.perf_counter() - start) / 60
    train, val = slices[~held_out], slices[held_out]
    guess = baselines.atlas(train, val)
    truth, found, atlas = [], [], []
    for name, rows in val.groupby("scan", sort=False):
        truth.append(small(scans.masks(rows), spec))
        found.append(run.probabilities(name) >= 0.5)
        atlas.append(small(scans.masks(scans.with_masks(rows, guess)), spec))
    truth, found, atlas = (np.concatenate(some) for some in (truth, found, atlas))
    table = []
    for who, masks in (("network", found), ("atlas", atlas)):
        for how, values in foreground(truth, masks).items():
            table.append(f"| {who} | {how} | {' | '.join(f'{v:.3f}' for v in [*values, np.mean(values)])} |")
    curve = run.history()["val_dice"]
    grey = guesses.grey_and_position(measures.gather(folder / "phantom").tallies)
    atlas_score = metric.score(scans.rows(val), guess, val).value
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("tensorflow", "keras", "numpy"))
    head = (
        f"The paper's network with both attentions on {given.size} x {given.size} pixels, {TRAINED} cases of "
        f"{given.days} day(s) in training, {UNSEEN} unseen; seed {given.seed}, {len(curve)} epochs, {minutes:.0f} min "
        f"on {platform.machine()}, {versions}. Dice of the foreground on the grid, threshold .5."
    )
    scores = (
        f"Host score on the unseen cases: network {run.score()['score']:.3f}, atlas {atlas_score:.3f}, "
        f"a range of grey values on the usual slices {grey:.3f} (mean of all cases, each guessed from the others)."
    )
    epochs = ", ".join(f"{value:.3f}" for value in curve)
    lines = [
        "# How hard the phantom is",
        "",
        head,
        "",
        "| prediction | Dice | large bowel | small bowel | stomach | mean |",
        "|---|---|---:|---:|---:|---:|",
        *table,
        "",
        scores,
        "",
        f"Dice on the unseen slices after each epoch, as the training monitors it: {epochs}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
