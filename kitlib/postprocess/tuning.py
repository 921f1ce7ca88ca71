"""Choose post-processing settings by the score, on out-of-fold probabilities, without fitting noise.

Coordinate search: one setting of one organ after the other, all its values tried on every scan. Each fold of cases has
a choice of its own, made on the other cases only; a step's gain is what these choices bring on the cases they have not
seen, with a bootstrap interval over cases. The step is kept when the whole interval lies above zero, and only then do
all states move on: the folds' own, and the one chosen on all cases, which is the result. Keeping looks at the held-out
gains, so that the final held-out gain is a little on the bright side.

Only what a step changes is scored again, and a search that was interrupted goes on where it was (`rescoring`).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import contest
from kitlib.postprocess import cleaning
from kitlib.postprocess.cleaning import Settings
from kitlib.postprocess.rescoring import Rescorer
from kitlib.scoring import bootstrap

# Values per coordinate; where two fields belong together their names and values do. The threshold comes first and,
# finer and around what was found, last.
GRID: tuple[tuple[tuple[str, ...], tuple], ...] = (
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
    """What a search has found.

    Attributes:
        settings: the choice made on all cases, of the steps that were kept.
        steps: one row per step: `setting organ value tried gain low high kept`; gain on held-out cases.
        before, after: host score of the start, and of the folds' own settings, each on the cases it has not seen.
        gain: their difference, with its interval.
        evaluated: different settings that were scored.
    """

    settings: Settings
    steps: pd.DataFrame
    before: bootstrap.Interval
    after: bootstrap.Interval
    gain: bootstrap.Interval
    evaluated: int


def tune(
    probabilities: Callable[[str], np.ndarray],
    truth: pd.DataFrame,
    slices: pd.DataFrame,
    start: Settings | None = None,
    grid: Sequence = GRID,
    folds: int = 4,
    confidence: float = 0.95,
    ledger: str | Path | None = None,
    workers: int = 2,
    progress: bool = True,
) -> Tuning:
    """Search settings that raise the host score.

    Args:
        probabilities: gives the probabilities of a scan by its name, (D, h, w, organs) in [0, 1] on any grid, such as
            `runs.Run.probabilities`; they are brought to the size of the slices. They must be out of fold.
        truth: rows `id class segmentation`.
        slices: the slice table of the scans to tune on.
        start: where the search begins; None is the plain threshold of 0.5.
        grid: coordinates and their values, as GRID.
        folds: groups of cases; each case is held out once. Not more than there are cases.
        confidence: of the interval that a step's gain must lie above zero with.
        ledger: file of scores that are known already, and are added to; None keeps them in memory.
        workers: scans scored at a time.
        progress: show a bar.

    Raises:
        ValueError: for fewer than two cases or folds.
    """
    start = start or Settings()
    scorer = Rescorer(probabilities, truth, slices, ledger, workers)
    if len(scorer.cases) < 2:
        raise ValueError(f"tuning holds cases out and needs two at least, got {len(scorer.cases)}: {scorer.cases}")
    if folds < 2:
        raise ValueError(f"folds={folds}: tuning holds one group of cases out at a time and needs two at least")
    groups = np.arange(len(scorer.cases)) % min(folds, len(scorer.cases))
    states = [start] * (groups.max() + 2)  # one per fold, and the one of all cases
    plan = [*((*step, False) for step in _steps(grid)), *((("threshold",), REFINE, k, True) for k in range(3))]
    lines = []
    with tqdm(total=len(plan) * len(scorer.scans), desc="tuning", unit="scan", disable=not progress) as bar:
        for names, values, organ, finer in plan:
            choices = [_candidates(state, names, values, organ, finer) for state in states]
            scorer.fill({settings for some in choices for settings in some}, bar)
            picked = [scorer.best(some, groups != fold) for fold, some in enumerate(choices)]
            held_out = bootstrap.gain(_held_out(scorer, states, groups), _held_out(scorer, picked, groups), confidence)
            kept = held_out.low > 0 and picked[-1] != states[-1]
            value = [_get(picked[-1], name, organ) for name in names]
            lines.append(
                {
                    "setting": " ".join(names) + (" finer" if finer else ""),
                    "organ": "bowels" if organ is None else contest.ORGANS[organ],
                    "value": ", ".join(map(str, value)),
                    "tried": len(values),
                    "gain": held_out.value,
                    "low": held_out.low,
                    "high": held_out.high,
                    "kept": kept,
                }
            )
            states = picked if kept else states
    plain, tuned = (_held_out(scorer, each, groups) for each in ([start] * len(states), states))
    return Tuning(
        states[-1],
        pd.DataFrame(lines),
        bootstrap.interval(plain, confidence),
        bootstrap.interval(tuned, confidence),
        bootstrap.gain(plain, tuned, confidence),
        len(scorer.seen),
    )


def _held_out(scorer: Rescorer, states: list[Settings], groups: np.ndarray) -> np.ndarray:
    """Give each case the totals of the settings that were chosen without it: (cases, 4)."""
    totals = np.empty((len(scorer.cases), 4))
    for fold, settings in enumerate(states[:-1]):
        totals[groups == fold] = scorer.totals(settings)[groups == fold]
    return totals


def _steps(grid: Iterable) -> list[tuple]:
    """Take the coordinates one organ after the other; the stop line belongs to both bowels."""
    steps = []
    for names, values in grid:
        organs = [None] if names == ("stop",) else range(len(contest.ORGANS))
        steps += [(names, values, organ) for organ in organs]
    return steps


def _candidates(state: Settings, names: tuple, values: Sequence, organ: int | None, finer: bool) -> list[Settings]:
    """List the settings of a step, the present ones first so that a tie changes nothing."""
    if finer:
        values = [(round(min(0.99, max(0.01, state.threshold[organ] + shift)), 3),) for shift in values]
    changed = [state]
    for value in values:
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
