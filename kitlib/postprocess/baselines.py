"""Baselines for a submission: an empty file, an atlas of the training masks, and the masks of an earlier day.

None of them reads an image of the scans they predict, so a network that scores less has learned nothing from images.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import contest, files, submission
from kitlib.data import inputs, scans
from kitlib.postprocess import cleaning
from kitlib.scoring import metric

BINS = 64  # slices of the atlas, by relative position in the scan
THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)
SPEC = inputs.InputSpec()  # size of the atlas


def empty(slices: pd.DataFrame) -> pd.DataFrame:
    """Return rows id, class, predicted with an empty field for every slice and organ."""
    return submission.expected_rows(slices).assign(predicted="")


def atlas(train: pd.DataFrame, test: pd.DataFrame, threshold: float | None = None) -> pd.DataFrame:
    """Predict where the training scans had an organ at the same relative position in slice, row and column.

    Args:
        train: slices with masks.
        test: slices to predict.
        threshold: least share of the training scans for a voxel to be predicted; None takes that of `best_threshold`.

    Returns:
        Rows id, class, predicted.
    """
    maps = _maps(train)
    if threshold is None:
        threshold = best_threshold(train, maps)[0]
    mean = np.mean(list(maps.values()), axis=0)
    settings = cleaning.Settings(threshold=(threshold,) * len(contest.ORGANS))
    lines = []
    for _, rows in test.groupby("scan", sort=False):
        full = inputs.resize(mean[_bins(len(rows))], scans.common_size(rows))
        lines.append(submission.encode(rows, cleaning.masks(full, settings)))
    return pd.concat(lines, ignore_index=True)


def best_threshold(slices: pd.DataFrame, maps: dict[str, np.ndarray] | None = None) -> tuple[float, float]:
    """Find the atlas threshold with the best host score on the training cases, each predicted from the others.

    The masks are scored at 128 x 128 pixels, which changes the host score by some thousandths.

    Returns:
        The threshold and its host score.
    """
    maps = maps or _maps(slices)
    case = slices.drop_duplicates("scan").set_index("scan")["case"]
    small = slices.assign(height=SPEC.height, width=SPEC.width)
    others = {}
    for name in maps:
        rest = [maps[other] for other in maps if case[other] != case[name]]
        others[name] = np.mean(rest, axis=0) if rest else maps[name]
    groups = list(small.groupby("scan", sort=False))
    truth = pd.concat([submission.encode(rows, _small_masks(slices.loc[rows.index])) for _, rows in groups])
    scores = {}
    for threshold in tqdm(THRESHOLDS, desc="atlas", unit=" thresholds"):
        lines = [submission.encode(rows, others[name][_bins(len(rows))] >= threshold) for name, rows in groups]
        scores[threshold] = metric.score(truth, pd.concat(lines), small).value
    best = max(scores, key=scores.get)
    return best, scores[best]


def earlier_day(train: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """Predict the masks of the same case on its last earlier day, by relative position of the slice.

    Returns:
        Rows id, class, predicted, only for scans of cases with an earlier day.
    """
    lines = []
    for _, rows in test.groupby("scan", sort=False):
        case, day = rows[["case", "day"]].iloc[0]
        before = train[(train["case"] == case) & (train["day"] < day)]
        if len(before):
            last = before[before["day"] == before["day"].max()]
            masks = scans.masks(last)
            nearest = (np.arange(len(rows)) + 0.5) / len(rows) * len(last)
            moved = inputs.resize(masks[nearest.astype(int)].astype(np.float32), scans.common_size(rows))
            lines.append(submission.encode(rows, moved >= 0.5))
    return pd.concat(lines, ignore_index=True) if lines else empty(test.iloc[:0])


def table(root: Path, path: Path) -> pd.DataFrame:
    """Score a submission and the three baselines on the hidden truth of a synthetic competition.

    Scans whose slices differ in size are left out, because they are no volumes.

    Returns:
        One row per prediction: host score, Dice, Hausdorff and the number of scans.

    Raises:
        FileNotFoundError: when the root has no truth.csv; the real competition has none.
        ValueError: lists the problems of an invalid submission.
    """
    if not (root / "truth.csv").is_file():
        raise FileNotFoundError(
            f"{root} has no truth.csv; give a synthetic competition, such as python -m phantom writes, or "
            "score against "
            "your own masks with python -m kitlib.scoring"
        )
    train, test = scans.read(root), scans.read(root, "test")
    problems = submission.check(path, test, submission.read(root / "sample_submission.csv"))
    if problems:
        lines = "\n  ".join(f"{where}: {what}" for where, what in problems)
        raise ValueError(f"{path} is not a valid submission:\n  {lines}")
    sizes = test.groupby("scan")[["height", "width"]].transform("nunique")
    test = test[(sizes == 1).all(axis=1)]
    truth = files.read_csv(root / "truth.csv", ["id", "class", "segmentation"])
    predicted = submission.read(path)
    copied = earlier_day(train, test)
    again = test[test["id"].isin(copied["id"])]
    lines = {
        "this submission": (predicted, test),
        "atlas of the training masks": (atlas(train, test), test),
        "empty file": (empty(test), test),
    }
    if len(again):
        lines |= {
            "this submission, cases with an earlier day": (predicted, again),
            "masks of the earlier day, same cases": (copied, again),
        }
    scores = {name: metric.score(_only(truth, some), _only(rows, some), some) for name, (rows, some) in lines.items()}
    return pd.DataFrame(
        {
            "host score": {name: score.value for name, score in scores.items()},
            "Dice": {name: score.dice for name, score in scores.items()},
            "Hausdorff": {name: score.hausdorff for name, score in scores.items()},
            "scans": {name: some["scan"].nunique() for name, (_, some) in lines.items()},
        }
    ).rename_axis("prediction")


def _maps(slices: pd.DataFrame) -> dict[str, np.ndarray]:
    """Bring the masks of each scan to one size: (BINS, height, width, organs) float."""
    groups = slices.groupby("scan", sort=False)
    return {name: _small_masks(rows)[_bin_slices(len(rows))].astype(np.float32) for name, rows in groups}


def _small_masks(rows: pd.DataFrame) -> np.ndarray:
    """Decode the masks of a scan at the size of the atlas: (D, height, width, organs) bool."""
    return inputs.prepare_masks(scans.masks(rows), SPEC)


def _bin_slices(depth: int) -> np.ndarray:
    """Return the slice of a scan of some depth at the centre of each bin."""
    return ((np.arange(BINS) + 0.5) / BINS * depth).astype(int)


def _bins(depth: int) -> np.ndarray:
    """Return the bin of each slice of a scan of some depth."""
    return ((np.arange(depth) + 0.5) / depth * BINS).astype(int)


def _only(rows: pd.DataFrame, slices: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows of some slices."""
    return rows[rows["id"].isin(slices["id"])]
