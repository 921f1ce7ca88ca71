"""Grey values of sampled slices against the files, read by another library."""

import numpy as np
import pytest
from PIL import Image

from kitlib.eda import intensities


def test_grey_values_are_those_of_the_files(slices):
    samples = intensities.sample(slices, 3)
    counts = slices.groupby("scan").size().clip(upper=3)
    assert samples.groupby("scan").size().to_dict() == counts.to_dict()
    row = samples.iloc[4]
    path = slices.loc[slices["id"] == row["id"], "path"].iloc[0]
    with Image.open(path) as picture:
        values = np.array(picture)
    assert row["max"] == values.max()
    assert row["p50"] == np.median(values)
    assert row["p99"] == np.percentile(values, 99)
    assert row["air"] == pytest.approx((values < 0.05 * row["p99"]).mean())
    table = intensities.by_scan(samples)
    assert table.loc[row["scan"], "max"] == samples.loc[samples["scan"] == row["scan"], "max"].max()


def test_a_missing_image_is_named(slices):
    with pytest.raises(ValueError, match=r"nowhere\.png"):
        intensities.sample(slices.iloc[:1].assign(path="nowhere.png"))


def test_tables_without_images_say_so(slices):
    assert intensities.has_images(slices)
    assert not intensities.has_images(slices.assign(path=""))
    assert not intensities.has_images(slices.iloc[:0])
