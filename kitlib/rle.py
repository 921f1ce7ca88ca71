"""Run-length text to masks and back, in the order of the competition's files.

A mask is written as `start length start length ...`: pixels are counted from 1, ROW by row over (H, W), and an empty
mask is the empty text. The competition page says column by column, which is wrong: real masks re-encode byte for byte
in row order, and in column order they miss the organs on every slice that is not square.

Encoding and decoding touch only the pixels of the mask: most slices have none, and an organ covers about 2 % of one.
"""

from collections.abc import Sequence

import numpy as np

Shape = tuple[int, int]

_FAR = 2**40  # pixels: more than any slice has, for slices of unknown size


def encode(mask: np.ndarray) -> str:
    """Write a mask as run-length text: sorted runs of maximal length, so that no two of them touch.

    A run may continue from the end of one row into the next, as in the well-known public encoders; masks of the real
    data never reach the end of a row.

    Args:
        mask: (H, W) bool.

    Raises:
        ValueError: for an array of another type or number of dimensions.

    >>> encode(np.array([[False, True, True], [False, False, True]]))
    '2 2 6 1'
    """
    if mask.ndim != 2 or mask.dtype != bool:
        raise ValueError(f"mask has shape {mask.shape} and type {mask.dtype}; expected (H, W) and bool: try `mask > 0`")
    raw = mask.tobytes()  # searching bytes is the fastest way to skip empty pixels
    first, last = raw.find(1), raw.rfind(1)
    if first < 0:
        return ""
    pixels = np.flatnonzero(np.frombuffer(raw, bool, last + 1 - first, first))
    breaks = np.flatnonzero(np.diff(pixels) > 1)
    runs = np.empty(2 * breaks.size + 2, np.int64)
    starts, lengths = runs[::2], runs[1::2]
    starts[0] = pixels[0]
    starts[1:] = pixels[breaks + 1]
    lengths[:-1] = pixels[breaks] + 1
    lengths[-1] = pixels[-1] + 1
    lengths -= starts
    starts += first + 1
    return ("%d " * runs.size % tuple(runs.tolist()))[:-1]


def decode(text: str, shape: Shape) -> np.ndarray:
    """Read run-length text as a mask.

    Args:
        text: runs, or the empty text.
        shape: (H, W) of the slice.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: quotes a text whose runs are malformed, unsorted, overlapping or outside the slice.

    >>> decode("2 2 6 1", (2, 3)).astype(int)
    array([[0, 1, 1],
           [0, 0, 1]])
    """
    return decode_stack([text], shape)[0]


def encode_stack(masks: np.ndarray) -> list[str]:
    """Write the D masks of a scan, (D, H, W) bool, as D texts."""
    if masks.ndim != 3:
        raise ValueError(f"masks have shape {masks.shape}; expected (D, H, W)")
    return [encode(mask) for mask in masks]


def decode_stack(texts: Sequence[str], shape: Shape) -> np.ndarray:
    """Read D texts as the masks of a scan.

    Args:
        texts: D run-length texts of slices of one size.
        shape: (H, W).

    Returns:
        (D, H, W) bool.

    Raises:
        ValueError: quotes the first text that is malformed.

    >>> decode_stack(["1 2", ""], (1, 3)).astype(int).tolist()
    [[[1, 1, 0]], [[0, 0, 0]]]
    """
    height, width = shape
    size = height * width
    starts, lengths, rows = parse(texts, size)
    masks = np.zeros(len(texts) * size, bool)
    if not starts.size:
        return masks.reshape(-1, height, width)
    # Pixel i of a run that starts at s is s + i: one arange and one repeat give the pixels of all runs.
    ends = lengths.cumsum()
    starts += rows * size
    starts -= ends - lengths
    pixels = np.arange(ends[-1])
    pixels += np.repeat(starts, lengths)
    masks[pixels] = True
    return masks.reshape(-1, height, width)


def parse(texts: Sequence[str], size: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read many texts as runs, without making masks; all numbers are parsed at once.

    Args:
        texts: run-length texts.
        size: pixels in a slice, H * W; None does not check the end.

    Returns:
        Three int64 arrays with one entry per run: its first pixel counted from 0, its length in pixels, and the
        index of its text in `texts`.

    Raises:
        ValueError: quotes the first text that is malformed.

    >>> starts, lengths, rows = parse(["1 2", "", "4 1 9 3"])
    >>> starts.tolist(), lengths.tolist(), rows.tolist()
    ([0, 3, 8], [2, 1, 3], [0, 2, 2])
    """
    limit = _FAR if size is None else size
    try:
        counts = np.array([text.count(" ") + 1 if text != "" else 0 for text in texts], np.int64)
        joined = " ".join([text for text in texts if text])
    except (TypeError, AttributeError):
        raise _fault(texts, limit) from None
    if not joined:
        return (np.empty(0, np.int64),) * 3
    if joined.encode().translate(None, b"0123456789 ") or "  " in joined or joined != joined.strip():
        raise _fault(texts, limit)
    numbers = np.fromstring(joined, np.int64, sep=" ")
    if (counts & 1).any():
        raise _fault(texts, limit)
    rows = np.repeat(np.arange(len(texts)), counts >> 1)
    starts = numbers[::2] - 1
    lengths = numbers[1::2].copy()
    ends = starts + lengths
    # With all slices put end to end, the runs are in order exactly if they are in order within each text.
    shift = rows * limit
    if (
        starts.min() < 0
        or lengths.min() < 1
        or lengths.max() > limit
        or ends.max() > limit
        or ((starts + shift)[1:] < (ends + shift)[:-1]).any()
    ):
        raise _fault(texts, limit)
    return starts, lengths, rows


def area(text: str) -> int:
    """Count the pixels of a mask without decoding it.

    >>> area("2 2 6 1")
    3
    """
    return int(parse([text])[1].sum())


def _fault(texts: Sequence[str], size: int) -> ValueError:
    """Find the first malformed text and explain it."""
    for text in texts:
        reason = _reason(text, size)
        if reason:
            quoted = repr(text) if len(str(text)) <= 120 else repr(str(text)[:120]) + "..."
            return ValueError(f"run-length text {quoted}: {reason}")
    raise AssertionError("a well-formed run-length text was refused")


def _reason(text: object, size: int) -> str:
    """Explain what is wrong with a text; the empty text when it is well-formed."""
    if not isinstance(text, str):
        return f"the type is {type(text).__name__}; expected text, which is empty for an empty mask"
    if not text:
        return ""
    words = text.split(" ")
    for word in words:
        if not word or word.isspace():
            return "numbers must be separated by single spaces, without spaces at the ends"
        if not (word.isascii() and word.isdigit()):
            return f"{word!r} is not a whole number of 1 or more"
    if len(words) % 2:
        return f"it has {len(words)} numbers; expected pairs of start and length"
    numbers = list(map(int, words))
    end = 0
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        if start < 1:
            return f"a run starts at {start}; expected 1, the first pixel, or more"
        if length < 1:
            return f"the run at {start} has length {length}; expected 1 or more"
        if start <= end:
            return f"the run at {start} starts before the previous run ends at {end}; sort the runs and merge overlaps"
        end = start + length - 1
        if end > size:
            return f"the run at {start} ends at {end}, beyond the slice's {size} pixels; are height and width swapped?"
    return ""
