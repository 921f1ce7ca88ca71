"""The score viewer: one HTML file that shows where a prediction differs from the truth, and how many points that costs.

The page needs no server and sends no request: it opens from disk and in Kaggle's output. It holds the slices as
compressed images and the masks as run-length text, for the scans that lose the most points. `write` makes it from rows
of truth and prediction; the files `viewer.html`, `viewer.css` and `viewer.js` beside this module are the page itself.

    python -m kitlib.figures RUN DATA --viewer
    python -m kitlib.figures SUBMISSION.csv DATA --truth TRUTH.csv --viewer
"""

import base64
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import files, postprocess, rle, runs, submission
from kitlib.contest import ORGANS, SLICE_THICKNESS_MM
from kitlib.data import earlier, inputs, scans
from kitlib.figures.style import COLORS, LABELS
from kitlib.postprocess import intervals
from kitlib.scoring import host, ledger

QUALITY = 80  # of WebP: 3 to 6 kB a slice
WHITE = 99.5  # percentile of a scan's grey values that is shown as white
PRIVATE = "This page holds pictures of the competition, which its rules forbid to share. Keep it on your machine."
SYNTHETIC = "The slices are synthetic, not of patients: this page may be shared."


def write(
    path: str | os.PathLike,
    truth: pd.DataFrame,
    prediction: pd.DataFrame,
    slices: pd.DataFrame,
    *,
    points: ledger.Ledger | None = None,
    presence: Callable[[str], np.ndarray] | None = None,
    most: int = 12,
    name: str = "",
    progress: bool = False,
) -> Path:
    """Write the page, complete or not at all.

    Args:
        path: the HTML file.
        truth: rows `id class segmentation`.
        prediction: rows `id class predicted` (or `segmentation`), one for every slice and organ.
        slices: the slice table, whose `path` gives the images.
        points: the ledger of this prediction; None measures it here.
        presence: from the name of a scan to (D, organs) in [0, 1], drawn over the areas; None draws areas only.
        most: number of scans with pictures: those that lose the most points.
        name: of the prediction, for the page's heading.
        progress: show progress bars.

    Cost: about 3 s and 1.2 MB per scan of 144 slices (`benchmarks/viewer.py`).
    """
    points = points or ledger.measure(truth, prediction, slices, progress)
    lost = points.scans.groupby("scan")["points"].sum().reindex(slices["scan"].unique(), fill_value=0.0)
    ranked = lost.sort_values(ascending=False, kind="stable").head(most)
    tables = [scans.with_masks(slices, rows) for rows in (truth, prediction)]
    here = Path(__file__)
    page = here.with_suffix(".html").read_text(encoding="utf-8")
    page = page.replace("/*STYLE*/", here.with_suffix(".css").read_text(encoding="utf-8"))
    page = page.replace("/*PAGE*/", _json(_summary(points, ranked, slices, name)))
    before, after_first = page.split("<!--FIRST-->")
    script, after = after_first.replace("/*SCRIPT*/", here.with_suffix(".js").read_text(encoding="utf-8")).split(
        "<!--REST-->"
    )
    with files.replacing(path) as file:
        file.write(before)
        for number, scan in enumerate(tqdm(ranked.index, desc="viewer", unit="scan", disable=not progress)):
            truth_rows, rows = (table[table["scan"] == scan] for table in tables)
            data = _scan(truth_rows, rows, points.scans[points.scans["scan"] == scan])
            if presence is not None:
                data["presence"] = np.round(presence(scan), 3).T.tolist()
            file.write(f'<script type="application/json" id="scan-{number}">{_json(data)}</script>\n')
            if number == 0:
                file.write(script)  # the page starts while the browser still reads the other scans
        file.write(after if len(ranked) else script + after)
    return Path(path)


def of_run(run: runs.Run, slices: pd.DataFrame, path: str | os.PathLike | None = None, **options) -> Path:
    """Write the page of a run's out-of-fold predictions, with its settings; by default to RUN/figures/viewer.html.

    Args:
        run: has out-of-fold probabilities.
        slices: the training slices with masks; settings with a `line_weight` look at the earlier days among them.
        options: of `write`.

    Raises:
        ValueError: the run has no out-of-fold probabilities of these scans.
    """
    validation = slices[slices["scan"].isin(run.scans)]
    if validation.empty:
        raise ValueError(f"{run.folder}: oof/ has no scan of this data; give the data that the run was trained on")
    lines = earlier.stop_lines(validation, earlier.trusted(slices)) if run.settings.line_weight else lambda scan: None
    parts, presence = [], {}
    for scan, rows in validation.groupby("scan", sort=False):
        size, spacing_mm = scans.common_size(rows), scans.spacing_mm(rows)
        restored = inputs.restore(run.scored(rows), size, run.spec, spacing_mm)
        presence[scan] = run.presence(scan)
        if presence[scan] is None:
            presence[scan] = intervals.presence(restored)
        parts.append(submission.encode(rows, postprocess.masks(restored, run.settings, presence[scan], lines(scan))))
    options = {"presence": presence.__getitem__, "name": str(run.folder)} | options
    path = path or run.folder / "figures/viewer.html"
    return write(path, scans.rows(validation), pd.concat(parts), validation, **options)


def _summary(points: ledger.Ledger, ranked: pd.Series, slices: pd.DataFrame, name: str) -> dict:
    """Describe the whole prediction: score, ranked scans, points by class of error."""
    paths = slices["path"]
    synthetic = len(paths) > 0 and scans.describe(slices)["kind"] == "phantom"
    by_class = points.table.pivot_table("points", "error", "organ", "sum", fill_value=0.0)
    by_class = by_class.reindex(columns=ORGANS, fill_value=0.0)
    by_class = by_class.loc[by_class.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    return {
        "name": name,
        "score": points.score,
        "scans": [{"name": scan, "lost": float(lost)} for scan, lost in ranked.items()],
        "all": int(slices["scan"].nunique()),
        "notice": SYNTHETIC if synthetic else PRIVATE,
        "organs": [{"label": LABELS[organ], "color": COLORS[organ]} for organ in ORGANS],
        "errors": list(ledger.CLASSES),
        "points": [[ledger.CLASSES.index(error), values.tolist()] for error, values in by_class.iterrows()],
    }


def _scan(truth_rows: pd.DataFrame, rows: pd.DataFrame, lost: pd.DataFrame) -> dict:
    """Collect the data of one scan: images, masks, classes of error, distances, points."""
    truth, prediction = scans.masks(truth_rows), scans.masks(rows)
    errors = ledger.errors(truth, prediction)
    spacing_mm = float(rows["spacing_mm"].iloc[0]) if "spacing_mm" in rows else 1.5
    by_class = lost.groupby("error")["points"].sum()
    return {
        "name": rows["scan"].iloc[0],
        "shape": list(truth.shape[:3]),
        "step": [SLICE_THICKNESS_MM, spacing_mm, spacing_mm],
        "numbers": rows["slice"].tolist(),
        "truth": truth_rows[list(ORGANS)].to_numpy().tolist(),
        "prediction": rows[list(ORGANS)].to_numpy().tolist(),
        "errors": [[_classes(errors[z, ..., k]) for k in range(len(ORGANS))] for z in range(len(errors))],
        "organs": [
            {
                "lost": float(lost.loc[lost["organ"] == organ, "points"].sum()),
                **_organ(truth[..., k], prediction[..., k]),
            }
            for k, organ in enumerate(ORGANS)
        ],
        "points": {ledger.CLASSES.index(error): float(value) for error, value in by_class.items()},
        "images": _images(rows["path"].tolist()),
    }


def _organ(truth: np.ndarray, prediction: np.ndarray) -> dict:
    """Return mean Dice, distance and the pair of voxels of one organ; None for what does not exist."""
    dice, distance = host.means(host.totals(truth, prediction))
    found = {"dice": _number(dice), "distance": _number(distance), "pair": None}
    if truth.any() and prediction.any():
        pair = host.farthest(truth, prediction)
        found["pair"] = {
            "voxels": [list(pair.source), list(pair.target)],
            "in": "truth" if pair.forward else "prediction",
        }
    return found


def _number(value) -> float | None:
    return None if np.isnan(value) else float(value)


def _classes(errors: np.ndarray) -> dict[int, str]:
    """Encode a slice of classes of error, (H, W): class -> run-length text."""
    numbers = np.flatnonzero(np.bincount(errors.ravel()))
    return {int(number): rle.encode(errors == number) for number in numbers if number}


def _images(paths: list[str]) -> list[str]:
    """Encode the slices of one scan as WebP in base64, on one grey scale."""
    images = inputs.load(paths)
    factor = 255 / max(float(np.percentile(images, WHITE)), 1.0)

    def encode(image: np.ndarray) -> str:
        grey = np.clip(image * factor, 0, 255).astype(np.uint8)
        ok, data = cv2.imencode(".webp", grey, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
        if not ok:
            raise OSError("this OpenCV cannot write WebP; install opencv-python-headless from PyPI")
        return base64.b64encode(data.tobytes()).decode("ascii")

    with ThreadPoolExecutor() as pool:
        return list(pool.map(encode, images))


def _json(data: dict) -> str:
    """Return JSON that may stand inside a script element."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
