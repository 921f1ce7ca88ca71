"""The score of the leaderboard: 0.4 Dice + 0.6 (1 - Hausdorff distance), of masks or of tables of run-length rows.

The host convention: one Dice per slice and organ, rows where truth and prediction are both empty left out; one
symmetric distance per scan and organ, between voxel centres at (z/D, y/H, x/W), divided by sqrt(3), both empty left
out, exactly one empty = 1. Kaggle's scorer is private; this is the estimate that fits what its hosts have said.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from kitlib import contest, rle
from kitlib import hausdorff as sets


@dataclass(frozen=True)
class Score:
    """A score and where it comes from.

    Attributes:
        value: 0.4 * dice + 0.6 * (1 - hausdorff), 1 is perfect.
        dice: mean over the rows (slice, organ) that count.
        hausdorff: mean distance over the volumes (scan, organ) that count, 0 is perfect.
        organs: one row per organ: `dice hausdorff value rows volumes`.
        scans: one row per scan and organ: `scan organ dice hausdorff value`, NaN where nothing counts.
        slices: one row per slice and organ: `id scan organ truth predicted overlap dice`, areas in pixels.
    """

    value: float
    dice: float
    hausdorff: float
    organs: pd.DataFrame
    scans: pd.DataFrame
    slices: pd.DataFrame


def dice(truth: np.ndarray, prediction: np.ndarray) -> float:
    """2 |P and G| / (|P| + |G|) of two bool arrays of one shape; NaN when both are empty."""
    _same_shape(truth, prediction)
    total = np.count_nonzero(truth) + np.count_nonzero(prediction)
    return 2 * np.count_nonzero(truth & prediction) / total if total else float("nan")


def hausdorff(truth: np.ndarray, prediction: np.ndarray, directed: bool = False) -> float:
    """The largest distance from one mask to the other in the unit cube, over sqrt(3), so that it lies in [0, 1].

    Args:
        truth, prediction: (D, H, W) bool.
        directed: only from the prediction to the truth; otherwise the larger of both directions.

    Returns:
        NaN when both masks are empty, 1.0 when exactly one is.
    """
    _same_shape(truth, prediction)
    filled = bool(truth.any()), bool(prediction.any())
    if not all(filled):
        return 1.0 if any(filled) else float("nan")
    steps = tuple(1 / side for side in truth.shape)
    search = sets.directed if directed else sets.symmetric
    return search(prediction, truth, steps).distance / 3**0.5


def score(truth: pd.DataFrame, prediction: pd.DataFrame, slices: pd.DataFrame, convention: str = "host") -> Score:
    """Score a table of run-length rows against another.

    Args:
        truth: rows `id class segmentation`.
        prediction: rows `id class predicted` (or `segmentation`), one for every row of the truth.
        slices: the slice table: order of the slices within each scan, and sizes.
        convention: only "host" so far.

    Raises:
        ValueError: when a row is missing, doubled or unknown; as in the competition, a missing row is no empty mask.
    """
    if convention != "host":
        raise ValueError(f"unknown convention {convention!r}; choose host")
    truth_texts, predicted_texts = _texts(truth, slices, "truth"), _texts(prediction, slices, "prediction")
    rows, volumes = [], []
    for scan, part in slices.groupby("scan", sort=False):
        shape = int(part["height"].iloc[0]), int(part["width"].iloc[0])
        for organ in contest.ORGANS:
            one = rle.decode_stack([truth_texts[i, organ] for i in part["id"]], shape)
            other = rle.decode_stack([predicted_texts[i, organ] for i in part["id"]], shape)
            areas = [np.count_nonzero(mask, axis=(1, 2)) for mask in (one, other, one & other)]
            table = pd.DataFrame({"id": part["id"].to_numpy(), "scan": scan, "organ": organ})
            rows.append(table.assign(truth=areas[0], predicted=areas[1], overlap=areas[2]))
            volumes.append({"scan": scan, "organ": organ, "hausdorff": hausdorff(one, other)})
    table = pd.concat(rows, ignore_index=True)
    total = table["truth"] + table["predicted"]
    table["dice"] = 2 * table["overlap"] / total.where(total > 0)
    return _summary(table, pd.DataFrame(volumes))


def _summary(slices: pd.DataFrame, volumes: pd.DataFrame) -> Score:
    """Average rows and volumes, per scan, per organ and over all."""
    scans = volumes.merge(slices.groupby(["scan", "organ"], sort=False)["dice"].mean().reset_index(), validate="1:1")
    scans = scans[["scan", "organ", "dice", "hausdorff"]]
    scans["value"] = _value(scans["dice"], scans["hausdorff"])
    organs = pd.DataFrame(
        {
            "dice": slices.groupby("organ")["dice"].mean(),
            "hausdorff": volumes.groupby("organ")["hausdorff"].mean(),
            "rows": slices.groupby("organ")["dice"].count(),
            "volumes": volumes.groupby("organ")["hausdorff"].count(),
        }
    ).reindex(list(contest.ORGANS))
    organs.insert(2, "value", _value(organs["dice"], organs["hausdorff"]))
    mean_dice, mean_distance = float(slices["dice"].mean()), float(volumes["hausdorff"].mean())
    return Score(_value(mean_dice, mean_distance), mean_dice, mean_distance, organs, scans, slices)


def _value(dice, hausdorff):
    """Weigh the two terms."""
    return contest.DICE_WEIGHT * dice + contest.HAUSDORFF_WEIGHT * (1 - hausdorff)


def _texts(rows: pd.DataFrame, slices: pd.DataFrame, name: str) -> dict[tuple[str, str], str]:
    """Index run-length texts by (id, organ); every slice of the table must have its three rows."""
    column = "predicted" if "predicted" in rows else "segmentation"
    keys = list(zip(rows["id"], rows["class"], strict=True))
    texts = dict(zip(keys, rows[column].fillna(""), strict=True))
    if len(texts) < len(keys):
        raise ValueError(f"the {name} has {len(keys) - len(texts)} doubled rows, for example {_doubled(keys)}")
    wanted = [(i, organ) for i in slices["id"] for organ in contest.ORGANS]
    missing = [key for key in wanted if key not in texts]
    if missing:
        first = missing[0]
        raise ValueError(
            f"the {name} misses {len(missing)} of {len(wanted)} rows, first {first}; empty masks need one too"
        )
    if len(texts) > len(wanted):
        extra = sorted(set(texts) - set(wanted))
        raise ValueError(f"the {name} has {len(extra)} rows that no slice asks for, first {extra[0]}")
    return texts


def _doubled(keys: list) -> tuple[str, str]:
    seen = set()
    return next(key for key in keys if key in seen or seen.add(key))


def _same_shape(truth: np.ndarray, prediction: np.ndarray) -> None:
    if truth.shape != prediction.shape or truth.dtype != bool or prediction.dtype != bool:
        raise ValueError(
            f"expected two bool masks of one shape, got truth {truth.shape} {truth.dtype} "
            f"and prediction {prediction.shape} {prediction.dtype}"
        )
