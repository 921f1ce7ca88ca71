"""Random numbers from a counter: the same seed gives the same numbers on every backend, in every mode.

Each number is a hash of (seed, stream, position). There is no state, and a sample's numbers do not depend on its index
in the batch. `keras.random` draws different numbers on each backend and takes no traced seed, so a warp drawn with it
could not be replayed elsewhere.
"""

import math
import numbers

import keras
from keras import ops

_WORD = 0xFFFFFFFF  # 32 bits
_GOLDEN = 0x9E3779B9  # 2**32 / golden ratio, keeps consecutive streams apart


def seeds(seed, batch):
    """Make one 32-bit word per sample, from an int (then one per index of the batch) or from one int32 per sample.

    Args:
        seed: int, or integer tensor of shape (B,).
        batch: B, int or scalar tensor; used only when `seed` is an int.

    Returns:
        (B,) 32-bit words.

    Raises:
        ValueError: a tensor that is not a vector.
    """
    if isinstance(seed, numbers.Integral):
        return _mix(ops.bitwise_xor(_mix(_words(ops.arange(batch)) + 1), _word(_mix_int(int(seed)))))
    seed = ops.convert_to_tensor(seed)
    if len(seed.shape) != 1:
        raise ValueError(f"seed has shape {tuple(seed.shape)}; give an int, or integers of shape (B,), one per sample")
    return _mix(_words(seed))


def bits(words, count, stream):
    """Draw `count` 32-bit words per sample: mix(mix(position) xor mix(seed + stream * golden)).

    Two mixers in a row keep samples independent; with one, neighbouring seeds would give shifted copies.

    Shapes: words (B,), result (B, count).

    Args:
        words: from `seeds`.
        count: numbers per sample, static.
        stream: number of the purpose; two streams of one seed are independent.
    """
    keys = _mix(_wrap(words + _word(stream * _GOLDEN & _WORD)))
    positions = _mix(_words(ops.arange(1, count + 1)))
    return _mix(ops.bitwise_xor(keys[:, None], positions[None, :]))


def uniform(words, shape, stream):
    """Draw uniform floats in [0, 1), multiples of 2**-24.

    Shapes: words (B,), result (B, *shape) float32.
    """
    upper = ops.right_shift(bits(words, math.prod(shape), stream), _word(8))
    return ops.reshape(ops.cast(upper, "float32") * 2.0**-24, (-1, *shape))


def normal(words, shape, stream):
    """Draw standard normal floats, two from each word (Box and Muller, 1958): sqrt(-2 log a) (cos 2 pi b, sin 2 pi b).

    a and b are the two halves of the word, so no value exceeds sqrt(-2 log 2**-17) = 4.85.

    Shapes: words (B,), result (B, *shape) float32.
    """
    count = math.prod(shape)
    pairs = bits(words, -(-count // 2), stream)
    a = (ops.cast(ops.right_shift(pairs, _word(16)), "float32") + 0.5) * 2.0**-16
    b = ops.cast(ops.bitwise_and(pairs, _word(0xFFFF)), "float32") * (2 * math.pi * 2.0**-16)
    radius = ops.sqrt(-2.0 * ops.log(a))
    values = ops.concatenate([radius * ops.cos(b), radius * ops.sin(b)], axis=1)
    return ops.reshape(values[:, :count], (-1, *shape))


def _mix(word):
    """Mix 32 bits one to one, so that an input bit flips each output bit half of the time (xor-shift, multiply)."""
    word = ops.bitwise_xor(word, ops.right_shift(word, _word(16)))
    word = _wrap(word * _word(0x7FEB352D))
    word = ops.bitwise_xor(word, ops.right_shift(word, _word(15)))
    word = _wrap(word * _word(0x846CA68B))
    return ops.bitwise_xor(word, ops.right_shift(word, _word(16)))


def _mix_int(value):
    """Do the same as `_mix` for a Python int of any size and sign."""
    value &= _WORD
    value = (value ^ value >> 16) * 0x7FEB352D & _WORD
    value = (value ^ value >> 15) * 0x846CA68B & _WORD
    return value ^ value >> 16


# Words are uint32 because TensorFlow computes int32 on the host even when the data is on a GPU. PyTorch has no uint32
# arithmetic and Keras uses int64 there; its low 32 bits are the same, and `_wrap` masks the rest.
def _word(value):
    return ops.convert_to_tensor(value, dtype="uint32")


def _words(integers):
    return _wrap(ops.cast(integers, "uint32"))


def _wrap(word):
    return word if keras.backend.standardize_dtype(word.dtype) == "uint32" else ops.bitwise_and(word, _WORD)
