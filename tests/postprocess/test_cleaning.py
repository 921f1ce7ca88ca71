"""Probabilities to masks: hand-made volumes, one step at a time, and laws that hold for all of them."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitlib.postprocess import cleaning, intervals
from kitlib.postprocess.cleaning import Settings


def volume(shape=(9, 12, 14), **boxes):
    """Zeros with boxes z0 z1 y0 y1 x0 x1 of a probability."""
    result = np.zeros(shape, np.float32)
    for z0, z1, y0, y1, x0, x1, value in boxes.values():
        result[z0:z1, y0:y1, x0:x1] = value
    return result


def test_all_off_is_the_plain_threshold():
    probabilities = np.random.default_rng(1).random((5, 7, 11, 3), np.float32)
    assert np.array_equal(cleaning.masks(probabilities, cleaning.PLAIN), probabilities >= 0.5)
    settings = Settings(threshold=(0.2, 0.5, 0.9))
    assert np.array_equal(cleaning.masks(probabilities, settings), probabilities >= np.float32([0.2, 0.5, 0.9]))


def test_hysteresis_keeps_what_touches_a_sure_voxel():
    probabilities = volume(sure=(1, 4, 1, 4, 1, 4, 0.4), top=(2, 3, 2, 3, 2, 3, 0.9), weak=(6, 8, 7, 9, 7, 9, 0.4))
    mask = cleaning.hysteresis(probabilities, 0.3, 0.8)
    assert mask.sum() == 27
    assert mask[1:4, 1:4, 1:4].all()


def test_gate_empties_slices_below_the_count_and_no_others():
    probabilities = volume(big=(1, 3, 0, 6, 0, 6, 0.9), small=(5, 6, 0, 2, 0, 2, 0.9))
    settings = Settings(gate_pixels=(5, 0, 0), gate_level=(0.8, 0.5, 0.5))
    mask = cleaning.organ_mask(probabilities, settings, 0)
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == [1, 2]
    assert mask.sum() == 72


def test_gate_counts_the_whole_slice_not_the_box_of_the_threshold():
    probabilities = np.zeros((1, 30, 30, 3), np.float32)
    probabilities[0, :15, :15, 2] = 0.6
    probabilities[0, 20:22, 20:22, 2] = 0.9
    settings = Settings(threshold=(0.8,) * 3, gate_pixels=(50,) * 3, gate_level=(0.5,) * 3)
    assert cleaning.masks(probabilities, settings)[..., 2].sum() == 4


def test_presence_score_of_the_model_gates_slices():
    probabilities = np.full((4, 3, 5, 3), 0.7, np.float32)
    presence = np.array([[0.9, 0.9, 0.9], [0.1, 0.9, 0.9], [0.9, 0.1, 0.9], [0.9, 0.9, 0.9]])
    mask = cleaning.masks(probabilities, Settings(presence=(0.5, 0.5, 0.0)), presence)
    assert np.array_equal(mask.any(axis=(1, 2)), [[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]])


def test_without_scores_presence_is_the_twelfth_largest_probability():
    probabilities = np.zeros((4, 6, 5, 3), np.float32)
    probabilities[:, 0, 0] = 0.6
    probabilities[1, :3, :4] = 0.7  # 12 pixels
    probabilities[2, :3, :4] = 0.7
    probabilities[2, 2, 3] = 0.3  # 11 pixels
    mask = cleaning.masks(probabilities, Settings(presence=(0.5, 0.0, 0.7)))
    filled = mask.any(axis=(1, 2)).T.tolist()
    assert filled == [[False, True, False, False], [True] * 4, [False, True, False, False]]


def column(presence, organ):
    """A table (D, 3) where one organ has the given presence and the others are surely absent."""
    table = np.full((len(presence), 3), 0.01)
    table[:, organ] = presence
    return table


INTERVAL = Settings(ends="interval")


def test_an_organ_covers_exactly_its_run_of_slices():
    probabilities = np.zeros((8, 9, 9, 3), np.float32)
    probabilities[[0, 2, 4], 2:6, 2:6] = 0.9  # a false slice before, and a gap
    presence = column([0.1, 0.2, 0.9, 0.8, 0.9, 0.8, 0.7, 0.1], 2)
    mask = cleaning.masks(probabilities, INTERVAL, presence)
    assert np.flatnonzero(mask[..., 2].any(axis=(1, 2))).tolist() == [2, 3, 4, 5, 6]
    assert np.array_equal(mask[3], mask[2])  # interpolated between two alike
    assert np.array_equal(mask[6], mask[4])  # the nearest, repeated at the end
    assert not mask[..., :2].any()  # no evidence on any slice


def test_a_run_is_filled_as_gaps_are():
    mask = volume(one=(1, 2, 4, 6, 4, 6, 1), two=(4, 5, 2, 8, 2, 8, 1)) > 0
    filled = cleaning.fill_run(mask, 0, 5)
    assert np.array_equal(filled[1:5], cleaning.fill_gaps(mask, 2)[1:5])
    assert np.array_equal(filled[[0, 5]], mask[[1, 4]])
    assert not filled[6:].any()
    assert not cleaning.fill_run(np.zeros_like(mask), 0, 5).any()


def test_a_run_beside_all_masks_repeats_the_nearest():
    mask = volume(one=(1, 2, 4, 6, 4, 6, 1), two=(2, 3, 2, 8, 2, 8, 1)) > 0
    filled = cleaning.fill_run(mask, 5, 6)
    assert np.flatnonzero(filled.any(axis=(1, 2))).tolist() == [5, 6]
    assert np.array_equal(filled[5], mask[2])


def test_offsets_shorten_a_run_and_bowels_end_together():
    probabilities = np.zeros((9, 6, 6, 3), np.float32)
    probabilities[1:8, 1:5, 1:5] = 0.9
    presence = np.array([0.1, 0.6, 0.9, 0.9, 0.9, 0.9, 0.6, 0.6, 0.1])
    presence = np.stack([presence, np.roll(presence, -2), presence], axis=1)
    for offset, stomach in ((0.0, [1, 7]), (1.0, [2, 5])):
        mask = cleaning.masks(probabilities, Settings(ends="interval", offset=(offset,) * 3), presence)
        ends = [np.flatnonzero(mask[..., organ].any(axis=(1, 2)))[[0, -1]].tolist() for organ in range(3)]
        assert ends[0][1] == ends[1][1]
        assert ends[2] == stomach


def test_a_bowel_with_evidence_stays_though_it_cannot_share_the_end():
    probabilities = np.full((9, 4, 5, 3), 0.9, np.float32)
    presence = np.full((9, 3), 0.01)
    presence[0, 1], presence[5:8, 0], presence[3, 2] = 0.9, 0.99, 0.9
    mask = cleaning.masks(probabilities, INTERVAL, presence)
    filled = [np.flatnonzero(mask[..., organ].any(axis=(1, 2))).tolist() for organ in range(3)]
    assert filled == [[5, 6, 7], [0], [3]]


def test_one_network_that_plays_both_roles_gives_its_own_ends():
    probabilities = np.zeros((9, 6, 7, 3), np.float32)
    probabilities[2:7, :4, :4] = 0.8
    probabilities[4] = 0.4
    probabilities[0, 0, :5] = 0.9  # too few pixels
    mask = cleaning.masks(probabilities, INTERVAL)
    for organ in range(3):
        assert np.flatnonzero(mask[..., organ].any(axis=(1, 2))).tolist() == [2, 3, 4, 5, 6]
    assert np.array_equal(mask, cleaning.masks(probabilities, INTERVAL, intervals.presence(probabilities)))


@given(st.integers(0, 2**31))
def test_with_a_run_every_slice_inside_is_filled_and_none_outside(seed):
    random = np.random.default_rng(seed)
    probabilities = np.kron(random.random((7, 3, 3), np.float32) ** 3, np.ones((1, 4, 4), np.float32))
    probabilities = np.repeat(probabilities[..., None], 3, axis=-1)
    presence = random.random((7, 3))
    settings = Settings(ends="interval", island=(5, 0, 0), largest=(False, False, True), offset=(0.5, 0.0, -0.5))
    mask, runs = cleaning.masks(probabilities, settings, presence), intervals.runs(presence, settings.offset)
    for organ, (first, last) in enumerate(runs):
        inside = (np.arange(7) >= first) & (np.arange(7) <= last)
        some = (probabilities[..., organ] >= 0.5).any()
        assert np.array_equal(mask[..., organ].any(axis=(1, 2)), inside & some)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gate_pixels", (0, 9, 0)),
        ("presence", (0.1, 0.0, 0.0)),
        ("smoothing", (0, 0, 1)),
        ("gap", (1, 1, 1)),
        ("stop", "mean"),
    ],
)
def test_an_interval_takes_the_place_of_other_settings(name, value):
    with pytest.raises(ValueError, match=rf"ends='interval' with {name}=.*: leave {name} at the default"):
        Settings(ends="interval", **{name: value})


def test_islands_of_a_slice_go_below_the_size_and_stay_at_it():
    mask = volume(five=(0, 1, 0, 1, 0, 5, 1), four=(0, 1, 5, 7, 5, 7, 1)) > 0
    assert cleaning.drop_islands(mask, 5).sum() == 5
    assert cleaning.drop_islands(mask, 4).sum() == 9
    assert cleaning.drop_islands(mask, 6).sum() == 0


def test_a_diagonal_neighbour_belongs_to_the_island():
    mask = np.eye(6, dtype=bool)[None]
    assert cleaning.drop_islands(mask, 6).sum() == 6


def test_largest_component_is_judged_in_3d():
    mask = volume(tall=(0, 6, 0, 2, 0, 2, 1), wide=(0, 1, 5, 9, 5, 10, 1)) > 0  # 24 and 20 voxels
    assert np.array_equal(cleaning.drop_islands_3d(mask, 0, largest=True)[..., :2], mask[..., :2])
    assert cleaning.drop_islands_3d(mask, 0, largest=True).sum() == 24
    assert cleaning.drop_islands_3d(mask, 21).sum() == 24
    assert cleaning.drop_islands_3d(mask, 20).sum() == 44


def test_smoothing_drops_a_lone_slice_and_keeps_a_run():
    mask = volume(run=(0, 4, 2, 5, 2, 5, 1), lone=(6, 7, 2, 5, 2, 5, 1)) > 0
    filled = cleaning.smooth_presence(mask, 1).any(axis=(1, 2))
    assert np.flatnonzero(filled).tolist() == [0, 1, 2, 3]


def test_gaps_up_to_the_length_are_filled_with_a_shape_between():
    mask = volume(one=(1, 2, 4, 6, 4, 6, 1), two=(4, 5, 2, 8, 2, 8, 1)) > 0
    filled = cleaning.fill_gaps(mask, 2)
    areas = filled.sum(axis=(1, 2))
    assert (areas[1], areas[4]) == (4, 36)
    assert 4 <= areas[2] < areas[3] <= 36
    assert np.array_equal(cleaning.fill_gaps(mask, 1), mask)


def test_shapes_that_do_not_meet_are_bridged_by_the_nearer_one():
    mask = volume(one=(1, 2, 0, 2, 0, 2, 1), two=(3, 4, 9, 11, 9, 11, 1)) > 0
    assert np.array_equal(cleaning.fill_gaps(mask, 1)[2], mask[1])


@pytest.mark.parametrize(("stop", "line"), [("earlier", 4), ("mean", 5), ("later", 6)])
def test_bowels_end_on_one_slice(stop, line):
    large, small = volume(a=(1, 7, 0, 3, 0, 3, 1)) > 0, volume(a=(2, 5, 5, 9, 5, 9, 1)) > 0
    one, other = cleaning.common_stop(large, small, stop)
    for mask, before in ((one, large), (other, small)):
        assert np.flatnonzero(mask.any(axis=(1, 2)))[-1] == line
        assert np.array_equal(mask[:5], before[:5])
    assert np.array_equal(other[line], small[4])


def test_stop_line_leaves_a_scan_without_small_bowel_alone():
    large = volume(a=(1, 7, 0, 3, 0, 3, 1)) > 0
    assert cleaning.common_stop(large, np.zeros_like(large), "earlier")[0] is large


@pytest.mark.parametrize(
    "fields",
    [{"seed": 0.95}, {"gate_pixels": 50}, {"island": 50}, {"island_3d": 500}, {"smoothing": 3}, {"presence": 0.9}],
    ids=str,
)
def test_no_step_takes_an_organ_away_altogether(fields):
    probabilities = np.zeros((9, 8, 8, 3), np.float32)
    probabilities[4, 2:5, 2:5] = 0.7
    settings = Settings(**{name: (value,) * 3 for name, value in fields.items()})
    found = cleaning.masks(probabilities, settings, np.full((9, 3), 0.1))
    assert np.array_equal(found, probabilities > 0.5)


def test_a_stop_line_before_an_organ_leaves_it():
    mask = volume(a=(5, 8, 0, 3, 0, 3, 1)) > 0
    assert np.array_equal(cleaning.end_on(mask, 3), mask)
    assert cleaning.last_slice(cleaning.end_on(mask, 5)) == 5


def test_a_line_moves_the_end_of_both_bowels_and_nothing_else():
    presence = np.full((9, 3), 0.1)
    presence[2:6] = 0.9
    presence[6:] = 0.4
    probabilities = np.broadcast_to(presence[:, None, None], (9, 4, 5, 3))
    settings = Settings(threshold=(0.3,) * 3, ends="interval", line_weight=2.0)

    def ends(settings, line):
        found = cleaning.masks(probabilities, settings, presence, line)
        return [cleaning.last_slice(found[..., organ]) for organ in range(3)]

    assert ends(settings, 7) == [7, 7, 5]
    assert ends(settings, 5) == ends(replace(settings, line_weight=0.0), 7) == [5, 5, 5]
    without = cleaning.masks(probabilities, replace(settings, line_weight=0.0), presence)
    assert np.array_equal(cleaning.masks(probabilities, settings, presence), without)  # no earlier day


def test_a_line_needs_an_interval():
    with pytest.raises(ValueError, match=r'line_weight=0\.5 needs ends="interval"'):
        Settings(line_weight=0.5)
    settings = Settings(ends="interval", line_weight=np.float32(0.5))
    assert Settings.from_json(settings.to_json()) == settings
    assert Settings.from_json('{"ends": "interval"}').line_weight == 0  # written before there was one


def test_settings_survive_json_and_refuse_what_they_do_not_know():
    settings = Settings(threshold=(0.3, 0.4, 0.5), largest=(False, False, True), stop="mean", gap=(1, 2, 3))
    assert Settings.from_json(settings.to_json()) == settings
    settings = Settings(ends="interval", offset=(-1.5, 0, 2.0), island=(20, 20, 20))
    assert Settings.from_json(settings.to_json()) == settings
    older = '{"threshold": [0.4, 0.5, 0.5], "smoothing": [0, 8, 0], "stop": "earlier"}'
    assert Settings.from_json(older) == Settings(threshold=(0.4, 0.5, 0.5), smoothing=(0, 8, 0), stop="earlier")
    with pytest.raises(ValueError, match="gap=3: expected a tuple with one entry per organ"):
        Settings.from_json('{"gap": 3}')
    with pytest.raises(ValueError, match="no field treshold"):
        Settings.from_json('{"treshold": [0.5, 0.5, 0.5]}')
    with pytest.raises(ValueError, match="expected a JSON object"):
        Settings.from_json("[0.5, 0.5, 0.5]")


def test_numbers_of_numpy_are_settings_too():
    settings = Settings(gap=tuple(np.arange(3)), largest=tuple(np.arange(3) > 1), threshold=(np.float32(0.5),) * 3)
    assert Settings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    "fault",
    [
        {"threshold": (0.5, 0.5)},
        {"threshold": 0.5},
        {"threshold": ("half", 0.5, 0.5)},
        {"threshold": (0.5, None, 0.5)},
        {"seed": (2, 0, 0)},
        {"presence": (0.1, float("nan"), 0.1)},
        {"gap": (-1, 0, 0)},
        {"gap": (1, 1.5, 1)},
        {"island": (20, "20", 20)},
        {"largest": (False, "no", True)},
        {"stop": "soon"},
        {"stop": 3},
        {"ends": "intervals"},
        {"ends": None},
        {"line_weight": -1.0},
        {"line_weight": (0.5, 0.5, 0.5)},
        {"line_weight": float("nan")},
        {"line_weight": True},
        {"offset": (0.0, 0.0)},
        {"offset": (0.0, float("inf"), 0.0)},
        {"offset": (0.0, float("nan"), 0.0)},
    ],
    ids=str,
)
def test_settings_name_the_field_that_is_wrong(fault):
    ((name, value),) = fault.items()
    with pytest.raises(ValueError, match=re.escape(f"Settings {name}={value!r}")):
        Settings(**fault)


def test_probabilities_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"have shape \(2, 3, 4\); expected \(D, H, W, 3\)"):
        cleaning.masks(np.zeros((2, 3, 4)), Settings())


def test_presence_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"presence has shape \(3, 3\); expected \(2, 3\)"):
        cleaning.masks(np.ones((2, 3, 4, 3)), Settings(presence=(0.5, 0, 0)), np.ones((3, 3)))


def test_probabilities_in_bytes_are_refused_and_not_all_on():
    with pytest.raises(ValueError, match=r"probabilities are uint8.*divide bytes by 255"):
        cleaning.masks(np.ones((2, 3, 4, 3), np.uint8), Settings())


@given(st.integers(0, 2**31), st.sampled_from(["island", "island_3d", "smoothing", "gate_pixels", "seed", "largest"]))
def test_taking_away_never_adds_and_twice_is_once(seed, name):
    random = np.random.default_rng(seed)
    probabilities = np.kron(random.random((4, 3, 3), np.float32), np.ones((2, 2, 3), np.float32))
    value = {"seed": 0.8, "largest": True, "smoothing": 1}.get(name, 7)
    settings = Settings(**{name: (value,) * 3})
    mask = cleaning.organ_mask(probabilities, settings, 1)
    assert not (mask & (probabilities < 0.5)).any()
    if name != "smoothing":
        again = cleaning.organ_mask(np.where(mask, probabilities, 0), settings, 1)
        assert np.array_equal(again, mask)
