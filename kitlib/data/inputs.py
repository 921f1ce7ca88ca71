"""What the network sees of a scan: the record that training and inference share, and the way there and back.

A scan is divided by its own scale, because scanners differ tenfold, and stretched to the network's grid. Stretching
keeps the whole slice, uses the whole grid, and is undone by stretching back; pixel centres stay where they are.
"""

import json
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import cv2
import numpy as np


@dataclass(frozen=True)
class InputSpec:
    """The network's input, saved as JSON with the weights.

    Args:
        height, width: pixels of the network's grid.
        depth: slices in a stack, odd; the paper takes 5 (section II.B).
        stride: slices from one neighbour of a stack to the next.
        low, high: percentiles of the scan that become 0 and 1. The arms shine at the edge of wide fields, so that a
            scan's maximum says nothing about its tissue.
        ceiling: values above it are cut off, in units of the high percentile.
    """

    height: int = 128
    width: int = 128
    depth: int = 5
    stride: int = 1
    low: float = 1.0
    high: float = 99.0
    ceiling: float = 2.0

    def __post_init__(self):
        for name in ("height", "width", "depth", "stride"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"InputSpec {name}={value!r}: expected a whole number from 1 up")
        if self.depth % 2 == 0:
            raise ValueError(f"InputSpec depth={self.depth}: a stack has a middle slice, so its depth is odd")
        if not 0 <= self.low < self.high <= 100:
            raise ValueError(f"InputSpec low={self.low}, high={self.high}: expected percentiles, low below high")

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one input: (height, width, depth)."""
        return self.height, self.width, self.depth

    def to_json(self) -> str:
        """Write the record as JSON.

        >>> InputSpec.from_json(InputSpec(height=96).to_json()) == InputSpec(height=96)
        True
        """
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "InputSpec":
        """Read the record; a field that this version does not know is an error that names it."""
        values = json.loads(text)
        strange = set(values) - {field.name for field in fields(cls)}
        if strange:
            raise ValueError(f"InputSpec has no field {', '.join(sorted(strange))}; was it saved by a newer kit?")
        return cls(**values)


def load(paths: Sequence[str]) -> np.ndarray:
    """Read the slices of one scan.

    Returns:
        (D, H, W) uint16, as the files have it.

    Raises:
        ValueError: names the file that cannot be decoded, is not 16-bit grey, or has another size than the first.
    """
    if not len(paths):
        raise ValueError("a scan without slices cannot be loaded")
    scan = None
    for place, path in enumerate(paths):
        picture = read_picture(path)
        if scan is None:
            scan = np.empty((len(paths), *picture.shape), np.uint16)
        if picture.shape != scan.shape[1:]:
            raise ValueError(f"{path} is {_size(picture.shape)}, and {paths[0]} is {_size(scan.shape[1:])}")
        scan[place] = picture
    return scan


def read_picture(path: str | os.PathLike) -> np.ndarray:
    """Read one slice, and make sure that the file is whole: OpenCV would hand out half a picture without a word.

    Returns:
        (H, W) uint16.

    Raises:
        ValueError: names the file that is missing, cut off, altered (a chunk's check sum tells) or not 16-bit grey.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be decoded: {error.strerror}; copy the file again") from None
    why = _png_fault(data)
    try:
        picture = None if why else cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        picture, why = None, str(error.err)
    if picture is None:
        raise ValueError(f"{path} cannot be decoded: {why or 'its pixels are damaged'}; copy the file again")
    if picture.ndim != 2 or picture.dtype != np.uint16:
        raise ValueError(f"{path} holds {picture.shape} {picture.dtype}; slices are 16-bit grey pictures")
    return picture


def _png_fault(data: bytes) -> str:
    """Say what is wrong with a PNG by its chunks (length, name, content, CRC-32); empty when nothing is."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "it does not begin as a PNG does"
    place, name = 8, b""
    while name != b"IEND":
        if place + 12 > len(data):
            return "it is cut off"
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if end > len(data):
            return "it is cut off"
        if zlib.crc32(data[place + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            return "a check sum differs"
        place = end
    return ""


def prepare(scan: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Bring a scan to the network's scale and grid.

    value -> (value - p_low) / (p_high - p_low), cut to [0, ceiling]; then area averaging where the grid is coarser than
    the slice both ways, and linear interpolation otherwise.

    Args:
        scan: (D, H, W) grey values of one scan, uint16 in the files.

    Returns:
        (D, height, width) float32. A scan of one single value becomes zeros.
    """
    if scan.ndim != 3:
        raise ValueError(f"expected a scan of shape (D, H, W), got {scan.shape}")
    low, high = percentiles(scan, spec)
    scale = high - low if high > low else 1.0
    resized = _resize(scan, (spec.height, spec.width))
    return np.clip((resized - low) / scale, 0.0, spec.ceiling, dtype=np.float32)


def percentiles(scan: np.ndarray, spec: InputSpec) -> tuple[float, float]:
    """Measure the low and high percentile of a scan on every fourth row and column."""
    sample = scan[:, ::4, ::4]
    low, high = np.percentile(sample, [spec.low, spec.high])
    return float(low), float(high)


def prepare_masks(masks: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Bring masks (D, H, W) bool to the grid: a pixel belongs to an organ when at least half of its area does.

    Returns:
        (D, height, width) bool.
    """
    return _resize(masks, (spec.height, spec.width)) >= 0.5


def restore(probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bring probabilities (D, height, width, C) back to slices of shape (H, W): `prepare`'s grid undone.

    Returns:
        (D, H, W, C) float32.
    """
    if probabilities.ndim != 4:
        raise ValueError(f"expected probabilities of shape (D, height, width, C), got {probabilities.shape}")
    return _resize(probabilities, shape)


def _resize(slices: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize each slice (H, W) or (H, W, C) of a stack to float32; pixels are areas: their edges stay together."""
    height, width = shape
    if slices.shape[1:3] == (height, width):
        return slices.astype(np.float32)
    shrinks = height <= slices.shape[1] and width <= slices.shape[2]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = np.empty((len(slices), height, width, *slices.shape[3:]), np.float32)
    for place, picture in enumerate(slices):
        # slice after slice in 32 bits: a whole scan of them would leave the processor's cache
        cv2.resize(picture.astype(np.float32), (width, height), dst=resized[place], interpolation=method)
    return resized


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
