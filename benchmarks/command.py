"""The README's command on real scans: `python benchmarks/command.py FOLDER [--data DATA] [--save]`.

`python -m kitlib.training DATA --held-out case16_day0` learns on the other scan of DATA, a folder in the official
layout (default: the environment variable KITLIB_REAL_DATA), once per preset, each for the same epochs.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import experiment
from kitlib import runs

HELD_OUT, EPOCHS = "case16_day0", 7
PRESETS = {"short": "EfficientNet-Lite0 from ImageNet", "paper": "the paper's network"}


def train(folder: Path, data: Path, preset: str) -> tuple:
    """Train by the command; return the cells of a row."""
    options = ["--held-out", HELD_OUT, "--preset", preset, "--epochs", str(EPOCHS), "--resume", str(folder)]
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "kitlib.training", str(data), *options, "--no-figures"], check=True)
    minutes, run = (time.monotonic() - started) / 60, runs.read(folder)
    score, size = run.score(), f"{run.spec.height} x {run.spec.width}"
    figures = (f"{score[name]:.4f}" for name in ("score", "dice", "hausdorff"))
    return f"--preset {preset}", PRESETS[preset], size, f"{minutes:.1f}", *figures


def main() -> None:
    """Train with each preset, print the table, save it with --save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the runs, written to")
    parser.add_argument("--data", type=Path, default=os.environ.get("KITLIB_REAL_DATA"), help="folder of the scans")
    parser.add_argument("--save", action="store_true", help="write the table into results/")
    given = parser.parse_args()
    if given.data is None:
        parser.error("name the folder of the scans with --data, or set KITLIB_REAL_DATA")
    rows = [train(given.folder / preset, given.data, preset) for preset in PRESETS]
    page = experiment.page(
        "The README's command on a real scan",
        f"`python -m kitlib.training DATA --held-out {HELD_OUT} --preset PRESET --epochs {EPOCHS}`, where DATA holds "
        "two real scans: one patient to learn from, one to score.",
        experiment.table(("preset", "network", "pixels", "minutes", "host score", "Dice", "Hausdorff"), rows),
    )
    experiment.publish(page, "command", given.save)


if __name__ == "__main__":
    main()
