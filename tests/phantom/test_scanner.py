"""The grey values of the synthetic competition."""

import cv2
import numpy as np

from phantom import cohort, files, scanner


def test_the_light_does_not_tell_where_the_annotators_stopped():
    plan = cohort.plan(8, seed=3, days=1, slices=60, sizes=[(32, 32)])
    steps = []
    for one in plan:
        images, masks = files.render(one)
        stop = int(np.flatnonzero(masks[..., 0].any(axis=(1, 2)))[-1])
        level = np.percentile(images, 90, axis=(1, 2))
        steps.append(level[stop + 1] / level[stop])
    assert 0.85 < np.median(steps) < 1.15
    assert min(steps) > 0.6


def test_organs_lie_in_the_body(scan):
    images, masks = scan
    z = int(masks.any(axis=-1).sum(axis=(1, 2)).argmax())
    body = cv2.morphologyEx((images[z] > 0.1 * images[z].max()).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((25, 25)))
    assert (body[masks[z].any(axis=-1)] == 1).mean() > 0.99


def test_soft_edge_runs_through_half_at_the_border():
    image = np.zeros((1, 3), np.float32)
    scanner._over(image, np.array([[-5.0, 0.0, 5.0]], np.float32), 2.0)
    np.testing.assert_allclose(image, [[2.0, 1.0, 0.0]])


def test_scanner_noise_never_leaves_the_sixteen_bits(scan):
    images = scan[0]
    assert images.dtype == np.uint16
    assert images.max() <= 15_865
    assert images.std(axis=(1, 2)).min() > 0
