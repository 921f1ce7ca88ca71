"""Judge a network on whole held-out scans: loss, Dice, IoU, and the score of the competition."""

import copy
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import inference, postprocess, runs
from kitlib import submission as rows_of
from kitlib.data import inputs, scans
from kitlib.data.pipeline import Packed
from kitlib.layers import monitors
from kitlib.postprocess import rescoring
from kitlib.scoring import host, metric

_SCORES = ("score", "score_dice", "score_hausdorff")


class Judge:
    """A second network that takes the weights to be judged, and the scans to judge them on.

    It lives outside any strategy, on the first device; the network that learns is never touched.

    Args:
        build: makes the network.
        check: the held-out slices, whole scans with masks.
        packed: packed scans that hold them.
        loss: function of (truth, probabilities); its value here is the mean over scans, weighed by their slices.
        batch_size: slices per call of the network.
        settings: how probabilities become masks.
        watch: further metrics to take on the grid.
    """

    def __init__(
        self,
        build: Callable[[], keras.Model],
        check: pd.DataFrame,
        packed: Packed,
        loss: keras.losses.Loss,
        batch_size: int,
        settings: postprocess.Settings = postprocess.DEFAULT,
        watch: Sequence[keras.metrics.Metric] = (),
    ):
        self.network = build()
        self.check, self.packed, self.loss = check, packed, loss
        self.batch_size, self.settings = batch_size, settings
        self.truth = scans.rows(check)
        self.monitors = {
            f"val_{one.name}": one for one in (monitors.Dice(name="dice"), monitors.IoU(name="iou"), *watch)
        }

    def measure(self, weights: Sequence[np.ndarray], score: bool = True) -> dict[str, float]:
        """Judge some weights: val_loss, val_dice, val_iou and what is watched, on the grid; and the host score.

        Args:
            weights: arrays in the order of the network's weights.
            score: take the host score and its two parts, at the size of the files; without, and where the loss is not
                finite, those three are NaN.
        """
        self.network.set_weights(list(weights))
        for monitor in self.monitors.values():
            monitor.reset_state()
        total, kept = 0.0, {}
        for name, rows, probabilities in self._predictions():
            truth = self.packed.truth(rows)
            total += len(rows) * float(self.loss(truth, probabilities))
            for monitor in self.monitors.values():
                monitor.update_state(truth, probabilities)
            if score and math.isfinite(total):
                kept[name] = _bytes(probabilities)
        values = {"val_loss": total / len(self.check)}
        values |= {name: float(monitor.result()) for name, monitor in self.monitors.items()}
        return values | (self._score(kept) if score and math.isfinite(total) else dict.fromkeys(_SCORES, np.nan))

    def rehearse(self) -> float:
        """Estimate the seconds of a `measure` with its score, by one of as many scans as are scored at a time."""
        count = self.check["scan"].value_counts()
        few = copy.copy(self)
        few.check = self.check[self.check["scan"].isin(count.index[: os.cpu_count()])]
        few.truth = scans.rows(few.check)
        next(few._predictions())  # compiles
        began = time.perf_counter()
        few.measure(self.network.get_weights())
        return (time.perf_counter() - began) * len(self.check) / len(few.check)

    def write(self, weights: Sequence[np.ndarray], folder: Path) -> dict:
        """Keep the out-of-fold probabilities of some weights in a run folder, and score them in every convention.

        Returns:
            score (host), dice, hausdorff, and `panel`: the score by convention.
        """
        self.network.set_weights(list(weights))
        waiting = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for name, rows, probabilities in tqdm(
                self._predictions(), desc="scoring", unit=" scans", total=self.check["scan"].nunique()
            ):
                runs.write_probabilities(folder, name, probabilities)
                waiting.append(pool.submit(self._encoded, rows, _bytes(probabilities)))
            lines = pd.concat([task.result() for task in waiting])
        found = metric.scores(self.truth, lines, self.check)
        host = found["host"]
        panel = {name: one.value for name, one in found.items()}
        return {"score": host.value, "dice": host.dice, "hausdorff": host.hausdorff, "panel": panel}

    def _predictions(self):
        """Predict scan after scan: name, rows and probabilities on the grid."""
        for name, rows in self.check.groupby("scan", sort=False):
            prepared = self.packed.images[self.packed.rows(rows)]
            yield name, rows, inference.predict_scan(self.network, prepared, rows, self.packed.spec, self.batch_size)

    def _score(self, kept: dict[str, np.ndarray]) -> dict[str, float]:
        """Take the host score of probabilities in 255ths, several scans at a time."""
        scorer = rescoring.Rescorer(kept.__getitem__, self.truth, self.check, workers=os.cpu_count())
        scorer.fill([self.settings])
        totals = scorer.totals(self.settings).sum(axis=0)
        dice, distance = host.means(totals)
        return {"score": float(host.value(totals)), "score_dice": float(dice), "score_hausdorff": float(distance)}

    def _encoded(self, rows: pd.DataFrame, grid: np.ndarray) -> pd.DataFrame:
        """Turn probabilities in 255ths into rows of a submission."""
        shape = int(rows["height"].iloc[0]), int(rows["width"].iloc[0])
        restored = inputs.restore(grid.astype(np.float32) / 255, shape)
        return rows_of.encode(rows, postprocess.masks(restored, self.settings))


def _bytes(probabilities: np.ndarray) -> np.ndarray:
    """Round probabilities to 255ths, as a run folder keeps them."""
    return np.rint(probabilities * 255).astype(np.uint8)
