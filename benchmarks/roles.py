"""A gate and a segmenter against one network of the same minutes, and ways to find the ends of organs, on a phantom.

`python benchmarks/roles.py FOLDER [--minutes 7] [--seeds 2] [--save]`. The phantom, its 20 unseen cases, the network,
the course and the clock are those of encoders.py. One network trains for the minutes given. Its opponents share them:
the gate takes a third, on a coarser grid, and the segmenter the rest. Both teams predict the unseen scans with mirrored
slices, their masks are made with each way to find the ends, and the csv files are scored. Then each team's settings
are tuned, on half of the unseen cases at a time, and scored on the other half. Every training runs in a process of its
own, and what is done is not done again, so an interrupted call goes on.
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
from kitlib.postprocess import tuning
from kitlib.scoring import bootstrap, host, metric

RESULTS = Path(__file__).parent / "results" / "roles.md"
GRIDS = {"both": encoders.GRID, "gate": (64, 96), "segmenter": encoders.GRID}
SHARES = {"both": 1.0, "gate": 1 / 3, "segmenter": 2 / 3}
TEAMS = {"one": ("both",), "pair": ("gate", "segmenter")}
THRESHOLDS = (0.3, 0.5)
PRESENT = {"presence": (0.5,) * 3}
ENDS = {
    "none": {},
    "threshold": PRESENT,
    "habits": PRESENT | {"smoothing": (3,) * 3, "stop": "earlier"},
    "interval": {"ends": "interval"},
}
NAMES = {
    "none": "every slice with a mask",
    "threshold": "presence of .5 or more",
    "habits": "the same, smoothed, bowels end with the earlier",
    "interval": "one run of slices per organ",
}
PAIRS = (  # (team, ends) after and before
    (("pair", "interval"), ("one", "none")),
    (("pair", "interval"), ("one", "interval")),
    (("pair", "threshold"), ("one", "threshold")),
    (("one", "interval"), ("one", "threshold")),
    (("one", "interval"), ("one", "habits")),
    (("pair", "interval"), ("pair", "threshold")),
    (("pair", "interval"), ("pair", "habits")),
)


def train(folder: Path, role: str, seed: int, minutes: float) -> None:
    """Train one network into folder/roles/<role><seed>, and leave its figures in result.json."""
    place = folder / "roles" / f"{role}{seed}"
    shutil.rmtree(place, ignore_errors=True)  # of an interrupted call, whose clock is lost
    place.mkdir(parents=True)
    learned, _ = encoders.data(folder)
    spec = inputs.InputSpec(*GRIDS[role], box_mm=boxes.box_for(learned))
    packed = pipeline.pack(learned, spec, folder / "packed")
    held_out = learned["case"] == learned["case"].iloc[-1]
    contestant = encoders.Contestant(role, seed=seed, role=role)
    found = encoders.train_kit(contestant, learned, held_out, packed, place, minutes * SHARES[role])
    with files.replacing(place / "result.json") as file:
        file.write(json.dumps({name: found[name] for name in ("steps", "epochs", "weights", "curve")}, indent=1))


def score(folder: Path, team: str, seed: int) -> None:
    """Predict the unseen scans with a team, and leave csv files and scores of each way in folder/roles/<team><seed>."""
    place = folder / "roles" / f"{team}{seed}"
    place.mkdir(exist_ok=True)
    _, unseen = encoders.data(folder)
    members = [folder / "roles" / f"{role}{seed}" / "run" for role in TEAMS[team]]
    groups, lines = dict(list(unseen.groupby("scan", sort=False))), {}
    kept = Kept(place)
    for scan, probabilities, presence, _ in inference.predict(members, unseen, inference.Faults()):
        kept.write(scan, probabilities, presence)
        for ends, changes in ENDS.items():
            for threshold in THRESHOLDS:
                settings = replace(postprocess.DEFAULT, threshold=(threshold,) * 3, **changes)
                masks = postprocess.masks(probabilities, settings, presence)
                lines.setdefault((ends, threshold), []).append(submission.encode(groups[scan], masks))
    truth, scores = scans.rows(unseen), []
    for (ends, threshold), parts in lines.items():
        path = place / f"{ends}-{threshold}.csv"
        submission.write(path, pd.concat(parts), submission.expected_rows(unseen))
        found = metric.score(truth, submission.read(path), unseen)
        totals = found.totals().to_numpy(float).tolist()
        scores.append({"ends": ends, "threshold": threshold, "totals": totals})
    with files.replacing(place / "scores.json") as file:
        file.write(json.dumps(scores, indent=1))


class Kept:
    """Predictions of a team, a file for each scan, as `tuning.tune` reads them."""

    def __init__(self, place: Path):
        self.place = place

    def write(self, scan: str, probabilities: np.ndarray, presence: np.ndarray | None) -> None:
        """Keep a scan's probabilities, in 255ths at the size of its files, and its presence."""
        arrays = {"probabilities": np.rint(probabilities * 255).astype(np.uint8)}
        np.savez_compressed(
            self.place / f"{scan}.npz", **arrays, **({} if presence is None else {"presence": presence})
        )

    def __call__(self, scan: str) -> np.ndarray:
        """Return the probabilities of a scan."""
        with np.load(self.place / f"{scan}.npz") as found:
            return found["probabilities"]

    def spec_of(self, scan: str) -> inputs.InputSpec:
        """Return a grid of the files' size."""
        return inputs.InputSpec(*self(scan).shape[1:3])

    def presence(self, scan: str) -> np.ndarray | None:
        """Return the gate's presence."""
        with np.load(self.place / f"{scan}.npz") as found:
            return found.get("presence")


def tune(folder: Path, team: str, seed: int) -> None:
    """Tune a team's settings on one half of the unseen cases for the other, and leave the scores in tuned.json."""
    place = folder / "roles" / f"{team}{seed}"
    _, unseen = encoders.data(folder)
    kept, start = Kept(place), postprocess.default(gate=team == "pair")
    found = tuning.tune(
        kept,
        scans.rows(unseen),
        unseen,
        start,
        tuning.SHORT,
        folds=2,
        cache=place / "tuning.jsonl",
        presence=kept.presence,
    )
    with files.replacing(place / "tuned.json") as file:
        file.write(json.dumps({"scores": found.scores.to_dict("index"), "steps": int(found.steps["kept"].sum())}))


def combine(folder: Path, team: str, ends: str, seeds: int) -> tuple[float, np.ndarray]:
    """Add the totals of all seeds, case by case; return the best threshold and its totals."""
    found = []
    for threshold in THRESHOLDS:
        parts = []
        for seed in range(seeds):
            scores = json.loads((folder / "roles" / f"{team}{seed}" / "scores.json").read_text(encoding="utf-8"))
            parts += [line["totals"] for line in scores if (line["ends"], line["threshold"]) == (ends, threshold)]
        found.append((threshold, np.sum(parts, axis=0)))
    return max(found, key=lambda entry: host.value(entry[1].sum(axis=0)))


def report(folder: Path, minutes: float, seeds: int) -> str:
    """Write the tables in Markdown."""
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("keras", "tensorflow"))
    lines = [
        "# A gate and a segmenter, and the ends of organs\n",
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; {packages}.\n",
        f"A phantom: {encoders.LEARNED} cases learned, {encoders.UNSEEN} unseen; totals of {seeds} seeds added. "
        f"{encoders.ENCODER} from ImageNet in the box in mm that holds all training masks; {minutes:g} minutes of "
        f"training (processor time over {os.cpu_count()} cores, evaluation not counted) for one network, and for gate "
        "and segmenter together. The gate learns from all slices, the segmenter from those with a mask, with losses "
        f"and mixing of `recipes.with_role`; one network from {encoders.EMPTY_SHARE:.0%} of the empty slices with "
        "BCE + 0.5 Dice. Mirrored slices; the better of the thresholds "
        f"{' and '.join(map(str, THRESHOLDS))} each.\n",
        "| network | grid | weights | minutes | epochs | steps |",
        "|--|--|--|--|--|--|",
    ]
    for role, grid in GRIDS.items():
        for seed in range(seeds):
            result = json.loads((folder / "roles" / f"{role}{seed}" / "result.json").read_text(encoding="utf-8"))
            lines.append(
                f"| {role}, seed {seed} | {grid[0]} x {grid[1]} | {result['weights']:,} | {result['curve'][-1]:.1f} "
                f"| {result['epochs']} | {result['steps']} |"
            )
    lines += ["\n| team | ends | threshold | score | 95 % interval | Dice | Hausdorff |", "|--|--|--|--|--|--|--|"]
    found = {(team, ends): combine(folder, team, ends, seeds) for team in TEAMS for ends in ENDS}
    for (team, ends), (threshold, totals) in found.items():
        value, low, high = bootstrap.interval(totals)
        dice, distance = host.means(totals.sum(axis=0))
        lines.append(
            f"| {team} | {NAMES[ends]} | {threshold} | {value:.4f} | {low:.4f} to {high:.4f} | {dice:.4f} "
            f"| {distance:.4f} |"
        )
    lines += ["\n| difference | host score | 95 % interval over the cases, paired |", "|--|--|--|"]
    for after, before in PAIRS:
        gain = bootstrap.gain(found[before][1], found[after][1])
        name = " - ".join(f"{team}, {ends}" for team, ends in (after, before))
        lines.append(f"| {name} | {gain.value:+.4f} | {gain.low:+.4f} to {gain.high:+.4f} |")
    lines += [
        "\nTuning starts from the default, of the pair with runs of slices. The settings for each half of the cases "
        "are tuned on the other half.\n",
        "| team | settings | score | 95 % interval | gain over the start | 95 % interval |",
        "|--|--|--|--|--|--|",
    ]
    for team in TEAMS:
        for seed in range(seeds):
            tuned = json.loads((folder / "roles" / f"{team}{seed}" / "tuned.json").read_text(encoding="utf-8"))
            for name, row in tuned["scores"].items():
                lines.append(
                    f"| {team}, seed {seed} | {name} | {row['score']:.4f} | {row['low']:.4f} to {row['high']:.4f} "
                    f"| {row['gain']:+.4f} | {row['gain low']:+.4f} to {row['gain high']:+.4f} |"
                )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train and score what is not done yet, print the tables, save them with --save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the experiment, written to")
    parser.add_argument("--minutes", type=float, default=7, help="of training, for each team and seed (default: 7)")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each network (default: 2)")
    parser.add_argument("--save", action="store_true", help="write the tables into results/")
    parser.add_argument("--part", nargs=3, metavar=("WHAT", "ROLE|TEAM", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if given.part:
        what, name, seed = given.part
        if what == "train":
            train(given.folder, name, int(seed), given.minutes)
        else:
            {"score": score, "tune": tune}[what](given.folder, name, int(seed))
        return
    encoders.data(given.folder)
    parts = [("train", role, "result.json") for role in GRIDS]
    parts += [(what, team, done) for team in TEAMS for what, done in (("score", "scores.json"), ("tune", "tuned.json"))]
    for seed in range(given.seeds):
        for what, name, done in parts:
            if not (given.folder / "roles" / f"{name}{seed}" / done).is_file():
                command = [sys.executable, "-P", __file__, str(given.folder), "--minutes", str(given.minutes)]
                subprocess.run([*command, "--part", what, name, str(seed)], check=True)
    text = report(given.folder, given.minutes, given.seeds)
    print("\n" + text)
    if given.save:
        with files.replacing(RESULTS) as file:
            file.write(text)


if __name__ == "__main__":
    main()
