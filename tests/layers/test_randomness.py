"""The counter hash: held to a NumPy reference, so that every backend is held to every other."""

import numpy as np
import pytest
from keras import ops

from kitlib.layers import randomness

SEEDS = np.array([0, 1, -1, 2**31 - 1], "int32")


def mix(word):
    word = word ^ word >> np.uint32(16)
    word = word * np.uint32(0x7FEB352D)
    word = word ^ word >> np.uint32(15)
    word = word * np.uint32(0x846CA68B)
    return word ^ word >> np.uint32(16)


def reference(seeds, count, stream):
    """Bits (B, count) by unsigned arithmetic of NumPy."""
    keys = mix(mix(seeds.astype("uint32")) + np.uint32(stream * 0x9E3779B9 & 0xFFFFFFFF))
    return mix(keys[:, None] ^ mix(np.arange(1, count + 1, dtype="uint32"))[None])


def words(seeds=SEEDS):
    return randomness.seeds(ops.convert_to_tensor(seeds), None)


@pytest.mark.parametrize("stream", [0, 1, 7])
def test_bits_are_those_of_the_reference_on_every_backend(stream):
    found = ops.convert_to_numpy(randomness.bits(words(), 1000, stream))
    np.testing.assert_array_equal(found.astype("uint32"), reference(SEEDS, 1000, stream))


def test_an_integer_of_numpy_is_spread_like_one_of_python():
    one, other = (ops.convert_to_numpy(randomness.seeds(seed, 5)) for seed in (-7, np.int64(-7)))
    np.testing.assert_array_equal(one, other)


def test_uniform_takes_the_upper_24_bits():
    found = ops.convert_to_numpy(randomness.uniform(words(), (7, 11), 3))
    np.testing.assert_array_equal(found.reshape(4, -1), (reference(SEEDS, 77, 3) >> 8) / 2.0**24)
    assert found.min() >= 0
    assert found.max() < 1


def test_normal_is_the_box_muller_transform_of_two_halves():
    bits = reference(SEEDS, 8, 3)
    radius = np.sqrt(-2 * np.log(((bits >> 16) + 0.5) / 65536))
    angle = 2 * np.pi * (bits & 0xFFFF) / 65536
    expected = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :15]
    found = ops.convert_to_numpy(randomness.normal(words(), (3, 5), 3)).reshape(4, -1)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_normal_has_the_moments_of_a_bell():
    found = ops.convert_to_numpy(randomness.normal(words(np.arange(20, dtype="int32")), (100, 100), 5)).ravel()
    spread = 200_000**-0.5  # one standard error of the mean
    assert abs(found.mean()) < 4 * spread
    assert abs(found.std() - 1) < 4 * spread
    assert abs((found**3).mean()) < 4 * spread * 15**0.5
    assert abs((found**4).mean() - 3) < 4 * spread * 96**0.5
    assert np.abs(found).max() < 4.855


@pytest.mark.parametrize("kind", ["samples", "streams", "neighbours"])
def test_numbers_are_independent_across(kind):
    if kind == "samples":
        table = ops.convert_to_numpy(randomness.uniform(words(np.arange(30, dtype="int32")), (4000,), 1))
    elif kind == "streams":
        table = np.concatenate([ops.convert_to_numpy(randomness.uniform(words()[:1], (4000,), s)) for s in range(30)])
    else:
        line = ops.convert_to_numpy(randomness.uniform(words(), (4040,), 1))[1]
        table = np.stack([line[shift : shift + 4000] for shift in range(30)])
    correlation = np.corrcoef(table) - np.eye(30)
    assert np.abs(correlation).max() < 5 / 4000**0.5


def test_a_sample_is_the_same_wherever_it_stands_in_the_batch():
    whole = ops.convert_to_numpy(randomness.normal(words(), (9,), 1))
    part = ops.convert_to_numpy(randomness.normal(words(SEEDS[[2]]), (9,), 1))
    np.testing.assert_allclose(part[0], whole[2], atol=1e-6)


def test_one_integer_is_spread_over_the_batch():
    found = ops.convert_to_numpy(randomness.seeds(12345678901234, 100)).astype("int64")
    assert len(np.unique(found)) == 100
    again = ops.convert_to_numpy(randomness.seeds(12345678901234, 100)).astype("int64")
    np.testing.assert_array_equal(found, again)
    assert not np.intersect1d(found, ops.convert_to_numpy(randomness.seeds(12345678901235, 100))).size


def test_a_table_of_seeds_is_refused():
    with pytest.raises(ValueError, match=r"seed has shape \(2, 2\)"):
        randomness.seeds(np.zeros((2, 2), "int32"), 2)
