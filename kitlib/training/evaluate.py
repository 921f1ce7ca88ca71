"""Evaluate a network on whole validation scans: loss, Dice, IoU, and the score of the competition.

A segmenter is trained on slices that show an organ, and a gate tells it which do. It is evaluated with a perfect gate:
where the truth has no mask of an organ, its probabilities are 0.
"""

import json
import math
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import inference, postprocess, runs, submission
from kitlib.data import earlier, inputs, scans
from kitlib.data.pipeline import Packed
from kitlib.layers import monitors
from kitlib.postprocess import intervals, rescoring
from kitlib.scoring import host, metric
from kitlib.training.recipes import Recipe

TRUE_PRESENCE = {"evaluated_with": "presence of the truth"}  # of a segmenter, in score.json and run.json
_SCORES = ("score", "score_dice", "score_hausdorff")


class Evaluator:
    """A second network that takes the weights to evaluate, and the scans to evaluate them on.

    It is outside any strategy, on the first device; the network that is trained is never touched.

    Args:
        build: makes the network.
        val: the validation slices, whole scans with masks.
        packed: packed scans that hold them.
        recipe: its loss (here the mean over scans, weighed by their slices), further metrics, batch size and role, and
            whether the final prediction averages with the mirrored slice.
        settings: how probabilities become masks.
    """

    def __init__(
        self,
        build: Callable[[], keras.Model],
        val: pd.DataFrame,
        packed: Packed,
        recipe: Recipe,
        settings: postprocess.Settings = postprocess.DEFAULT,
    ):
        self.network = build()
        self.val, self.packed, self.settings = val, packed, settings
        self.loss, self.batch_size, self.flips = recipe.made("loss"), recipe.batch_size, recipe.flips
        self.role, self.truth = recipe.role, scans.rows(val)
        self.days = earlier.days(val, earlier.trusted(packed.slices))
        metrics = (monitors.Dice(name="dice"), monitors.IoU(name="iou"), *recipe.made("metrics"))
        self.metrics = {f"val_{metric.name}": metric for metric in metrics}

    def measure(self, weights: Sequence[np.ndarray], score: bool = True) -> dict[str, float]:
        """Evaluate some weights: val_loss, val_dice, val_iou and further metrics on the grid; and the host score.

        Slices are predicted as they are, without the mirrored ones, which would double the time of every epoch.

        Args:
            weights: arrays in the order of the network's weights.
            score: take the host score and its two parts, at the size of the files; without, and where the loss is not
                finite, those three are NaN.
        """
        self.network.set_weights(list(weights))
        for metric_ in self.metrics.values():
            metric_.reset_state()
        total, kept = 0.0, {}
        for name, rows, probabilities in self._predictions():
            truth, probabilities = self.packed.truth(rows), self._gated(rows, probabilities)
            total += len(rows) * float(self.loss(truth, probabilities))
            for metric_ in self.metrics.values():
                metric_.update_state(truth, probabilities)
            if score and math.isfinite(total):
                kept[name] = _bytes(probabilities)
        values = {"val_loss": total / len(self.val)}
        values |= {name: float(metric_.result()) for name, metric_ in self.metrics.items()}
        return values | (self._score(kept) if score and math.isfinite(total) else dict.fromkeys(_SCORES, np.nan))

    def write(self, weights: Sequence[np.ndarray], folder: Path) -> dict:
        """Write the out-of-fold probabilities of some weights to a run folder, and score them in every convention.

        They are predicted as inference will predict: averaged with the mirrored slice where the augmentation flips.
        A gate's presence is written too. A segmenter's probabilities are written as they are, and scored with the
        presence of the truth.

        Returns:
            score (host), dice, hausdorff; `panel`, the score by convention; where there are both, `known` and `new`,
            the same of the scans with an earlier day and of those without; `flip`, whether mirrored slices were
            averaged in; and of a segmenter `evaluated_with`.
        """
        self.network.set_weights(list(weights))
        waiting = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for name, rows, probabilities in tqdm(
                self._predictions(self.flips), desc="scoring", unit=" scans", total=self.val["scan"].nunique()
            ):
                runs.write_probabilities(folder, name, probabilities)
                if self.role == "gate":
                    runs.write_presence(folder, name, intervals.presence(probabilities))
                waiting.append(pool.submit(self._encoded, rows, _bytes(self._gated(rows, probabilities))))
            lines = pd.concat([task.result() for task in waiting])
        more = TRUE_PRESENCE if self.role == "segmenter" else {}
        return _panel(self.truth, lines, self.val, self.days) | {"flip": self.flips} | more

    def _gated(self, rows: pd.DataFrame, probabilities: np.ndarray) -> np.ndarray:
        """Empty a segmenter's slices where the truth lacks the organ; other roles find them themselves."""
        if self.role != "segmenter":
            return probabilities
        return probabilities * scans.presence(rows)[:, None, None]  # a product, which keeps NaN

    def _predictions(self, flip: bool = False):
        """Predict scan after scan: name, rows and probabilities on the grid."""
        for name, rows in self.val.groupby("scan", sort=False):
            prepared, spec = self.packed.images[self.packed.rows(rows)], self.packed.spec
            prior = self.packed.prior(name, self.days.get(name)) if spec.prior else None
            given = self.network, prepared, spec, self.batch_size, prior
            probabilities = inference.predict_scan(*given)
            if flip:
                probabilities = (probabilities + inference.predict_scan(*given, flipped=True)) / 2
            yield name, rows, probabilities

    def _score(self, kept: dict[str, np.ndarray]) -> dict[str, float]:
        """Take the host score of probabilities in 255ths, several scans at a time."""
        probabilities = rescoring.Probabilities(kept.__getitem__, self.packed.spec)
        scorer = rescoring.Rescorer(probabilities, self.truth, self.val, workers=os.cpu_count())
        scorer.fill([self.settings])
        totals = scorer.totals(self.settings).sum(axis=0)
        dice, distance = host.means(totals)
        return {"score": float(host.value(totals)), "score_dice": float(dice), "score_hausdorff": float(distance)}

    def _encoded(self, rows: pd.DataFrame, grid: np.ndarray) -> pd.DataFrame:
        """Turn probabilities in 255ths into rows of a submission."""
        size, spacing_mm = scans.common_size(rows), scans.spacing_mm(rows)
        restored = inputs.restore(grid.astype(np.float32) / 255, size, self.packed.spec, spacing_mm)
        return submission.encode(rows, postprocess.masks(restored, self.settings))


def _panel(truth: pd.DataFrame, rows: pd.DataFrame, slices: pd.DataFrame, days: Collection[str]) -> dict:
    """Score rows in every convention: score (host), dice, hausdorff, and `panel`, the score by convention.

    Where some of the scans have an earlier day, by their names in `days`, and others do not, `known` and `new` have
    score, dice, hausdorff and the number of scans of either kind.
    """
    found = metric.scores(truth, rows, slices)
    panel = _values(found["host"]) | {"panel": {name: score.value for name, score in found.items()}}
    names = set(slices["scan"])
    groups = {"known": names & set(days), "new": names - set(days)}
    if all(groups.values()):
        for group, some in groups.items():
            panel[group] = _values(found["host"].part(some)) | {"scans": len(some)}
    return panel


def _values(score: metric.Score) -> dict[str, float]:
    return {"score": score.value, "dice": score.dice, "hausdorff": score.hausdorff}


def score_unseen(run: runs.Run, slices: pd.DataFrame) -> dict:
    """Score a run on scans that had no part in its training, its validation or its start; written into score.json.

    The epoch kept is the best one on the validation scans, so that their score is a little too high; nothing was chosen
    on these. A segmenter is scored with the presence of the truth here too.

    Args:
        run: a finished or stopped run.
        slices: whole scans with masks.

    Returns:
        As `panel`, with the names of the `scans`; also score.json's entry "unseen".

    Raises:
        ValueError: names a scan that the run has seen.
    """
    start = run.record.get("pretrained", {})
    seen = set(slices["scan"]) & {scan for side in run.record["folds"].values() for scan in side}
    if seen:
        raise ValueError(
            f"{min(seen)} is in the training or validation set of {run.folder}; give scans that the run has not seen"
        )
    if seen := set(slices["scan"]) & set(start.get("trained_on", ())):
        raise ValueError(
            f"{min(seen)} is in the training set of {start['file']}, which {run.folder} started from; give scans that "
            "neither has seen"
        )
    settings, segments, lines = run.settings, run.role == "segmenter", []
    trusted = earlier.trusted(slices)
    known = trusted if inference.looks_back([run], settings) else None
    for scan, probabilities, presence, line in inference.predict([run.folder], slices, inference.Faults(), known=known):
        rows = slices[slices["scan"] == scan]
        if segments:
            presence = scans.presence(rows).astype(np.float32)
            probabilities = probabilities * presence[:, None, None]
        lines.append(submission.encode(rows, postprocess.masks(probabilities, settings, presence, line)))
    found = _panel(scans.rows(slices), pd.concat(lines), slices, earlier.days(slices, trusted))
    found |= {"scans": sorted(slices["scan"].unique())}
    found |= TRUE_PRESENCE if segments else {}
    with runs.replacing(run.folder / "score.json") as file:
        file.write(json.dumps(run.score() | {"unseen": found}, indent=1))
    return found


def _bytes(probabilities: np.ndarray) -> np.ndarray:
    """Round probabilities to 255ths, as a run folder keeps them."""
    return np.rint(probabilities * 255).astype(np.uint8)
