"""The paper's experiments: trials, each trained with several seeds, and the tables made from their run folders.

The rows of a table differ from its base in one setting; the paper's first training (Figure 7) differs in three. All
comparisons share the base, so thirteen trainings per seed serve Table 8, Figures 7, 9 and 10, the attentions and the
number of neighbouring slices.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from scipy import stats

from kitlib import runs
from kitlib.data import pipeline
from kitlib.data.inputs import InputSpec
from kitlib.layers import losses, monitors
from kitlib.models.unet import NO_ATTENTION, build_unet
from kitlib.training import Job, Recipe, jobs, recipes
from kitlib.training.devices import Devices

BASE = "BCE + 0.5 Dice"
FIRST = "the paper's first training"
COLUMNS = {"Dice": "val_dice", "IoU": "val_iou", "accuracy": "val_paper_accuracy", "binary": "val_binary_accuracy"}


def copied_slice(input_shape: tuple[int, int, int], copies: int = 3, **options) -> keras.Model:
    """Build the paper's baseline (II.B): one slice, copied to several channels, as the input of the same network.

    A convolution over equal channels is one with the summed weights on a single channel, so the copies add nothing that
    a network could express; only its initial weights and its steps differ.
    """
    images = keras.Input(input_shape, name="images")
    inside = build_unet((*input_shape[:2], input_shape[2] * copies), **options)
    return keras.Model(images, inside(keras.layers.Concatenate()([images] * copies)), name="copied_slice")


@dataclass(frozen=True)
class Trial:
    """One row of a comparison: its name, its changes of the base's recipe, and the depth of its stacks.

    `network_options` are added to those of the base.
    """

    name: str
    changes: dict = field(default_factory=dict)
    depth: int = 5


TRIALS = {
    trial.name: trial
    for trial in (
        Trial("BCE", {"loss": losses.BCE()}),
        Trial("Dice, the paper's sign", {"loss": losses.Dice(paper=True)}),
        Trial("Dice", {"loss": losses.Dice()}),
        Trial("soft Dice", {"loss": losses.SoftDice()}),
        Trial("BCE + Dice", {"loss": losses.BCEDice()}),
        Trial(BASE),
        Trial("5 levels", {"network_options": {"levels": 5}}),
        Trial("no augmentation", {"augment": None}),
        Trial(FIRST, {name: getattr(recipes.paper_first(), name) for name in ("loss", "augment", "patience")}),
        Trial("no attention", {"network_options": NO_ATTENTION}),
        Trial("one slice, 3 copies", {"network": "kitlib.paper.experiments:copied_slice"}, depth=1),
        Trial("1 slice", depth=1),
        Trial("3 slices", depth=3),
    )
}
SETS = {  # comparison: row of its table -> trial
    "losses": {name: name for name in list(TRIALS)[:6]},
    "levels": {"4 levels": BASE, "5 levels": "5 levels"},
    "augmentation": {"with": BASE, "without": "no augmentation", FIRST: FIRST},
    "attention": {"with": BASE, "without": "no attention"},
    "neighbours": {
        "one slice, 3 copies": "one slice, 3 copies",
        "1 slice": "1 slice",
        "3 slices": "3 slices",
        "5 slices": BASE,
    },
}


@dataclass(frozen=True)
class Form:
    """The size of all trainings: `seeds` per trial, at most `epochs`, `size` pixels high and wide.

    `changes` of the paper's recipe, and `folds` of the search for wrong annotations; 0 is as many as asked for.
    """

    name: str
    seeds: int
    epochs: int
    size: int
    folds: int = 0
    changes: dict = field(default_factory=dict)

    def recipe(self, epochs: int = 0) -> Recipe:
        """The paper's recipe in this form, for at most `epochs` epochs; 0 is the form's own number.

        Training stops early by the loss, as in the paper, and the host score is left for the end.
        """
        changes = self.changes | {"epochs": epochs or self.epochs}
        metrics = (monitors.BinaryAccuracy(), monitors.PaperAccuracy())
        return _changed(recipes.paper(), {"monitor": "val_loss", "score_every": 10_000, "metrics": metrics} | changes)


LONG = Form("long form", seeds=3, epochs=recipes.paper().epochs, size=128)
SHORT = Form(
    "SHORT FORM: small networks, few epochs",
    seeds=2,
    epochs=3,
    size=64,
    folds=2,
    changes={
        "schedule": "cosine",
        "learning_rate": 5e-3,
        "empty_share": 0.1,
        "network_options": {"base": 4, "cap": 32},
    },
)


def trials(sets: Iterable[str] = tuple(SETS)) -> list[Trial]:
    """List the trials of some comparisons, each once, after the base, which all of them share.

    Raises:
        ValueError: names an unknown comparison.
    """
    unknown = set(sets) - set(SETS)
    if unknown:
        raise ValueError(f"unknown comparison {min(unknown)!r}; choose from {', '.join(SETS)}")
    needed = {BASE, *(name for comparison in sets for name in SETS[comparison].values())}
    return [TRIALS[name] for name in sorted(TRIALS, key=lambda name: name != BASE) if name in needed]


def tasks(
    folder: str | os.PathLike,
    chosen: Iterable[Trial],
    seeds: Iterable[int],
    held_out: pd.Series,
    spec: InputSpec,
    recipe: Recipe,
) -> list[Job]:
    """List one training per trial and seed, seed by seed, so that the first seed alone fills every table.

    Args:
        folder: for the run folders.
        chosen: trials, of `trials`.
        seeds: one training of each trial per seed.
        held_out: True for the rows to validate on.
        spec: what the networks see; a trial changes the depth.
        recipe: of the base (`Form.recipe`).
    """
    listed = []
    for seed in seeds:
        for trial in chosen:
            own = replace(_changed(recipe, trial.changes), seed=seed)
            name = trial.name.lower().translate(str.maketrans({" ": "-", ",": "", "'": "", "+": "and"}))
            run_folder = Path(folder) / name / f"seed{seed}"
            listed.append(Job(run_folder, held_out, replace(spec, depth=trial.depth), own, trial.name))
    return listed


def run(
    slices: pd.DataFrame,
    listed: Sequence[Job],
    packed: pipeline.Packed,
    devices: Devices | None = None,
    deadline: float | None = None,
    earlier: Sequence[str | os.PathLike] = (),
) -> dict[str, list[runs.Run]]:
    """Train what is not trained yet, with `jobs.run`: one training per GPU at a time.

    Args:
        slices: table of slices.
        listed: of `tasks`.
        packed: the scans, with any depth.
        devices: as for `fit_fold`.
        deadline: seconds of `time.time()` at which all should have ended.
        earlier: as for `fit_fold`.

    Returns:
        Trial -> its runs, one per seed; those without a finished epoch are left out.
    """
    options = {"packed": packed, "devices": devices, "deadline": deadline, "earlier": earlier}
    trained = {}
    for outcome in jobs.run(slices, listed, at_once=jobs.trainings_at_once(devices, len(listed)), **options):
        if outcome.run and outcome.run.history().get("val_loss", pd.Series(dtype=float)).notna().any():
            trained.setdefault(outcome.job.name, []).append(outcome.run)
    return trained


def _changed(recipe: Recipe, changes: dict) -> Recipe:
    """Change a recipe; options of the network are added to those that it has."""
    options = recipe.network_options | changes.get("network_options", {})
    return replace(recipe, **changes | {"network_options": options})


def measures_per_run(trained: dict[str, list[runs.Run]]) -> pd.DataFrame:
    """Measure every run: each measure at its own best epoch, and as `... at` at the epoch with the lowest loss.

    Returns:
        `trial seed epochs`, `best epoch` (by the loss), the measures and `host score`.
    """
    rows = []
    for name, members in trained.items():
        for run in members:
            history = run.history()
            best = history["val_loss"].idxmin()
            row = {"trial": name, "seed": run.record["recipe"]["seed"], "epochs": len(history)}
            row |= {"best epoch": int(history["epoch"][best])}
            for title, column in COLUMNS.items():
                row |= {title: history[column].max(), f"{title} at": history[column][best]}
            rows.append(row | {"host score": run.score()["score"]})
    return pd.DataFrame(rows)


def table(trained: dict[str, list[runs.Run]], labels: dict[str, str], confidence: float = 0.95) -> pd.DataFrame:
    """Average over seeds, with half the width of the confidence interval of each mean as `... +-`.

    Two or three seeds are too few for an interval of each mean alone. Therefore the spread over seeds is pooled over
    the rows of the table: t(rows * (seeds - 1)) * s / sqrt(seeds). The interval covers the randomness of training on
    these validation cases; other cases vary more.

    Args:
        trained: trial -> runs.
        labels: row -> trial; rows without a run are left out.
    """
    single = measures_per_run({label: trained[trial] for label, trial in labels.items() if trial in trained})
    single = single.set_index("trial").drop(columns="seed")
    values = single.groupby(level=0, sort=False)
    count = values.size()
    means, freedom = values.mean(), int((count - 1).sum())
    squares = ((single - means.loc[single.index]) ** 2).sum()
    spread = np.sqrt(squares / freedom) if freedom else squares * np.nan
    half = stats.t.isf((1 - confidence) / 2, freedom) * np.outer(1 / np.sqrt(count), spread)
    half = pd.DataFrame(half, means.index, [f"{name} +-" for name in means])
    return means.join(half).assign(seeds=count).rename_axis("trained with")


def ahead(values: pd.DataFrame, first: str, second: str, column: str = "Dice") -> str:
    """Say whether one row of a table is ahead of another by more than their intervals."""
    missing = [name for name in (first, second) if name not in values.index]
    if missing:
        return f"{first} - {second}: {' and '.join(missing)} not trained yet"
    gain, width = _gain(values, first, second, column)
    if np.isnan(width):
        return f"{first} - {second}: {gain:+.3f} in {column}; one seed cannot show whether this is chance"
    side, known = "ahead of" if gain > 0 else "behind", "more" if abs(gain) > width else "less"
    return f"{first} is {side} {second} by {abs(gain):.3f} in {column}, {known} than the interval (±{width:.3f})"


def _gain(values, first, second, column="Dice"):
    """The difference of two rows, and the half width of its interval."""
    width = np.hypot(values.at[first, f"{column} +-"], values.at[second, f"{column} +-"])
    return values.at[first, column] - values.at[second, column], float(width)


def why(trained: dict[str, list[runs.Run]], better: str, worse: str) -> str:
    """Say whether a trial that is ahead in the paper is ahead here, and if not, what may explain it.

    Three explanations are measured: too few seeds, a training that ends while Dice still rises, and, for augmentation,
    no overfitting that it could prevent.
    """
    values = table(trained, {better: better, worse: worse})
    gain, width = _gain(values, better, worse)
    if gain > width:
        return f"As in the paper, {better} is ahead of {worse}: {gain:+.3f} (±{width:.3f})."
    alone = np.isnan(width)
    start = "Unknown, with one seed" if alone else "Not as in the paper"
    words = [f"{start}: {better} - {worse} is {gain:+.3f}{'' if alone else f' (±{width:.3f})'} in Dice."]
    tables = {name: [run.history() for run in trained[name]] for name in (better, worse)}
    rises = {
        name: float(
            np.mean([table["val_dice"].iloc[-1] - table["val_dice"].iloc[len(table) // 2] for table in histories])
        )
        for name, histories in tables.items()
    }
    if max(rises.values()) > 0.01:
        changes = " and ".join(f"{rise:+.3f} ({name})" for name, rise in rises.items())
        words.append(f"Training ends too early: validation Dice still changes by {changes} in its second half.")
    words.append(f"{worse} has {_overfitting(tables[worse]):+.3f} more Dice in training than in validation.")
    if abs(gain) <= width:
        words.append("The interval includes zero: more seeds are needed.")
    return " ".join(words)


def histories(trained: dict[str, list[runs.Run]], labels: dict[str, str]) -> dict[str, list[pd.DataFrame]]:
    """Read the curves of a comparison: row -> one history per seed."""
    return {label: [run.history() for run in trained[trial]] for label, trial in labels.items() if trial in trained}


def gap(curves: dict[str, list[pd.DataFrame]]) -> str:
    """Say by how much Dice in training exceeds Dice in validation at the end of each training."""
    gaps = ", ".join(f"{name} {_overfitting(tables):+.3f}" for name, tables in curves.items())
    return f"Dice of training - validation in the last epoch: {gaps}"


def _overfitting(tables: list[pd.DataFrame]) -> float:
    """Dice of training less Dice of validation in the last epoch, averaged over seeds."""
    return float(np.mean([table["dice"].iloc[-1] - table["val_dice"].iloc[-1] for table in tables]))
