"""The masks of another day: which day, which of its slices, and what the network gets."""

import cv2
import numpy as np
import pandas as pd
import pytest

from kitlib import rle
from kitlib.data import earlier, inputs, pipeline, priors

SPEC = inputs.InputSpec(32, 48, depth=3, prior=True)
SHAPE = (40, 60)
DAYS = {1: (0, 4, 9), 2: (3,), 3: (1, 8)}
MOVED = {0: 0, 4: 3, 9: -2, 3: 0, 1: 0, 8: 1}  # slices that the patient lies further on each day
BARE = "case3_day8"


def scan(case, day, count):
    """Twelve blobs of a case in a scan of `count` slices, and the mask of one of them."""
    rng = np.random.default_rng(case)
    z, y, x = np.indices((count, *SHAPE))
    grey, mask = np.zeros((count, *SHAPE)), np.zeros((count, *SHAPE), bool)
    for number in range(12):
        centre = rng.uniform((4, 8, 8), (12, 32, 52))
        distance = ((z - MOVED[day] - centre[0]) / 2) ** 2 + ((y - centre[1]) / 4) ** 2 + ((x - centre[2]) / 5) ** 2
        grey += 900 * np.exp(-distance)
        if number == 0:
            mask = distance < 2
    grey += np.random.default_rng([case, day]).uniform(0, 30, grey.shape)  # no two slices are the same
    return grey.astype(np.uint16), mask


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Six scans of three cases; one has no mask."""
    folder, lines = tmp_path_factory.mktemp("scans"), []
    for case, days in DAYS.items():
        for day in days:
            name, count = f"case{case}_day{day}", 16 + day % 3
            grey, mask = scan(case, day, count)
            for index in range(count):
                path = folder / f"{name}_{index}.png"
                assert cv2.imwrite(str(path), grey[index])
                text = "" if name == BARE else rle.encode(mask[index])
                place = (f"{name}_slice_{index + 1:04d}", case, day, index + 1, str(path), *SHAPE, 1.5, name)
                lines.append((*place, "", text, ""))
    columns = "id case day slice path height width spacing_mm scan large_bowel small_bowel stomach".split()
    return pd.DataFrame(lines, columns=columns)


@pytest.fixture(scope="module")
def packed(table):
    return pipeline.pack(table, SPEC)


def batches(slices, packed, training, epochs=1, **options):
    made = pipeline.dataset(slices, SPEC, 4, training, packed=packed, **options)
    count = pipeline.steps(slices, 4) * epochs if training else -(-len(slices) // 4)
    return [{name: value.numpy() for name, value in batch.items()} for batch in made.take(count)]


def test_each_two_days_of_a_case_are_registered_once(packed):
    expected = {
        (f"case{case}_day{later}", f"case{case}_day{before}"): MOVED[later] - MOVED[before]
        for case, days in DAYS.items()
        for later in days
        for before in days
        if before < later
    }
    assert packed.shifts == expected
    assert priors.between(packed.shifts, "case1_day0", "case1_day4") == -3
    assert priors.between(packed.shifts, "case1_day0", "case2_day3") is None


def test_days_of_another_size_have_one_scale_in_a_box_alone(table):
    other = table["scan"] == "case1_day4"
    mixed = table.assign(spacing_mm=table["spacing_mm"].mask(other, 1.63))
    images = np.random.default_rng(0).random((len(mixed), 8, 8))
    assert set(priors.shifts(mixed, images, SPEC)) == {("case1_day9", "case1_day0"), ("case3_day8", "case3_day1")}
    boxed = inputs.InputSpec(8, 8, box_mm=(-20, 20, -20, 20), prior=True)
    assert len(priors.shifts(mixed, images, boxed)) == 4


def test_the_prior_is_the_other_days_mask_where_the_anatomy_is_the_same(packed, table):
    found = packed.prior("case1_day4", "case1_day0")
    own = packed.truth(table[table["scan"] == "case1_day4"])
    assert found.shape == (*own.shape[:3], 4)
    assert own.any()
    np.testing.assert_array_equal(found[..., :3], own)  # day 4 is day 0, three slices further on
    np.testing.assert_array_equal(found[..., 3].any(axis=(1, 2)), np.arange(len(own)) >= 3)
    assert found[3:, ..., 3].all()
    assert not packed.prior("case1_day0", None).any()


def test_a_scan_that_is_predicted_never_gets_a_later_day(packed, table):
    found = np.concatenate([batch["masks"] for batch in batches(table, packed, training=False)])
    np.testing.assert_array_equal(found[: len(table), ..., :3], packed.truth(table))
    days = earlier.days(table)
    assert days == {"case1_day4": "case1_day0", "case1_day9": "case1_day4", BARE: "case3_day1"}
    for name, rows in table.groupby("scan", sort=False):
        np.testing.assert_array_equal(found[rows.index, ..., 3:], packed.prior(name, days.get(name)))
        assert found[rows.index, ..., 3:].any() == (name in days)


def test_in_training_each_other_day_and_none_come_by_the_seed_of_the_sample(packed, table):
    train = table[table["case"] == 1].reset_index(drop=True)
    counts = {"none": 0, "case1_day0": 0, "case1_day4": 0, "case1_day9": 0}
    middles = set(np.flatnonzero(train["slice"].between(8, 12)))
    for batch in batches(train, packed, training=True, epochs=8):
        for image, masks, seed in zip(batch["images"], batch["masks"], batch["seed"], strict=True):
            (row,) = [row for row in range(len(train)) if (packed.stack(row) == image).all()]
            if row not in middles:
                continue
            scan = train["scan"].iloc[row]
            others = [name for name in counts if name not in ("none", scan)]
            drawn = seed % 4  # two other days, and as often none
            name = others[drawn] if drawn < 2 else "none"
            position = train["slice"].iloc[row] - 1
            expected = packed.prior(scan, None if name == "none" else name)[position]
            np.testing.assert_array_equal(masks[..., 3:], expected)
            counts[name] += 1
    total = sum(counts.values())
    assert 0.3 < counts["none"] / total < 0.7
    assert all(counts.values())


def test_an_augmentation_in_the_batches_gets_the_prior_with_the_masks(packed, table):
    train = table[table["case"] == 1]

    def mirrored(images, masks, seeds, training):
        assert training
        return images[:, :, ::-1], masks[:, :, ::-1]

    plain, moved = (batches(train, packed, True, augment=layer)[0] for layer in (None, mirrored))
    assert plain["masks"][..., 3:].any()
    np.testing.assert_array_equal(moved["masks"], plain["masks"][:, :, ::-1])
    np.testing.assert_array_equal(moved["images"], plain["images"][:, :, ::-1])


def test_a_validation_scan_is_no_prior_in_training(packed, table):
    train = table[(table["case"] == 1) & (table["day"] != 9)].reset_index(drop=True)
    assert priors.others(train) == {"case1_day0": ["case1_day4"], "case1_day4": ["case1_day0"]}
    alone = table[table["case"].isin([2, 3]) & (table["day"] != 1)].reset_index(drop=True)
    assert priors.others(alone) == {"case2_day3": [], BARE: []}
    for batch in batches(alone, packed, training=True, epochs=3):
        assert not batch["masks"][..., 3:].any()


def test_a_day_without_masks_is_no_prior(table):
    assert priors.others(table)["case3_day1"] == []
    assert priors.others(table)[BARE] == ["case3_day1"]


def test_shifts_are_kept_beside_the_packed_arrays(packed, table, tmp_path, monkeypatch):
    kept = pipeline.pack(table, SPEC, tmp_path)
    monkeypatch.setattr(priors, "shifts", None)
    monkeypatch.setattr(pipeline, "_fill", None)
    assert pipeline.pack(table, SPEC, tmp_path).shifts == kept.shifts == packed.shifts
    assert pipeline.pack(table, inputs.InputSpec(32, 48), tmp_path).shifts is None  # and the arrays are the same
    assert len(list(tmp_path.iterdir())) == 3


def test_packed_scans_serve_with_a_prior_and_without(packed, table):
    plain = packed.restacked(inputs.InputSpec(32, 48, depth=5))
    assert plain.images is packed.images
    again = pipeline.pack(table, inputs.InputSpec(32, 48, depth=3)).restacked(SPEC)
    assert again.shifts == packed.shifts


def test_slices_without_a_partner_have_no_prior():
    masks = np.ones((4, 2, 3, 3), bool)
    for shift, there in ((-2, [1, 1, 0, 0, 0]), (0, [1, 1, 1, 1, 0]), (9, [0] * 5)):
        found = priors.channels(masks, 5, shift)
        assert found.shape == (5, 2, 3, 4)
        assert [int(part.all()) for part in found] == there
        assert [int(part.any()) for part in found] == there
