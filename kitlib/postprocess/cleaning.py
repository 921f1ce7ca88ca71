"""From the probabilities of one scan to its masks: a threshold, and cleaning steps that follow the annotators' habits.

Every step is a pure function on one organ of one scan, and `Settings` composes them. A setting at its default is off;
with all off, the masks are a plain threshold. The order of the steps: threshold (with hysteresis), gate, presence,
islands, largest component, smoothing along the slices, gaps filled, common stop line of the bowels. Each step removes
voxels from the result of the one before; the last two may also fill whole slices. A step that would leave an organ
empty is skipped for that scan: every real scan we have seen contains all three organs, and a missing one costs the
whole distance, 1.

Which slices an organ covers is decided by these steps, or with `ends="interval"` by `intervals.runs` alone: the organ
is cut to its run of slices, the islands are removed, and slices of the run without a mask are filled. Only then can an
organ become empty: when no slice has evidence of it, or no voxel reaches the threshold. Where an earlier day of the
case predicts on which slice the bowels end (`earlier.stop_lines`), `line_weight` draws their end towards it.
"""

import itertools
import json
import numbers
import sys
from dataclasses import asdict, dataclass, fields, replace

import cv2
import numpy as np
from scipy import ndimage

from kitlib import contest
from kitlib.postprocess import intervals

STOPS = ("", "earlier", "mean", "later")
ENDS = ("", "interval")
REPLACED = ("gate_pixels", "presence", "smoothing", "gap", "stop")  # settings that ends="interval" takes the place of
FOR_ALL = ("stop", "ends", "line_weight")  # settings with one value, not one per organ
_ENTRIES = (  # fields, and the type and range of their entries
    (("threshold", "seed", "gate_level", "presence"), numbers.Real, 0, 1, "a probability in [0, 1]"),
    (("gate_pixels", "island", "island_3d", "smoothing", "gap"), numbers.Integral, 0, np.inf, "a count of 0 or more"),
    (("largest",), (bool, np.bool_), 0, 1, "True or False"),
    (("offset",), numbers.Real, -sys.float_info.max, sys.float_info.max, "a finite number"),
)
_ALL_NEIGHBOURS = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Settings:
    """How probabilities become masks; each tuple has one entry per organ, in the order of contest.ORGANS.

    Attributes:
        threshold: a voxel belongs to the organ from this probability on.
        seed: hysteresis: a 3D component is kept if one of its voxels reaches this probability; 0 is off.
        gate_pixels: a slice is kept if at least this many of its pixels reach `gate_level`; 0 is off.
        gate_level: the probability for `gate_pixels`.
        presence: a slice is kept if the organ's presence there reaches this, see `masks`; 0 is off.
        island: 2D components of a slice with fewer pixels are removed; 0 is off.
        island_3d: 3D components with fewer voxels are removed; 0 is off.
        largest: only the largest 3D component is kept.
        smoothing: a slice is kept if more than half of the slices up to this many away contain the organ; 0 is off.
        gap: runs of at most this many empty slices between two with the organ are filled; 0 is off.
        stop: both bowels end on one slice, the annotators' stop line: the "earlier", the "mean" or the "later" of their
            two ends; the last slice of the one that ends before it is repeated. Empty is off.
        ends: "interval" gives each organ one run of slices by its presence, the bowels with a common end, see
            `intervals.runs`; the settings in REPLACED must then be off. Empty is off.
        offset: logit of the presence that counts as neutral for `ends`; larger makes runs shorter.
        line_weight: logits that the common end of the bowels loses for each slice between it and the line that an
            earlier day predicts, see `intervals.line_bonus`; only with `ends`. 0 is off.
    """

    threshold: tuple[float, float, float] = (0.5, 0.5, 0.5)
    seed: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gate_pixels: tuple[int, int, int] = (0, 0, 0)
    gate_level: tuple[float, float, float] = (0.5, 0.5, 0.5)
    presence: tuple[float, float, float] = (0.0, 0.0, 0.0)
    island: tuple[int, int, int] = (0, 0, 0)
    island_3d: tuple[int, int, int] = (0, 0, 0)
    largest: tuple[bool, bool, bool] = (False, False, False)
    smoothing: tuple[int, int, int] = (0, 0, 0)
    gap: tuple[int, int, int] = (0, 0, 0)
    stop: str = ""
    ends: str = ""
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    line_weight: float = 0.0

    def __post_init__(self):
        for name, value in asdict(self).items():
            if name not in FOR_ALL and (not isinstance(value, tuple) or len(value) != len(contest.ORGANS)):
                raise ValueError(f"Settings {name}={value!r}: expected a tuple with one entry per organ")
        for names, kind, least, most, what in _ENTRIES:
            for name in names:
                for entry in getattr(self, name):
                    if not isinstance(entry, kind) or not least <= entry <= most:
                        raise ValueError(f"Settings {name}={getattr(self, name)!r}: {entry!r} is not {what}")
        if self.stop not in STOPS:
            raise ValueError(f"Settings stop={self.stop!r}: expected one of {STOPS}")
        if self.ends not in ENDS:
            raise ValueError(f"Settings ends={self.ends!r}: expected one of {ENDS}")
        weight = self.line_weight
        if not isinstance(weight, numbers.Real) or isinstance(weight, bool) or not 0 <= weight < np.inf:
            raise ValueError(f"Settings line_weight={weight!r}: expected a finite number of 0 or more")
        if weight and not self.ends:
            raise ValueError(f'Settings line_weight={weight!r} needs ends="interval", whose end it moves; set both')
        apart = [name for name in REPLACED if self.ends and np.any(getattr(self, name))]
        if apart:
            given = ", ".join(f"{name}={getattr(self, name)!r}" for name in apart)
            raise ValueError(f"Settings ends={self.ends!r} with {given}: leave {', '.join(apart)} at the default")

    def to_json(self) -> str:
        """Write the settings as text.

        >>> Settings.from_json(Settings(gap=(0, 3, 0)).to_json()) == Settings(gap=(0, 3, 0))
        True
        """
        return json.dumps(asdict(self), default=np.generic.item)

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """Read settings from text; missing fields keep their defaults, an unknown field raises ValueError."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"Settings {values!r}: expected a JSON object")
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            names = ", ".join(sorted(unknown))
            raise ValueError(f"Settings has no field {names}: remove it, or install the newer kitlib that wrote it")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


PLAIN = Settings()  # a threshold of 0.5 and no cleaning
# Used until settings are tuned: in every real annotation we have seen, the stomach is in one piece, and no bowel has
# specks or is smaller than a cubic centimetre.
DEFAULT = Settings(island=(20, 20, 20), island_3d=(500, 500, 0), largest=(False, False, True))


def default(gate: bool) -> Settings:
    """Return the settings to use until others are tuned: DEFAULT; with a gate it also decides on the slices.

    A segmenter has learned slices with organs only, so that without its gate it finds them everywhere. An organ is then
    on the slices of a presence of 0.5 or more, smoothed along the scan, and both bowels end with the earlier. One run
    of slices per organ needs a tuned offset: without, it cost .05 points (benchmarks/results/roles.md).

    >>> default(gate=True).presence
    (0.5, 0.5, 0.5)
    """
    return replace(DEFAULT, presence=(0.5,) * 3, smoothing=(3,) * 3, stop="earlier") if gate else DEFAULT


def masks(
    probabilities: np.ndarray, settings: Settings, presence: np.ndarray | None = None, line: int | None = None
) -> np.ndarray:
    """Turn the probabilities of one scan into masks.

    Args:
        probabilities: (D, H, W, organs) float in [0, 1], organs in the order of contest.ORGANS.
        settings: DEFAULT, PLAIN, or the tuned settings of a run.
        presence: (D, organs), probability that an organ is on a slice, such as a gate's. Without it, where the settings
            need one, `intervals.presence` measures it on the probabilities themselves.
        line: the slice on which both bowels are expected to end, from 0, for `line_weight`; None without an earlier
            day, and then `line_weight` changes nothing.

    Returns:
        (D, H, W, organs) bool.
    """
    organs = len(contest.ORGANS)
    if probabilities.ndim != 4 or probabilities.shape[-1] != organs:
        raise ValueError(f"probabilities have shape {probabilities.shape}; expected (D, H, W, {organs})")
    if probabilities.dtype.kind != "f":
        raise ValueError(f"probabilities are {probabilities.dtype}; expected floats in [0, 1]: divide bytes by 255")
    if presence is not None and np.shape(presence) != (len(probabilities), organs):
        raise ValueError(f"presence has shape {np.shape(presence)}; expected ({len(probabilities)}, {organs})")
    if presence is None and needs_presence(settings):
        presence = intervals.presence(probabilities)
    found, allowed = np.empty(probabilities.shape, bool), allowed_slices(presence, settings, line)
    for organ in range(organs):
        found[..., organ] = organ_mask(probabilities[..., organ], settings, organ, allowed[organ])
    if settings.stop:
        one, other = intervals.BOWELS
        found[..., one], found[..., other] = common_stop(found[..., one], found[..., other], settings.stop)
    return found


def needs_presence(settings: Settings) -> bool:
    """Tell whether the settings look at the presence of the organs."""
    return bool(settings.ends) or any(settings.presence)


def allowed_slices(presence: np.ndarray | None, settings: Settings, line: int | None = None) -> list[np.ndarray | None]:
    """Find the slices that each organ may be on, by its presence (D, organs): its run, or those from a threshold on.

    Args: as `masks`.

    Returns:
        For each organ (D,) bool, or None where the settings allow every slice.
    """
    if settings.ends:
        index, bonus = np.arange(len(presence)), None
        if line is not None and settings.line_weight:
            bonus = intervals.line_bonus(len(presence), line, settings.line_weight)
        return [(first <= index) & (index <= last) for first, last in intervals.runs(presence, settings.offset, bonus)]
    return [np.asarray(presence)[:, k] >= level if level else None for k, level in enumerate(settings.presence)]


def organ_mask(
    probabilities: np.ndarray, settings: Settings, organ: int, allowed: np.ndarray | None = None
) -> np.ndarray:
    """Clean one organ, (D, H, W), with all steps that do not depend on the others.

    Args:
        allowed: (D,) bool of `allowed_slices`.
    """
    whole = np.zeros(probabilities.shape, bool)
    level = np.asarray(settings.threshold[organ], probabilities.dtype)
    rough = probabilities >= level
    if not rough.any() or (settings.ends and not allowed.any()):
        return whole
    # The steps work on the bounding box in the plane; all slices remain, so that they keep their numbers.
    rows, columns = (np.flatnonzero(rough.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    box = slice(None), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    mask, inside = rough[box], probabilities[box]
    if settings.seed[organ]:
        mask = _unless_empty(hysteresis(inside, settings.threshold[organ], settings.seed[organ]), mask)
    if settings.gate_pixels[organ]:
        pixels = count_pixels(probabilities, settings.gate_level[organ])
        mask = _unless_empty(gate(mask, pixels, settings.gate_pixels[organ]), mask)
    if allowed is not None:
        mask = _unless_empty(gate(mask, allowed, True), mask)
    if settings.island[organ]:
        mask = _unless_empty(drop_islands(mask, settings.island[organ]), mask)
    if settings.island_3d[organ] or settings.largest[organ]:
        mask = _unless_empty(drop_islands_3d(mask, settings.island_3d[organ], settings.largest[organ]), mask)
    if settings.smoothing[organ]:
        mask = _unless_empty(smooth_presence(mask, settings.smoothing[organ]), mask)
    if settings.gap[organ]:
        mask = fill_gaps(mask, settings.gap[organ])
    if settings.ends:
        mask = fill_run(mask, *np.flatnonzero(allowed)[[0, -1]])
    whole[box] = mask
    return whole


def _unless_empty(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Skip a step that would remove an organ's last voxel."""
    return after if after.any() else before


def hysteresis(probabilities: np.ndarray, low: float, high: float) -> np.ndarray:
    """Keep the 3D components of `probabilities >= low` (26 neighbours) that reach `high` in at least one voxel."""
    labels, count = ndimage.label(probabilities >= np.asarray(low, probabilities.dtype), _ALL_NEIGHBOURS)
    kept = np.zeros(count + 1, bool)
    kept[labels[probabilities >= np.asarray(max(low, high), probabilities.dtype)]] = True
    kept[0] = False
    return kept[labels]


def count_pixels(probabilities: np.ndarray, level: float) -> np.ndarray:
    """Count the pixels of each slice that reach a level: (D,)."""
    reached = probabilities >= np.asarray(level, probabilities.dtype)
    return np.array([np.count_nonzero(part) for part in reached])


def gate(mask: np.ndarray, scores: np.ndarray, least: float) -> np.ndarray:
    """Empty the slices whose score, (D,), is below `least`."""
    return mask & (np.asarray(scores) >= least)[:, None, None]


def drop_islands(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Remove, slice by slice, components (8 neighbours) of fewer pixels."""
    result = mask.copy()
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        count, labels, table, _ = cv2.connectedComponentsWithStats(mask[index].view(np.uint8), connectivity=8)
        areas = table[:, cv2.CC_STAT_AREA]
        if count > 1 and areas[1:].min() < pixels:
            kept = areas >= pixels
            kept[0] = False
            result[index] = kept[labels]
    return result


def drop_islands_3d(mask: np.ndarray, voxels: int, largest: bool = False) -> np.ndarray:
    """Remove 3D components (26 neighbours) of fewer voxels, or all but the largest."""
    labels, count = ndimage.label(mask, _ALL_NEIGHBOURS)
    if not count:
        return mask.copy()
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept = sizes >= max(1, voxels)
    if largest:
        kept &= np.arange(sizes.size) == sizes.argmax()
    return kept[labels]


def smooth_presence(mask: np.ndarray, reach: int) -> np.ndarray:
    """Keep a slice only if more than half of the slices up to `reach` away, itself included, contain the organ.

    In the real data an organ's slices are contiguous. Slices beyond the ends of the scan have no vote.
    """
    filled = mask.any(axis=(1, 2)).astype(int)
    span = np.ones(2 * reach + 1, int)
    votes, voters = (np.convolve(line, span)[reach : reach + len(mask)] for line in (filled, np.ones_like(filled)))
    return mask & (2 * votes > voters)[:, None, None]


def fill_gaps(mask: np.ndarray, longest: int) -> np.ndarray:
    """Fill runs of at most `longest` empty slices between two filled ones by shape-based interpolation.

    Signed distances to the border are interpolated linearly: Herman et al., "Shape-based interpolation", IEEE Computer
    Graphics and Applications 12 (1992). Where the result is empty, the nearer slice is repeated.
    """
    result, filled = mask.copy(), np.flatnonzero(mask.any(axis=(1, 2)))
    for first, last in itertools.pairwise(filled):
        if 1 < last - first <= longest + 1:
            below, above = _signed_distance(mask[first]), _signed_distance(mask[last])
            for index in range(first + 1, last):
                share = (index - first) / (last - first)
                shape = (1 - share) * below + share * above > 0
                result[index] = shape if shape.any() else mask[first if share <= 0.5 else last]
    return result


def fill_run(mask: np.ndarray, first: int, last: int) -> np.ndarray:
    """Let a mask cover exactly the slices first..last: slices without a mask are filled, slices outside are emptied.

    Between two slices with a mask the shape is interpolated as in `fill_gaps`; elsewhere the nearest one is repeated.
    An empty mask stays empty.
    """
    result, filled, run = np.zeros_like(mask), np.flatnonzero(mask.any(axis=(1, 2))), np.arange(first, last + 1)
    if filled.size:
        result[run] = fill_gaps(mask, len(mask))[np.clip(run, filled[0], filled[-1])]
    return result


def common_stop(large: np.ndarray, small: np.ndarray, stop: str) -> tuple[np.ndarray, np.ndarray]:
    """Let both bowels end on one slice: cut the one that goes past it, repeat the last slice of the other.

    Args:
        large, small: (D, H, W) bool; unchanged when one of them is empty.
        stop: "earlier", "mean" (rounded up) or "later" of the two last slices.
    """
    line = stop_line(last_slice(large), last_slice(small), stop)
    return end_on(large, line), end_on(small, line)


def last_slice(mask: np.ndarray) -> int:
    """Return the last slice that is not empty; -1 when all are."""
    filled = np.flatnonzero(mask.any(axis=(1, 2)))
    return int(filled[-1]) if filled.size else -1


def stop_line(large: int, small: int, stop: str) -> int:
    """Return the common last slice of two organs from the last slice of each; -1 when either organ is absent.

    >>> stop_line(90, 95, "mean")
    93
    """
    if stop not in STOPS[1:]:
        raise ValueError(f"stop={stop!r}: expected one of {STOPS[1:]}")
    if min(large, small) < 0:
        return -1
    return {"earlier": min(large, small), "later": max(large, small), "mean": (large + small + 1) // 2}[stop]


def end_on(mask: np.ndarray, line: int) -> np.ndarray:
    """Make a mask end on a slice; with -1, or a slice before its first, it is unchanged."""
    end = last_slice(mask)
    if line < 0 or end < 0:
        return mask
    result = mask.copy()
    result[line + 1 :] = False
    result[end + 1 : line + 1] = mask[end]
    return _unless_empty(result, mask)


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    """Measure the distance to the border in pixels, positive inside."""
    inside, outside = (
        cv2.distanceTransform(np.pad(part, 1, constant_values=rim).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
        for part, rim in ((mask, False), (~mask, True))
    )
    return (inside - outside)[1:-1, 1:-1]
