"""From anatomy to voxels."""

import numpy as np

from phantom import anatomy, cohort, files, geometry


def test_painted_tube_equals_the_brute_force_distance():
    rng = np.random.default_rng(0)
    tube = anatomy.Tube(rng.uniform(8, 24, (6, 3)), rng.uniform(3, 6, 6))
    grid = geometry.Raster((11, 13, 17), (3.0, 2.5, 2.0), (0.0, 0.0, 0.0))
    distance, nearest = geometry.paint(tube, grid)
    z, y, x = np.meshgrid(*(axis.ravel() for axis in grid.axes()), indexing="ij")
    voxels = np.stack([x, y, z], axis=-1)[..., None, :]
    slow = np.linalg.norm(voxels - tube.points, axis=-1) - tube.radius
    near = slow.min(axis=-1) < 6
    np.testing.assert_allclose(distance[near], slow.min(axis=-1)[near], atol=1e-4)
    np.testing.assert_array_equal(nearest[near], slow.argmin(axis=-1)[near])
    assert not np.allclose(distance[near], slow.max(axis=-1)[near])  # the comparison can fail


def test_organs_never_share_a_voxel():
    scan = cohort.plan(2, seed=4, days=1, slices=24, sizes=[(61, 67)])[0]
    grid, _ = files.raster_of(scan)
    distances, _ = geometry.organs(anatomy.move(anatomy.case(scan.rng()), scan.rng(0, 2)), grid)
    inside = np.stack([distance < 0 for distance in distances.values()])
    assert inside.any(axis=(1, 2, 3)).all()
    assert inside.sum(axis=0).max() == 1


def test_stretched_field_keeps_a_constant_and_runs_along_each_axis():
    shape = (7, 11, 13)
    np.testing.assert_allclose(geometry.stretch(np.full((3, 4, 5), 2.5), shape), 2.5)
    ramp = geometry.stretch(np.broadcast_to(np.arange(3.0)[:, None, None], (3, 4, 5)), shape)
    np.testing.assert_allclose(ramp, np.broadcast_to(ramp[:, :1, :1], shape))
    assert (np.diff(ramp[:, 0, 0]) >= 0).all()
