"""Grey values of the scans, from a sample of their slices: the range that normalisation has to handle.

The scale of the grey values differs tenfold between scans, and the arms shine at the edge of the field, so a scan's
maximum says little about its tissue. Therefore `InputSpec` divides by a percentile.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from kitlib.data import inputs

LEVELS = (1, 5, 25, 50, 75, 95, 99, 99.9)
AIR = 0.05  # of the 99th percentile; darker pixels are air or the edge of the field
_THREADS = 4  # OpenCV releases Python's lock while it decodes


def has_images(slices: pd.DataFrame) -> bool:
    """Whether the image files of the table exist; only the first is looked for."""
    return len(slices) > 0 and bool(slices["path"].iloc[0]) and Path(slices["path"].iloc[0]).is_file()


def sample(slices: pd.DataFrame, per_scan: int = 8) -> pd.DataFrame:
    """Measure the grey values of some slices of each scan, spread evenly over it.

    Args:
        per_scan: slices to open per scan; 8 of 144 are enough to see a scan's scale.

    Returns:
        One row per opened slice: `id case scan slice`, `p1 p5 p25 p50 p75 p95 p99 p99.9`, `max` and `air`, the share
        of pixels darker than AIR times the slice's 99th percentile.

    Raises:
        ValueError: names the image that is missing or cannot be decoded.

    Cost: some milliseconds per opened slice.
    """
    groups = slices.groupby("scan")["slice"]
    number, count = groups.cumcount(), groups.transform("size")
    # The k-th of n sampled slices lies in the middle of the k-th n-th of its scan.
    chosen = (number * per_scan + count // 2) % count < per_scan
    rows = slices.loc[chosen | (count <= per_scan), ["id", "case", "scan", "slice", "path"]]
    with ThreadPoolExecutor(_THREADS) as pool:
        values = list(pool.map(_measure, rows["path"]))
    columns = [f"p{level}" for level in LEVELS] + ["max", "air"]
    table = pd.DataFrame(values, index=rows.index, columns=columns)
    return pd.concat([rows.drop(columns="path"), table], axis=1).reset_index(drop=True)


def by_scan(samples: pd.DataFrame) -> pd.DataFrame:
    """Summarise the sampled slices of each scan.

    Args:
        samples: rows of `sample`.

    Returns:
        Indexed by scan: `slices` sampled, `median` (of the slices' medians), `p99` (median over slices), `max`, `hot`
        = max / p99, the brightness of the scan's brightest spot relative to its tissue, `uneven` = the brightest
        slice's p99 over the darkest one's within the middle half of the scan, and `air`, the mean share of air.
    """
    groups = samples.groupby("scan", sort=False)
    table = pd.DataFrame({"slices": groups.size(), "median": groups["p50"].median(), "p99": groups["p99"].median()})
    table["max"] = groups["max"].max()
    table["hot"] = table["max"] / table["p99"].clip(lower=1)
    position = groups.cumcount() / groups["slice"].transform("size")
    middle = samples[(position >= 0.25) & (position < 0.75)].groupby("scan")["p99"]
    table["uneven"] = middle.max() / middle.min().clip(lower=1)
    table["air"] = groups["air"].mean()
    return table


def _measure(path: str) -> tuple[float, ...]:
    """Percentiles, maximum and share of air of one slice."""
    picture = inputs.read_picture(path)
    levels = np.percentile(picture, LEVELS)
    bright = levels[LEVELS.index(99)]
    return (*levels, float(picture.max()), float((picture < AIR * bright).mean()))
