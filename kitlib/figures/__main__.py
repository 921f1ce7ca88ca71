"""The pictures of a run, drawn into its folder after the training: `python -m kitlib.figures RUN [DATA]`.

figures/history.png       loss, Dice, IoU and host score over the epochs
figures/predictions.png   image, truth and out-of-fold prediction of held-out slices (paper, Figure 11)
figures/folds.png         of a cross-validation, in the folder that holds its folds: their curves and scores
figures/fold_table.png    beside it: the score of each fold and organ
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from kitlib import postprocess, runs, submission
from kitlib.data import inputs, scans
from kitlib.figures import style, training
from kitlib.figures.style import INK, LABELS, canvas, look
from kitlib.scoring import metric


@look
def folds(found: Sequence[runs.Run]) -> Figure:
    """Draw the host score over the epochs of each fold, and beside it what each ended with and their mean."""
    figure, axes = canvas(3.4, columns=2, gridspec_kw={"width_ratios": [2, 1]})
    curves, ends = axes[0]
    scores = [run.score()["score"] for run in found]
    for run, score in zip(found, scores, strict=True):
        history = run.history()
        (line,) = curves.plot(history["epoch"], history["score"].interpolate(), label=run.folder.name)
        ends.plot(score, run.folder.name, "o", color=line.get_color())
        ends.annotate(f"{score:.3f}", (score, run.folder.name), xytext=(6, 0), textcoords="offset points", va="center")
    mean = sum(scores) / len(scores)
    ends.axvline(mean, color=INK, linewidth=0.8, linestyle=":")
    ends.invert_yaxis()
    ends.margins(x=0.3, y=0.15)
    curves.set(title="Host score of the held-out scans", xlabel="epoch", ylim=(0, 1))
    curves.grid(axis="y")
    ends.set(title=f"Best weights, mean {mean:.3f}", xlabel="host score")
    return figure


def organ_scores(found: Sequence[runs.Run], slices: pd.DataFrame) -> pd.DataFrame:
    """Score the held-out scans of each fold, per organ and over all; masks by habit, as in score.json.

    Returns:
        Index fold, then "mean" over the folds; a column per organ and "all"; NaN where an organ has nothing to score.
    """
    lines = {}
    for run in found:
        check, parts = slices[slices["scan"].isin(run.scans)], []
        for name, rows in check.groupby("scan", sort=False):
            shape = int(rows["height"].iloc[0]), int(rows["width"].iloc[0])
            restored = inputs.restore(run.probabilities(name), shape)
            parts.append(submission.encode(rows, postprocess.masks(restored, postprocess.HABITS)))
        score = metric.score(scans.rows(check), pd.concat(parts), check)
        lines[run.folder.name] = score.organs["value"].to_dict() | {"all": score.value}
    table = pd.DataFrame(lines).T.rename_axis("fold")
    table.loc["mean"] = table.mean()
    return table


@look
def fold_table(scores: pd.DataFrame) -> Figure:
    """Draw a table of `organ_scores`: darker is better, so that a weak fold or organ shows."""
    figure, axes = canvas(0.4 * len(scores) + 0.9, width=1.3 * len(scores.columns) + 1.2)
    axis = axes[0][0]
    axis.imshow(scores.to_numpy(float), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, values in enumerate(scores.to_numpy(float)):
        for column, value in enumerate(values):
            color = "white" if value > 0.6 else INK
            axis.text(column, row, "-" if pd.isna(value) else f"{value:.3f}", color=color, ha="center", va="center")
    axis.set_xticks(range(len(scores.columns)), [LABELS.get(name, name) for name in scores.columns])
    axis.set_yticks(range(len(scores)), scores.index)
    axis.set_title("Host score of the held-out scans")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


def draw(folder: Path, root: Path | None = None) -> list[Path]:
    """Draw what a run folder, or the folder of a cross-validation, holds.

    Args:
        folder: of a run, or one that holds fold0, fold1, ...
        root: the competition, for images and truth; None draws no predictions. Runs without out-of-fold probabilities
            of its scans, such as those of a bundle, are named and left out of what needs them.

    Raises:
        FileNotFoundError: when there is no run with a model.
    """
    found = runs.find(folder)
    if not found:
        raise FileNotFoundError(f"{folder} holds no run with a model; train first, or name another folder")
    slices, shown, drawn = scans.read(root) if root is not None else None, [], []
    for run in found:
        place = run.folder / "figures"
        if len(run.history()):
            drawn.append(style.save(training.history(run.history()), place / "history.png"))
        if slices is not None and not slices["scan"].isin(run.scans).any():
            print(f"{run.folder}: no predictions are drawn, since oof/ holds no scan of {root}")
        elif slices is not None:
            shown.append(run)
            drawn.append(style.save(training.predictions(run, slices), place / "predictions.png"))
    if len(found) > 1:
        drawn.append(style.save(folds(found), Path(folder) / "figures/folds.png"))
        if shown:
            drawn.append(style.save(fold_table(organ_scores(shown, slices)), Path(folder) / "figures/fold_table.png"))
    return drawn


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m kitlib.figures", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a run folder, or one that holds the folds of a cross-validation")
    parser.add_argument("root", type=Path, nargs="?", help="folder of the competition, for pictures of predictions")
    options = parser.parse_args()
    for path in draw(options.folder, options.root):
        print(path)


if __name__ == "__main__":
    main()
