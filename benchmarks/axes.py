"""A network on coronal pictures beside networks on slices, and the mean of two of them, on a phantom.

`python benchmarks/axes.py FOLDER [--minutes 4] [--seeds 1] [--save]`. The phantom, its 20 unseen cases, the network,
the course and the clock are those of encoders.py. Three networks train for the same processor time: two on slices,
which differ in their seed, and one along y (`InputSpec(axis="y")`). A mean of two networks is usually better than one;
the second seed shows how much of the gain is the other axis's. Every training runs in a process of its own, and what is
done is not done again, so an interrupted call goes on.
"""

import os
from pathlib import Path

import encoders
import experiment
from kitlib import inference, postprocess
from kitlib.data import axes, boxes, inputs

NETWORKS = {"slices": ("z", 0), "again": ("z", 1), "coronal": ("y", 0)}  # axis, and what is added to the seed
MEANS = {
    "slices": ("slices",),
    "coronal pictures": ("coronal",),
    "mean, slices with two seeds": ("slices", "again"),
    "mean, slices and coronal pictures": ("slices", "coronal"),
}
PAIRS = (
    ("coronal pictures", "slices"),
    ("mean, slices with two seeds", "slices"),
    ("mean, slices and coronal pictures", "slices"),
    ("mean, slices and coronal pictures", "mean, slices with two seeds"),
)
THRESHOLDS = (0.3, 0.5)


def train(folder: Path, minutes: float, network: str, seed: int) -> None:
    """Train one network into folder/axes/<network><seed>, and leave its figures in result.json."""
    learned, _ = encoders.data(folder)
    axis, more = NETWORKS[network]
    spec = inputs.InputSpec(*encoders.GRID, box_mm=boxes.box_for(learned), axis=axis, length=axes.length_for(learned))
    place, contestant = f"axes/{network}{seed}", encoders.Contestant(network, seed=2 * seed + more)
    result, _ = encoders.train(folder, place, contestant, learned, spec, minutes)
    experiment.write(folder / place / "result.json", result)


def score(folder: Path, minutes: float, name: str, seed: int) -> None:
    """Predict the unseen scans with each network and mean; leave csv files and scores.json in folder/axes/all<seed>."""
    place, (_, unseen) = folder / "axes" / f"{name}{seed}", encoders.data(folder)
    place.mkdir(exist_ok=True)

    def predictions():
        runs = [folder / "axes" / f"{network}{seed}" / "run" for network in NETWORKS]
        streams = [inference.predict([run], unseen, inference.Faults(), progress=run == runs[0]) for run in runs]
        for found in zip(*streams, strict=True):
            by_network = dict(zip(NETWORKS, found, strict=True))
            for mean, parts in MEANS.items():
                probabilities = sum(by_network[part].probabilities for part in parts) / len(parts)
                yield mean, postprocess.DEFAULT, inference.Prediction(found[0].scan, probabilities, None)

    experiment.write(place / "scores.json", experiment.score(predictions(), unseen, place, "mean", THRESHOLDS))


def report(folder: Path, minutes: float, seeds: int) -> str:
    """Write the tables in Markdown."""
    home, texts = folder / "axes", {"z": "slices", "y": "coronal pictures"}
    trainings = [
        (
            f"{texts[axis]}, seed {2 * seed + more}",
            *experiment.figures(experiment.read(home / f"{network}{seed}" / "result.json")),
        )
        for seed in range(seeds)
        for network, (axis, more) in NETWORKS.items()
    ]
    found = {
        mean: experiment.combine([home / f"all{seed}" / "scores.json" for seed in range(seeds)], mean=mean)
        for mean in MEANS
    }
    rows = [(mean, *experiment.scored(*found[mean])) for mean in MEANS]
    learned, _ = encoders.data(folder)
    return experiment.page(
        "Pictures along another axis",
        f"A phantom: {encoders.LEARNED} cases learned, {encoders.UNSEEN} unseen. {encoders.ENCODER} from ImageNet, "
        f"{encoders.GRID[0]} x {encoders.GRID[1]} pixels of the box in mm that holds all training masks, so that a "
        f"coronal picture has {axes.length_for(learned)} x {encoders.GRID[1]}; {minutes:g} minutes of training each "
        f"(processor time over {os.cpu_count()} cores, evaluation not counted), {encoders.EMPTY_SHARE:.0%} of the "
        "empty slices. Mirrored inputs, default post-processing; the better of the thresholds "
        f"{' and '.join(map(str, THRESHOLDS))} each.",
        experiment.table(("network", *experiment.FIGURES), trainings),
        experiment.table(("prediction", *experiment.SCORE), rows),
        experiment.differences({f"{after} - {before}": (found[after][1], found[before][1]) for after, before in PAIRS}),
    )


if __name__ == "__main__":
    parts = [(train, network, "result.json") for network in NETWORKS] + [(score, "all", "scores.json")]
    experiment.main(__file__, __doc__, parts, report, minutes=4, seeds=1)
