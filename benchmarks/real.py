"""What a pretrained encoder brings on two real scans: `python benchmarks/real.py FOLDER [--data DATA] [--save]`.

Learn on the annotated slices of one scan, predict the other, both ways, with three seeds, in the same processor time
each. DATA is a folder in the official layout with exactly two scans (default: the environment variable
KITLIB_REAL_DATA). Two patients allow no interval: every number is shown.
"""

import argparse
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

import encoders
import experiment
from kitlib import runs
from kitlib.data import boxes, inputs, pipeline, scans
from kitlib.scoring import host

SEEDS = (0, 1, 2)
MARGIN_MM = 40.0  # one scan does not show where the organs of others lie
FIELD = {
    "Lite0, ImageNet": {},
    "Lite0, random": {"pretrained": False},
    "the paper's network": {"pretrained": False, "options": {"levels": 4}, "rate": 2e-3},
}


def part(folder: Path, root: Path, learned: str, name: str, seed: int, minutes: float) -> dict:
    """Train on one scan, and measure the annotated slices of the other with a threshold of 0.5."""
    slices = scans.read(root)
    held_out = slices["scan"] != learned
    spec = inputs.InputSpec(*encoders.GRID, box_mm=boxes.box_for(slices[~held_out], MARGIN_MM))
    contestant = encoders.Contestant(name, seed=seed, **FIELD[name])
    packed = pipeline.pack(slices, spec)
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted call, whose clock is lost
    folder.mkdir(parents=True)
    result, _ = encoders.train_kit(contestant, slices, held_out, packed, folder, minutes, empty_share=0.0)
    rows = slices[held_out & (scans.organ_count(slices) > 0)]
    (scan,) = rows["scan"].unique()
    whole = slices[slices["scan"] == scan]
    grid = runs.read(folder / "run").probabilities(scan)[np.isin(whole["id"], rows["id"])]
    shape = tuple(rows[["height", "width"]].iloc[0])
    found_masks = inputs.restore(grid, shape, spec, rows["spacing_mm"].iloc[0]) >= 0.5
    truth = scans.masks(rows)
    dice = [
        2 * (truth[..., k] & found_masks[..., k]).sum() / (truth[..., k].sum() + found_masks[..., k].sum())
        for k in range(truth.shape[-1])
    ]
    totals = sum(host.totals(truth[..., k], found_masks[..., k]) for k in range(truth.shape[-1]))
    return {
        "learned": learned,
        "network": name,
        "seed": seed,
        "steps": result["steps"],
        "minutes": result["curve"][-1],
        "dice": float(np.mean(dice)),
        "score": float(host.value(totals)),
    }


def report(table: pd.DataFrame, minutes: float) -> str:
    """Write all numbers, and how often one network was ahead of another."""
    numbers = [
        (row.learned, row.network, row.seed, row.steps, f"{row.dice:.4f}", f"{row.score:.4f}")
        for row in table.itertuples()
    ]
    wide = table.set_index(["learned", "seed", "network"])[["dice", "score"]].unstack("network")
    (first, *others), ahead = FIELD, []
    for other in others:
        gains = [wide[kind][first] - wide[kind][other] for kind in ("dice", "score")]
        counts = [f"{(gain > 0).sum()} of {len(wide)}" for gain in gains]
        ahead.append((f"{first} - {other}", *counts, *(f"{gain.mean():+.4f}" for gain in gains)))
    return experiment.page(
        "A pretrained encoder on two real scans",
        f"Learned: the annotated slices of one scan; measured: those of the other, threshold 0.5, nothing cleaned. "
        f"{encoders.GRID[0]} x {encoders.GRID[1]} pixels of the learned scan's box and {MARGIN_MM:g} mm, "
        f"{minutes:g} minutes of training each (processor time over the cores). Dice: pooled over the slices, mean of "
        "the organs. Score: 0.4 Dice of the rows + 0.6 (1 - Hausdorff) of the annotated part.",
        experiment.table(("learned", "network", "seed", "steps", "Dice", "score"), numbers),
        experiment.table(
            ("pairs of the same scan and seed", "Dice higher", "score higher", "mean Dice", "mean score"), ahead
        ),
    )


def main() -> None:
    """Run every training that has no result yet, print the table, save it with --save."""
    parser = experiment.parser(__doc__, minutes=1.25)
    parser.add_argument("--data", type=Path, default=os.environ.get("KITLIB_REAL_DATA"), help="folder of the two scans")
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.data is None:
        parser.error("name the folder of the two scans with --data, or set KITLIB_REAL_DATA")
    if given.part:
        learned, name, seed = given.part
        found = part(given.folder, given.data, learned, name, int(seed), given.minutes)
        experiment.write(given.folder / "result.json", found)
        return
    lines, names = [], scans.read(given.data)["scan"].unique()
    for seed in SEEDS:
        for learned in names:
            for number, name in enumerate(FIELD):
                place = given.folder / f"{learned}-{number}-{seed}"
                arguments = (place, "--data", given.data, "--minutes", given.minutes, "--part", learned, name, seed)
                experiment.run(place / "result.json", __file__, *arguments)
                lines.append(experiment.read(place / "result.json"))
                print(lines[-1], flush=True)
    experiment.publish(report(pd.DataFrame(lines), given.minutes), "real", given.save)


if __name__ == "__main__":
    main()
