"""Pictures of a training: the input stack, curves over the epochs, scores of folds, predictions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kitlib import contest, postprocess, rle, runs, submission
from kitlib.data import inputs, scans
from kitlib.data.pipeline import Packed
from kitlib.figures.style import INK, LABELS, TRAIN, WIDTH, canvas, look, organ_legend, overlay, picture_axis, save
from kitlib.scoring import metric


@look
def stack(packed: Packed, index: int) -> Figure:
    """Draw the input of one row of the slice table (`Packed.example`), with the masks on its middle image."""
    images, masks, names = packed.example(index)
    depth = len(names)
    figure, axes = canvas(WIDTH / depth * images.shape[0] / images.shape[1] + 0.7, columns=depth)
    for position, (axis, image, name) in enumerate(zip(axes[0], np.moveaxis(images, -1, 0), names, strict=True)):
        overlay(axis, image, masks if position == depth // 2 else np.zeros_like(masks))
        axis.set_title(name + (", with masks" if position == depth // 2 else ""))
    organ_legend(figure)
    return figure


def busiest(slices: pd.DataFrame) -> int:
    """Return the index of the slice on which the smallest organ is largest.

    Where no slice holds all organs, the second smallest decides, and so on.
    """
    areas = np.sort(slices[list(contest.ORGANS)].map(rle.area).to_numpy(), axis=1)
    return int(np.lexsort(areas.T[::-1])[-1])


@look
def history(table: pd.DataFrame) -> Figure:
    """Draw loss, Dice and IoU over the epochs (paper, Figures 7, 9 and 10), and the host score where it was measured.

    The best epoch has the highest host score, or the lowest validation loss.
    """
    scored = table["score"].notna() if "score" in table else pd.Series(False, table.index)
    panels = {"loss": "Loss", "dice": "Dice", "iou": "IoU"} | ({"score": "Host score"} if scored.any() else {})
    quality = table["score"] if scored.any() else -table["val_loss"]
    figure, axes = canvas(3.2, columns=len(panels))
    for axis, (name, title) in zip(axes[0], panels.items(), strict=True):
        validation = table[f"val_{name}"] if name != "score" else table["score"].interpolate(limit_area="inside")
        if name != "score":
            axis.plot(table["epoch"], table[name], color=TRAIN, label="training")
        axis.plot(table["epoch"], validation, color=INK, label="validation")
        axis.axvline(table["epoch"][quality.idxmax()], color=TRAIN, linewidth=0.8, linestyle=":", label="best epoch")
        axis.set(title=title, xlabel="epoch")
        axis.locator_params(axis="x", integer=True)
        axis.grid(axis="y")
        if name != "loss":
            axis.set_ylim(0, 1)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@look
def gaps(histories: dict[str, pd.DataFrame]) -> Figure:
    """Draw training and validation Dice over the epochs, a panel per run, to show the gap between them."""
    figure, axes = canvas(3.2, columns=len(histories), width=max(4.5, WIDTH * len(histories) / 3), sharey=True)
    for axis, (name, table) in zip(axes[0], histories.items(), strict=True):
        axis.plot(table["epoch"], table["dice"], color=TRAIN, label="training")
        axis.plot(table["epoch"], table["val_dice"], color=INK, label="validation")
        axis.fill_between(table["epoch"], table["val_dice"], table["dice"], color=TRAIN, alpha=0.2)
        axis.set(title=name, xlabel="epoch", ylim=(0, 1))
        axis.locator_params(axis="x", integer=True)
        axis.grid(axis="y")
    axes[0][0].set_ylabel("Dice")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@look
def predictions(run: runs.Run, slices: pd.DataFrame, count: int = 4) -> Figure:
    """Draw image, truth and out-of-fold prediction of some slices (paper, Figure 11).

    Args:
        run: has out-of-fold probabilities of the scans drawn.
        slices: validation slices with masks; the busiest of each of `count` scans is drawn.
        count: rows of the picture.
    """
    names = [name for name in slices["scan"].unique() if name in run.scans][:count]
    figure, axes = canvas(WIDTH / 3 * len(names), rows=len(names), columns=3)
    for row, name in zip(axes, names, strict=True):
        scan = slices[slices["scan"] == name]
        index = busiest(scan)
        shown = scan.iloc[[index]]
        image, truth = inputs.load(shown["path"].tolist())[0], scans.masks(shown)[0]
        grid, spacing_mm = run.scored(scan)[index : index + 1], scans.spacing_mm(scan)
        predicted = inputs.restore(grid, image.shape, run.spec, spacing_mm)[0] >= 0.5
        overlay(row[0], image, np.zeros_like(truth))
        overlay(row[1], image, truth)
        overlay(row[2], image, predicted)
        picture_axis(row[0], f"{name}, slice {shown['slice'].iloc[0]}")
        picture_axis(row[1], "truth")
        picture_axis(row[2], "prediction")
    organ_legend(figure)
    return figure


@look
def folds(members: Sequence[runs.Run]) -> Figure:
    """Draw the host score of each fold over its epochs and, beside it, the scores of the best weights."""
    figure, axes = canvas(3.4, columns=2, gridspec_kw={"width_ratios": [2, 1]})
    curves, ends = axes[0]
    scores = [run.score()["score"] for run in members]
    for run, score in zip(members, scores, strict=True):
        history = run.history()
        (line,) = curves.plot(history["epoch"], history["score"].interpolate(), label=run.folder.name)
        ends.plot(score, run.folder.name, "o", color=line.get_color())
        ends.annotate(f"{score:.3f}", (score, run.folder.name), xytext=(6, 0), textcoords="offset points", va="center")
    mean = sum(scores) / len(scores)
    ends.axvline(mean, color=INK, linewidth=0.8, linestyle=":")
    ends.invert_yaxis()
    ends.margins(x=0.3, y=0.15)
    curves.set(title="Host score on the validation scans", xlabel="epoch", ylim=(0, 1))
    curves.grid(axis="y")
    ends.set(title=f"Best weights, mean {mean:.3f}", xlabel="host score")
    return figure


def organ_scores(members: Sequence[runs.Run], slices: pd.DataFrame) -> pd.DataFrame:
    """Score the out-of-fold predictions of each fold, per organ and over all, with the default settings.

    Returns:
        Index fold, then "mean" over the folds; a column per organ and "all"; NaN where an organ has nothing to score.
    """
    lines = {}
    for run in members:
        validation, parts = slices[slices["scan"].isin(run.scans)], []
        for _, rows in validation.groupby("scan", sort=False):
            size, spacing_mm = scans.common_size(rows), scans.spacing_mm(rows)
            restored = inputs.restore(run.scored(rows), size, run.spec, spacing_mm)
            parts.append(submission.encode(rows, postprocess.masks(restored, postprocess.DEFAULT)))
        score = metric.score(scans.rows(validation), pd.concat(parts), validation)
        lines[run.folder.name] = score.organs["value"].to_dict() | {"all": score.value}
    table = pd.DataFrame(lines).T.rename_axis("fold")
    table.loc["mean"] = table.mean()
    return table


@look
def score_table(scores: pd.DataFrame) -> Figure:
    """Draw a table of `organ_scores`, darker for higher scores."""
    figure, axes = canvas(0.4 * len(scores) + 0.9, width=1.3 * len(scores.columns) + 1.2)
    axis = axes[0][0]
    axis.imshow(scores.to_numpy(float), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, values in enumerate(scores.to_numpy(float)):
        for column, value in enumerate(values):
            color = "white" if value > 0.6 else INK
            axis.text(column, row, "-" if pd.isna(value) else f"{value:.3f}", color=color, ha="center", va="center")
    axis.set_xticks(range(len(scores.columns)), [LABELS.get(name, name) for name in scores.columns])
    axis.set_yticks(range(len(scores)), scores.index)
    axis.set_title("Host score on the validation scans")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


def draw(folder: Path, root: Path | None = None) -> list[Path]:
    """Draw the pictures of a run folder, or of a folder of folds.

    Args:
        folder: a run, or a folder that holds fold0, fold1, ...
        root: the competition, for images and truth; None draws no predictions. Runs without out-of-fold probabilities
            of its scans, such as those of a bundle, are listed and left out of the pictures that need them.

    Raises:
        FileNotFoundError: the folder holds no run with a model.
    """
    found = trained_runs(folder)
    slices, predicted, drawn = scans.read(root) if root is not None else None, [], []
    for run in found:
        if len(run.history()):
            drawn.append(save(history(run.history()), run.folder / "figures/history.png"))
        if slices is not None and not slices["scan"].isin(run.scans).any():
            print(f"{run.folder}: predictions are not drawn, because oof/ has no scan of {root}")
        elif slices is not None:
            predicted.append(run)
            drawn.append(save(predictions(run, slices), run.folder / "figures/predictions.png"))
    if len(found) > 1:
        drawn.append(save(folds(found), Path(folder) / "figures/folds.png"))
        if predicted:
            table = score_table(organ_scores(predicted, slices))
            drawn.append(save(table, Path(folder) / "figures/fold_table.png"))
    return drawn


def trained_runs(folder: Path) -> list[runs.Run]:
    """List the runs with a model below a folder; without one, raise FileNotFoundError."""
    found = runs.find(folder)
    if not found:
        raise FileNotFoundError(f"{folder} has no run with a model; train first, or name another folder")
    return found
