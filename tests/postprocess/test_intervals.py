"""Decoding intervals: against all intervals tried one by one, on random curves, ties and edges."""

import itertools
import warnings

import numpy as np
import pytest

from kitlib.postprocess import intervals


def evidence(presence, offset):
    """Clipped logits, written out again."""
    with np.errstate(divide="ignore"):
        return np.clip(np.log(presence) - np.log(1 - presence) - offset, -12, 12)


def worth(logits, bonus, runs):
    """The objective of three runs (first, last) or (-1, -1); None where the bowels break their rule."""
    ends = {int(last) for first, last in runs[:2] if first >= 0}
    if len(ends) > 1:
        return None
    inside = sum(logits[first : last + 1, organ].sum() for organ, (first, last) in enumerate(runs) if first >= 0)
    return inside + sum(bonus[end] for end in ends)


def best(logits, bonus):
    """The largest objective, by trying all runs of every organ."""
    runs = [(-1, -1), *itertools.combinations_with_replacement(range(len(logits)), 2)]
    stomach = max(worth(logits, bonus, [(-1, -1), (-1, -1), run]) for run in runs)
    # The bowels' runs by their end, so that pairs with different ends are not even formed.
    both = [0.0]
    for end in range(len(logits)):
        ending = [(-1, -1), *[(first, end) for first in range(end + 1)]]
        both += [
            worth(logits, bonus, [a, b, (-1, -1)]) for a, b in itertools.product(ending, ending) if max(a[0], b[0]) >= 0
        ]
    return stomach + max(both)


def hold(presence, offset, bonus=None):
    found = intervals.decode(presence, offset, bonus)
    bonus = np.zeros(len(presence)) if bonus is None else np.asarray(bonus)
    logits = evidence(np.asarray(presence, float), np.asarray(offset, float))
    assert found.shape == (3, 2)
    assert found.dtype.kind == "i"
    for first, last in found:
        assert (first, last) == (-1, -1) or 0 <= first <= last < len(presence)
    value = worth(logits, bonus, found)
    assert value is not None, "the bowels end apart"
    assert value == pytest.approx(best(logits, bonus), abs=1e-9)
    return found


def curves(seed):
    """A random number of slices, curves that are noise or have a plateau, offsets, and a bonus half of the time."""
    rng = np.random.default_rng(seed)
    depth = int(rng.integers(1, 13))
    presence = rng.beta(0.5, 0.5, (depth, 3))
    for organ in range(3):
        if rng.random() < 0.5:
            first, last = sorted(rng.integers(0, depth, 2))
            presence[:, organ] = np.clip(0.15 + 0.7 * (np.arange(depth) >= first) * (np.arange(depth) <= last), 0, 1)
            presence[:, organ] = np.clip(presence[:, organ] + rng.normal(0, 0.2, depth), 0, 1)
    return presence, rng.normal(0, 1, 3), rng.normal(0, 3, depth) if rng.random() < 0.5 else None


def test_decoding_is_the_best_of_all_intervals_on_a_thousand_curves():
    absent = 0
    for seed in range(1000):
        absent += (hold(*curves(seed)) < 0).all(1).any()
    assert 100 < absent < 900, "some curves have an absent organ, some have none"


@pytest.mark.parametrize("seed", range(50))
def test_ties_reach_the_best_value_too(seed):
    rng = np.random.default_rng(seed)
    presence = rng.choice([0.25, 0.5, 0.75], (int(rng.integers(1, 10)), 3))
    hold(presence, np.zeros(3), rng.choice([-1.0, 0.0, 1.0], len(presence)))


def test_equal_values_leave_an_organ_absent():
    assert (hold(np.full((5, 3), 0.5), np.zeros(3)) == -1).all()


def test_runs_are_the_decoded_ones_unless_an_organ_with_evidence_is_missing():
    rescued = 0
    for seed in range(1000):
        presence, offset, bonus = curves(seed)
        found, decoded = intervals.runs(presence, offset, bonus), intervals.decode(presence, offset, bonus)
        logits = evidence(presence, offset)
        for organ in range(3):
            if (decoded[organ] >= 0).all() or not (logits[:, organ] > 0).any():
                assert (found[organ] == decoded[organ]).all()
            else:
                first, last = found[organ]
                sums = [logits[a : b + 1, organ].sum() for a in range(len(logits)) for b in range(a, len(logits))]
                assert logits[first : last + 1, organ].sum() == pytest.approx(max(sums))
                rescued += 1
    assert rescued > 20


@pytest.mark.parametrize("value", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_one_slice_scans(value):
    found = hold(np.full((1, 3), value), np.zeros(3))
    assert found.tolist() == [[0, 0] if value > 0.5 else [-1, -1]] * 3


def test_no_slice_at_all():
    assert intervals.decode(np.zeros((0, 3)), np.zeros(3)).tolist() == [[-1, -1]] * 3


def test_bowels_end_together_and_the_stomach_where_it_likes():
    slices = np.arange(20)
    runs = [(3, 14), (6, 12), (1, 17)]
    presence = np.stack([np.where((slices >= a) & (slices <= b), 0.9, 0.1) for a, b in runs], 1)
    found = hold(presence, np.zeros(3))
    assert found[0, 1] == found[1, 1]
    assert found[:, 0].tolist() == [3, 6, 1]
    assert found[2, 1] == 17


def test_an_empty_organ_follows_nobody():
    presence = np.full((9, 3), 0.02)
    presence[2:6, 1] = 0.95
    assert hold(presence, np.zeros(3)).tolist() == [[-1, -1], [2, 5], [-1, -1]]


def test_certain_probabilities_stay_finite():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        presence = np.repeat([[0.0], [1.0], [1.0], [0.0]], 3, axis=1)
        assert hold(presence, np.zeros(3)).tolist() == [[1, 2]] * 3


def test_a_line_draws_the_common_end_as_far_as_the_evidence_lets_it():
    presence = np.full((12, 3), 0.1)
    presence[2:7, :2] = 0.9
    presence[7:9, 0] = 0.4  # unsure: -0.4 a slice
    ends = {
        (line, weight): intervals.decode(presence, np.zeros(3), intervals.line_bonus(12, line, weight))[:, 1].tolist()
        for line in (4, 8, 40)
        for weight in (0.0, 0.5, 4.0)
    }
    assert ends[8, 0.0] == ends[4, 0.0] == [6, 6, -1]
    assert ends[8, 0.5] == [6, 6, -1]  # 2 x 0.5 against 2 x (0.4 + 2.2)
    assert ends[8, 4.0] == [8, 8, -1]
    assert ends[4, 4.0] == [6, 6, -1]  # 4 against 2 x 2.2
    assert ends[4, 0.5] == [6, 6, -1]
    assert intervals.runs(presence, np.zeros(3), intervals.line_bonus(12, 400, 4.0))[:2, 0].tolist() == [2, 2]


def test_a_larger_offset_shortens_and_a_bonus_moves_the_end():
    presence = np.repeat(np.array([0.2, 0.6, 0.9, 0.9, 0.6, 0.6, 0.2])[:, None], 3, axis=1)
    assert hold(presence, np.zeros(3))[0].tolist() == [1, 5]
    assert hold(presence, np.full(3, 1.0))[0].tolist() == [2, 3]
    assert hold(presence, np.zeros(3), [0, 0, 0, 5, 0, 0, 0]).tolist() == [[1, 3], [1, 3], [1, 5]]
    assert (hold(presence * 0.1, np.zeros(3), np.full(7, 3.0))[:2] >= 0).any(), "a bonus can outweigh weak evidence"
    assert (hold(presence, np.zeros(3), np.full(7, -99.0))[:2] == -1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((4, 2)), np.zeros(3)), r"presence has shape \(4, 2\); expected \(slices, 3\)"),
        ((np.full((4, 3), 1.5), np.zeros(3)), "presence ranges from 1.5 to 1.5"),
        ((np.full((4, 3), np.nan), np.zeros(3)), "presence ranges from nan"),
        ((np.zeros((4, 3)), np.zeros(2)), r"offset is \[0.0, 0.0\]; expected 3 numbers"),
        ((np.zeros((4, 3)), np.zeros(3), np.zeros(3)), r"bonus has shape \(3,\).* each of 4 slices"),
    ],
)
def test_wrong_tables_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        intervals.decode(*arguments)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint8])
def test_presence_reaches_a_threshold_exactly_where_twelve_pixels_do(dtype):
    rng = np.random.default_rng(4)
    probabilities = rng.random((7, 5, 11, 3)) * rng.random((7, 1, 1, 3))
    probabilities = (probabilities * (255 if dtype == np.uint8 else 1)).astype(dtype)
    found = intervals.presence(probabilities)
    assert found.shape == (7, 3)
    assert found.dtype == dtype
    for level in np.unique(probabilities):
        counted = (probabilities >= level).sum(axis=(1, 2)) >= 12
        np.testing.assert_array_equal(found >= level, counted)


def test_presence_of_a_slice_with_few_pixels_is_its_smallest():
    probabilities = np.random.default_rng(2).random((3, 2, 5, 3))
    np.testing.assert_array_equal(intervals.presence(probabilities), probabilities.min(axis=(1, 2)))
    np.testing.assert_array_equal(intervals.presence(probabilities, pixels=1), probabilities.max(axis=(1, 2)))
    assert intervals.presence(np.zeros((0, 4, 4, 3))).shape == (0, 3)


@pytest.mark.parametrize("shape", [(4, 5, 3), (2, 0, 5, 3)])
def test_presence_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"probabilities have shape .*; expected \(slices, height, width, organs\)"):
        intervals.presence(np.zeros(shape))
    with pytest.raises(ValueError, match="pixels=0: must be at least 1"):
        intervals.presence(np.zeros((2, 4, 5, 3)), pixels=0)
