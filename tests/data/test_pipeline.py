import os
import shutil

import cv2
import numpy as np
import pytest

from kitlib import contest, rle
from kitlib.data import inputs, pipeline, scans
from kitlib.layers.augment import Augment

SPEC = inputs.InputSpec(32, 24, depth=3, stride=2)


@pytest.fixture(scope="module")
def packed(slices):
    return pipeline.pack(slices, SPEC)


def take(dataset, count):
    return [{key: value.numpy() for key, value in batch.items()} for batch in dataset.take(count)]


def test_packed_scan_is_its_prepared_scan(packed, slices):
    for _, rows in slices.groupby("scan"):
        expected = inputs.prepare(inputs.load(rows["path"].tolist()), SPEC)
        np.testing.assert_array_equal(packed.images[rows.index], expected.astype(np.float16))


def test_new_masks_leave_the_packed_images_alone(packed, slices):
    bare = packed.remasked(slices.assign(stomach=""))
    assert bare.images is packed.images
    np.testing.assert_array_equal(bare.masks, packed.masks & 3)
    with pytest.raises(ValueError, match="packed ones in their order"):
        packed.remasked(slices.iloc[::-1])
    with pytest.raises(ValueError, match="more than depth, stride and axis"):
        packed.restacked(inputs.InputSpec(64, 64))


def test_bits_are_the_masks_of_the_organs(packed, slices):
    for row in np.flatnonzero(scans.organ_count(slices) > 1)[:3]:
        one = slices.iloc[row]
        for bit, organ in enumerate(contest.ORGANS):
            mask = rle.decode(one[organ], (one["height"], one["width"]))
            np.testing.assert_array_equal(
                packed.truth(slices.iloc[[row]])[0, ..., bit], inputs.prepare_masks(mask[None], SPEC)[0]
            )


def test_training_batch_holds_stacks_and_the_masks_of_their_middles(packed, slices):
    for batch in take(pipeline.dataset(slices, SPEC, 4, True, packed=packed), 3):
        assert batch["images"].shape == (4, 32, 24, 3)
        assert batch["images"].dtype == np.float32
        assert batch["masks"].shape == (4, 32, 24, 3)
        assert batch["masks"].dtype == np.uint8
        assert batch["seed"].dtype == np.int32
        for image, masks in zip(batch["images"], batch["masks"], strict=True):
            here = [row for row in range(len(slices)) if (packed.images[row] == image[..., 1]).all()]
            assert any(
                (packed.images[packed.stacks[row]].transpose(1, 2, 0) == image).all()
                and (packed.masks[row][..., None] >> np.arange(3) & 1 == masks).all()
                for row in here
            )


VOLUME = inputs.InputSpec(32, 24, depth=4, volume=True)


def test_training_batch_of_volumes_holds_neighbours_of_one_scan_and_the_masks_of_all(packed, slices):
    own, shown = packed.restacked(VOLUME), []
    assert own.images is packed.images
    for batch in take(pipeline.dataset(slices, VOLUME, 2, True, packed=own), 8):
        assert batch["images"].shape == (2, 32, 24, 4)
        assert (batch["masks"].shape, batch["masks"].dtype) == ((2, 32, 24, 4, 3), np.uint8)
        for image, masks in zip(batch["images"].transpose(0, 3, 1, 2), batch["masks"], strict=True):
            first = next(row for row in range(len(slices)) if (own.images[row] == image[0]).all())
            rows = slices.iloc[first : first + 4]
            assert rows["scan"].nunique() == 1
            np.testing.assert_array_equal(image, own.images[rows.index])
            np.testing.assert_array_equal(masks.transpose(2, 0, 1, 3), own.truth(rows))
            shown.append(first)
    assert len(set(shown)) > 8


def test_an_epoch_of_volumes_shows_a_slice_twice_or_so_and_draws_anew(packed, slices):
    own, steps = packed.restacked(VOLUME), pipeline.steps(slices, 2, VOLUME)
    assert steps == -(-len(slices) * 2 // 4) // 2
    seeds = [batch["seed"] for batch in take(pipeline.dataset(slices, VOLUME, 2, True, packed=own), 2 * steps)]
    whole = take(pipeline.dataset(slices, VOLUME, 2, True, packed=own, seed=3), 2 * steps)
    resumed = take(pipeline.dataset(slices, VOLUME, 2, True, packed=own, seed=3, first_epoch=1), steps)
    assert len(np.unique(np.concatenate(seeds))) == 4 * steps
    for one, again in zip(whole[steps:], resumed, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], again[key])
    with pytest.raises(ValueError, match="1 volumes do not fill a batch of 2"):
        pipeline.dataset(slices.iloc[:2], VOLUME, 2, True, packed=own)


def test_shapes_are_static(packed, slices):
    for training in (True, False):
        spec = pipeline.dataset(slices, SPEC, 4, training, packed=packed).element_spec
        assert spec["images"].shape == (4, 32, 24, 3)
        assert spec["masks"].shape == (4, 32, 24, 3)
        assert spec["seed"].shape == spec["weight"].shape == (4,)


def test_an_epoch_shows_each_slice_once_in_an_order_of_its_own(packed, slices):
    steps = pipeline.steps(slices, 4)
    seeds = [batch["seed"] for batch in take(pipeline.dataset(slices, SPEC, 4, True, packed=packed, seed=3), 2 * steps)]
    first, second = np.concatenate(seeds[:steps]), np.concatenate(seeds[steps:])
    assert len(np.unique(np.concatenate([first, second]))) == 8 * steps


def test_order_and_seeds_depend_on_run_seed_epoch_and_row_alone(packed, slices):
    steps = pipeline.steps(slices, 4)
    whole = take(pipeline.dataset(slices, SPEC, 4, True, packed=packed, seed=3), 2 * steps)
    resumed = take(pipeline.dataset(slices, SPEC, 4, True, packed=packed, seed=3, first_epoch=1), steps)
    other = take(pipeline.dataset(slices, SPEC, 4, True, packed=packed, seed=4), 1)
    for one, again in zip(whole[steps:], resumed, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], again[key])
    assert (whole[0]["seed"] != other[0]["seed"]).any()


def test_augmentation_in_the_batches_is_that_of_the_training_step(packed, slices):
    layer = Augment()
    plain = take(pipeline.dataset(slices, SPEC, 4, True, packed=packed), 2)
    moved = take(pipeline.dataset(slices, SPEC, 4, True, packed=packed, augment=layer), 2)
    for before, after in zip(plain, moved, strict=True):
        images, masks = layer(before["images"], before["masks"], before["seed"], training=True)
        np.testing.assert_allclose(after["images"], images, atol=1e-4)
        np.testing.assert_array_equal(after["masks"], masks)


def test_validation_shows_each_slice_once_and_fills_up_with_weight_zero(packed, slices):
    part = slices.iloc[:10]
    batches = list(pipeline.dataset(part, SPEC, 4, False, packed=packed).as_numpy_iterator())
    assert [batch["weight"].tolist() for batch in batches] == [[1] * 4, [1] * 4, [1, 1, 0, 0]]
    shown = np.concatenate([batch["images"][..., 1] for batch in batches])[:10]
    np.testing.assert_array_equal(shown, packed.images[:10])


def test_neighbours_come_from_the_whole_scan(packed, slices):
    row = 4
    batch = next(pipeline.dataset(slices.iloc[[row]], SPEC, 1, False, packed=packed).as_numpy_iterator())
    np.testing.assert_array_equal(batch["images"][0].transpose(2, 0, 1), packed.images[packed.stacks[row]])


def test_mapped_scans_are_the_same_and_are_found_again(packed, slices, tmp_path, monkeypatch):
    mapped = pipeline.pack(slices, SPEC, tmp_path)
    assert isinstance(mapped.images, np.memmap)
    np.testing.assert_array_equal(mapped.images, packed.images)
    np.testing.assert_array_equal(mapped.masks, packed.masks)
    monkeypatch.setattr(pipeline, "_fill", None)
    assert pipeline.pack(slices, VOLUME, tmp_path).images.filename == mapped.images.filename
    np.testing.assert_array_equal(pipeline.pack(slices, SPEC, tmp_path).masks, packed.masks)
    assert not [file for file in tmp_path.iterdir() if file.suffix != ".npy"]


@pytest.mark.parametrize("mapped", [False, True])
def test_batches_are_cut_from_the_packed_memory_itself(slices, tmp_path, mapped):
    own = pipeline.pack(slices, SPEC, tmp_path if mapped else None)
    batches = pipeline.dataset(slices.iloc[[4]], SPEC, 1, False, packed=own)
    before = next(batches.as_numpy_iterator())["images"]
    own.images[4, 0, 0] += 1
    after = next(batches.as_numpy_iterator())["images"]
    assert after[0, 0, 0, 1] == pytest.approx(before[0, 0, 0, 1] + 1, abs=1e-3)
    again = pipeline.pack(slices, SPEC, tmp_path if mapped else None)
    np.testing.assert_array_equal(again.images[4, 0, 0], before[0, 0, 0, 1])


def test_memory_that_cannot_be_shared_is_copied(packed, slices):
    frozen = pipeline.Packed(slices, SPEC, packed.images[:].copy(), packed.masks[:].copy(), packed.stacks)
    frozen.images.flags.writeable = False
    here, there = (
        next(pipeline.dataset(slices, SPEC, 4, False, packed=one).as_numpy_iterator()) for one in (packed, frozen)
    )
    np.testing.assert_array_equal(here["images"], there["images"])


def test_other_masks_are_packed_anew(slices, tmp_path):
    pipeline.pack(slices, SPEC, tmp_path)
    bare = pipeline.pack(slices.assign(stomach=""), SPEC, tmp_path)
    assert not (bare.masks >> 2).any()
    assert len(list(tmp_path.iterdir())) == 4


def test_broken_slice_is_named_and_leaves_no_file(slices, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    spoiled = slices.copy()
    spoiled.loc[3, "path"] = str(broken)
    with pytest.raises(ValueError, match=r"broken\.png: cannot be decoded"):
        pipeline.pack(spoiled, SPEC, tmp_path / "packed")
    assert not list((tmp_path / "packed").iterdir())


def test_wrong_calls_are_explained(packed, slices):
    with pytest.raises(ValueError, match="do not fill a batch of 8"):
        pipeline.dataset(slices.iloc[:5], SPEC, 8, True, packed=packed)
    with pytest.raises(ValueError, match="were packed for"):
        pipeline.dataset(slices, inputs.InputSpec(), 4, True, packed=packed)
    with pytest.raises(ValueError, match="is not among the packed slices"):
        pipeline.dataset(slices.assign(id="case1_day99_slice_0001"), SPEC, 4, True, packed=packed)


def test_altered_images_under_the_same_names_are_packed_anew(slices, tmp_path):
    rows = slices[slices["scan"] == slices["scan"].iloc[0]].copy()
    for index, path in rows["path"].items():
        rows.loc[index, "path"] = shutil.copy2(path, tmp_path)
    before = pipeline.pack(rows, SPEC, tmp_path / "packed")
    path = rows["path"].iloc[2]
    assert cv2.imwrite(path, inputs.read_picture(path)[::-1])
    after = pipeline.pack(rows, SPEC, tmp_path / "packed")
    assert (before.images[2] != after.images[2]).any()
    stored = os.stat(path)
    os.utime(path, ns=(stored.st_atime_ns, stored.st_mtime_ns + 1))
    pipeline.pack(rows, SPEC, tmp_path / "packed")
    assert len(os.listdir(tmp_path / "packed")) == 6


def test_an_image_of_another_size_than_its_name_is_named(slices, tmp_path):
    rows = slices[slices["scan"] == slices["scan"].iloc[0]].copy()
    rows[["height", "width"]] = rows[["width", "height"]].to_numpy() + 1
    with pytest.raises(ValueError, match="but its name says"):
        pipeline.pack(rows, SPEC)


def test_truth_is_what_was_packed_and_the_stack_what_the_network_gets(packed, slices):
    some = slices.iloc[[7, 3, 30]]
    truth = packed.truth(some)
    assert truth.dtype == bool
    assert truth.shape == (3, 32, 24, 3)
    bits = (truth << np.arange(3)).sum(axis=-1)
    np.testing.assert_array_equal(bits, packed.masks[[7, 3, 30]])
    batch = next(pipeline.dataset(some, SPEC, 3, False, packed=packed).as_numpy_iterator())
    np.testing.assert_array_equal(batch["images"][0], packed.stack(7))
    np.testing.assert_array_equal(batch["masks"], truth)
