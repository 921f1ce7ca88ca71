"""A gate and a segmenter against one network of the same minutes, and ways to find the ends of organs, on a phantom.

`python benchmarks/roles.py FOLDER [--minutes 7] [--seeds 2] [--save]`. The phantom, its 20 unseen cases, the network,
the course and the clock are those of encoders.py. One network trains for the minutes given. Its opponents share them:
the gate takes a third, on a coarser grid, and the segmenter the rest. Both teams predict the unseen scans with mirrored
slices, their masks are made with each way to find the ends, and the csv files are scored. Then each team's settings
are tuned, on half of the unseen cases at a time, and scored on the other half. Every training runs in a process of its
own, and what is done is not done again, so an interrupted call goes on.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

import encoders
import experiment
from kitlib import inference, postprocess
from kitlib.data import boxes, inputs, scans
from kitlib.postprocess import cleaning, tuning

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


def train(folder: Path, minutes: float, role: str, seed: int) -> None:
    """Train one network into folder/roles/<role><seed>, and leave its figures in result.json."""
    learned, _ = encoders.data(folder)
    spec = inputs.InputSpec(*GRIDS[role], box_mm=boxes.box_for(learned))
    contestant = encoders.Contestant(role, seed=seed, role=role)
    result, _ = encoders.train(folder, f"roles/{role}{seed}", contestant, learned, spec, minutes * SHARES[role])
    experiment.write(folder / f"roles/{role}{seed}" / "result.json", result)


def score(folder: Path, minutes: float, team: str, seed: int) -> None:
    """Predict the unseen scans with a team, and leave csv files and scores of each way in folder/roles/<team><seed>."""
    place, (_, unseen) = folder / "roles" / f"{team}{seed}", encoders.data(folder)
    place.mkdir(exist_ok=True)
    kept, ways = Kept(place), {ends: replace(postprocess.DEFAULT, **changes) for ends, changes in ENDS.items()}

    def predictions():
        members = [folder / "roles" / f"{role}{seed}" / "run" for role in TEAMS[team]]
        for found in inference.predict(members, unseen, inference.Faults()):
            kept.write(found.scan, found.probabilities, found.presence)
            for ends, settings in ways.items():
                yield ends, settings, found

    experiment.write(place / "scores.json", experiment.score(predictions(), unseen, place, "ends", THRESHOLDS))


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


def tune(folder: Path, minutes: float, team: str, seed: int) -> None:
    """Tune a team's settings on one half of the unseen cases for the other, and leave the scores in tuned.json."""
    place = folder / "roles" / f"{team}{seed}"
    _, unseen = encoders.data(folder)
    kept, start = Kept(place), cleaning.default(gate=team == "pair")
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
    tuned = {"scores": found.scores.to_dict("index"), "steps": int(found.steps["kept"].sum())}
    experiment.write(place / "tuned.json", tuned)


def report(folder: Path, minutes: float, seeds: int) -> str:
    """Write the tables in Markdown."""

    def paths(name: str, file: str) -> dict[str, Path]:
        return {f"{name}, seed {seed}": folder / "roles" / f"{name}{seed}" / file for seed in range(seeds)}

    found = {
        (team, ends): experiment.combine(paths(team, "scores.json").values(), ends=ends)
        for team in TEAMS
        for ends in ENDS
    }
    trainings = [
        (name, f"{grid[0]} x {grid[1]}", *experiment.figures(experiment.read(path)))
        for role, grid in GRIDS.items()
        for name, path in paths(role, "result.json").items()
    ]
    scores = [(team, NAMES[ends], *experiment.scored(*best)) for (team, ends), best in found.items()]
    pairs = {" - ".join(map(", ".join, pair)): [found[key][1] for key in pair] for pair in PAIRS}
    cells = "{score:.4f}", "{low:.4f} to {high:.4f}", "{gain:+.4f}", "{gain low:+.4f} to {gain high:+.4f}"
    tuned = [
        (name, settings, *(cell.format(**row) for cell in cells))
        for team in TEAMS
        for name, path in paths(team, "tuned.json").items()
        for settings, row in experiment.read(path)["scores"].items()
    ]
    return experiment.page(
        "A gate and a segmenter, and the ends of organs",
        f"A phantom: {encoders.LEARNED} cases learned, {encoders.UNSEEN} unseen; {experiment.added(seeds)}. "
        f"{encoders.ENCODER} from ImageNet in the box in mm that holds all training masks; {minutes:g} minutes of "
        f"training (processor time over {os.cpu_count()} cores, evaluation not counted) for one network, and for gate "
        "and segmenter together. The gate learns from all slices, the segmenter from those with a mask, with losses "
        f"and mixing of `recipes.with_role`; one network from {encoders.EMPTY_SHARE:.0%} of the empty slices with "
        "BCE + 0.5 Dice. Mirrored slices; the better of the thresholds "
        f"{' and '.join(map(str, THRESHOLDS))} each.",
        experiment.table(("network", "grid", *experiment.FIGURES), trainings),
        experiment.table(("team", "ends", *experiment.SCORE), scores),
        experiment.differences(pairs),
        "Tuning starts from `cleaning.default`, of the pair with the gate's presence. The settings for each half of "
        "the cases are tuned on the other half.",
        experiment.table(("team", "settings", "score", "95 % interval", "gain over the start", "95 % interval"), tuned),
    )


PARTS = [(train, role, "result.json") for role in GRIDS]
PARTS += [(part, team, file) for team in TEAMS for part, file in ((score, "scores.json"), (tune, "tuned.json"))]

if __name__ == "__main__":
    experiment.main(__file__, __doc__, PARTS, report, minutes=7, seeds=2)
