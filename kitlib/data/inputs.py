"""From PNG files to the network's grid and back: InputSpec, which training and inference share, prepare and restore.

Each scan is scaled by its own percentiles, because grey values differ tenfold between scans, and resized to the
network's grid, either the whole slice or a box in mm around its centre (`kitlib.data.boxes`). `restore` brings
probabilities back to the slice; outside the box they are 0.
"""

import io
import json
import math
import os
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from kitlib import contest
from kitlib.data import boxes
from kitlib.files import Problem

AXES = ("z", "y", "x")  # from slice to slice, down, and across


@dataclass(frozen=True)
class InputSpec:
    """The network's input, saved as JSON with the weights.

    Args:
        height, width: pixels of the network's grid.
        depth: slices in a stack, odd; the paper takes 5 (section II.B). Of a volume any number.
        stride: slices from one neighbour of a stack to the next.
        low, high: percentiles of the scan that become 0 and 1. The arms are bright at the edge of wide fields, so a
            scan's maximum does not measure its tissue.
        ceiling: larger values are clipped to it, in units of the high percentile.
        box_mm: (top, bottom, left, right) of the part that the network sees, in mm from the centre of the image, y
            downwards, so that top and left are negative; `boxes.box_for` measures it. None is the whole slice.
        volume: whether the network labels every slice of its stack, not only the middle one, such as
            `kitlib.models.build_segresnet`. Needs stride 1.
        prior: whether the masks of the case's earlier day follow the slices as further channels (`priors`).
        axis: along which the pictures of a stack follow each other: "z", the slices of the files; "y", coronal
            pictures, whose rows are slices; "x", sagittal ones. The grid of the slices stays the same, so that packed
            scans serve all three (`axes`).
        length: rows of a picture along y or x: slices of the scan. A shorter scan is filled up with zeros, a longer
            one is predicted in parts that overlap.
    """

    height: int = 128
    width: int = 128
    depth: int = 5
    stride: int = 1
    low: float = 1.0
    high: float = 99.0
    ceiling: float = 2.0
    box_mm: boxes.Box | None = None
    volume: bool = False
    prior: bool = False
    axis: str = "z"
    length: int = 160

    def __post_init__(self):
        for name in ("height", "width", "depth", "stride", "length"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"InputSpec {name}={value!r}: expected a whole number of 1 or more")
        if type(self.volume) is not bool:
            raise ValueError(f"InputSpec volume={self.volume!r}: expected True or False")
        if self.volume and self.stride != 1:
            raise ValueError(f"InputSpec stride={self.stride}: a volume has all slices, so leave stride at 1")
        if self.depth % 2 == 0 and not self.volume:
            raise ValueError(f"InputSpec depth={self.depth}: choose an odd number, so that a stack has a middle slice")
        for name in ("low", "high", "ceiling"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"InputSpec {name}={value!r}: expected a number")
        if not 0 <= self.low < self.high <= 100:
            raise ValueError(f"InputSpec low={self.low}, high={self.high}: expected percentiles, low below high")
        if self.box_mm is not None:
            _check_box(self.box_mm)
        if type(self.prior) is not bool:
            raise ValueError(f"InputSpec prior={self.prior!r}: expected True or False")
        if self.prior and self.volume:
            raise ValueError("InputSpec prior=True and volume=True: a prior goes with a stack; leave one of them out")
        if self.axis not in AXES:
            raise ValueError(f"InputSpec axis={self.axis!r}: choose one of {', '.join(AXES)}")
        if self.axis != "z" and (self.prior or self.volume):
            name = "prior" if self.prior else "volume"
            raise ValueError(f"InputSpec axis={self.axis!r} and {name}=True: leave {name} out, or the axis at 'z'")

    @property
    def picture(self) -> tuple[int, int]:
        """The rows and columns of one picture of a stack: (height, width), along y (length, width), x (length, height).

        >>> InputSpec(96, 128, axis="x", length=160).picture
        (160, 96)
        """
        return {"z": (self.height, self.width), "y": (self.length, self.width), "x": (self.length, self.height)}[
            self.axis
        ]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one input: a picture and its depth; with a prior depth + 4."""
        return *self.picture, self.depth + self.prior * contest.PRIOR_CHANNELS

    @property
    def labelled(self) -> tuple[int, ...]:
        """The shape of the masks of one input, but for the organs: that of a picture, of a volume with its depth."""
        return self.shape if self.volume else self.picture

    @property
    def grid(self) -> "InputSpec":
        """The part on which prepared and packed scans depend: grid, box and scale, without stack and axis."""
        plain = InputSpec(depth=1)
        names = ("depth", "stride", "volume", "prior", "axis", "length")
        return replace(self, **{name: getattr(plain, name) for name in names})

    def to_json(self) -> str:
        """Write the record as JSON; what came later has no entry where it has its default, as before it existed.

        >>> InputSpec.from_json(InputSpec(height=96).to_json()) == InputSpec(height=96)
        True
        """
        values = asdict(self)
        for name in ("box_mm", "volume", "prior", "axis", "length"):
            if values[name] == getattr(InputSpec, name):
                del values[name]
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> "InputSpec":
        """Read the record from JSON; an unknown field raises ValueError."""
        values = json.loads(text)
        strange = set(values) - {field.name for field in fields(cls)}
        if strange:
            raise ValueError(f"InputSpec has no field {', '.join(sorted(strange))}; was it saved by a newer kit?")
        if isinstance(values.get("box_mm"), list):
            values["box_mm"] = tuple(values["box_mm"])
        return cls(**values)


def _check_box(box_mm: object) -> None:
    """Raise ValueError for a box that is none."""
    numbers = isinstance(box_mm, tuple) and len(box_mm) == 4
    numbers = numbers and all(isinstance(value, int | float) and not isinstance(value, bool) for value in box_mm)
    if not numbers or not all(map(math.isfinite, box_mm)):
        raise ValueError(
            f"InputSpec box_mm={box_mm!r}: expected four numbers (top, bottom, left, right) in mm, or None"
        )
    top, bottom, left, right = box_mm
    if not (top < bottom and left < right):
        raise ValueError(f"InputSpec box_mm={box_mm!r}: expected top above bottom, so less, and left less than right")


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


def prepare(scan: np.ndarray, spec: InputSpec, spacing_mm: float | None = None) -> np.ndarray:
    """Scale a scan, cut it to the box and resize it to the network's grid.

    value -> (value - p_low) / (p_high - p_low), clipped to [0, ceiling], with percentiles of the whole scan. Resizing
    averages areas where the grid is coarser than the slice in both directions, and interpolates linearly otherwise. The
    part of a box outside the slice becomes 0.

    Args:
        scan: (D, H, W) grey values of one scan, uint16 in the files.
        spec: grid, box, percentiles and ceiling.
        spacing_mm: size of the scan's pixels; only a box needs it.

    Returns:
        (D, height, width) float32. A scan of a single value becomes zeros.

    Raises:
        ValueError: for a box without a spacing.
    """
    if scan.ndim != 3:
        raise ValueError(f"scan has shape {scan.shape}; expected (D, H, W)")
    window = boxes.window(spec.box_mm, scan.shape[1:], spacing_mm)
    low, high = _percentiles(scan, spec)
    scale = high - low if high > low else 1.0
    resized = resize(scan, (spec.height, spec.width), window, outside=low)
    return np.clip((resized - low) / scale, 0.0, spec.ceiling, dtype=np.float32)


def prepare_masks(masks: np.ndarray, spec: InputSpec, spacing_mm: float | None = None) -> np.ndarray:
    """Cut masks (D, H, W) or (D, H, W, organs) bool to the box and resize them to the grid.

    A pixel of the grid is True when half of its area is.

    Args:
        masks: of one scan.
        spec: grid and box.
        spacing_mm: size of the scan's pixels; only a box needs it.

    Returns:
        (D, height, width) or (D, height, width, organs) bool.

    Raises:
        ValueError: for a box without a spacing.
    """
    window = boxes.window(spec.box_mm, masks.shape[1:3], spacing_mm)
    return resize(masks, (spec.height, spec.width), window) >= 0.5


def restore(
    probabilities: np.ndarray, shape: tuple[int, int], spec: InputSpec, spacing_mm: float | None = None
) -> np.ndarray:
    """Bring probabilities from the grid back to slices of shape (H, W): the inverse of `prepare`.

    Args:
        probabilities: (D, height, width, C) on the grid of the spec.
        shape: (H, W) of the slices.
        spec: grid and box.
        spacing_mm: size of the slices' pixels; only a box needs it.

    Returns:
        (D, H, W, C) float32, 0 outside the box.

    Raises:
        ValueError: for a box without a spacing, or probabilities on another grid.
    """
    if probabilities.ndim != 4 or probabilities.shape[1:3] != (spec.height, spec.width):
        expected = f"(D, {spec.height}, {spec.width}, C)"
        raise ValueError(f"probabilities have shape {probabilities.shape}; expected {expected}, the grid of the spec")
    top, bottom, left, right = boxes.window(spec.box_mm, shape, spacing_mm)
    if (top, bottom, left, right) == (0, shape[0], 0, shape[1]):
        return resize(probabilities, shape)
    restored = np.zeros((len(probabilities), *shape, probabilities.shape[-1]), np.float32)
    first, end = (max(top, 0), max(left, 0)), (min(bottom, shape[0]), min(right, shape[1]))
    if first[0] < end[0] and first[1] < end[1]:
        there = slice(first[0], end[0]), slice(first[1], end[1])
        here = slice(first[0] - top, end[0] - top), slice(first[1] - left, end[1] - left)
        for index in range(len(probabilities)):  # slice by slice, so that the box is never held as a whole
            cut = resize(probabilities[index : index + 1], (bottom - top, right - left))
            restored[index][there] = cut[0][here]
    return restored


def resize(
    slices: np.ndarray, shape: tuple[int, int], window: boxes.Window | None = None, outside: float = 0.0
) -> np.ndarray:
    """Resize each slice; pixels are areas, so the edges of the slice stay in place.

    Args:
        slices: (D, H, W) or (D, H, W, C).
        shape: height and width to resize to.
        window: the part of the slices to take, from `boxes.window`; None takes all.
        outside: value of the part of the window that lies outside the slices.

    Returns:
        (D, height, width) or (D, height, width, C) float32.
    """
    height, width = shape
    top, bottom, left, right = window or (0, slices.shape[1], 0, slices.shape[2])
    rows, columns = slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))
    cut = slices[:, rows, columns]
    size = bottom - top, right - left
    padded = cut.shape[1:3] != size
    if size == (height, width) and not padded:
        return cut.astype(np.float32)
    shrinks = height <= size[0] and width <= size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = np.empty((len(slices), height, width, *slices.shape[3:]), np.float32)
    canvas = np.full((*size, *slices.shape[3:]), outside, np.float32) if padded else None
    inside = (
        slice(rows.start - top, rows.start - top + cut.shape[1]),
        slice(columns.start - left, columns.start - left + cut.shape[2]),
    )
    for index, image in enumerate(cut):  # one slice in 32 bits fits into the processor's cache, a scan does not
        if padded:
            canvas[inside] = image
        whole = canvas if padded else image.astype(np.float32)
        cv2.resize(whole, (width, height), dst=resized[index], interpolation=method)
    return resized


def _percentiles(scan: np.ndarray, spec: InputSpec) -> tuple[float, float]:
    """Measure the low and high percentile of a scan on every fourth row and column."""
    sample = scan[:, ::4, ::4]
    low, high = np.percentile(sample, [spec.low, spec.high])
    return float(low), float(high)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
