"""The masks of the case's earlier day as a second input of the network, on a phantom.

`python benchmarks/prior.py FOLDER [--minutes 7] [--seeds 2] [--save]`. The phantom, the network, the course and the
clock are those of encoders.py. One network sees slices alone, the other a prior too (`InputSpec(prior=True)`); both
train for the same processor time on the two days of the learned cases. The later day of each unseen case is scored
twice: as a known case, whose earlier day is given with its masks, and as a new one, of which nothing is known. Every
training runs in a process of its own, and what is done is not done again, so an interrupted call goes on.
"""

import itertools
import os
from pathlib import Path

import pandas as pd

import encoders
import experiment
from kitlib import inference, postprocess
from kitlib.data import boxes, inputs

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


def train(folder: Path, minutes: float, network: str, seed: int) -> None:
    """Train one network into folder/prior/<network><seed>, and leave its figures in result.json."""
    learned, _, _ = data(folder)
    spec = inputs.InputSpec(*encoders.GRID, box_mm=boxes.box_for(learned), prior=NETWORKS[network])
    contestant = encoders.Contestant(network, seed=seed)
    result, _ = encoders.train(folder, f"prior/{network}{seed}", contestant, learned, spec, minutes)
    experiment.write(folder / f"prior/{network}{seed}" / "result.json", result)


def score(folder: Path, minutes: float, network: str, seed: int) -> None:
    """Predict the later days with a network; leave csv files and scores.json in its folder."""
    place, (_, later, before) = folder / "prior" / f"{network}{seed}", data(folder)
    predictions = (
        (cases, postprocess.DEFAULT, found)
        for cases in (CASES if NETWORKS[network] else CASES[-1:])  # without a prior nothing differs
        for found in inference.predict(
            [place / "run"], later, inference.Faults(), known=before if cases == "known" else None
        )
    )
    experiment.write(place / "scores.json", experiment.score(predictions, later, place, "cases", THRESHOLDS))


def report(folder: Path, minutes: float, seeds: int) -> str:
    """Write the tables in Markdown."""
    places, found = {(name, seed): folder / "prior" / f"{name}{seed}" for name in NETWORKS for seed in range(seeds)}, {}
    for network, cases in itertools.product(NETWORKS, CASES):
        paths = [places[network, seed] / "scores.json" for seed in range(seeds)]
        found[network, cases] = experiment.combine(paths, cases=cases if NETWORKS[network] else CASES[-1])
    trainings = [
        (f"{network}, seed {seed}", *experiment.figures(experiment.read(place / "result.json")))
        for (network, seed), place in places.items()
    ]
    pairs = {" - ".join(map(", ".join, pair)): [found[key][1] for key in pair] for pair in PAIRS}
    return experiment.page(
        "The masks of the earlier day as a second input",
        f"A phantom: {encoders.LEARNED} cases learned, two days each, {encoders.UNSEEN} unseen; "
        f"{experiment.added(seeds)}. {encoders.ENCODER} from ImageNet, {encoders.GRID[0]} x {encoders.GRID[1]} pixels "
        f"of the box in mm that holds all training masks, {minutes:g} minutes of training each (processor time over "
        f"{os.cpu_count()} cores, evaluation not counted), {encoders.EMPTY_SHARE:.0%} of the empty slices. "
        "The later day of every unseen case is scored, once with its earlier day (known) and once without (new). "
        "Mirrored slices, default post-processing; the better of the thresholds "
        f"{' and '.join(map(str, THRESHOLDS))} each.",
        experiment.table(("network", *experiment.FIGURES), trainings),
        experiment.table(
            ("network", "cases", *experiment.SCORE), [(*key, *experiment.scored(*best)) for key, best in found.items()]
        ),
        experiment.differences(pairs),
    )


PARTS = [(part, name, file) for name in NETWORKS for part, file in ((train, "result.json"), (score, "scores.json"))]

if __name__ == "__main__":
    experiment.main(__file__, __doc__, PARTS, report, minutes=7, seeds=2)
