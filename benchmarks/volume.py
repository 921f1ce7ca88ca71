"""A small network on volumes, beside an atlas and a 2.5D network, and the mean of both, on a phantom.

`python benchmarks/volume.py FOLDER [--minutes 10] [--save]`. The phantom, its 20 unseen cases, the course and the clock
are those of encoders.py. A SegResNet learns volumes of 32 slices for the minutes given, predicts the unseen scans with
overlapping windows and mirrored, and is scored beside an atlas of the training masks, which reads no image. Where
encoders.py has left its network A in FOLDER, both networks' probabilities are averaged at several weights. Training and
scoring run in processes of their own, and what is done is not done again, so an interrupted call goes on.
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
from kitlib.postprocess import baselines
from kitlib.scoring import bootstrap, host, metric

RESULTS = Path(__file__).parent / "results" / "volume.md"
GRID, DEPTH = (64, 96), 32
SEGRESNET = encoders.Contestant(
    "SegResNet",
    rate=2e-3,
    network="kitlib.models:build_segresnet",
    options={"init": 8},
    pretrained=False,
    batch=2,
)
WEIGHTS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0)  # of the network on volumes in the mean of both
Choice = tuple[float, float]  # weight and threshold


def train(folder: Path, minutes: float) -> None:
    """Train the network into folder/volume/run, and leave its figures in result.json."""
    place = folder / "volume"
    shutil.rmtree(place, ignore_errors=True)  # of an interrupted call, whose clock is lost
    place.mkdir(parents=True)
    learned, _ = encoders.data(folder)
    spec = inputs.InputSpec(*GRID, depth=DEPTH, volume=True, box_mm=boxes.box_for(learned))
    packed = pipeline.pack(learned, spec, folder / "packed")
    held_out = learned["case"] == learned["case"].iloc[-1]
    found = encoders.train_kit(SEGRESNET, learned, held_out, packed, place, minutes)
    with files.replacing(place / "result.json") as file:
        file.write(json.dumps({name: found[name] for name in ("steps", "epochs", "weights", "curve")}, indent=1))


def score(folder: Path) -> None:
    """Predict and score the unseen scans, at each weight and threshold; leave the totals by case in scores.json."""
    learned, unseen = encoders.data(folder)
    runs = [folder / "volume" / "run", folder / "encoders" / "A" / "run"]
    runs = [run for run in runs if (run / "model.keras").is_file()]
    weights = WEIGHTS if len(runs) > 1 else (1.0,)
    groups, lines = dict(list(unseen.groupby("scan", sort=False))), {}
    streams = [inference.predict([run], unseen, inference.Faults(), progress=run == runs[0]) for run in runs]
    for volumes, *slices in zip(*streams, strict=True):
        for weight in weights:
            probabilities = weight * volumes.probabilities
            for other in slices:
                probabilities += (1 - weight) * other.probabilities
            for threshold in encoders.THRESHOLDS:
                settings = replace(postprocess.DEFAULT, threshold=(threshold,) * 3)
                masks = submission.encode(groups[volumes.scan], postprocess.masks(probabilities, settings))
                lines.setdefault((weight, threshold), []).append(masks)
    truth = scans.rows(unseen)

    def totals(rows: pd.DataFrame) -> list:
        return metric.score(truth, rows, unseen).totals().to_numpy(float).tolist()

    scores = [
        {"weight": weight, "threshold": threshold, "totals": totals(pd.concat(parts))}
        for (weight, threshold), parts in lines.items()
    ]
    with files.replacing(folder / "volume" / "scores.json") as file:
        file.write(json.dumps({"networks": scores, "atlas": totals(baselines.atlas(learned, unseen))}, indent=1))


def best(found: dict[Choice, np.ndarray]) -> Choice:
    """Return the weight and threshold of the highest score."""
    return max(found, key=lambda choice: host.value(found[choice].sum(axis=0)))


def held_out(found: dict[Choice, np.ndarray]) -> np.ndarray:
    """Give each case the totals of the weight and threshold that are best on the other cases: (cases, 4)."""
    cases = range(len(next(iter(found.values()))))
    chosen = [best({choice: np.delete(totals, case, axis=0) for choice, totals in found.items()}) for case in cases]
    return np.array([found[choice][case] for case, choice in zip(cases, chosen, strict=True)])


def report(folder: Path, minutes: float) -> str:
    """Write the tables in Markdown."""
    scores = json.loads((folder / "volume" / "scores.json").read_text(encoding="utf-8"))
    result = json.loads((folder / "volume" / "result.json").read_text(encoding="utf-8"))
    found = {(line["weight"], line["threshold"]): np.array(line["totals"]) for line in scores["networks"]}
    by_weight = {weight: {key: value for key, value in found.items() if key[0] == weight} for weight, _ in found}
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("keras", "tensorflow"))
    lines = [
        "# A network on volumes\n",
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; {packages}.\n",
        f"A phantom: {encoders.LEARNED} cases learned, {encoders.UNSEEN} unseen. A SegResNet of {result['weights']:,} "
        f"weights on {GRID[0]} x {GRID[1]} pixels of the box in mm that holds all training masks and {DEPTH} slices, "
        f"{result['epochs']} epochs of {result['steps'] // result['epochs']} steps with {SEGRESNET.batch} volumes, "
        f"{minutes:g} minutes of training (processor time over {os.cpu_count()} cores, evaluation not counted), random "
        "weights at the start. Beside it network A of encoders.py: Lite0 from ImageNet on slices. Mirrored scans, "
        "default post-processing, the best of three thresholds each, chosen on the cases that are scored but where the "
        "table says otherwise.\n",
        "| prediction | threshold | score | 95 % interval | Dice | Hausdorff |",
        "|--|--|--|--|--|--|",
    ]

    def line(name: str, totals: np.ndarray, threshold: float | str = "-") -> str:
        value, low, high = bootstrap.interval(totals)
        dice, distance = host.means(totals.sum(axis=0))
        return f"| {name} | {threshold} | {value:.4f} | {low:.4f} to {high:.4f} | {dice:.4f} | {distance:.4f} |"

    names = {0.0: "slices (network A)", 1.0: "volumes"}
    atlas, tables = np.array(scores["atlas"]), {}
    lines.append(line("atlas of the training masks", atlas))
    for weight, choices in by_weight.items():
        choice = best(choices)
        tables[weight] = choices[choice]
        lines.append(line(names.get(weight, f"mean, {weight:g} of volumes"), choices[choice], choice[1]))
    pairs = {"volumes - atlas": (tables[1.0], atlas)}
    if len(tables) > 1:
        mean, slices = held_out(found), held_out(by_weight[0.0])
        lines.append(line("mean, weight and threshold chosen on the other cases", mean))
        pairs |= {
            "volumes - slices": (tables[1.0], tables[0.0]),
            "mean - slices, both chosen on the other cases": (mean, slices),
        }
    lines += ["\n| difference | host score | 95 % interval over the cases, paired |", "|--|--|--|"]
    for name, (after, before) in pairs.items():
        gain = bootstrap.gain(before, after)
        lines.append(f"| {name} | {gain.value:+.4f} | {gain.low:+.4f} to {gain.high:+.4f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train and score what is not done yet, print the tables, save them with --save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the experiment, written to")
    parser.add_argument("--minutes", type=float, default=10, help="of training (default: 10)")
    parser.add_argument("--save", action="store_true", help="write the tables into results/")
    parser.add_argument("--part", choices=("train", "score"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if given.part == "train":
        train(given.folder, given.minutes)
        return
    if given.part == "score":
        score(given.folder)
        return
    encoders.data(given.folder)
    for part, done in (("train", "result.json"), ("score", "scores.json")):
        if not (given.folder / "volume" / done).is_file():
            command = [sys.executable, "-P", __file__, str(given.folder), "--minutes", str(given.minutes)]
            subprocess.run([*command, "--part", part], check=True)
    text = report(given.folder, given.minutes)
    print("\n" + text)
    if given.save:
        with files.replacing(RESULTS) as file:
            file.write(text)


if __name__ == "__main__":
    main()
