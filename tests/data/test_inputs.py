import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitlib.data import boxes, inputs
from kitlib.data.inputs import InputSpec


def disc(shape, centre, radius):
    rows, columns = np.indices(shape)
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def test_record_survives_json():
    spec = InputSpec(height=96, width=160, depth=3, stride=2, low=0.5, high=99.5)
    assert InputSpec.from_json(spec.to_json()) == spec


def test_a_volume_has_any_depth_and_an_entry_that_others_lack():
    spec = InputSpec(height=96, depth=32, volume=True)
    assert InputSpec.from_json(spec.to_json()) == spec
    assert (spec.shape, spec.labelled) == ((96, 128, 32), (96, 128, 32))
    assert "volume" not in InputSpec().to_json()
    assert InputSpec().labelled == (128, 128)
    with pytest.raises(ValueError, match="stride=2: a volume has all slices"):
        InputSpec(stride=2, volume=True)
    with pytest.raises(ValueError, match="volume=1: expected True or False"):
        InputSpec(volume=1)


def test_unknown_field_is_named():
    with pytest.raises(ValueError, match="no field colour"):
        InputSpec.from_json('{"height": 64, "colour": 1}')


@pytest.mark.parametrize("wrong", [{"height": 0}, {"width": 1.5}, {"depth": 4}, {"stride": -1}, {"low": 99, "high": 1}])
def test_bad_field_is_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        InputSpec(**wrong)


@pytest.mark.parametrize("scale", [1, 7])
def test_scale_of_the_scanner_does_not_matter(scale):
    scan = np.random.default_rng(0).integers(0, 900, (3, 40, 60)).astype(np.uint16)
    spec = InputSpec(20, 30)
    np.testing.assert_allclose(inputs.prepare(scan * scale, spec), inputs.prepare(scan, spec), atol=1e-5)


def test_prepared_values_lie_between_zero_and_the_ceiling():
    scan = np.random.default_rng(0).exponential(500, (3, 40, 60)).astype(np.uint16)
    prepared = inputs.prepare(scan, InputSpec(40, 60, ceiling=1.5))
    assert prepared.dtype == np.float32
    assert prepared.shape == scan.shape
    assert prepared.min() == 0
    assert prepared.max() == 1.5


def test_flat_scan_becomes_zeros():
    assert not inputs.prepare(np.full((2, 8, 8), 300, np.uint16), InputSpec(4, 4)).any()


@pytest.mark.parametrize("shape", [(310, 360), (266, 266), (61, 47), (128, 128)])
def test_disc_comes_back_where_it_was(shape):
    centre, radius = (shape[0] * 0.4, shape[1] * 0.6), 0.2 * min(shape)
    mask = disc(shape, centre, radius)
    grid = inputs.prepare_masks(mask[None], InputSpec())
    back = inputs.restore(grid[..., None].astype(np.float32), shape, InputSpec())[0, ..., 0] >= 0.5
    assert (mask & back).sum() / (mask | back).sum() > 0.95
    there = np.array([index.mean() for index in np.nonzero(back)])
    here = np.array([index.mean() for index in np.nonzero(mask)])
    np.testing.assert_allclose(there, here, atol=0.4)


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 90), st.integers(8, 90))
def test_restored_size_is_exact(height, width):
    back = inputs.restore(np.ones((2, 16, 24, 3), np.float32), (height, width), InputSpec(16, 24))
    assert back.shape == (2, height, width, 3)
    np.testing.assert_allclose(back, 1, atol=1e-6)


def test_grid_of_the_same_size_changes_nothing():
    probabilities = np.random.default_rng(0).random((2, 16, 24, 3)).astype(np.float32)
    np.testing.assert_array_equal(inputs.restore(probabilities, (16, 24), InputSpec(16, 24)), probabilities)


def test_slices_are_loaded_as_they_lie(slices):
    rows = slices[slices["scan"] == slices["scan"].iloc[0]]
    scan = inputs.load(rows["path"].tolist())
    assert scan.dtype == np.uint16
    assert scan.shape == (len(rows), rows["height"].iloc[0], rows["width"].iloc[0])
    np.testing.assert_array_equal(scan[1], cv2.imread(rows["path"].iloc[1], cv2.IMREAD_UNCHANGED))


def test_unreadable_slices_are_named(tmp_path):
    good, short, colour, other = (tmp_path / f"{name}.png" for name in ("good", "short", "colour", "other"))
    cv2.imwrite(str(good), np.zeros((5, 7), np.uint16))
    short.write_bytes(good.read_bytes()[:40])
    cv2.imwrite(str(colour), np.zeros((5, 7, 3), np.uint8))
    cv2.imwrite(str(other), np.zeros((7, 5), np.uint16))
    for bad, reason in ((short, "cannot be decoded"), (colour, "16-bit grey"), (other, "is 7x5")):
        with pytest.raises(ValueError, match=reason) as error:
            inputs.load([good, bad])
        assert bad.name in str(error.value)
    with pytest.raises(ValueError, match="paths is empty"):
        inputs.load([])


def test_altered_truncated_and_other_files_are_found(tmp_path):
    path = tmp_path / "slice.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 9999, (40, 50)).astype(np.uint16))
    data = path.read_bytes()
    assert inputs.read_picture(path).shape == (40, 50)
    wrong = [data[:cut] for cut in (0, 7, 30, 60, len(data) // 2, len(data) - 13)]
    for index in (1, 18, 30, data.index(b"IDAT") + 20, len(data) // 2, len(data) - 20):
        wrong.append(data[:index] + bytes([data[index] ^ 64]) + data[index + 1 :])
    wrong.append(cv2.imencode(".jpg", np.zeros((40, 50), np.uint8))[1].tobytes())
    for spoiled in wrong:
        path.write_bytes(spoiled)
        with pytest.raises(ValueError, match=r"slice\.png: cannot be decoded: .*; copy the file again"):
            inputs.read_picture(path)
    with pytest.raises(ValueError, match=r"nothing\.png: cannot be read"):
        inputs.read_picture(tmp_path / "nothing.png")


@pytest.mark.parametrize("wrong", [{"height": True}, {"width": "64"}, {"low": "1"}, {"ceiling": None}])
def test_values_of_another_kind_are_named(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"InputSpec {name}={value!r}: expected a"):
        inputs.InputSpec(**wrong)


BOX = InputSpec(24, 36, box_mm=(-18.0, 6.0, -18.0, 18.0))  # at 1 mm a pixel of the grid is a pixel of the slice


def test_a_box_survives_json_and_its_absence_writes_what_it_always_did():
    assert InputSpec.from_json(BOX.to_json()) == BOX
    assert isinstance(InputSpec.from_json(BOX.to_json()).box_mm, tuple)
    plain = '{"height": 128, "width": 128, "depth": 5, "stride": 1, "low": 1.0, "high": 99.0, "ceiling": 2.0}'
    assert InputSpec().to_json() == plain
    assert InputSpec.from_json(plain) == InputSpec()


@pytest.mark.parametrize(
    "wrong", [(1, 2, 3), [-9, 9, -9, 9], (-9, 9, "-9", 9), (9, -9, -9, 9), (-9, 9, 5, 5), (-9, float("inf"), -9, 9)]
)
def test_a_box_that_is_none_is_named(wrong):
    with pytest.raises(ValueError, match=r"InputSpec box_mm=.*: expected"):
        InputSpec(box_mm=wrong)


@pytest.mark.parametrize(
    "call",
    [
        lambda: inputs.prepare(np.zeros((1, 40, 60), np.uint16), BOX),
        lambda: inputs.prepare_masks(np.zeros((1, 40, 60), bool), BOX),
        lambda: inputs.restore(np.zeros((1, 24, 36, 3), np.float32), (40, 60), BOX),
    ],
)
def test_a_box_without_the_spacing_is_an_error(call):
    with pytest.raises(ValueError, match=r"needs the pixel spacing of the scan, got spacing_mm=None"):
        call()


def test_probabilities_of_another_grid_are_refused():
    with pytest.raises(ValueError, match=r"\(D, 24, 36, C\), the grid of the spec"):
        inputs.restore(np.zeros((1, 36, 24, 3), np.float32), (40, 60), BOX, 1.0)


def test_a_box_inside_the_slice_is_its_crop_with_percentiles_of_the_whole_scan():
    scan = np.random.default_rng(0).integers(0, 900, (3, 40, 60)).astype(np.uint16)
    scan[:, :2] = 5000  # outside the box
    whole = inputs.prepare(scan, InputSpec(40, 60))
    np.testing.assert_array_equal(inputs.prepare(scan, BOX, 1.0), whole[:, 2:26, 12:48])
    masks = scan[..., None] > np.array([200, 400, 600])
    np.testing.assert_array_equal(inputs.prepare_masks(masks, BOX, 1.0), masks[:, 2:26, 12:48])


def test_outside_the_slice_a_box_is_zero():
    scan = np.random.default_rng(0).integers(500, 900, (2, 20, 30)).astype(np.uint16)
    prepared = inputs.prepare(scan, BOX, 1.0)
    inside = np.zeros((24, 36), bool)
    inside[8:24, 3:33] = True  # row 0 of the slice is row 8 of the box, its column 0 is column 3
    assert np.abs(prepared[:, ~inside]).max() < 1e-6
    np.testing.assert_array_equal(prepared[:, inside], inputs.prepare(scan, InputSpec(20, 30))[:, :16].reshape(2, -1))
    assert inputs.prepare_masks(np.ones((2, 20, 30), bool), BOX, 1.0)[0].tolist() == inside.tolist()


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(8, 60), st.integers(8, 60)),
    st.tuples(st.integers(-50, 20), st.integers(1, 60), st.integers(-50, 20), st.integers(1, 60)),
    st.sampled_from([0.8, 1.0, 1.5, 1.63]),
)
def test_restoring_pastes_the_box_back_exactly(shape, place, spacing_mm):
    """On a grid of the crop's own size nothing is resized: what went in comes out, and the rest is 0."""
    top, down, left, across = place
    box = (top, top + down, left, left + across)
    first_row, end_row, first_column, end_column = boxes.window(box, shape, spacing_mm)
    spec = InputSpec(end_row - first_row, end_column - first_column, box_mm=box)
    masks = np.random.default_rng(1).random((2, *shape, 3)) < 0.5
    grid = inputs.prepare_masks(masks, spec, spacing_mm).astype(np.float32)
    back = inputs.restore(grid, shape, spec, spacing_mm)
    assert back.dtype == np.float32
    inside = np.zeros(shape, bool)
    inside[max(first_row, 0) : max(end_row, 0), max(first_column, 0) : max(end_column, 0)] = True
    np.testing.assert_array_equal(back, masks & inside[..., None])


@pytest.mark.parametrize(("shape", "spacing_mm"), [((310, 360), 1.5), ((266, 266), 1.5), ((276, 276), 1.63)])
def test_a_disc_in_the_box_comes_back_where_it_was_and_has_one_size_on_the_grid(shape, spacing_mm):
    spec = InputSpec(256, 384, box_mm=(-185.0, 72.0, -202.0, 192.0))
    centre = shape[0] / 2 - 0.5 - 60 / spacing_mm, shape[1] / 2 - 0.5 + 40 / spacing_mm  # 60 mm up, 40 mm right
    mask = disc(shape, centre, 45 / spacing_mm)
    grid = inputs.prepare_masks(mask[None], spec, spacing_mm)
    back = inputs.restore(grid[..., None].astype(np.float32), shape, spec, spacing_mm)[0, ..., 0] >= 0.5
    assert (mask & back).sum() / (mask | back).sum() > 0.97
    assert grid.sum() == pytest.approx(np.pi * 45**2 * (256 / 257) * (384 / 394), rel=0.02)
    there = np.array([index.mean() for index in np.nonzero(grid[0])]) + 0.5
    np.testing.assert_allclose(there, [(185 - 60) * 256 / 257, (202 + 40) * 384 / 394], atol=1.0)


def test_a_prior_adds_four_channels_and_is_in_the_record_only_where_there_is_one():
    spec = InputSpec(96, 160, prior=True)
    assert spec.shape == (96, 160, 9)
    assert InputSpec(96, 160).shape == (96, 160, 5)
    assert InputSpec.from_json(spec.to_json()) == spec
    assert "prior" not in InputSpec(96, 160).to_json()
    with pytest.raises(ValueError, match="prior=1: expected True or False"):
        InputSpec(prior=1)
    with pytest.raises(ValueError, match="a prior goes with a stack"):
        InputSpec(prior=True, volume=True)
