"""Evidence on the paper's open questions: its accuracy, its borders, its annotators and its Table 8.

Everything is measured at the network's resolution, on the out-of-fold probabilities in run folders.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from kitlib import contest, runs
from kitlib.data import scans
from kitlib.data.pipeline import Packed
from kitlib.layers import monitors
from kitlib.postprocess import rescoring

PIXELS = ["both", "truth", "predicted"]
BACKGROUND = "foreground and background (Keras' BinaryIoU)"


def perfect_masks(truth: np.ndarray, rise: float = 0.001) -> pd.DataFrame:
    """Measure two accuracies of the true masks, and again with the background of one channel raised a little.

    Keras' accuracy compares argmax over the three organs. Where all are 0 it is the first organ on both sides, until
    another organ is larger by any amount. The raised background changes no mask at any usual threshold.

    Args:
        truth: (rows, height, width, organs) bool.
        rise: probability added to the background of one channel.

    Returns:
        Index prediction; columns "accuracy", "binary accuracy".
    """
    predictions = {"the true masks": truth.astype(np.float32)}
    for channel, organ in enumerate(contest.ORGANS):
        raised = truth.astype(np.float32)
        raised[..., channel] = np.maximum(raised[..., channel], rise)
        predictions[f"background of {organ} raised by {rise}"] = raised
    measured = {}
    for name, prediction in predictions.items():
        measures = monitors.PaperAccuracy(), monitors.BinaryAccuracy()
        for start in range(0, len(truth), 64):
            for measure in measures:
                measure.update_state(truth[start : start + 64], prediction[start : start + 64])
        measured[name] = [float(measure.result()) for measure in measures]
    columns = ["accuracy", "binary accuracy"]
    return pd.DataFrame.from_dict(measured, "index", columns=columns).rename_axis("prediction")


def accuracy_by_loss(trained: dict[str, list[runs.Run]], packed: Packed) -> pd.DataFrame:
    """Measure how much the accuracy varies over the epochs, and which probabilities each network gives the background.

    Args:
        trained: trial -> runs.

    Returns:
        Index trial; "low", "high" and "step" (mean change from one epoch to the next) of the accuracy, "binary step",
        "with loss" (correlation of accuracy and validation loss over the epochs), the mean probability of each organ
        on pixels without an organ, and "first largest", the share of those pixels where the probability of the first
        organ is larger than the others: there the accuracy counts the empty truth as met.
    """
    means = {}
    for name, members in trained.items():
        values = []
        for run in members:
            history = run.history()
            accuracy, binary = history["val_paper_accuracy"], history["val_binary_accuracy"]
            row = {"low": accuracy.min(), "high": accuracy.max(), "step": accuracy.diff().abs().mean()}
            row |= {"binary step": binary.diff().abs().mean()}
            varies = accuracy.std() > 0 and history["val_loss"].std() > 0
            row |= {"with loss": accuracy.corr(history["val_loss"]) if varies else np.nan}
            values.append(row | _background(run, packed))
        means[name] = pd.DataFrame(values).mean()
    return pd.DataFrame(means).T.rename_axis("trained with")


def _background(run: runs.Run, packed: Packed) -> dict[str, float]:
    """Mean probability of each organ on pixels without an organ, and the share of them where the first is largest."""
    total, first, count = np.zeros(len(contest.ORGANS)), 0, 0
    for scan in run.scans:
        rows = packed.slices[packed.slices["scan"] == scan]
        outside = run.probabilities(scan)[~packed.truth(rows).any(axis=-1)]
        total += outside.sum(axis=0, dtype=float)
        first += (outside[:, 0] > outside[:, 1:].max(axis=1)).sum()
        count += len(outside)
    means = dict(zip((f"background {organ}" for organ in contest.ORGANS), total / count, strict=True))
    return means | {"first largest": first / count}


def border_bias(
    trained: dict[str, list[runs.Run]], slices: pd.DataFrame, thresholds: Iterable[float] = (0.3, 0.5, 0.7)
) -> pd.DataFrame:
    """Measure the signed distance from the true border to the predicted one, per loss and threshold.

    Negative distances are too tight. Only the first run of each trial is measured.

    Returns:
        Columns "trained with", "threshold", "organ" and those of `borders.bias`.
    """
    parts = []
    for name, members in trained.items():
        val = slices[slices["scan"].isin(members[0].scans)].reset_index(drop=True)
        table = rescoring.bias_by_threshold(runs.HeldOut(members[:1]), scans.rows(val), val, tuple(thresholds))
        parts.append(table.reset_index().assign(**{"trained with": name}))
    return pd.concat(parts, ignore_index=True)


def pixel_counts(members: Iterable[runs.Run], packed: Packed, threshold: float = 0.5) -> pd.DataFrame:
    """Count the pixels of truth and out-of-fold prediction per slice and organ.

    Returns:
        `scan id organ both truth predicted`, and `pixels`, the number of pixels of a slice.
    """
    parts = []
    for run in members:
        for scan in run.scans:
            rows = packed.slices[packed.slices["scan"] == scan]
            truth, predicted = packed.truth(rows), run.probabilities(scan) >= threshold
            counts = [masks.sum(axis=(1, 2)) for masks in (truth & predicted, truth, predicted)]
            for channel, organ in enumerate(contest.ORGANS):
                columns = dict(zip(PIXELS, (count[:, channel] for count in counts), strict=True))
                parts.append(pd.DataFrame({"scan": scan, "id": rows["id"].to_numpy(), "organ": organ, **columns}))
    return pd.concat(parts, ignore_index=True).assign(pixels=packed.spec.height * packed.spec.width)


def readings(counts: pd.DataFrame) -> pd.DataFrame:
    """Compute Dice and IoU of one prediction by every definition that Table 8 may use.

    Args:
        counts: of `pixel_counts`.

    Returns:
        Index reading; columns "Dice", "IoU", and "ceiling", the Dice of a perfect prediction.
    """
    slices = counts.groupby("id", sort=False)[PIXELS].sum()
    organs = counts.groupby("organ", sort=False)[PIXELS].sum()
    total, pixels = counts[PIXELS].sum(), counts["pixels"].sum()
    background = {"both": pixels - total["truth"] - total["predicted"] + total["both"]}
    background |= {"truth": pixels - total["truth"], "predicted": pixels - total["predicted"]}
    definitions = {  # name: (pixel counts of each term of the mean, value of an empty term; NaN leaves it out)
        "pooled over everything": (pd.DataFrame([total]), np.nan),
        "pooled per organ": (organs, np.nan),
        "per slice and organ, empty = 0 (the paper's words)": (counts, 0.0),
        "per slice and organ, empty = 1": (counts, 1.0),
        "per slice and organ, empty left out": (counts, np.nan),
        "per slice, organs together, empty = 0": (slices, 0.0),
        "per slice, organs together, empty left out": (slices, np.nan),
        BACKGROUND: (pd.DataFrame([total, pd.Series(background)]), np.nan),
    }
    measured = {}
    for name, (terms, empty) in definitions.items():
        bottom = terms["truth"] + terms["predicted"]
        filled = bottom > 0
        dice = (2 * terms["both"] / bottom.where(filled)).fillna(empty)
        iou = (terms["both"] / (bottom - terms["both"]).where(filled)).fillna(empty)
        ceiling = 1.0 if np.isnan(empty) else np.where(terms["truth"] > 0, 1.0, empty).mean()
        measured[name] = {"Dice": dice.mean(), "IoU": iou.mean(), "ceiling": ceiling}
    return pd.DataFrame(measured).T.rename_axis("reading")


def near(table: pd.DataFrame, dice: float = 0.7006, iou: float = 0.7699) -> pd.DataFrame:
    """Compare a published pair of Dice and IoU with each reading: could both come from the same prediction?

    On the same pixels IoU = D / (2 - D). With the background averaged in, where a network is almost perfect, it is
    (D / (2 - D) + 1) / 2 with D of the foreground. A mean of many ratios differs from the IoU of its Dice by some
    amount, which is taken from `table`.

    Returns:
        `table` with "IoU of that Dice", "off" (that less the published IoU), and "possible": whether the published
        Dice is not above the reading's ceiling.
    """
    same_pixels = dice / (2 - dice)
    implied = same_pixels + table["IoU"] - table["Dice"] / (2 - table["Dice"])
    implied[table.index == BACKGROUND] = (same_pixels + 1) / 2
    return table.assign(**{"IoU of that Dice": implied, "off": implied - iou, "possible": table["ceiling"] >= dice})


def disagreement(counts: pd.DataFrame, faults: pd.DataFrame) -> pd.DataFrame:
    """Rank scans by the distance between annotation and out-of-fold prediction, the largest first.

    The distance is 1 - Dice of the volumes, averaged over the organs of annotation or prediction.

    Args:
        counts: of `pixel_counts`, by networks that were not trained on the scan's case.
        faults: `scan fault`, the annotations known to be wrong.

    Returns:
        Index rank from 1; columns "scan", "disagreement", "fault" (empty where none is known), "precision" and
        "recall" of calling this and all scans above it wrong.
    """
    volumes = counts.groupby(["scan", "organ"], sort=False)[PIXELS].sum()
    bottom = volumes["truth"] + volumes["predicted"]
    distance = (1 - 2 * volumes["both"] / bottom.where(bottom > 0)).groupby("scan").mean().fillna(0)
    ranked = distance.sort_values(ascending=False, kind="stable").rename("disagreement").reset_index()
    ranked["fault"] = ranked["scan"].map(faults.set_index("scan")["fault"]).fillna("")
    hits = (ranked["fault"] != "").cumsum().to_numpy()
    ranked.index = pd.RangeIndex(1, len(ranked) + 1, name="rank")
    return ranked.assign(precision=hits / ranked.index, recall=hits / max(hits[-1], 1))


def recovered(ranked: pd.DataFrame) -> str:
    """Say how many of N known faults are among the N scans of largest disagreement, and how many by chance."""
    count = int((ranked["fault"] != "").sum())
    hits = int((ranked["fault"].head(count) != "").sum())
    chance = count**2 / len(ranked)
    return f"{hits} of {count} faults are among the {count} most suspect of {len(ranked)} scans; by chance {chance:.1f}"
