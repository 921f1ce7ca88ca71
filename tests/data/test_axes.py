import numpy as np
import pytest

from kitlib.data import axes, inputs, pipeline, scans

SPECS = [inputs.InputSpec(32, 24, depth=3, stride=2, axis=axis, length=length) for axis in "yx" for length in (32, 8)]


@pytest.fixture(scope="module")
def packed(slices, tmp_path_factory):
    return pipeline.pack(slices, inputs.InputSpec(32, 24), tmp_path_factory.mktemp("packed"))


def batches(dataset, count):
    return [{key: value.numpy() for key, value in batch.items()} for batch in dataset.take(count)]


@pytest.mark.parametrize("axis", inputs.AXES)
def test_turn_and_back_is_the_identity(axis):
    volume = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    np.testing.assert_array_equal(axes.turn_back(axes.turn(volume, axis), axis), volume)
    assert axes.turn(volume, axis).shape[0] == dict(zip("zyx", (2, 3, 4), strict=True))[axis]


def test_places_are_the_stacks_of_one_scan(slices):
    rows = slices[slices["scan"] == slices["scan"].iloc[0]]
    spec = inputs.InputSpec(depth=5, stride=2)
    np.testing.assert_array_equal(axes.places(len(rows), spec), scans.stacks(rows, 5, 2))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.axis}{spec.length}")
def test_every_picture_is_cut_out_of_its_scan_with_its_neighbours(packed, slices, spec):
    own = packed.restacked(spec)
    assert own.images is packed.images
    name = slices["scan"][scans.organ_count(slices) > 0].mode()[0]
    rows = slices[slices["scan"] == name]
    images, masks = packed.images[rows.index], packed.truth(rows)
    pad = [(0, max(spec.length - len(rows), 0)), (0, 0), (0, 0)]
    pictures = axes.turn(np.pad(images, pad)[: spec.length], spec.axis)
    labels = axes.turn(np.pad(masks, [*pad, (0, 0)])[: spec.length], spec.axis)
    found = batches(pipeline.dataset(rows, spec, 5, False, packed=own), 100)
    stacks, shown, weight = (np.concatenate([batch[key] for batch in found]) for key in ("images", "masks", "weight"))
    count = spec.height if spec.axis == "y" else spec.width
    assert weight.sum() == count == len(pictures)
    assert stacks.shape[1:] == spec.shape
    near = np.clip(np.arange(count)[:, None] + [-2, 0, 2], 0, count - 1)
    np.testing.assert_array_equal(stacks[:count], pictures[near].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(shown[:count], labels)
    assert labels.any()


@pytest.mark.parametrize("axis", "yx")
def test_training_draws_pictures_with_organs_and_the_share_of_others(packed, slices, axis):
    spec = inputs.InputSpec(32, 24, axis=axis, length=32)
    filled = scans.organ_count(slices) > 0
    everything = axes.pictures(slices, packed.slices, packed.masks, spec)
    assert len(everything) == slices["scan"].nunique() * (32 if axis == "y" else 24)

    def has_organ(pictures):
        turned = {
            rows[0]: axes.turn(packed.masks[rows[0] : rows[-1] + 1] > 0, axis).any(axis=(1, 2))
            for rows in slices.groupby("scan", sort=False).indices.values()
        }
        return np.array([turned[first][place] for first, _, place in pictures])

    organs = has_organ(everything).sum()
    for empty_share in (0.0, 0.5, 1.0):
        kept = filled | (np.random.default_rng(1).random(len(slices)) < empty_share)
        found = has_organ(axes.pictures(slices[kept], packed.slices, packed.masks, spec, seed=3))
        assert found.sum() == organs
        drawn = (kept & ~filled).sum() / (~filled).sum() * (len(everything) - organs)
        assert (~found).sum() == pytest.approx(drawn, abs=3 * np.sqrt(drawn) * (empty_share < 1))


def test_pictures_are_drawn_alike_where_a_scan_has_fewer_of_them_than_slices(slices):
    spec = inputs.InputSpec(4, 32, depth=1, axis="y", length=32)
    own = pipeline.pack(slices, spec)
    scans_of = np.zeros(slices["scan"].nunique(), int)
    for batch in batches(pipeline.dataset(slices, spec, 4, True, packed=own), 25 * (len(slices) // 4)):
        for stack in batch["images"][..., 0]:
            for number, rows in enumerate(slices.groupby("scan", sort=False).indices.values()):
                scan = own.images[rows].astype(np.float32)
                scans_of[number] += any((scan[:, place] == stack[: len(rows)]).all() for place in range(4))
    pictures = axes.pictures(slices, own.slices, own.masks, spec)[:, 0]
    expected = np.unique(pictures, return_counts=True)[1] / len(pictures) * scans_of.sum()
    np.testing.assert_allclose(scans_of, expected, rtol=0.25)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.axis}{spec.length}")
def test_an_epoch_is_as_long_as_one_of_slices_and_goes_on_alike(packed, slices, spec):
    own, steps = packed.restacked(spec), pipeline.steps(slices, 4, spec)
    assert steps == len(slices) // 4
    twice = batches(pipeline.dataset(slices, spec, 4, True, packed=own, seed=2), 2 * steps)
    again = batches(pipeline.dataset(slices, spec, 4, True, packed=own, seed=2, first_epoch=1), steps)
    for batch, other in zip(twice[steps:], again, strict=True):
        for key, value in batch.items():
            np.testing.assert_array_equal(value, other[key])
    seeds = np.concatenate([batch["seed"] for batch in again])
    assert len(set(seeds)) == len(seeds)


def test_parts_of_a_long_scan_begin_anywhere(packed, slices):
    spec = inputs.InputSpec(32, 24, depth=1, axis="y", length=4)
    own = packed.restacked(spec)
    rows = slices[slices["scan"] == slices["scan"].iloc[0]]
    assert len(rows) > 4
    images, begins = packed.images[rows.index], set()
    for batch in batches(pipeline.dataset(rows, spec, 4, True, packed=own), 40):
        for stack in batch["images"][..., 0]:
            begins |= {
                begin
                for begin in range(len(rows) - 3)
                for place in range(32)
                if (images[begin : begin + 4, place] == stack).all() and stack.any()
            }
    assert begins == set(range(len(rows) - 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axis": "w"}, "axis='w': choose one of z, y, x"),
        ({"axis": "y", "volume": True}, "axis='y' and volume=True"),
        ({"axis": "x", "prior": True}, "axis='x' and prior=True"),
        ({"axis": "x", "length": 0}, "length=0: expected a whole number"),
    ],
)
def test_axes_that_do_not_go_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        inputs.InputSpec(**options)


def test_the_record_keeps_the_axis_and_only_then():
    spec = inputs.InputSpec(64, 96, axis="x", length=96)
    assert inputs.InputSpec.from_json(spec.to_json()) == spec
    assert "axis" not in inputs.InputSpec().to_json()
    assert "length" not in inputs.InputSpec().to_json()
