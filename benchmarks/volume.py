"""A small network on volumes, beside an atlas and a 2.5D network, and the mean of both, on a phantom.

`python benchmarks/volume.py FOLDER [--minutes 10] [--save]`. The phantom, its 20 unseen cases, the course and the clock
are those of encoders.py. A SegResNet learns volumes of 32 slices for the minutes given, predicts the unseen scans with
overlapping windows and mirrored, and is scored beside an atlas of the training masks, which reads no image. Where
encoders.py has left its network A or A2 in FOLDER, both networks' probabilities are averaged at several weights.
Training and scoring run in processes of their own, and what is done is not done again, so an interrupted call goes on.
"""

import os
from pathlib import Path

import numpy as np

import encoders
import experiment
from kitlib import inference, postprocess
from kitlib.data import boxes, inputs, scans
from kitlib.postprocess import baselines
from kitlib.scoring import metric

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


def partner(folder: Path) -> list[str]:
    """Find the network on slices that encoders.py has left: its first seed, or its second; none where neither is."""
    return [name for name in ("A", "A2") if (folder / "encoders" / name / "run" / "model.keras").is_file()][:1]


def train(folder: Path, minutes: float) -> None:
    """Train the network into folder/volume/run, and leave its figures in result.json."""
    learned, _ = encoders.data(folder)
    spec = inputs.InputSpec(*GRID, depth=DEPTH, volume=True, box_mm=boxes.box_for(learned))
    result, _ = encoders.train(folder, "volume", SEGRESNET, learned, spec, minutes)
    experiment.write(folder / "volume" / "result.json", result)


def score(folder: Path, minutes: float) -> None:
    """Predict and score the unseen scans, at each weight and threshold; leave the totals by case in scores.json."""
    (learned, unseen), place = encoders.data(folder), folder / "volume"
    runs = [place / "run", *(folder / "encoders" / name / "run" for name in partner(folder))]

    def predictions():
        streams = [inference.predict([run], unseen, inference.Faults(), progress=run == runs[0]) for run in runs]
        for volumes, *slices in zip(*streams, strict=True):
            for weight in WEIGHTS if slices else (1.0,):
                probabilities = weight * volumes.probabilities
                for other in slices:
                    probabilities += (1 - weight) * other.probabilities
                yield weight, postprocess.DEFAULT, inference.Prediction(volumes.scan, probabilities, None)

    networks = experiment.score(predictions(), unseen, place, "weight", encoders.THRESHOLDS)
    atlas = metric.score(scans.rows(unseen), baselines.atlas(learned, unseen), unseen).totals()
    experiment.write(place / "scores.json", {"networks": networks, "atlas": atlas.to_numpy(float).tolist()})


def held_out(found: dict[Choice, np.ndarray]) -> np.ndarray:
    """Give each case the totals of the weight and threshold that are best on the other cases: (cases, 4)."""
    cases = range(len(next(iter(found.values()))))
    others = [{choice: np.delete(totals, case, axis=0) for choice, totals in found.items()} for case in cases]
    return np.array([found[experiment.best(others[case])[0]][case] for case in cases])


def report(folder: Path, minutes: float) -> str:
    """Write the tables in Markdown."""
    scores, result = (experiment.read(folder / "volume" / name) for name in ("scores.json", "result.json"))
    found = {(line["weight"], line["threshold"]): np.array(line["totals"]) for line in scores["networks"]}
    by_weight = {weight: {key: value for key, value in found.items() if key[0] == weight} for weight, _ in found}
    beside = "".join(partner(folder))
    names, atlas = {0.0: f"slices (network {beside})", 1.0: "volumes"}, np.array(scores["atlas"])
    rows, tables = [("atlas of the training masks", *experiment.scored("-", atlas))], {}
    for weight, choices in by_weight.items():
        (_, threshold), tables[weight] = experiment.best(choices)
        name = names.get(weight, f"mean, {weight:g} of volumes")
        rows.append((name, *experiment.scored(threshold, tables[weight])))
    pairs = {"volumes - atlas": (tables[1.0], atlas)}
    if len(tables) > 1:
        mean, slices = held_out(found), held_out(by_weight[0.0])
        rows.append(("mean, weight and threshold chosen on the other cases", *experiment.scored("-", mean)))
        pairs |= {
            "volumes - slices": (tables[1.0], tables[0.0]),
            "mean - slices, both chosen on the other cases": (mean, slices),
        }
    return experiment.page(
        "A network on volumes",
        f"A phantom: {encoders.LEARNED} cases learned, {encoders.UNSEEN} unseen. A SegResNet of "
        f"{result['weights']:,} weights on {GRID[0]} x {GRID[1]} pixels of the box in mm that holds all training masks "
        f"and {DEPTH} slices, {result['epochs']} epochs of {result['steps'] // result['epochs']} steps with "
        f"{SEGRESNET.batch} volumes, {minutes:g} minutes of training (processor time over {os.cpu_count()} cores, "
        f"evaluation not counted), random weights at the start. Beside it network {beside} of encoders.py: Lite0 from "
        "ImageNet "
        "on slices. Mirrored scans, default post-processing, the best of three thresholds each, chosen on the cases "
        "that are scored but where the table says otherwise.",
        experiment.table(("prediction", *experiment.SCORE), rows),
        experiment.differences(pairs),
    )


if __name__ == "__main__":
    parts = [(train, "", "result.json"), (score, "", "scores.json")]
    experiment.main(__file__, __doc__, parts, report, minutes=10)
