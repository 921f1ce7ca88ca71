"""Every reading of the rules against its letter."""

import numpy as np
import pytest
from scipy.spatial.distance import directed_hausdorff

from kitlib.scoring import conventions, metric
from tests.scoring.volumes import CUBE, EMPTY, PAIRS, random_scans, reference_hausdorff, tables


def reference_score(truth, prediction, convention):
    """Score lists of (D, H, W, organs) masks, one per scan, by the letter of a convention."""
    dices, distances = [], []
    for one, other in zip(truth, prediction, strict=True):
        for z, organ in np.ndindex(len(one), one.shape[-1]):
            g, p = one[z, ..., organ], other[z, ..., organ]
            if not g.any() and not p.any():
                dices.append({"page": 0.0, "ones": 1.0, "slicewise": 1.0}.get(convention))
            elif not g.any() and convention == "slicewise":
                dices.append(None)
            else:
                dices.append(2 * (g & p).sum() / (g.sum() + p.sum()))
            if convention == "slicewise":
                distances.append(slice_distance(g, p))
        if convention == "union":
            distances.append(reference_hausdorff(one.any(axis=-1), other.any(axis=-1)))
        if convention in ("host", "ones", "page"):
            for organ in range(one.shape[-1]):
                g, p = one[..., organ], other[..., organ]
                page = convention == "page"
                distance = reference_hausdorff(g, p, directed=page)
                both = g.any() and p.any()
                distances.append(min(1.0, distance * 3**0.5) if page and both else distance)
    dice = np.mean([value for value in dices if value is not None])
    return 0.4 * dice + 0.6 * (1 - np.nanmean(distances))


def slice_distance(truth, prediction):
    """Pixels from prediction to truth over the slice's diagonal."""
    if truth.any() and prediction.any():
        return directed_hausdorff(np.argwhere(prediction), np.argwhere(truth))[0] / np.hypot(*truth.shape)
    return float(truth.any() or prediction.any())


@pytest.mark.parametrize("name", conventions.CONVENTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_convention_agrees_with_the_readable_reference(name, seed):
    truth, prediction = random_scans(seed)
    found = metric.score(*tables(truth, prediction), convention=name)
    assert found.value == pytest.approx(reference_score(truth, prediction, name), abs=1e-9)


@pytest.mark.parametrize("name", conventions.CONVENTIONS)
def test_convention_agrees_with_the_readable_reference_on_every_shape(name):
    """A scan per pair of shapes: the pair, an organ that neither side holds, and one that a side in turn lacks."""
    pairs, lacking = PAIRS.values(), (EMPTY, CUBE)
    truth = [np.stack([one, EMPTY, lacking[k % 2]], axis=-1) for k, (one, _) in enumerate(pairs)]
    prediction = [np.stack([other, EMPTY, lacking[1 - k % 2]], axis=-1) for k, (_, other) in enumerate(pairs)]
    found = metric.score(*tables(truth, prediction), convention=name)
    assert found.value == pytest.approx(reference_score(truth, prediction, name), abs=1e-9)


@pytest.mark.parametrize(
    ("name", "empty", "expected"),
    [
        ("host", "both", (None, None)),
        ("host", "prediction", (0, 1)),
        ("host", "truth", (0, 1)),
        ("page", "both", (0, None)),
        ("page", "prediction", (0, 1)),
        ("page", "truth", (0, 1)),
        ("ones", "both", (1, None)),
        ("ones", "prediction", (0, 1)),
        ("ones", "truth", (0, 1)),
        ("slicewise", "both", (1, 0)),
        ("slicewise", "prediction", (0, 1)),
        ("slicewise", "truth", (None, 1)),
        ("union", "both", (None, None)),
        ("union", "prediction", (0, 1)),
        ("union", "truth", (0, 1)),
    ],
)
def test_what_empty_masks_count(name, empty, expected):
    """Dice and distance of a scan of one slice, on which one side or both are empty; None where nothing counts."""
    masks = [[np.full((1, 4, 6, 3), empty not in (side, "both"))] for side in ("truth", "prediction")]
    found = metric.score(*tables(*masks), convention=name)
    for value, wanted in zip((found.dice, found.hausdorff), expected, strict=True):
        assert np.isnan(value) if wanted is None else value == wanted


def test_panel_agrees_with_score_and_shows_what_a_perfect_file_gets():
    truth, prediction = random_scans()
    rows, predicted, slices = tables(truth, prediction)
    panel = metric.panel(rows, predicted, slices)
    perfect = rows.rename(columns={"segmentation": "predicted"})
    for name, line in panel.iterrows():
        assert line["value"] == pytest.approx(metric.score(rows, predicted, slices, name).value, abs=1e-12)
        assert line["perfect"] == pytest.approx(metric.score(rows, perfect, slices, name).value, abs=1e-12)
        assert line["perfect"] == pytest.approx(reference_score(truth, truth, name), abs=1e-12)
    assert panel.loc["page", "perfect"] < 1
    assert panel.loc["host", "perfect"] == 1


def test_an_unknown_convention_lists_the_known_ones():
    with pytest.raises(ValueError, match="'kaggle'; choose one of host, page, ones, slicewise, union"):
        metric.score(*tables(*random_scans()), convention="kaggle")
