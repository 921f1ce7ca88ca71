"""Grey values of the scans, from a sample of their slices: what normalisation has to cope with.

Scanners scale their pictures by a factor that differs tenfold between scans, and arms at the edge of the field shine,
so that a scan's maximum says little about its tissue. `InputSpec` therefore divides by a percentile; these tables show
why.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

LEVELS = (1, 5, 25, 50, 75, 95, 99, 99.9)
AIR = 0.05  # of the 99th percentile; what is darker is air or the edge of the field
_THREADS = 4  # OpenCV decodes outside Python's lock


def has_images(slices: pd.DataFrame) -> bool:
    """Whether the table's image files are there; one file stands for all."""
    return len(slices) > 0 and bool(slices["path"].iloc[0]) and Path(slices["path"].iloc[0]).is_file()


def image(path: str) -> np.ndarray:
    """Read one slice as (H, W) uint16.

    Raises:
        OSError: names the file that is missing or no image.
    """
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise OSError(f"{path} cannot be read as an image; is it missing or cut short?")
    return picture


def volume(slices: pd.DataFrame) -> np.ndarray:
    """Read all slices of one scan as (D, H, W) uint16."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return np.stack(list(pool.map(image, slices["path"])))


def sample(slices: pd.DataFrame, per_scan: int = 8) -> pd.DataFrame:
    """Measure the grey values of some slices of each scan, spread evenly over it.

    Args:
        per_scan: slices that are opened per scan; 8 of 144 are enough to see a scan's scale.

    Returns:
        One row per opened slice: `id case scan slice`, `p1 p5 p25 p50 p75 p95 p99 p99.9`, `max` and `air`, the share
        of pixels darker than AIR times the slice's 99th percentile.

    Cost: decoding the slices that are opened, some milliseconds each.
    """
    groups = slices.groupby("scan")["slice"]
    number, count = groups.cumcount(), groups.transform("size")
    # The k-th of n chosen slices lies in the middle of the k-th n-th of its scan.
    chosen = (number * per_scan + count // 2) % count < per_scan
    rows = slices.loc[chosen | (count <= per_scan), ["id", "case", "scan", "slice", "path"]]
    with ThreadPoolExecutor(_THREADS) as pool:
        values = list(pool.map(_measure, rows["path"]))
    columns = [f"p{level}" for level in LEVELS] + ["max", "air"]
    table = pd.DataFrame(values, index=rows.index, columns=columns)
    return pd.concat([rows.drop(columns="path"), table], axis=1).reset_index(drop=True)


def summary(samples: pd.DataFrame) -> pd.DataFrame:
    """Sum up the sampled slices of each scan.

    Args:
        samples: rows of `sample`.

    Returns:
        Indexed by scan: `slices` sampled, `median` (of the slices' medians), `p99` (median over slices), `max`, `hot`
        = max / p99: how many times brighter than its tissue a scan's hottest spot is, `uneven` = the brightest slice's
        p99 over the darkest one's within the middle half of the scan, and `air`, the mean share of air.
    """
    groups = samples.groupby("scan", sort=False)
    table = pd.DataFrame({"slices": groups.size(), "median": groups["p50"].median(), "p99": groups["p99"].median()})
    table["max"] = groups["max"].max()
    table["hot"] = table["max"] / table["p99"].clip(lower=1)
    place = groups.cumcount() / groups["slice"].transform("size")
    middle = samples[(place >= 0.25) & (place < 0.75)].groupby("scan")["p99"]
    table["uneven"] = middle.max() / middle.min().clip(lower=1)
    table["air"] = groups["air"].mean()
    return table


def _measure(path: str) -> tuple[float, ...]:
    """Percentiles, maximum and share of air of one slice."""
    picture = image(path)
    levels = np.percentile(picture, LEVELS)
    bright = levels[LEVELS.index(99)]
    return (*levels, float(picture.max()), float((picture < AIR * bright).mean()))
