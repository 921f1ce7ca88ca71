"""Evidence on what the paper leaves open: its accuracy, its borders, its annotators, and its Table 8.

Everything is measured on the network's grid, from the out-of-fold probabilities of run folders.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from kitlib import contest, runs
from kitlib.data import scans
from kitlib.data.pipeline import Packed
from kitlib.layers import monitors
from kitlib.scoring import borders

AREAS = ["both", "truth", "predicted"]


def perfect_masks(truth: np.ndarray, rise: float = 0.001) -> pd.DataFrame:
    """What both accuracies say of the true masks, and of the same masks with one channel's background raised a little.

    Keras' accuracy compares argmax over the three organs. Where all are 0 it gives the first organ on both sides, until
    another is larger by any amount; no mask at any threshold has changed.

    Args:
        truth: (rows, height, width, organs) bool.
        rise: added to the background of one channel.

    Returns:
        Index prediction; columns "accuracy", "binary accuracy".
    """
    lines = {"the true masks": truth.astype(np.float32)}
    for channel, organ in enumerate(contest.ORGANS):
        raised = truth.astype(np.float32)
        raised[..., channel] = np.maximum(raised[..., channel], rise)
        lines[f"{organ} raised by {rise} on its background"] = raised
    found = {}
    for name, prediction in lines.items():
        measures = monitors.PaperAccuracy(), monitors.BinaryAccuracy()
        for part in range(0, len(truth), 64):
            for measure in measures:
                measure.update_state(truth[part : part + 64], prediction[part : part + 64])
        found[name] = [float(measure.result()) for measure in measures]
    columns = ["accuracy", "binary accuracy"]
    return pd.DataFrame.from_dict(found, "index", columns=columns).rename_axis("prediction")


def accuracy_by_loss(found: dict[str, list[runs.Run]], packed: Packed) -> pd.DataFrame:
    """How far the accuracy wanders over the epochs of each run, and what its network says of the background.

    Returns:
        Index trial; "low", "high" and "step" (mean change from one epoch to the next) of the accuracy, "binary step",
        "with loss" (correlation of accuracy and held-out loss over the epochs), the mean probability on pixels of no
        organ, per organ, and "first largest", the share of those pixels where the first organ's is clearly the largest
        of the three: there the accuracy agrees with the empty truth.
    """
    lines = {}
    for name, members in found.items():
        each = []
        for one in members:
            history = one.history()
            accuracy, binary = history["val_paper_accuracy"], history["val_binary_accuracy"]
            line = {"low": accuracy.min(), "high": accuracy.max(), "step": accuracy.diff().abs().mean()}
            line |= {"binary step": binary.diff().abs().mean()}
            varies = accuracy.std() > 0 and history["val_loss"].std() > 0
            line |= {"with loss": accuracy.corr(history["val_loss"]) if varies else np.nan}
            each.append(line | _background(one, packed))
        lines[name] = pd.DataFrame(each).mean()
    return pd.DataFrame(lines).T.rename_axis("trained with")


def _background(one: runs.Run, packed: Packed) -> dict[str, float]:
    """Mean probability of each organ on the pixels that belong to none, and where the first is the largest."""
    total, first, count = np.zeros(len(contest.ORGANS)), 0, 0
    for scan in one.scans:
        rows = packed.slices[packed.slices["scan"] == scan]
        outside = one.probabilities(scan)[~packed.truth(rows).any(axis=-1)]
        total += outside.sum(axis=0, dtype=float)
        first += (outside[:, 0] > outside[:, 1:].max(axis=1)).sum()
        count += len(outside)
    found = dict(zip((f"background {organ}" for organ in contest.ORGANS), total / count, strict=True))
    return found | {"first largest": first / count}


def border_bias(
    found: dict[str, list[runs.Run]], slices: pd.DataFrame, thresholds: Iterable[float] = (0.3, 0.5, 0.7)
) -> pd.DataFrame:
    """Signed distance of the predicted border from the true one, per loss and threshold; negative is too tight.

    Returns:
        Columns "trained with", "threshold", "organ" and those of `borders.bias`, for the first run of each trial.
    """
    parts = []
    for name, members in found.items():
        check = slices[slices["scan"].isin(members[0].scans)].reset_index(drop=True)
        table = borders.bias_by_threshold(members[0].probabilities, scans.rows(check), check, tuple(thresholds))
        parts.append(table.reset_index().assign(**{"trained with": name}))
    return pd.concat(parts, ignore_index=True)


def areas(members: Iterable[runs.Run], packed: Packed, threshold: float = 0.5) -> pd.DataFrame:
    """Count pixels per slice and organ, out of fold: `scan id organ both truth predicted`, and `pixels` of a slice."""
    lines = []
    for one in members:
        for scan in one.scans:
            rows = packed.slices[packed.slices["scan"] == scan]
            truth, predicted = packed.truth(rows), one.probabilities(scan) >= threshold
            counts = [part.sum(axis=(1, 2)) for part in (truth & predicted, truth, predicted)]
            for channel, organ in enumerate(contest.ORGANS):
                columns = dict(zip(AREAS, (part[:, channel] for part in counts), strict=True))
                lines.append(pd.DataFrame({"scan": scan, "id": rows["id"].to_numpy(), "organ": organ, **columns}))
    return pd.concat(lines, ignore_index=True).assign(pixels=truth[0, ..., 0].size)


def readings(counts: pd.DataFrame) -> pd.DataFrame:
    """Read Dice and IoU of one prediction in all the ways that Table 8 may mean.

    Args:
        counts: of `areas`.

    Returns:
        Index reading; columns "Dice", "IoU", and "ceiling", the Dice of a perfect prediction.
    """
    slices = counts.groupby("id", sort=False)[AREAS].sum()
    organs = counts.groupby("organ", sort=False)[AREAS].sum()
    total, pixels = counts[AREAS].sum(), counts["pixels"].sum()
    background = {"both": pixels - total["truth"] - total["predicted"] + total["both"]}
    background |= {"truth": pixels - total["truth"], "predicted": pixels - total["predicted"]}
    lines = {
        "pooled over everything": (pd.DataFrame([total]), np.nan),
        "pooled per organ": (organs, np.nan),
        "per slice and organ, empty = 0 (the paper's words)": (counts, 0.0),
        "per slice and organ, empty = 1": (counts, 1.0),
        "per slice and organ, empty left out": (counts, np.nan),
        "per slice, organs together, empty = 0": (slices, 0.0),
        "per slice, organs together, empty left out": (slices, np.nan),
        "foreground and background (Keras' BinaryIoU)": (pd.DataFrame([total, pd.Series(background)]), np.nan),
    }
    found = {}
    for name, (part, empty) in lines.items():
        bottom = part["truth"] + part["predicted"]
        filled = bottom > 0
        dice = (2 * part["both"] / bottom.where(filled)).fillna(empty)
        iou = (part["both"] / (bottom - part["both"]).where(filled)).fillna(empty)
        ceiling = 1.0 if np.isnan(empty) else np.where(part["truth"] > 0, 1.0, empty).mean()
        found[name] = {"Dice": dice.mean(), "IoU": iou.mean(), "ceiling": ceiling}
    return pd.DataFrame(found).T.rename_axis("reading")


def near(table: pd.DataFrame, dice: float = 0.7006, iou: float = 0.7699) -> pd.DataFrame:
    """Ask which readings could give a published pair of Dice and IoU at once, whatever the network.

    On one set of pixels IoU = D / (2 - D). With the background averaged in, which a network gets almost whole, it is
    (D / (2 - D) + 1) / 2, where D is the foreground's. A mean of many ratios lies between its own IoU and that of its
    Dice, by as much as here.

    Returns:
        `table` with "IoU of that Dice", "off" (that less the published IoU), and "possible": whether the published
        Dice lies below the reading's ceiling.
    """
    one_set = dice / (2 - dice)
    spread = table["IoU"] - table["Dice"] / (2 - table["Dice"])
    implied = one_set + spread
    implied[table.index.str.contains("background")] = (one_set + 1) / 2
    return table.assign(**{"IoU of that Dice": implied, "off": implied - iou, "possible": table["ceiling"] >= dice})


def disagreement(counts: pd.DataFrame, faults: pd.DataFrame) -> pd.DataFrame:
    """Rank scans by how far their annotation lies from the out-of-fold prediction, the worst first.

    The measure is 1 - Dice of the volumes, averaged over the organs that either side has.

    Args:
        counts: of `areas`, of networks that have not seen the scan's case.
        faults: `scan fault`, what is known to be wrong.

    Returns:
        Index rank from 1; columns "scan", "disagreement", "fault" (empty where none is known), "precision" and
        "recall" of calling this and all scans above it suspect.
    """
    volumes = counts.groupby(["scan", "organ"], sort=False)[AREAS].sum()
    bottom = volumes["truth"] + volumes["predicted"]
    apart = (1 - 2 * volumes["both"] / bottom.where(bottom > 0)).groupby("scan").mean().fillna(0)
    ranked = apart.sort_values(ascending=False, kind="stable").rename("disagreement").reset_index()
    ranked["fault"] = ranked["scan"].map(faults.set_index("scan")["fault"]).fillna("")
    hits = (ranked["fault"] != "").cumsum().to_numpy()
    ranked.index = pd.RangeIndex(1, len(ranked) + 1, name="rank")
    return ranked.assign(precision=hits / ranked.index, recall=hits / max(hits[-1], 1))


def found_of(ranked: pd.DataFrame) -> str:
    """Say how many of the faults stand among as many scans as there are faults, and what chance would give."""
    count = int((ranked["fault"] != "").sum())
    hits = int((ranked["fault"].head(count) != "").sum())
    chance = count**2 / len(ranked)
    return f"{hits} of {count} faults among the {count} most suspect of {len(ranked)} scans; by chance {chance:.1f}"
