"""From PNG files to the network's grid and back: InputSpec, which training and inference share, prepare and restore.

Each scan is scaled by its own percentiles, because grey values differ tenfold between scans, and resized to the
network's grid. Resizing keeps the whole slice and uses the whole grid; `restore` resizes back to the slice.
"""

import io
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from kitlib.files import Problem


@dataclass(frozen=True)
class InputSpec:
    """The network's input, saved as JSON with the weights.

    Args:
        height, width: pixels of the network's grid.
        depth: slices in a stack, odd; the paper takes 5 (section II.B).
        stride: slices from one neighbour of a stack to the next.
        low, high: percentiles of the scan that become 0 and 1. The arms are bright at the edge of wide fields, so a
            scan's maximum does not measure its tissue.
        ceiling: larger values are clipped to it, in units of the high percentile.
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
            if type(value) is not int or value < 1:
                raise ValueError(f"InputSpec {name}={value!r}: expected a whole number of 1 or more")
        if self.depth % 2 == 0:
            raise ValueError(f"InputSpec depth={self.depth}: choose an odd number, so that a stack has a middle slice")
        for name in ("low", "high", "ceiling"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"InputSpec {name}={value!r}: expected a number")
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
        """Read the record from JSON; an unknown field raises ValueError."""
        values = json.loads(text)
        strange = set(values) - {field.name for field in fields(cls)}
        if strange:
            raise ValueError(f"InputSpec has no field {', '.join(sorted(strange))}; was it saved by a newer kit?")
        return cls(**values)


def load(paths: Sequence[str]) -> np.ndarray:
    """Read the slices of one scan.

    Returns:
        (D, H, W) uint16, the grey values of the files.

    Raises:
        Problem: names the file that cannot be decoded, is not 16-bit grey, or has another size than the first.
    """
    if not len(paths):
        raise ValueError("paths is empty; give the path of at least one slice")
    scan = None
    for index, path in enumerate(paths):
        image = read_picture(path)
        if scan is None:
            scan = np.empty((len(paths), *image.shape), np.uint16)
        if image.shape != scan.shape[1:]:
            what = f"is {_size(image.shape)}, but {paths[0]} is {_size(scan.shape[1:])}; expected slices of one size"
            raise Problem(str(path), what)
        scan[index] = image
    return scan


def read_picture(path: str | os.PathLike) -> np.ndarray:
    """Read one slice, and check that the file is whole: OpenCV silently returns a truncated or altered image.

    Returns:
        (H, W) uint16.

    Raises:
        Problem: names the file that is missing, truncated, altered (by a chunk's check sum) or not 16-bit grey.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise Problem(str(path), f"cannot be read: {error.strerror}; copy the file again") from None
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as png:
            png.verify()
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except UnidentifiedImageError:
        raise Problem(str(path), "cannot be decoded: it is not a PNG file; copy the file again") from None
    except (OSError, SyntaxError, ValueError, struct.error, cv2.error) as error:
        raise Problem(str(path), f"cannot be decoded: {error}; copy the file again") from None
    if image is None:
        raise Problem(str(path), "cannot be decoded: its pixels are damaged; copy the file again")
    if image.ndim != 2 or image.dtype != np.uint16:
        raise Problem(str(path), f"is {_size(image.shape)} {image.dtype}; expected a 16-bit grey image")
    return image


def prepare(scan: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Scale a scan and resize it to the network's grid.

    value -> (value - p_low) / (p_high - p_low), clipped to [0, ceiling]. Resizing averages areas where the grid is
    coarser than the slice in both directions, and interpolates linearly otherwise.

    Args:
        scan: (D, H, W) grey values of one scan, uint16 in the files.
        spec: grid, percentiles and ceiling.

    Returns:
        (D, height, width) float32. A scan of a single value becomes zeros.
    """
    if scan.ndim != 3:
        raise ValueError(f"scan has shape {scan.shape}; expected (D, H, W)")
    low, high = _percentiles(scan, spec)
    scale = high - low if high > low else 1.0
    resized = _resize(scan, (spec.height, spec.width))
    return np.clip((resized - low) / scale, 0.0, spec.ceiling, dtype=np.float32)


def prepare_masks(masks: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Resize masks (D, H, W) or (D, H, W, organs) bool to the grid: a pixel is True when half of its area is.

    Returns:
        (D, height, width) or (D, height, width, organs) bool.
    """
    return _resize(masks, (spec.height, spec.width)) >= 0.5


def restore(probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize probabilities (D, height, width, C) from the grid to slices of shape (H, W).

    Returns:
        (D, H, W, C) float32.
    """
    if probabilities.ndim != 4:
        raise ValueError(f"probabilities have shape {probabilities.shape}; expected (D, height, width, C)")
    return _resize(probabilities, shape)


def _percentiles(scan: np.ndarray, spec: InputSpec) -> tuple[float, float]:
    """Measure the low and high percentile of a scan on every fourth row and column."""
    sample = scan[:, ::4, ::4]
    low, high = np.percentile(sample, [spec.low, spec.high])
    return float(low), float(high)


def _resize(slices: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize each slice (H, W) or (H, W, C) to float32; pixels are areas, so the edges of the slice stay in place."""
    height, width = shape
    if slices.shape[1:3] == (height, width):
        return slices.astype(np.float32)
    shrinks = height <= slices.shape[1] and width <= slices.shape[2]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = np.empty((len(slices), height, width, *slices.shape[3:]), np.float32)
    for index, image in enumerate(slices):  # one slice in 32 bits fits into the processor's cache, a scan does not
        cv2.resize(image.astype(np.float32), (width, height), dst=resized[index], interpolation=method)
    return resized


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
