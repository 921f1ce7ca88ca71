"""The anatomy of the synthetic competition."""

import numpy as np

from phantom import anatomy


def test_loops_narrow_below_the_stop_line_alone():
    line = np.stack([np.zeros(5), np.zeros(5), [-50.0, 0, 7, 26, 60]], axis=1)
    tube = anatomy._collapsed(anatomy.Tube(line, np.full(5, 10.0)))
    np.testing.assert_allclose(tube.radius, [10, 10, 10, 5, 5])


def test_days_of_a_case_move_the_bowel_more_than_the_body():
    abdomen = anatomy.case(np.random.default_rng(1))
    moved = anatomy.move(abdomen, np.random.default_rng(2))
    bowel = np.linalg.norm(moved.tubes["small_bowel"].points - abdomen.tubes["small_bowel"].points, axis=1)
    kidneys = np.linalg.norm((moved.solids["kidneys"] - abdomen.solids["kidneys"])[:, :3], axis=1)
    assert np.median(bowel) > np.median(kidneys)
    assert moved.width == abdomen.width


def test_no_motion_leaves_the_centre_lines_of_inner_organs():
    abdomen = anatomy.case(np.random.default_rng(1))
    moved = anatomy.move(abdomen, np.random.default_rng(2), share=0.0)
    np.testing.assert_allclose(moved.solids["liver"], abdomen.solids["liver"])
    np.testing.assert_allclose(moved.tubes["stomach"].radius, abdomen.tubes["stomach"].radius)
