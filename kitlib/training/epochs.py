"""What happens between two epochs: judge, keep the best, write the history and a checkpoint, see whether to go on."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from kitlib import runs
from kitlib.training import averages, checkpoints
from kitlib.training.budget import Budget
from kitlib.training.evaluate import Judge

MONITORS = {"score": 1.0, "val_dice": 1.0, "val_iou": 1.0, "val_loss": -1.0}  # the sign that makes higher better


def lost(loss: float, epoch: int) -> str:
    """Say that a training has diverged, and what to try."""
    return (
        f"the loss on what is held out is {loss} after epoch {epoch}: try a lower learning_rate, a longer warm-up "
        "(schedule='cosine'), or float32 where this was half precision"
    )


@dataclass(frozen=True)
class Rules:
    """When a training is over, and what is the best of it.

    Patience is counted in epochs, whatever `score_every` is, and looked at whenever there is something new to judge by:
    training ends at the first judged epoch that lies `patience` or more after the best one.

    Attributes:
        epochs: length of the course.
        monitor: what the best epoch is best in, one of MONITORS.
        patience: see above.
        score_every: epochs from one host score to the next; the last epoch always has one, and so has the last before
            the time is up.
        average_last: how many of the last epochs to average; 0 for none.
    """

    epochs: int
    monitor: str = "score"
    patience: int = 15
    score_every: int = 1
    average_last: int = 0

    def __post_init__(self):
        if self.monitor not in MONITORS:
            raise ValueError(f"monitor {self.monitor!r} is not one of {', '.join(MONITORS)}")
        for name in ("epochs", "patience", "score_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it counts epochs, from 1 up")


class EpochEnd(keras.callbacks.Callback):
    """Judge after every epoch and leave everything on disk that the next call needs.

    Args:
        folder: the run folder.
        network: the network that learns; the model that `fit` is called on holds it.
        judge: measures weights on the held-out scans.
        rules: when the training is over.
        budget: when to stop for lack of time.
        images: samples of an epoch.
    """

    def __init__(self, folder: Path, network: keras.Model, judge: Judge, rules: Rules, budget: Budget, images: int):
        super().__init__()
        self.folder, self.network, self.judge = folder, network, judge
        self.rules, self.budget, self.images = rules, budget, images
        self.state, self.mean, self.abandoned = checkpoints.State(), None, False

    @property
    def place(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoint"

    def resume(self, model: keras.Model) -> None:
        """Bring the model to the last finished epoch, if there is one, and the history to what was saved with it."""
        found = checkpoints.load(self.place, model)
        if found is not None:
            self.state, self.mean = found
            for row in self.state.history:
                training = self.images / max(row["images_per_second"], 1e-9)  # its seconds hold the judging too
                self.budget.note(min(training, row["seconds"]), self.state.judging)
        runs.write_history(self.folder, self.state.history)

    def on_epoch_begin(self, epoch, logs=None):
        self.began = self.trained = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.trained = time.perf_counter()
        if self.budget.over():
            self.abandoned = self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if self.abandoned:
            return
        state, state.epoch = self.state, epoch + 1
        weights = averages.weights(self.model, self.network)
        if epoch >= self.rules.epochs - self.rules.average_last:
            own = [keras.ops.convert_to_numpy(weight) for weight in self.network.weights]
            self.mean = averages.add_to_mean(self.mean, state.averaged, own)
            state.averaged += 1
        judged = time.perf_counter()
        more = self.budget.fits(judged - self.began)
        scored = state.epoch % self.rules.score_every == 0 or state.epoch == self.rules.epochs or not more
        measured = self.judge.measure(weights, scored)
        value = self._value(measured)
        worth = value, -measured["val_loss"]  # the loss decides between equals, as while no mask is drawn yet
        finite = math.isfinite(measured["val_loss"])
        best = finite and (not state.best_epoch or worth > (state.best_value, -state.best_loss))
        if best:
            state.best_epoch, state.best_value, state.best_loss = state.epoch, value, measured["val_loss"]
            checkpoints.save_best(self.place, self.judge.network, state.epoch)
        if not finite:
            if not state.best_epoch:
                raise FloatingPointError(f"{self.folder}: {lost(measured['val_loss'], state.epoch)}; nothing to keep")
            state.ended = "not finite"
        elif state.epoch == self.rules.epochs:
            state.ended = "epochs"
        elif not math.isnan(measured[self.rules.monitor]) and state.epoch - state.best_epoch >= self.rules.patience:
            state.ended = "patience"
        row = self._row(logs, measured, judged)
        state.history.append(row)
        if scored:  # without its score a judging tells too little of the closing
            state.judging = max(state.judging, time.perf_counter() - judged)
        checkpoints.save(self.place, self.model, state, self.mean)
        runs.write_history(self.folder, state.history)
        self.budget.note(judged - self.began, time.perf_counter() - judged)
        left = (self.rules.epochs - state.epoch) * float(np.mean([one["seconds"] for one in state.history]))
        logs.update(row | {"best": best, "seconds_left": left})
        if state.ended or not more or not self.budget.fits():
            self.model.stop_training = True

    def _value(self, measured: dict) -> float:
        """What the epoch is worth, higher is better; the worst where it was not measured."""
        value = MONITORS[self.rules.monitor] * measured[self.rules.monitor]
        return -math.inf if math.isnan(value) else value

    def _row(self, logs: dict, measured: dict, judged: float) -> dict:
        """The line of the history."""
        return {
            "epoch": self.state.epoch,
            **{name: float(logs[name]) for name in ("loss", "dice", "iou")},
            **measured,
            "images_per_second": round(self.images / max(self.trained - self.began, 1e-9), 1),
            "seconds": round(time.perf_counter() - self.began, 2),
        }

    def best_weights(self) -> tuple[list[np.ndarray], str]:
        """Choose the weights to keep: those of the best epoch, or the mean of the last ones where that judges better.

        Before the first epoch is finished they are what the network has learned so far.

        Returns:
            The weights, and "epoch 7", "mean of the last 5" or "unfinished epoch".
        """
        if not self.state.best_epoch:
            return averages.weights(self.model, self.network), "unfinished epoch"
        self.judge.network.load_weights(checkpoints.best_path(self.place, self.state.best_epoch))
        best = self.judge.network.get_weights()
        if self.mean is not None and self._value(self.judge.measure(self.mean)) > self.state.best_value:
            return self.mean, f"mean of the last {self.state.averaged}"
        return best, f"epoch {self.state.best_epoch}"
