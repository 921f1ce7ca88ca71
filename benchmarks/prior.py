"""The masks of the case's earlier day as a second input of the network, on a phantom.

`python benchmarks/prior.py FOLDER [--minutes 7] [--seeds 2] [--save]`. The phantom, the network, the course and the
clock are those of encoders.py. One network sees slices alone, the other a prior too (`InputSpec(prior=True)`); both
train for the same processor time on the two days of the learned cases. The later day of each unseen case is scored
twice: as a known case, whose earlier day is given with its masks, and as a new one, of which nothing is known. Every
training runs in a process of its own, and what is done is not done again, so an interrupted call goes on.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).parent))
import encoders

from kitlib import files, inference, postprocess, submission
from kitlib.data import boxes, inputs, pipeline, scans
from kitlib.scoring import bootstrap, host, metric

RESULTS = Path(__file__).parent / "results" / "prior.md"
NETWORKS = {"slices": False, "prior": True}  # whether it gets a prior
CASES = ("known", "new")
THRESHOLDS = (0.3, 0.5)
PAIRS = (  # (network, cases) after and before
    (("prior", "known"), ("slices", "known")),
    (("prior", "new"), ("slices", "new")),
    (("prior", "known"), ("prior", "new")),
)


def data(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the slices to learn from, the later days of the unseen cases, and their earlier days."""
    learned, others = encoders.cases(folder)
    first = others["day"] == others.groupby("case")["day"].transform("min")
    return learned, others[~first].reset_index(drop=True), others[first].reset_index(drop=True)


def train(folder: Path, network: str, seed: int, minutes: float) -> None:
    """Train one network into folder/prior/<network><seed>, and leave its figures in result.json."""
    place = folder / "prior" / f"{network}{seed}"
    shutil.rmtree(place, ignore_errors=True)  # of an interrupted call, whose clock is lost
    place.mkdir(parents=True)
    learned, _, _ = data(folder)
    spec = inputs.InputSpec(*encoders.GRID, box_mm=boxes.box_for(learned), prior=NETWORKS[network])
    packed = pipeline.pack(learned, spec, folder / "packed")
    held_out = learned["case"] == learned["case"].iloc[-1]
    contestant = encoders.Contestant(network, seed=seed)
    found = encoders.train_kit(contestant, learned, held_out, packed, place, minutes)
    with files.replacing(place / "result.json") as file:
        file.write(json.dumps({name: found[name] for name in ("steps", "epochs", "weights", "curve")}, indent=1))


def score(folder: Path, network: str, seed: int) -> None:
    """Predict the later days with a network; leave csv files and scores.json in its folder."""
    place = folder / "prior" / f"{network}{seed}"
    _, later, before = data(folder)
    groups, truth, scores = dict(list(later.groupby("scan", sort=False))), scans.rows(later), []
    for cases in CASES if NETWORKS[network] else CASES[-1:]:  # without a prior nothing differs
        lines = {threshold: [] for threshold in THRESHOLDS}
        known = before if cases == "known" else None
        for found in inference.predict([place / "run"], later, inference.Faults(), known=known):
            for threshold, parts in lines.items():
                settings = replace(postprocess.DEFAULT, threshold=(threshold,) * 3)
                masks = postprocess.masks(found.probabilities, settings)
                parts.append(submission.encode(groups[found.scan], masks))
        for threshold, parts in lines.items():
            path = place / f"{cases}-{threshold}.csv"
            submission.write(path, pd.concat(parts), submission.expected_rows(later))
            totals = metric.score(truth, submission.read(path), later).totals().to_numpy(float).tolist()
            scores.append({"cases": cases, "threshold": threshold, "totals": totals})
    with files.replacing(place / "scores.json") as file:
        file.write(json.dumps(scores, indent=1))


def combine(folder: Path, network: str, cases: str, seeds: int) -> tuple[float, np.ndarray]:
    """Add the totals of all seeds, case by case; return the best threshold and its totals."""
    found, wanted = [], cases if NETWORKS[network] else CASES[-1]
    for threshold in THRESHOLDS:
        parts = []
        for seed in range(seeds):
            scores = json.loads((folder / "prior" / f"{network}{seed}" / "scores.json").read_text(encoding="utf-8"))
            parts += [line["totals"] for line in scores if (line["cases"], line["threshold"]) == (wanted, threshold)]
        found.append((threshold, np.sum(parts, axis=0)))
    return max(found, key=lambda entry: host.value(entry[1].sum(axis=0)))


def report(folder: Path, minutes: float, seeds: int) -> str:
    """Write the tables in Markdown."""
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("keras", "tensorflow"))
    lines = [
        "# The masks of the earlier day as a second input\n",
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; {packages}.\n",
        f"A phantom: {encoders.LEARNED} cases learned, two days each, {encoders.UNSEEN} unseen; totals of {seeds} "
        f"seeds added. {encoders.ENCODER} from ImageNet, {encoders.GRID[0]} x {encoders.GRID[1]} pixels of the box "
        f"in mm that holds all training masks, {minutes:g} minutes of training each (processor time over "
        f"{os.cpu_count()} cores, evaluation not counted), {encoders.EMPTY_SHARE:.0%} of the empty slices. "
        "The later day of every unseen case is scored, once with its earlier day (known) and once without (new). "
        "Mirrored slices, default post-processing; the better of the thresholds "
        f"{' and '.join(map(str, THRESHOLDS))} each.\n",
        "| network | weights | minutes | epochs | steps |",
        "|--|--|--|--|--|",
    ]
    for network in NETWORKS:
        for seed in range(seeds):
            path = folder / "prior" / f"{network}{seed}" / "result.json"
            result = json.loads(path.read_text(encoding="utf-8"))
            lines.append(
                f"| {network}, seed {seed} | {result['weights']:,} | {result['curve'][-1]:.1f} | {result['epochs']} "
                f"| {result['steps']} |"
            )
    lines += ["\n| network | cases | threshold | score | 95 % interval | Dice | Hausdorff |", "|--|--|--|--|--|--|--|"]
    found = {(network, cases): combine(folder, network, cases, seeds) for network in NETWORKS for cases in CASES}
    for (network, cases), (threshold, totals) in found.items():
        value, low, high = bootstrap.interval(totals)
        dice, distance = host.means(totals.sum(axis=0))
        lines.append(
            f"| {network} | {cases} | {threshold} | {value:.4f} | {low:.4f} to {high:.4f} | {dice:.4f} "
            f"| {distance:.4f} |"
        )
    lines += ["\n| difference | host score | 95 % interval over the cases, paired |", "|--|--|--|"]
    for after, before in PAIRS:
        gain = bootstrap.gain(found[before][1], found[after][1])
        name = " - ".join(f"{network}, {cases}" for network, cases in (after, before))
        lines.append(f"| {name} | {gain.value:+.4f} | {gain.low:+.4f} to {gain.high:+.4f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train and score what is not done yet, print the tables, save them with --save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the experiment, written to")
    parser.add_argument("--minutes", type=float, default=7, help="of training, for each network and seed (default: 7)")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each network (default: 2)")
    parser.add_argument("--save", action="store_true", help="write the tables into results/")
    parser.add_argument("--part", nargs=3, metavar=("train|score", "NETWORK", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if given.part:
        what, network, seed = given.part
        if what == "train":
            train(given.folder, network, int(seed), given.minutes)
        else:
            score(given.folder, network, int(seed))
        return
    data(given.folder)
    for seed in range(given.seeds):
        for network in NETWORKS:
            for what, file in (("train", "result.json"), ("score", "scores.json")):
                if not (given.folder / "prior" / f"{network}{seed}" / file).is_file():
                    command = [sys.executable, "-P", __file__, str(given.folder), "--minutes", str(given.minutes)]
                    subprocess.run([*command, "--part", what, network, str(seed)], check=True)
    text = report(given.folder, given.minutes, given.seeds)
    print("\n" + text)
    if given.save:
        with files.replacing(RESULTS) as file:
            file.write(text)


if __name__ == "__main__":
    main()
