"""Choose post-processing settings by the host score on out-of-fold probabilities, without fitting noise.

A coordinate search from the default settings: one setting of one organ after the other, all its values tried on every
scan. Each fold of cases chooses its own value, on the other cases only; the gain of a step is the gain of these choices
on the cases that had no part in them, with a bootstrap interval over cases. The step is kept when the whole interval
lies above zero; then the settings of every fold and those chosen on all cases, which are the result, take the new
value.

The gain of the whole search is measured on cases that had no part in any of its decisions: for every fold, the search
is repeated on the other cases alone, and its settings are scored on the fold. `Tuning.settings` are worth using where
`Tuning.helps`.

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
from kitlib.postprocess.rescoring import Lines, Presence, Rescorer, Source
from kitlib.scoring import bootstrap

LINE = ("line_weight",)  # tried where an earlier day predicts the end of the bowels
# Coordinates and their values; fields that belong together share a coordinate. Those of _TOGETHER are for several
# organs at once. The threshold comes once more at the end, in finer steps around the value found.
FULL: tuple[tuple[tuple[str, ...], tuple], ...] = (
    (("ends", "offset"), (("", 0.0), *(("interval", float(offset)) for offset in range(-3, 4)))),
    (("offset",), tuple((step / 2,) for step in range(-6, 7))),
    (LINE, ((0.0,), (0.125,), (0.25,), (0.5,), (1.0,), (2.0,), (4.0,))),
    (("threshold",), tuple((step / 20,) for step in range(1, 20))),
    (("seed",), ((0.0,), (0.6,), (0.7,), (0.8,), (0.85,), (0.9,), (0.95,), (0.98,))),
    (
        ("gate_level", "gate_pixels"),
        ((0.5, 0), *((level, n) for level in (0.3, 0.5, 0.8, 0.95) for n in (20, 50, 100, 200, 400))),
    ),
    (("presence",), ((0.0,), (0.1,), (0.3,), (0.5,), (0.7,), (0.9,))),
    (("island",), ((0,), (10,), (25,), (50,), (100,), (200,))),
    (("largest",), ((False,), (True,))),
    (("island_3d",), ((0,), (100,), (300,), (1000,), (3000,), (10000,))),
    (("smoothing",), ((0,), (1,), (2,), (3,), (5,), (8,))),
    (("gap",), ((0,), (1,), (2,), (4,), (8,), (12,))),
    (("stop",), tuple((stop,) for stop in cleaning.STOPS)),
)
SHORT = (
    (("ends", "offset"), (("", 0.0), ("interval", -1.0), ("interval", 0.0), ("interval", 1.0))),
    (("offset",), ((-1.0,), (0.0,), (1.0,))),
    (LINE, ((0.0,), (0.5,), (2.0,))),
    (("threshold",), ((0.3,), (0.4,), (0.5,), (0.6,))),
    (("island_3d",), ((0,), (300,))),
    (("stop",), (("",), ("earlier",))),
)
_COLUMNS = ["score", "low", "high", "gain", "gain low", "gain high"]
_TOGETHER = {("ends", "offset"): "all organs", ("stop",): "bowels", LINE: "bowels"}
REFINE = (-0.04, -0.03, -0.02, -0.01, 0.0, 0.01, 0.02, 0.03, 0.04)


@dataclass(frozen=True)
class Tuning:
    """The result of a search.

    Attributes:
        settings: the settings chosen on all cases, from the steps that were kept.
        steps: one row per step: `setting organ value tried gain low high kept`; gain on held-out cases.
        scores: host score with its interval, and the gain over the start with its own: a row for the threshold 0.5, for
            the start, for the start with runs of slices at offset 0, and for `after`.
        before, after: host score of the start, and of the settings that searches without the scored cases found.
        gain: their difference, with its interval.
        evaluated: number of different settings that were scored.
    """

    settings: Settings
    steps: pd.DataFrame
    scores: pd.DataFrame
    before: bootstrap.Interval
    after: bootstrap.Interval
    gain: bootstrap.Interval
    evaluated: int

    @property
    def helps(self) -> bool:
        """Whether the settings are better than the start on held-out cases: the whole interval of the gain is above 0.

        False with fewer than three cases, where no search can hold any out.
        """
        return self.gain.low > 0


def tune(
    probabilities: Source,
    truth: pd.DataFrame,
    slices: pd.DataFrame,
    start: Settings = cleaning.DEFAULT,
    values: Sequence = FULL,
    folds: int = 4,
    confidence: float = 0.95,
    cache: str | Path | None = None,
    workers: int = 2,
    progress: bool = True,
    presence: Presence | None = None,
    lines: Lines | None = None,
) -> Tuning:
    """Search settings that raise the host score.

    Args:
        probabilities: of every scan, such as `runs.HeldOut`. They must be out of fold.
        truth: rows `id class segmentation`.
        slices: the slice table of the scans to tune on.
        start: the settings to begin with and to compare with; they stay where no step gains.
        values: coordinates and their values, FULL or SHORT.
        folds: groups of cases; each case is held out once. With fewer cases there is a group per case.
        confidence: of the interval that must lie above zero for a step to be kept.
        cache: file of scores, read and extended; None keeps them in memory.
        workers: number of scans scored in parallel.
        progress: print a forecast of the time, and show a bar.
        presence: function that returns the presence of a scan by its name, as for `rescoring.Rescorer`.
        lines: function that returns the line of a scan by its name, such as `earlier.stop_lines`; without it
            `line_weight` is not tried.

    Raises:
        ValueError: for fewer than two cases or folds.
    """
    scorer = Rescorer(probabilities, truth, slices, cache, workers, presence, lines)
    if len(scorer.cases) < 2:
        raise ValueError(f"tuning needs at least two cases, got {len(scorer.cases)} ({scorer.cases}); add another case")
    if folds < 2:
        raise ValueError(f"folds={folds}: must be at least 2, because tuning holds out one group of cases at a time")
    values = [step for step in values if lines or step[0] != LINE]
    plan = [*((*step, False) for step in _steps(values)), *((("threshold",), REFINE, k, True) for k in range(3))]
    if progress:
        print(_forecast(scorer, start, plan, folds))
    scorer.fill([start])
    before = scorer.totals(start)
    settings, steps = _search(scorer, start, plan, folds, confidence, "tuning" if progress else "")
    after, groups = before.copy(), _groups(scorer, folds)
    for fold in range(groups.max() + 1) if settings != start else ():
        rest, held_out = (scorer.only({*np.array(scorer.cases)[part]}) for part in (groups != fold, groups == fold))
        chosen, name = start, f"without fold {fold + 1}"
        if len(rest.cases) > 1:
            chosen, _ = _search(rest, start, plan, folds, confidence, name if progress else "")
        held_out.fill([chosen])
        after[groups == fold] = held_out.totals(chosen)
    tried = {
        "threshold 0.5": cleaning.PLAIN,
        "start": start,
        "start, runs of slices at offset 0": with_runs(start),
    }
    scorer.fill(tried.values())
    totals = {name: scorer.totals(each) for name, each in tried.items()} | {"tuned, held out": after}
    scores = {name: bootstrap.interval(each, confidence) for name, each in totals.items()}
    gains = {name: bootstrap.gain(before, each, confidence) for name, each in totals.items()}
    lines = {name: [*scores[name], *gains[name]] for name in totals}
    return Tuning(
        settings,
        steps,
        pd.DataFrame.from_dict(lines, orient="index", columns=_COLUMNS),
        scores["start"],
        scores["tuned, held out"],
        gains["tuned, held out"],
        len(scorer.scored),
    )


def with_runs(settings: Settings, offset: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Settings:
    """Give settings `ends="interval"`; those that it takes the place of return to their defaults.

    >>> with_runs(Settings(gap=(1, 2, 3), island=(9, 9, 9))) == Settings(island=(9, 9, 9), ends="interval")
    True
    """
    plain = {name: getattr(cleaning.PLAIN, name) for name in cleaning.REPLACED}
    return replace(settings, **plain, ends="interval", offset=offset)


def _search(
    scorer: Rescorer, start: Settings, plan: list[tuple], folds: int, confidence: float, name: str
) -> tuple[Settings, pd.DataFrame]:
    """Go through the plan once; return the settings of all cases, and one row per step."""
    groups, lines = _groups(scorer, folds), []
    states = [start] * (groups.max() + 2)  # one per fold, and the one of all cases
    with tqdm(total=_values(plan) * len(scorer.parts), desc=name, unit="value", disable=not name) as bar:
        for names, entries, organ, finer in plan:
            choices = [_candidates(state, names, entries, organ, finer) for state in states]
            done = bar.n
            scorer.fill({settings for candidates in choices for settings in candidates}, bar)
            bar.update(done + len(entries) * len(scorer.parts) - bar.n)  # the states of the folds may differ
            chosen = [scorer.best(candidates, groups != fold) for fold, candidates in enumerate(choices)]
            held_out = bootstrap.gain(_held_out(scorer, states, groups), _held_out(scorer, chosen, groups), confidence)
            kept = held_out.low > 0 and chosen[-1] != states[-1]
            value = [_get(chosen[-1], name, organ) for name in names]
            lines.append(
                {
                    "setting": " ".join(names) + (" finer" if finer else ""),
                    "organ": _TOGETHER[names] if organ is None else contest.ORGANS[organ],
                    "value": ", ".join(map(str, value)),
                    "tried": len(entries),
                    "gain": held_out.value,
                    "low": held_out.low,
                    "high": held_out.high,
                    "kept": kept,
                }
            )
            states = chosen if kept else states
    return states[-1], pd.DataFrame(lines)


def _groups(scorer: Rescorer, folds: int) -> np.ndarray:
    """Return the fold of each case."""
    return np.arange(len(scorer.cases)) % min(folds, len(scorer.cases))


def _held_out(scorer: Rescorer, states: list[Settings], groups: np.ndarray) -> np.ndarray:
    """Return the totals of each case under the settings that were chosen without it: (cases, 4)."""
    totals = np.empty((len(scorer.cases), 4))
    for fold, settings in enumerate(states[:-1]):
        totals[groups == fold] = scorer.totals(settings)[groups == fold]
    return totals


def _steps(values: Iterable) -> list[tuple]:
    """List the coordinates of each organ; those in _TOGETHER are for several organs at once."""
    steps = []
    for names, entries in values:
        organs = [None] if names in _TOGETHER else range(len(contest.ORGANS))
        steps += [(names, entries, organ) for organ in organs]
    return steps


def _candidates(state: Settings, names: tuple, entries: Sequence, organ: int | None, finer: bool) -> list[Settings]:
    """List the settings of a step, the present ones first so that a tie changes nothing.

    An interval resets the settings that it takes the place of, and from then on their steps have nothing to try; so has
    that of the offset without an interval. The line brings its interval along: either may gain through the other only.
    """
    if names == ("offset",) if not state.ends else set(names) & set(cleaning.REPLACED):
        return [state]
    if names == LINE and not state.ends:
        return [state, *(replace(with_runs(state), line_weight=weight) for (weight,) in entries if weight)]
    if finer:
        entries = [(round(min(0.99, max(0.01, state.threshold[organ] + shift)), 3),) for shift in entries]
    changed = [state]
    for value in entries:
        new = {}
        for name, part in zip(names, value, strict=True):
            old = getattr(state, name)
            if name in cleaning.FOR_ALL:
                new[name] = part
            else:
                new[name] = (part,) * len(old) if organ is None else (*old[:organ], part, *old[organ + 1 :])
        if new.get("ends"):
            changed.append(with_runs(state, new["offset"]))
        else:
            changed.append(replace(state, **new, **({"line_weight": 0.0} if "ends" in new else {})))
    return list(dict.fromkeys(changed))


def _get(settings: Settings, name: str, organ: int | None):
    value = getattr(settings, name)
    return value if organ is None or name in cleaning.FOR_ALL else value[organ]


def _values(plan: list[tuple]) -> int:
    """Count the values that a search tries on a scan."""
    return sum(len(entries) for _, entries, _, _ in plan)


def _forecast(scorer: Rescorer, start: Settings, plan: list[tuple], folds: int) -> str:
    """Say how long tuning takes, from the time of one scan.

    The shortest is one search in which no step gains. Where steps do, the folds choose apart and each asks for its own
    values, at most as often as there are folds.
    """
    opening, scoring = scorer.pace(start)
    seconds = (len(plan) * opening + _values(plan) * scoring) * len(scorer.parts) / scorer.workers
    longest = seconds * (1 + min(folds, len(scorer.cases)))
    return (
        f"tuning: {_values(plan)} values on {len(scorer.parts)} scans, about {seconds / 60:.1f} to {longest / 60:.1f} "
        "minutes: the more of them gain, the longer; less where the cache has their scores"
    )
