"""What a pretrained encoder brings on two real scans: `python benchmarks/real.py FOLDER [--data DATA] [--save]`.

Learn on the annotated slices of one scan, predict the other, both ways, with three seeds, in the same processor time
each. DATA is a folder in the official layout with exactly two scans (default: the environment variable
KITLIB_REAL_DATA). Two patients allow no interval: every number is shown.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).parent))
import encoders

from kitlib import files, runs
from kitlib.data import boxes, inputs, pipeline, scans
from kitlib.scoring import host

RESULTS = Path(__file__).parent / "results" / "real.md"
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
    folder.mkdir(parents=True, exist_ok=True)
    found = encoders.train_kit(contestant, slices, held_out, packed, folder, minutes, empty_share=0.0)
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
        "steps": found["steps"],
        "minutes": found["curve"][-1],
        "dice": float(np.mean(dice)),
        "score": float(host.value(totals)),
    }


def report(table: pd.DataFrame, minutes: float) -> str:
    """Write all numbers, and how often one network was ahead of another."""
    lines = [
        "# A pretrained encoder on two real scans\n",
        f"{encoders.machine()}\n",
        f"Learned: the annotated slices of one scan; measured: those of the other, threshold 0.5, nothing cleaned. "
        f"{encoders.GRID[0]} x {encoders.GRID[1]} pixels of the learned scan's box and {MARGIN_MM:g} mm, "
        f"{minutes:g} minutes of training each (processor time over the cores). Dice: pooled over the slices, mean of "
        "the organs. Score: 0.4 Dice of the rows + 0.6 (1 - Hausdorff) of the annotated part.\n",
        "| learned | network | seed | steps | Dice | score |",
        "|--|--|--|--|--|--|",
    ]
    for row in table.itertuples():
        lines.append(f"| {row.learned} | {row.network} | {row.seed} | {row.steps} | {row.dice:.4f} | {row.score:.4f} |")
    lines += ["\n| pairs of the same scan and seed | Dice higher | score higher | mean Dice | mean score |"]
    lines += ["|--|--|--|--|--|"]
    wide = table.set_index(["learned", "seed", "network"])[["dice", "score"]].unstack("network")
    first = next(iter(FIELD))
    for other in list(FIELD)[1:]:
        gains = {kind: wide[kind][first] - wide[kind][other] for kind in ("dice", "score")}
        counts = [f"{(gains[kind] > 0).sum()} of {len(wide)}" for kind in gains]
        means = [f"{gains[kind].mean():+.4f}" for kind in gains]
        lines.append(f"| {first} - {other} | {' | '.join([*counts, *means])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run every training that has no result yet, print the table, save it with --save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the experiment, written to")
    parser.add_argument("--data", type=Path, default=os.environ.get("KITLIB_REAL_DATA"), help="folder of the two scans")
    parser.add_argument("--minutes", type=float, default=1.25, help="of training, each (default: 1.25)")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/real.md")
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.data is None:
        parser.error("name the folder of the two scans with --data, or set KITLIB_REAL_DATA")
    if given.part:
        learned, name, seed = given.part
        found = part(given.folder, given.data, learned, name, int(seed), given.minutes)
        with files.replacing(given.folder / "result.json") as file:
            file.write(json.dumps(found))
        return
    lines = []
    names = scans.read(given.data)["scan"].unique()
    for seed in SEEDS:
        for learned in names:
            for number, name in enumerate(FIELD):
                place = given.folder / f"{learned}-{number}-{seed}"
                if not (place / "result.json").is_file():
                    command = [sys.executable, "-P", __file__, str(place), "--data", str(given.data)]
                    command += ["--minutes", str(given.minutes), "--part", learned, name, str(seed)]
                    subprocess.run(command, check=True)
                lines.append(json.loads((place / "result.json").read_text(encoding="utf-8")))
                print(lines[-1], flush=True)
    text = report(pd.DataFrame(lines), given.minutes)
    print("\n" + text)
    if given.save:
        with files.replacing(RESULTS) as file:
            file.write(text)


if __name__ == "__main__":
    main()
