"""The box in mm: its pixels, its measure from runs, and what is suggested for it."""

import time

import numpy as np
import pandas as pd
import pytest

from kitlib import contest, rle
from kitlib.data import boxes, inputs, scans


def table(*masks, spacing_mm=1.5):
    """A slice per mask (H, W), which is the stomach's."""
    rows = [
        {"id": f"case1_day0_slice_{z:04d}", "scan": "case1_day0", "height": mask.shape[0], "width": mask.shape[1]}
        | {"spacing_mm": spacing_mm, "large_bowel": "", "small_bowel": "", "stomach": rle.encode(mask)}
        for z, mask in enumerate(masks, 1)
    ]
    return pd.DataFrame(rows)


def block(shape, rows, columns):
    mask = np.zeros(shape, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def test_the_window_counts_pixels_that_the_box_covers_in_part():
    assert boxes.window(None, (10, 12), None) == (0, 10, 0, 12)
    assert boxes.window((-2, 2, -2, 2), (10, 13), 1.0) == (3, 7, 4, 9)
    assert boxes.window((-2.1, 2, -2, 2), (10, 12), 1.0) == (2, 7, 4, 8)
    assert boxes.window((-30, 30, -30, 30), (10, 12), 1.5) == (-15, 25, -14, 26)


def test_the_box_holds_the_edges_of_every_mask_of_every_size():
    small = table(block((20, 30), (4, 9), (10, 12)), block((20, 30), (5, 6), (13, 20)), spacing_mm=2.0)
    large = table(block((60, 40), (29, 44), (20, 21)), spacing_mm=1.0)
    both = pd.concat([small, large], ignore_index=True)
    assert boxes.box_for(small, 0) == (-12, -2, -10, 10)
    assert boxes.box_for(large, 0) == (-1, 14, 0, 1)
    assert boxes.box_for(both, 0) == (-12, 14, -10, 10)
    assert boxes.box_for(both) == (-32, 34, -30, 30)
    assert boxes.box_for(table(block((9, 9), (2, 3), (2, 3)), spacing_mm=1.63), 0) == (-5, -2, -5, -2)


def test_a_run_over_the_end_of_a_row_has_both_edges():
    one = table(block((10, 10), (0, 0), (0, 0)), spacing_mm=1.0).assign(stomach="18 5")  # columns 7 to 9, 0 and 1
    assert boxes.box_for(one, 0) == (-4, -2, -5, 5)


def test_no_mask_pixel_is_lost_in_the_measured_box(slices):
    spec_box = boxes.box_for(slices, 0)
    for _, rows in slices.groupby("scan"):
        masks, spacing_mm = scans.masks(rows), scans.spacing_mm(rows)
        top, bottom, left, right = boxes.window(spec_box, masks.shape[1:3], spacing_mm)
        spec = inputs.InputSpec(bottom - top, right - left, box_mm=spec_box)
        assert inputs.prepare_masks(masks, spec, spacing_mm).sum() == masks.sum()


def test_a_table_without_masks_and_a_malformed_mask_are_named():
    with pytest.raises(ValueError, match="the 1 slices have no mask"):
        boxes.box_for(table(np.zeros((4, 4), bool)))
    with pytest.raises(ValueError, match="case1_day0_slice_0001 stomach: run-length text '15 4'"):
        boxes.box_for(table(np.zeros((4, 4), bool)).assign(stomach="15 4"))


def test_share_is_of_the_area_in_the_slices():
    two = table(np.zeros((20, 30), bool), np.zeros((20, 10), bool), spacing_mm=1.0)
    assert boxes.share((-5, 5, -10, 10), two) == pytest.approx((200 + 100) / (600 + 200))


def test_advice_names_box_share_and_grid():
    said = boxes.advice(table(block((310, 360), (45, 190), (60, 300))))
    assert said.startswith("box_mm=(-185, 73, -200, 200) holds every mask with a margin of 20 mm: 258 x 400 mm, ")
    assert said.endswith("A grid of 256 x 384 pixels gives it 1.01 x 1.04 mm a pixel.")


def test_the_thirteen_exact_scans_have_their_measured_box_and_a_full_table_takes_seconds(real):
    index = scans.read(real, "test", index=real / "slices.csv.gz")
    rows = pd.read_csv(real / "masks.csv", dtype=str, keep_default_na=False)
    exact = scans.with_masks(index[index["id"].isin(rows["id"])], rows)
    assert exact["scan"].nunique() == 13
    # 54 and 174 are the far edges of the last pixels; those pixels begin at 52.5 and 172.5
    assert boxes.box_for(exact, 0) == (-165, 54, -182, 174)
    assert boxes.box_for(exact) == (-185, 74, -202, 194)
    assert boxes.grid_for(boxes.box_for(exact)) == (256, 384)
    texts = np.resize(exact[list(contest.ORGANS)].to_numpy(), (len(index), len(contest.ORGANS)))
    full = index.copy()
    full[list(contest.ORGANS)] = texts
    full[["height", "width", "spacing_mm"]] = np.resize(exact[["height", "width", "spacing_mm"]], (len(index), 3))
    full[["height", "width"]] = full[["height", "width"]].astype(int)
    start = time.process_time()
    assert boxes.box_for(full, 0) == (-165, 54, -182, 174)
    assert time.process_time() - start < 5
