"""The score ledger: which kind of error costs how many points. The points of all errors sum to 1 - score.

Every voxel whose prediction differs from the truth has one class of CLASSES, the first that fits. The classes partition
the difference, so that mending all of them gives the truth. The points of a class are the change of the host score when
the truth replaces the prediction on its voxels, in all scans at once. The classes are mended one after the other, once
in the order of CLASSES and once in the reverse order; either way the changes sum to 1 - score, and the ledger is the
mean of both. `host.gains` splits each change among the volumes.

No volume is measured again after a step that leaves it unchanged, and no mask is mended for its Dice values: these
follow from the pixels of each class on each slice. Of the distance, only the direction from the truth to the prediction
has to be measured after a step, since the other one is the largest distance of the false voxels that are left.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage
from tqdm import tqdm

from kitlib import contest
from kitlib.scoring import host, metric

CLASSES = (  # in the order in which they are tested; the position is the value in the map of `errors`
    "no error",
    "absent organ",
    "invented organ",
    "beyond the last slice",
    "before the first slice",
    "started late",
    "ended early",
    "hole in the run of slices",
    "swapped with another organ",
    "far island",
    "missed piece",
    "rim too wide",
    "rim too tight",
)
REMEDIES = {
    "absent organ": "Lower the threshold of this organ, or let the cleaning keep its best slice.",
    "invented organ": "Add a gate that decides on each slice whether the organ is there.",
    "beyond the last slice": "Let the bowels end on one slice (Settings.stop), or tune runs of slices (Settings.ends).",
    "before the first slice": "Add a gate, or smooth the presence along the slices (Settings.smoothing).",
    "started late": "Lower the threshold or weaken the gate: the first slices have the least sure pixels.",
    "ended early": "Let both bowels end on one slice (Settings.stop), or lower the threshold.",
    "hole in the run of slices": "Fill the gaps (Settings.gap), or tune runs of slices (Settings.ends).",
    "swapped with another organ": "Give the network more context: more slices or a stronger encoder.",
    "far island": "Remove small components, or keep only the largest (Settings.island_3d, Settings.largest).",
    "missed piece": "Lower the threshold and keep components with a sure voxel (Settings.seed).",
    "rim too wide": "Try a higher threshold of this organ, or a better network.",
    "rim too tight": "Try a lower threshold of this organ, or a better network.",
}
_RIMS = {"rim too wide": "rim too tight", "rim too tight": "rim too wide"}
PRESENCE = CLASSES[1:8]  # errors of whole slices; the others are errors of contours
_COLUMNS = ["points", "dice_points", "hausdorff_points", "voxels"]
_CONNECTED = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Ledger:
    """Where the points of a prediction are lost.

    Attributes:
        score: host score.
        table: one row per class of error and organ, the largest loss first: `error organ points dice_points
            hausdorff_points voxels`; the points sum to 1 - score.
        scans: the same per scan, with the column `scan`; the shares of a row of `table`.
        orders: the table of each order of mending, "forward" and "reverse"; `table` is their mean.
        right_presence: host score with our contours on the right slices: every error of PRESENCE mended.
        right_contours: host score with the true contours on our slices: every other error mended.
        names: of all scans, also of those without an error.
    """

    score: float
    table: pd.DataFrame
    scans: pd.DataFrame
    orders: dict[str, pd.DataFrame]
    right_presence: float
    right_contours: float
    names: tuple[str, ...] = ()

    def split(self, groups: Mapping[str, Collection[str]]) -> pd.DataFrame:
        """Compare groups of scans, such as known cases and new ones.

        Args:
            groups: names of scans by the name of their group.

        Returns:
            One row per class of error and organ, in the order of `table`, and a column per group: the points that would
            be lost if all scans were like those of the group on average. Groups without a scan are left out.
        """
        table = self.table.set_index(["error", "organ"])[[]]
        for group, scans in groups.items():
            count = len(set(self.names) & set(scans))
            if count:
                own = self.scans[self.scans["scan"].isin(scans)].groupby(["error", "organ"])["points"].sum()
                table[group] = own.reindex(table.index, fill_value=0.0) * len(self.names) / count
        return table.reset_index()


def table(truth: pd.DataFrame, prediction: pd.DataFrame, slices: pd.DataFrame, progress: bool = False) -> pd.DataFrame:
    """Return `Ledger.table` of a prediction. Args: as `measure`."""
    return measure(truth, prediction, slices, progress).table


def measure(truth: pd.DataFrame, prediction: pd.DataFrame, slices: pd.DataFrame, progress: bool = False) -> Ledger:
    """Compute the ledger of a prediction.

    Args:
        truth: rows `id class segmentation`.
        prediction: rows `id class predicted` (or `segmentation`), one for every slice and organ.
        slices: one row per slice, with columns id, scan, slice, height and width.
        progress: show a bar over the scans.
    """
    scans, totals, voxels = [], [], []
    decoded = metric.decoded(truth, prediction, slices)
    total = slices["scan"].nunique()
    for rows, _, *masks in tqdm(decoded, total=total, desc="ledger", unit="scan", disable=not progress):
        size = len(rows), *masks[0].shape[1:3]
        scans.append(rows["scan"].iloc[0])
        box = _box(masks[0] | masks[1])
        measured, counted = _scan(*(part[box] for part in masks), size)
        totals.append(measured)
        voxels.append(counted)
    shape = len(scans), len(contest.ORGANS)
    totals = np.array(totals).reshape(*shape, 2, len(CLASSES), 4)
    voxels = np.array(voxels, int).reshape(*shape, len(CLASSES))
    volumes = totals.reshape(-1, *totals.shape[2:])
    points = host.gains(volumes[:, :, :-1], volumes[:, :, 1:]).reshape(*shape, 2, len(CLASSES) - 1, 2)
    points[:, :, 1] = points[:, :, 1, ::-1]  # (scans, organs, orders, classes, terms)
    rows = _rows(scans, points.mean(axis=2), voxels)
    orders = {name: _table(_rows(scans, points[:, :, k], voxels)) for k, name in enumerate(("forward", "reverse"))}
    sums = totals.sum(axis=(0, 1))
    mended = sums[0, 0], sums[0, len(PRESENCE)], sums[1, len(CLASSES) - 1 - len(PRESENCE)]
    score, right_presence, right_contours = (float(host.value(total)) for total in mended)
    return Ledger(score, _table(rows), rows, orders, right_presence, right_contours, tuple(scans))


def errors(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return the class of error of every voxel, an index of CLASSES; 0 where the prediction is right.

    Args:
        truth, prediction: (D, H, W, organs) bool.

    Returns:
        (D, H, W, organs) uint8.
    """
    classes = np.zeros((truth.shape[-1], *truth.shape[:-1]), np.uint8)
    box = _box(truth | prediction)
    _classify(classes[(slice(None), *box)], truth[box], prediction[box])
    return np.moveaxis(classes, 0, -1)


def advice(table: pd.DataFrame, least: float = 0.005) -> list[str]:
    """Return a sentence for each row that costs at least `least` points: the usual remedy."""
    points = {(row.error, row.organ): row.points for row in table.itertuples()}
    lines = []
    for (error, organ), cost in points.items():
        remedy = REMEDIES[error]
        if error in _RIMS and points.get((_RIMS[error], organ), 0.0) >= cost / 2:
            remedy = "The rim is wrong on both sides, so no threshold fixes it: train longer or at a finer pixel size."
        if cost >= least:
            lines.append(f"{error}, {organ.replace('_', ' ')} ({cost:.3f}): {remedy}")
    return lines


def _classify(found: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> None:
    """Write the classes of a scan into zeros, (organs, D, H, W)."""
    missed, false = truth & ~prediction, prediction & ~truth
    organs = range(truth.shape[-1])
    for organ in organs:
        classes, lost, extra = found[organ], missed[..., organ], false[..., organ]
        others = [other for other in organs if other != organ]

        def put(name, where, classes=classes):
            np.putmask(classes, where & (classes == 0), CLASSES.index(name))

        there, here = (np.flatnonzero(mask[..., organ].any(axis=(1, 2))) for mask in (truth, prediction))
        if not here.size or not there.size:
            put("absent organ" if there.size else "invented organ", lost | extra)
            continue
        slices = np.arange(len(classes))[:, None, None]
        put("beyond the last slice", extra & (slices > there[-1]))
        put("before the first slice", extra & (slices < there[0]))
        put("started late", lost & (slices < here[0]))
        put("ended early", lost & (slices > here[-1]))
        put("hole in the run of slices", (lost & ~np.isin(slices, here)) | (extra & ~np.isin(slices, there)))
        put("swapped with another organ", lost & false[..., others].any(axis=-1))
        put("swapped with another organ", extra & missed[..., others].any(axis=-1))
        put("far island", extra & _untouched(prediction[..., organ], truth[..., organ]))
        put("missed piece", lost & _untouched(truth[..., organ], prediction[..., organ]))
        put("rim too wide", extra)
        put("rim too tight", lost)


def _untouched(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the 3D components of a mask (26 neighbours) that share no voxel with another."""
    labels, count = ndimage.label(mask, _CONNECTED)
    apart = np.ones(count + 1, bool)
    apart[0] = False
    apart[labels[other]] = False
    return apart[labels]


def _rows(scans: list[str], points: np.ndarray, voxels: np.ndarray) -> pd.DataFrame:
    """List the points (scans, organs, classes, terms) of every scan, error and organ that has voxels."""
    shown = voxels[..., 1:] > 0
    scan, organ, error = np.nonzero(shown)
    rows = pd.DataFrame({"scan": np.array(scans, object)[scan], "error": np.array(CLASSES, object)[error + 1]})
    rows["organ"] = np.array(contest.ORGANS, object)[organ]
    terms = points[shown]
    columns = [terms.sum(axis=1), *terms.T, voxels[..., 1:][shown]]
    return rows.assign(**dict(zip(_COLUMNS, columns, strict=True)))


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    """Sum the rows of all scans, the largest loss first."""
    sums = rows.groupby(["error", "organ"], sort=False)[_COLUMNS].sum().reset_index()
    return sums.sort_values("points", ascending=False, kind="stable", ignore_index=True)


def _box(masks: np.ndarray) -> tuple[slice, slice, slice]:
    """Return the smallest box (D, H, W) that contains all masks (D, H, W, organs)."""
    flat = masks.any(axis=-1)
    lines = [np.flatnonzero(flat.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return tuple(slice(line[0], line[-1] + 1) if line.size else slice(0, 1) for line in lines)


def _scan(truth: np.ndarray, prediction: np.ndarray, size: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Measure one scan, after each step of both orders.

    Returns:
        Totals (organs, orders, steps, 4), the first step with nothing mended; and voxels (organs, classes).
    """
    classes = errors(truth, prediction)
    totals = np.zeros((classes.shape[-1], 2, len(CLASSES), 4))
    voxels = np.array([np.bincount(classes[..., k].ravel(), minlength=len(CLASSES)) for k in range(classes.shape[-1])])
    voxels[:, 0] = 0
    for organ, present in enumerate(voxels > 0):
        volume = _Volume(truth[..., organ], prediction[..., organ], classes[..., organ], size)
        for order, plan in enumerate((range(1, len(CLASSES)), range(len(CLASSES) - 1, 0, -1))):
            mended = frozenset()
            totals[organ, order, 0] = volume.totals(mended)
            for step, number in enumerate(plan, 1):
                if present[number]:
                    mended |= {number}
                    totals[organ, order, step] = volume.totals(mended)
                else:
                    totals[organ, order, step] = totals[organ, order, step - 1]
    return totals, voxels


class _Volume:
    """One organ of one scan, and the totals of its prediction with some classes of error mended."""

    def __init__(self, truth: np.ndarray, prediction: np.ndarray, classes: np.ndarray, size: tuple):
        self.truth, self.prediction, self.classes, self.size = truth, prediction, classes, size
        self.known: dict[frozenset, np.ndarray] = {}
        index = np.flatnonzero(classes)
        kinds, depth = classes.ravel()[index].astype(int), index // classes[0].size
        lost = truth.ravel()[index]
        counts = [
            np.bincount(kinds[which] * len(classes) + depth[which], minlength=len(CLASSES) * len(classes))
            for which in (lost, ~lost)
        ]
        self.lost, self.extra = (count.reshape(len(CLASSES), -1) for count in counts)
        self.areas = [np.array([np.count_nonzero(part) for part in mask]) for mask in (truth, prediction)]
        self.false = {}
        if self.areas[0].any():
            for number in np.flatnonzero(self.extra.any(axis=1)):
                false = (classes == number) & prediction
                self.false[number] = host.hausdorff(truth, false, directed=True, size=size)

    def totals(self, mended: frozenset) -> np.ndarray:
        """Return the totals of the host score."""
        if mended not in self.known:
            self.known[mended] = self._totals(mended)
        return self.known[mended]

    def _totals(self, mended: frozenset) -> np.ndarray:
        left = [number for number in range(1, len(CLASSES)) if number not in mended]
        lost, extra = self.lost[left].sum(axis=0), self.extra[left].sum(axis=0)
        truth = self.areas[0]
        overlap = truth - lost
        dice = host.dice_of_areas(truth, overlap + extra, overlap)
        counted = np.count_nonzero(~np.isnan(dice))
        if not lost.any() and not extra.any():
            return np.array([counted, counted, 0.0, counted > 0])
        if not truth.any() or not (overlap + extra).any():
            return np.array([np.nansum(dice), counted, 1.0, 1.0])
        distance = max((self.false[number] for number in left if number in self.false), default=0.0)
        if lost.any():
            wrong = np.isin(self.classes, left)
            missing = wrong & self.truth
            mask = self.prediction ^ (self.classes > 0) ^ wrong  # with the truth where it is mended
            distance = max(distance, host.hausdorff(mask, missing, directed=True, size=self.size))
        return np.array([np.nansum(dice), counted, distance, 1.0])
