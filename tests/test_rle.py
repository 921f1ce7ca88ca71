import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kitlib import rle

MASKS = arrays.arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 11)))
PAIRS = st.tuples(st.integers(1, 7), st.integers(1, 11)).flatmap(
    lambda shape: st.tuples(arrays.arrays(bool, shape), arrays.arrays(bool, shape))
)


def reference_decode(text, shape):
    """The definition, pixel by pixel."""
    numbers = [int(word) for word in text.split()]
    mask = [[False] * shape[1] for _ in range(shape[0])]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for pixel in range(start - 1, start - 1 + length):
            mask[pixel // shape[1]][pixel % shape[1]] = True
    return np.array(mask)


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        ([[0, 0, 0], [0, 0, 0]], ""),
        ([[1, 1, 1], [1, 1, 1]], "1 6"),
        ([[0, 0, 0], [0, 1, 0]], "5 1"),
        ([[0, 0, 0], [0, 0, 1]], "6 1"),
        ([[1, 0, 0], [0, 0, 0]], "1 1"),
        ([[0, 1, 0], [0, 1, 0]], "2 1 5 1"),
        ([[0, 0, 1], [1, 0, 0]], "3 2"),
        ([[1, 0, 1], [0, 1, 1]], "1 1 3 1 5 2"),
    ],
)
def test_hand_made_masks_go_both_ways(mask, text):
    mask = np.array(mask, bool)
    assert rle.encode(mask) == text
    np.testing.assert_array_equal(rle.decode(text, (2, 3)), mask)


def test_pixels_are_counted_along_rows_not_columns():
    mask = np.zeros((310, 360), bool)
    mask[1, 0] = True
    assert rle.encode(mask) == "361 1"


@given(MASKS)
def test_every_mask_comes_back(mask):
    text = rle.encode(mask)
    np.testing.assert_array_equal(rle.decode(text, mask.shape), mask)
    np.testing.assert_array_equal(reference_decode(text, mask.shape), mask)


@given(st.integers(0, 4).flatmap(lambda depth: arrays.arrays(bool, (depth, 3, 5))))
def test_a_stack_is_its_slices_one_by_one(masks):
    texts = rle.encode_stack(masks)
    assert texts == [rle.encode(mask) for mask in masks]
    np.testing.assert_array_equal(rle.decode_stack(texts, (3, 5)), masks)


@given(MASKS)
def test_area_is_the_sum_of_the_mask(mask):
    assert rle.area(rle.encode(mask)) == mask.sum()


def test_encoding_does_not_depend_on_the_memory_layout():
    mask = np.random.default_rng(0).random((13, 7)) > 0.5
    expected = rle.encode(mask)
    assert rle.encode(np.asfortranarray(mask)) == expected
    assert rle.encode(np.repeat(mask, 2, axis=1)[:, ::2]) == expected


def test_decoded_mask_can_be_written_to():
    mask = rle.decode("1 1", (2, 2))
    mask[1, 1] = True
    assert rle.encode(mask) == "1 1 4 1"


MALFORMED = {
    "odd count": "1 2 3",
    "lone number": "7",
    "start zero": "0 2",
    "negative start": "-3 2",
    "length zero": "4 0",
    "not a number": "4 two",
    "fraction": "1.5 2",
    "comma": "1,2",
    "sign": "+1 2",
    "double space": "1  2",
    "leading space": " 1 2",
    "trailing space": "1 2 ",
    "tab": "1\t2",
    "overlap": "1 3 3 2",
    "unsorted": "9 1 1 1",
    "past the end": "12 2",
    "start past the end": "13 1",
    "huge start": "99999999999999999999 1",
    "huge length": "1 99999999999999999999",
    "foreign digits": "١ ٢",
    "the word nan": "nan",
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_malformed_text_is_quoted(text):
    with pytest.raises(ValueError, match="run-length text") as error:
        rle.decode(text, (3, 4))
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("text", [None, float("nan"), 3])
def test_what_is_not_text_is_refused(text):
    with pytest.raises(ValueError, match="expected text"):
        rle.decode(text, (3, 4))


@pytest.mark.parametrize("text", ["1  2", "1 2 3", " 1 2", "5 9"])
def test_a_fault_is_found_among_good_texts(text):
    with pytest.raises(ValueError, match="run-length text") as error:
        rle.decode_stack(["1 2", "", text, "3 1 5 1"], (3, 4))
    assert repr(text) in str(error.value)


def test_faults_do_not_make_up_for_each_other():
    with pytest.raises(ValueError, match="run-length text '1 2 3'"):
        rle.decode_stack(["1 2 3", "5"], (3, 4))


def test_swapped_height_and_width_do_not_pass_unseen():
    mask = np.ones((5, 3), bool)
    with pytest.raises(ValueError, match="swapped"):
        rle.decode(rle.encode(mask), (3, 3))


@pytest.mark.parametrize(
    "mask", [np.zeros((2, 2)), np.zeros((2, 2), np.uint8), np.zeros(4, bool), np.zeros((1, 2, 2), bool)]
)
def test_only_flat_bool_masks_are_encoded(mask):
    with pytest.raises(ValueError, match=r"expected \(H, W\) and bool"):
        rle.encode(mask)


def test_runs_that_touch_are_read():
    assert rle.decode("1 2 3 1", (1, 4)).tolist() == [[True, True, True, False]]
