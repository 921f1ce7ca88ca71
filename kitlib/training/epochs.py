"""Between two epochs: evaluate, keep the best, write history and checkpoint, decide what follows; and the closing."""

import json
import math
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

from kitlib import runs
from kitlib.training import evaluate, resume, step
from kitlib.training.budget import Budget
from kitlib.training.evaluate import Evaluator
from kitlib.training.recipes import MONITORS, Recipe


class EpochEnd(keras.callbacks.Callback):
    """Evaluate after every epoch and leave everything on disk that the next call needs.

    Patience is counted in epochs, whatever `score_every` is, and looked at whenever the monitor was measured: training
    ends at the first such epoch that is `patience` or more past the best one.

    Args:
        folder: the run folder.
        network: the network that is trained; the model that `fit` is called on holds it.
        evaluator: measures weights on the validation scans.
        recipe: its monitor, patience and averages.
        budget: when to stop for lack of time.
        images: samples per epoch.
    """

    def __init__(
        self, folder: Path, network: keras.Model, evaluator: Evaluator, recipe: Recipe, budget: Budget, images: int
    ):
        super().__init__()
        self.folder, self.network, self.evaluator = folder, network, evaluator
        self.recipe, self.budget, self.images = recipe, budget, images
        self.state, self.mean, self.abandoned = resume.State(), None, False

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoint"

    def resume(self, model: keras.Model) -> None:
        """Restore the model of the last finished epoch, if there is one, and the history saved with it."""
        found = resume.load_checkpoint(self.checkpoints, model)
        if found is not None:
            self.state, self.mean = found
            for row in self.state.history:
                self.budget.note(row["seconds"], self.state.evaluation)
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
        recipe, state, state.epoch = self.recipe, self.state, epoch + 1
        weights = step.averaged_weights(self.model, self.network)
        if epoch >= recipe.epochs - recipe.average_last:
            own = [keras.ops.convert_to_numpy(weight) for weight in self.network.weights]
            self.mean = step.add_to_mean(self.mean, state.averaged, own)
            state.averaged += 1
        started = time.perf_counter()
        self.budget.note(started - self.began)
        # the last epoch before the time is up has a score too
        last = state.epoch == recipe.epochs or not self.budget.fits(state.evaluation)
        scored = state.epoch % recipe.score_every == 0 or last
        measured = self.evaluator.measure(weights, scored)
        best = self._keep_best(measured)
        state.ended = self._ended(measured)
        state.history.append(self._row(logs, measured))
        state.evaluation = max(state.evaluation, time.perf_counter() - started)
        resume.save_checkpoint(self.checkpoints, self.model, state, self.mean)
        runs.write_history(self.folder, state.history)
        self.budget.note(time.perf_counter() - self.began, state.evaluation)
        left = (recipe.epochs - state.epoch) * float(np.mean([row["seconds"] for row in state.history]))
        logs.update(state.history[-1] | {"best": best, "seconds_left": left})
        if state.ended or last or not self.budget.fits():
            self.model.stop_training = True

    def _keep_best(self, measured: dict) -> bool:
        """Keep the weights just evaluated if they are the best so far."""
        state, value, loss = self.state, self._value(measured), measured["val_loss"]
        # the loss decides between equals, as long as no mask is predicted yet
        better = not state.best_epoch or (value, -loss) > (state.best_value, -state.best_loss)
        if not (math.isfinite(loss) and better):
            return False
        state.best_epoch, state.best_value, state.best_loss = state.epoch, value, loss
        resume.save_best(self.checkpoints, self.evaluator.network, state.epoch)
        return True

    def _ended(self, measured: dict) -> str:
        """Return why no epoch follows; empty while one does."""
        state, recipe = self.state, self.recipe
        if not math.isfinite(measured["val_loss"]):
            if not state.best_epoch:
                raise FloatingPointError(f"{self.folder}: {diverged(measured['val_loss'], state.epoch)}")
            return "not finite"
        if state.epoch == recipe.epochs:
            return "epochs"
        patient = math.isnan(measured[recipe.monitor]) or state.epoch - state.best_epoch < recipe.patience
        return "" if patient else "patience"

    def _value(self, measured: dict) -> float:
        """Return the value that chooses the best epoch, higher is better; the worst where it was not measured."""
        value = MONITORS[self.recipe.monitor] * measured[self.recipe.monitor]
        return -math.inf if math.isnan(value) else value

    def _row(self, logs: dict, measured: dict) -> dict:
        """Return the line of the history."""
        return {
            "epoch": self.state.epoch,
            **{name: float(logs[name]) for name in ("loss", "dice", "iou")},
            **measured,
            "images_per_second": round(self.images / max(self.trained - self.began, 1e-9), 1),
            "seconds": round(time.perf_counter() - self.began, 2),
        }

    def best_weights(self) -> tuple[list[np.ndarray], str]:
        """Choose the weights to keep: those of the best epoch, or the mean of the last ones where it is better.

        Before the first epoch is finished they are those of the network as it is.

        Returns:
            The weights, and for people "epoch 7", "mean of the last 5" or "unfinished epoch".
        """
        if not self.state.best_epoch:
            return step.averaged_weights(self.model, self.network), "unfinished epoch"
        resume.load_weights(self.evaluator.network, resume.best_path(self.checkpoints, self.state.best_epoch))
        best = self.evaluator.network.get_weights()
        if self.mean is not None and self._value(self.evaluator.measure(self.mean)) > self.state.best_value:
            return self.mean, f"mean of the last {self.state.averaged}"
        return best, f"epoch {self.state.best_epoch}"

    def close(self, run: runs.Run, started: float) -> runs.Run:
        """Write model, out-of-fold probabilities, score and record; a finished run needs no checkpoint any more.

        Args:
            run: as it was opened.
            started: `time.perf_counter()` at the beginning of the call.

        Returns:
            The run as it is then: "finished", or "stopped" where the time was up.
        """
        began, state = time.perf_counter(), self.state
        weights, source = self.best_weights()
        if state.ended == "not finite":
            print(f"{run.folder} keeps {source}: {diverged(state.history[-1]['val_loss'], state.epoch)}")
        score = self.evaluator.write(weights, run.folder)
        score |= {"chosen_by": self.recipe.monitor, "chosen_on_these_scans": state.best_epoch > 0}
        with runs.replacing(run.folder / "score.json") as file:
            file.write(json.dumps(score, indent=1))
        with runs.replacing(run.model_path, mode=None) as draft:
            self.evaluator.network.save(draft)
        now = time.perf_counter()
        runs.write_record(
            run.folder,
            run.record
            | {
                "state": "finished" if state.ended else "stopped",
                "ended_by": state.ended or "time limit",
                "weights": int(self.evaluator.network.count_params()),
                "trained_epochs": state.epoch,
                "best_epoch": state.best_epoch,
                "best_weights": source,
                **{name: score[name] for name in evaluate.TRUE_PRESENCE if name in score},
                "wall_seconds": round(run.record["wall_seconds"] + now - started, 1),
                "closing_seconds": round(now - began, 1),
                "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )
        if state.ended:
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        return runs.read(run.folder)


class EpochLog(keras.callbacks.Callback):
    """A bar over the steps, and a printed line per epoch with the figures that `EpochEnd` adds."""

    def __init__(self, epochs: int, steps: int, first: int = 0):
        super().__init__()
        self.epochs, self.steps, self.first = epochs, steps, first

    def on_train_begin(self, logs=None):
        total = self.epochs * self.steps
        self.bar = tqdm(total=total, initial=self.first * self.steps, desc="training", unit=" steps")

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()

    def on_epoch_end(self, epoch, logs=None):
        if "val_loss" in (logs or {}):
            self.bar.write(line(epoch + 1, self.epochs, logs))

    def on_train_end(self, logs=None):
        self.bar.close()


def line(epoch: int, epochs: int, row: dict) -> str:
    """Format the figures of an epoch as one line; a star marks the best so far."""
    score = f", score {row['score']:.4f}" if math.isfinite(row["score"]) else ""
    return (
        f"epoch {epoch}/{epochs}{'*' if row['best'] else ' '} "
        f"training: loss {row['loss']:.4f} Dice {row['dice']:.3f} IoU {row['iou']:.3f} | "
        f"validation: loss {row['val_loss']:.4f} Dice {row['val_dice']:.3f} IoU {row['val_iou']:.3f}{score} | "
        f"{row['images_per_second']:.1f} images/s, {row['seconds_left'] / 60:.1f} min left"
    )


def diverged(loss: float, epoch: int) -> str:
    """Describe a diverged training, with remedies."""
    return (
        f"the validation loss is {loss} after epoch {epoch}: try a lower learning_rate, a longer warm-up "
        "(schedule='cosine'), or float32 instead of half precision"
    )
