"""`python -m kitlib.training`: train on a folder, score what is held out, write its submission."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pandas as pd

from kitlib import inference, postprocess, runs, submission
from kitlib.data import folds, inputs, scans
from kitlib.models.unet import NO_ATTENTION
from kitlib.training import devices as machine
from kitlib.training import fit, recipes


def main(arguments: Sequence[str] | None = None) -> int:
    """Train on a folder in the official layout and score the scans held out, from the command line."""
    given = _parser().parse_args(arguments)
    devices = machine.use(machine.detect())
    print(devices)
    root = scans.find_root(given.root)
    slices = scans.read(root)
    try:
        held_out = _held_out(slices, given.held_out)
    except ValueError as error:
        raise SystemExit(f"{root}: {error}") from None
    preset = recipes.named(given.preset)
    chosen = {
        name: getattr(given, name) for name in ("epochs", "batch_size", "seed") if getattr(given, name) is not None
    }
    if given.plain:
        preset["network_options"] |= NO_ATTENTION
    folder = given.resume or given.runs / datetime.now().strftime("%Y%m%d-%H%M%S")
    print(f"run folder {folder}", flush=True)
    run = fit.fit_fold(
        slices,
        folder,
        held_out=held_out,
        spec=inputs.InputSpec(given.size, given.size),
        devices=devices,
        time_limit=given.time_limit,
        track=given.track,
        **preset | chosen,
    )
    check = slices[held_out].reset_index(drop=True)
    if given.submission:
        _submit(run, check, given.submission)
    if not given.no_figures:  # in a process of its own: nothing but notebooks and commands has to do with Matplotlib
        subprocess.run([sys.executable, "-m", "kitlib.figures", run.folder, root], check=False)
    score = run.score()
    print(
        f"{run.folder}: {run.state}, host score {score['score']:.4f}, Dice {score['dice']:.4f}, "
        f"Hausdorff {score['hausdorff']:.4f}"
    )
    if run.state == "stopped":
        print(f"out of time; the same command with --resume {run.folder} goes on")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kitlib.training", description=main.__doc__)
    parser.add_argument("root", nargs="?", help="folder of the competition; found when not given")
    parser.add_argument(
        "--held-out",
        metavar="SCAN",
        help="a scan, such as case16_day0, with all days of its case, or later-days, a split like that of the hidden "
        "test set; else fold 0 of five",
    )
    parser.add_argument("--preset", choices=recipes.NAMES, default="paper")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run folder goes, named by the time")
    parser.add_argument("--resume", type=Path, help="the run folder itself: a new one, or one to go on with")
    parser.add_argument("--time-limit", type=float, help="seconds after which to stop, with a model that can go on")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--size", type=int, default=128, help="pixels of the grid, each way")
    parser.add_argument("--plain", action="store_true", help="without the attentions")
    parser.add_argument("--track", nargs="*", default=(), help="tensorboard, wandb")
    parser.add_argument("--no-figures", action="store_true", help="draw no curves and predictions into the run folder")
    parser.add_argument("--submission", type=Path, help="write the held-out scans' masks as a submission")
    return parser


def _submit(run: runs.Run, check: pd.DataFrame, path: Path) -> None:
    """Write the masks of the held-out scans, and say what is wrong with the file."""
    lines = [
        submission.encode(check[check["scan"] == name], postprocess.masks(probabilities, run.settings))
        for name, probabilities in inference.predict([run.folder], check, inference.Faults())
    ]
    submission.write(path, pd.concat(lines), submission.expected_rows(check))
    problems = [f"{where}: {what}" for where, what in submission.check(path, check)]
    print("\n".join(problems) or f"{path}: no problems")


def _held_out(slices: pd.DataFrame, named: str | None) -> pd.Series:
    """Mark the slices to hold out: of a scan, all days of its case, since days of one case look alike."""
    if not named:
        return folds.by_case(slices) == 0
    if named == "later-days":
        return folds.later_days(slices)
    if named not in set(slices["scan"]):
        listed = ", ".join(sorted(slices["scan"].unique())[:8])
        raise ValueError(f"no scan {named} among {listed}, ...; the other choice is later-days")
    return slices["case"] == slices.loc[slices["scan"] == named, "case"].iloc[0]


if __name__ == "__main__":
    raise SystemExit(main())
