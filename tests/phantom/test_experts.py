"""The annotations of the synthetic competition."""

import numpy as np

from kitlib.contest import ORGANS
from phantom import experts


def test_organs_are_contiguous_and_bowels_end_together(scan):
    filled = scan[1].any(axis=(1, 2))
    for channel in range(len(ORGANS)):
        rows = np.flatnonzero(filled[:, channel])
        assert len(rows) > 3
        assert np.array_equal(rows, np.arange(rows[0], rows[-1] + 1))
    ends = [np.flatnonzero(filled[:, channel])[-1] for channel in range(3)]
    assert ends[0] == ends[1] > ends[2]


def test_tidy_outline_has_no_specks_and_no_small_holes():
    mask = np.zeros((40, 50), bool)
    mask[5:25, 5:25] = True
    mask[10:12, 10:12] = False
    mask[30:32, 40:43] = True
    tidied = experts.tidy(mask, hole_px=10)
    expected = np.zeros_like(mask)
    expected[5:25, 5:25] = True
    np.testing.assert_array_equal(tidied, expected)
    assert not experts.tidy(mask, hole_px=3)[10, 10]


def test_principal_pieces_stay_and_crumbs_go():
    distance = np.full((9, 20, 20), 5.0, np.float32)
    distance[2:7, 2:12, 2:12] = -2
    distance[3:5, 16:18, 16:18] = -2
    kept = experts.principal(distance, share=0.1)
    assert (kept[2:7, 2:12, 2:12] < 0).all()
    assert not (kept[:, 14:, 14:] < 0).any()


def test_longest_run_of_slices_is_kept():
    masks = np.zeros((8, 5, 5, 1), bool)
    masks[[0, 1, 3, 4, 5]] = True
    kept = experts.contiguous(masks)[..., 0].any(axis=(1, 2))
    np.testing.assert_array_equal(np.flatnonzero(kept), [3, 4, 5])
