"""Choose post-processing settings by the host score on out-of-fold probabilities, without fitting noise.

A coordinate search: one setting of one organ after the other, all its values tried on every scan. Each fold of cases
chooses its own value, on the other cases only; the gain of a step is the gain of these choices on the cases that had
no part in them, with a bootstrap interval over cases. The step is kept when the whole interval lies above zero; then
the settings of every fold and those chosen on all cases, which are the result, take the new value. Which steps are
kept is decided by the held-out gains, so the final held-out gain is slightly optimistic.

Only the volumes that a step changes are scored again, and an interrupted search resumes from its cache (`rescoring`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import contest
from kitlib.postprocess import cleaning
from kitlib.postprocess.cleaning import Settings
from kitlib.postprocess.rescoring import Rescorer, Source
from kitlib.scoring import bootstrap

# Coordinates and their values; fields that belong together share a coordinate. The threshold comes first, and once
# more at the end, in finer steps around the value found.
FULL: tuple[tuple[tuple[str, ...], tuple], ...] = (
    (("threshold",), tuple((step / 20,) for step in range(1, 20))),
    (("seed",), ((0.0,), (0.6,), (0.7,), (0.8,), (0.85,), (0.9,), (0.95,), (0.98,))),
    (
        ("gate_level", "gate_pixels"),
        ((0.5, 0), *((level, n) for level in (0.3, 0.5, 0.8, 0.95) for n in (20, 50, 100, 200, 400))),
    ),
    (("island",), ((0,), (10,), (25,), (50,), (100,), (200,))),
    (("largest",), ((False,), (True,))),
    (("island_3d",), ((0,), (100,), (300,), (1000,), (3000,), (10000,))),
    (("smoothing",), ((0,), (1,), (2,), (3,), (5,), (8,))),
    (("gap",), ((0,), (1,), (2,), (4,), (8,), (12,))),
    (("stop",), tuple((stop,) for stop in cleaning.STOPS)),
)
SHORT = (
    (("threshold",), ((0.3,), (0.4,), (0.5,), (0.6,))),
    (("island_3d",), ((0,), (300,))),
    (("stop",), (("",), ("earlier",))),
)
REFINE = (-0.04, -0.03, -0.02, -0.01, 0.0, 0.01, 0.02, 0.03, 0.04)


@dataclass(frozen=True)
class Tuning:
    """The result of a search.

    Attributes:
        settings: the settings chosen on all cases, from the steps that were kept.
        steps: one row per step: `setting organ value tried gain low high kept`; gain on held-out cases.
        before, after: host score of the start, and of each fold's own settings on its held-out cases.
        gain: their difference, with its interval.
        evaluated: number of different settings that were scored.
    """

    settings: Settings
    steps: pd.DataFrame
    before: bootstrap.Interval
    after: bootstrap.Interval
    gain: bootstrap.Interval
    evaluated: int


def tune(
    probabilities: Source,
    truth: pd.DataFrame,
    slices: pd.DataFrame,
    start: Settings = cleaning.PLAIN,
    values: Sequence = FULL,
    folds: int = 4,
    confidence: float = 0.95,
    cache: str | Path | None = None,
    workers: int = 2,
    progress: bool = True,
) -> Tuning:
    """Search settings that raise the host score.

    Args:
        probabilities: of every scan, such as `runs.HeldOut`. They must be out of fold.
        truth: rows `id class segmentation`.
        slices: the slice table of the scans to tune on.
        start: the settings to begin with.
        values: coordinates and their values, FULL or SHORT.
        folds: groups of cases; each case is held out once. With fewer cases there is a group per case.
        confidence: of the interval that must lie above zero for a step to be kept.
        cache: file of scores, read and extended; None keeps them in memory.
        workers: number of scans scored in parallel.
        progress: show a bar.

    Raises:
        ValueError: for fewer than two cases or folds.
    """
    scorer = Rescorer(probabilities, truth, slices, cache, workers)
    if len(scorer.cases) < 2:
        raise ValueError(f"tuning needs at least two cases, got {len(scorer.cases)} ({scorer.cases}); add another case")
    if folds < 2:
        raise ValueError(f"folds={folds}: must be at least 2, because tuning holds out one group of cases at a time")
    groups = np.arange(len(scorer.cases)) % min(folds, len(scorer.cases))
    states = [start] * (groups.max() + 2)  # one per fold, and the one of all cases
    plan = [*((*step, False) for step in _steps(values)), *((("threshold",), REFINE, k, True) for k in range(3))]
    lines = []
    with tqdm(total=len(plan) * len(scorer.parts), desc="tuning", unit="scan", disable=not progress) as bar:
        for names, entries, organ, finer in plan:
            choices = [_candidates(state, names, entries, organ, finer) for state in states]
            scorer.fill({settings for candidates in choices for settings in candidates}, bar)
            chosen = [scorer.best(candidates, groups != fold) for fold, candidates in enumerate(choices)]
            held_out = bootstrap.gain(_held_out(scorer, states, groups), _held_out(scorer, chosen, groups), confidence)
            kept = held_out.low > 0 and chosen[-1] != states[-1]
            value = [_get(chosen[-1], name, organ) for name in names]
            lines.append(
                {
                    "setting": " ".join(names) + (" finer" if finer else ""),
                    "organ": "bowels" if organ is None else contest.ORGANS[organ],
                    "value": ", ".join(map(str, value)),
                    "tried": len(entries),
                    "gain": held_out.value,
                    "low": held_out.low,
                    "high": held_out.high,
                    "kept": kept,
                }
            )
            states = chosen if kept else states
    before, after = (_held_out(scorer, each, groups) for each in ([start] * len(states), states))
    return Tuning(
        states[-1],
        pd.DataFrame(lines),
        bootstrap.interval(before, confidence),
        bootstrap.interval(after, confidence),
        bootstrap.gain(before, after, confidence),
        len(scorer.scored),
    )


def _held_out(scorer: Rescorer, states: list[Settings], groups: np.ndarray) -> np.ndarray:
    """Return the totals of each case under the settings that were chosen without it: (cases, 4)."""
    totals = np.empty((len(scorer.cases), 4))
    for fold, settings in enumerate(states[:-1]):
        totals[groups == fold] = scorer.totals(settings)[groups == fold]
    return totals


def _steps(values: Iterable) -> list[tuple]:
    """List the coordinates of each organ; the stop line belongs to both bowels."""
    steps = []
    for names, entries in values:
        organs = [None] if names == ("stop",) else range(len(contest.ORGANS))
        steps += [(names, entries, organ) for organ in organs]
    return steps


def _candidates(state: Settings, names: tuple, entries: Sequence, organ: int | None, finer: bool) -> list[Settings]:
    """List the settings of a step, the present ones first so that a tie changes nothing."""
    if finer:
        entries = [(round(min(0.99, max(0.01, state.threshold[organ] + shift)), 3),) for shift in entries]
    changed = [state]
    for value in entries:
        settings = state
        for name, part in zip(names, value, strict=True):
            old = getattr(settings, name)
            new = part if organ is None else (*old[:organ], part, *old[organ + 1 :])
            settings = replace(settings, **{name: new})
        changed.append(settings)
    return list(dict.fromkeys(changed))


def _get(settings: Settings, name: str, organ: int | None):
    value = getattr(settings, name)
    return value if organ is None else value[organ]
