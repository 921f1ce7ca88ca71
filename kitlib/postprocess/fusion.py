"""The weights of a mean over networks of several kinds, such as 2.5D and 3D, chosen by the score.

Each cross-validation predicts a scan by the network that held it out. The mean of these predictions is taken at the
size of the files, as in inference, so that grids and boxes may differ. Weights are chosen on all cases; their gain is
measured on cases that had no part in the choice: each group of cases gets the weights that are best on the others.
`runs.write_weights` stores them where inference reads them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib.data import inputs, scans
from kitlib.postprocess import cleaning, rescoring
from kitlib.postprocess.rescoring import Presence, Source
from kitlib.scoring import bootstrap, host

SHARES = tuple(tenth / 10 for tenth in range(11))  # of the next source, beside the mean of those before it

Weights = tuple[float, ...]  # one per source, with the sum 1


@dataclass(frozen=True)
class Fusion:
    """The result of a choice.

    Attributes:
        weights: of the sources, chosen on all cases.
        scores: host score of each mean that was tried, with its interval; the index is the weights.
        gain: over the first source alone, on held-out cases, with its interval.
    """

    weights: Weights
    scores: pd.DataFrame
    gain: bootstrap.Interval

    @property
    def helps(self) -> bool:
        """Whether the mean is better than the first source on held-out cases: the whole interval is above 0."""
        return self.gain.low > 0


class Mean:
    """The weighted mean of sources at the size of the files; a source itself.

    Args:
        sources: probabilities of every scan, each on the grid of its spec.
        weights: of the sources; one of weight 0 is not read.
        slices: the slice table of the scans.
    """

    def __init__(self, sources: Sequence[Source], weights: Weights, slices: pd.DataFrame):
        self.parts = [(source, weight) for source, weight in zip(sources, weights, strict=True) if weight]
        self.rows = dict(iter(slices.groupby("scan", sort=False)))

    def __call__(self, scan: str) -> np.ndarray:
        """Return the mean of a scan: (D, H, W, organs) float32."""
        rows, total = self.rows[scan], 0.0
        shape, spacing_mm = scans.common_size(rows), scans.spacing_mm(rows)
        for source, weight in self.parts:
            grid = rescoring.as_float(rescoring.opened(source, scan, len(rows)))
            total = total + np.float32(weight) * inputs.restore(grid, shape, source.spec_of(scan), spacing_mm)
        return np.minimum(total, 1)  # against rounding

    def spec_of(self, scan: str) -> inputs.InputSpec:
        """Return a spec whose grid is the size of the files."""
        return inputs.InputSpec(*scans.common_size(self.rows[scan]))


def choose(
    sources: Sequence[Source],
    truth: pd.DataFrame,
    slices: pd.DataFrame,
    settings: cleaning.Settings = cleaning.DEFAULT,
    folds: int = 4,
    confidence: float = 0.95,
    workers: int = 2,
    presence: Presence | None = None,
    lines: rescoring.Lines | None = None,
    progress: bool = False,
) -> Fusion:
    """Choose the weights of a mean: for each further source in turn the best of `SHARES` beside the mean so far.

    Args:
        sources: probabilities of every scan, out of fold, such as `runs.HeldOut` of several cross-validations; the
            first is the one that the others shall improve.
        truth: rows `id class segmentation`.
        slices: the slice table of the scans to score.
        settings: how the mean becomes masks, as in inference: `runs.choose_settings` finds those tuned with runs.
        folds: groups of cases; each case is held out once. With fewer cases there is a group per case.
        confidence: of the interval of the gain.
        workers: number of scans scored in parallel.
        presence, lines: functions that return the presence of a scan, and the slice on which its bowels are expected to
            end, by its name, as for `rescoring.Rescorer`.
        progress: show a bar over the means that are scored.

    Raises:
        ValueError: for fewer than two sources, cases or folds, and for a presence that the settings do not look at.
    """
    cases = slices["case"].nunique() if "case" in slices else slices["scan"].nunique()
    for name, count in (("sources", len(sources)), ("cases", cases), ("folds", folds)):
        if count < 2:
            raise ValueError(f"fusion needs at least two {name}, got {count}")
    if presence is not None and not cleaning.needs_presence(settings):
        raise ValueError(
            f"the presence has no effect with {settings}; give settings that look at it, such as cleaning.default(gate="
            "True), or leave it out"
        )
    known: dict[Weights, np.ndarray] = {}
    bar = tqdm(desc="scoring", unit=" means", disable=not progress)

    def totals(weights: Weights) -> np.ndarray:
        """Return the totals of each case, (cases, 4), scored once."""
        if weights not in known:
            mean = Mean(sources, weights, slices)
            scorer = rescoring.Rescorer(mean, truth, slices, workers=workers, presence=presence, lines=lines)
            scorer.fill([settings])
            known[weights] = scorer.totals(settings)
            bar.update()
        return known[weights]

    def search(chosen: np.ndarray) -> Weights:
        """Find the best weights on some cases, (cases,) bool; of equals those with less of the later sources."""
        best = (1.0, *(0.0,) * (len(sources) - 1))
        for place in range(1, len(sources)):
            tried = [_with(best, place, share) for share in SHARES]
            values = [host.value(totals(weights)[chosen].sum(axis=0)) for weights in tried]
            best = tried[int(np.nan_to_num(np.round(values, 12), nan=-1.0).argmax())]
        return best

    before = totals((1.0, *(0.0,) * (len(sources) - 1)))
    group, after = np.arange(len(before)) % min(folds, len(before)), before.copy()
    for fold in range(group.max() + 1):
        after[group == fold] = totals(search(group != fold))[group == fold]
    weights = search(np.ones(len(before), bool))
    bar.close()
    scores = {tried: bootstrap.interval(found, confidence) for tried, found in known.items()}
    table = pd.DataFrame(scores.values(), pd.Index(list(scores), tupleize_cols=False), ["score", "low", "high"])
    return Fusion(weights, table.rename_axis("weights"), bootstrap.gain(before, after, confidence))


def _with(weights: Weights, place: int, share: float) -> Weights:
    """Give the source at a place a share, and the sources before it the rest."""
    changed = [round(weight * (1 - share), 6) for weight in weights]
    changed[place] = share
    return tuple(changed)
