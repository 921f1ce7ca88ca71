"""The case's earlier day: how exactly two scans are registered, and how well it predicts where the bowels end.

`python benchmarks/earlier.py [--root FOLDER] [--cases 8] [--days 3] [--seed 0] [--draws 20] [--save]`. FOLDER is a
phantom that was written with these numbers; without one it is written to a temporary folder, which takes a minute or
two. The plan of a phantom says where the patient lies in each scan (`phantom.files.displacement_mm`), so the error of a
registration is known. Local contrast, its neighbourhood and its noise level were chosen on another phantom (32 cases of
2 days, seed 5), where the mean error along the body is .25 slices. On its first 10 pairs, where local contrast erred by
.4, grey values that were clipped, or their root or logarithm, erred by 1.2 to 1.5, and a high pass by .8. The
annotators' stop line lies at a fixed place of the phantom's patient: that a registered line is exact there shows that
the shift is, not that annotators are so consistent.

With KITLIB_REAL_DATA=FOLDER, the stop lines of the real scans in FOLDER/masks.csv are measured too. These have no
images, so nothing can be registered. The presence that a network would give is made up, as in benchmarks/ends.py: sure
far from the ends, unsure within 6 slices of them. There is no peer that does this.
"""

import argparse
import importlib.metadata
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

import ends
import phantom
from kitlib import contest, files
from kitlib.data import alignment, earlier, inputs, scans
from kitlib.postprocess import intervals
from phantom import cohort
from phantom.files import displacement_mm

RESULTS = Path(__file__).parent / "results" / "earlier.md"
CURVE = ends.CURVES[1]
WEIGHTS = (0.125, 0.25, 0.5, 1.0, 2.0)
BOWELS = list(intervals.BOWELS)


@dataclass(frozen=True)
class Visit:
    """A scan with an earlier day: the slices of its organs, (D, organs) bool, and the lines that are predicted."""

    scan: str
    truth: np.ndarray
    lines: dict[str, float]

    @property
    def end(self) -> int:
        """The slice on which the bowels end."""
        return int(np.flatnonzero(self.truth[:, BOWELS].any(axis=1))[-1])


def read_phantom(root: Path) -> pd.DataFrame:
    """Read all scans of a phantom with their masks, hidden ones too."""
    hidden = scans.with_masks(
        scans.read(root, "test"), files.read_csv(root / "truth.csv", ["id", "class", "segmentation"])
    )
    return pd.concat([scans.read(root), hidden]).sort_values(["case", "day", "slice"], ignore_index=True)


def read_real(path: Path) -> pd.DataFrame:
    """Read the real rows as a slice table without images."""
    table = files.read_csv(path, ["id", "class", "segmentation"])
    names = pd.DataFrame({"id": table["id"].unique()})
    parts = pd.DataFrame([contest.parse_id(name) for name in names["id"]], columns=["case", "day", "slice"])
    slices = names.join(parts).assign(scan=names["id"].map(contest.scan_of))
    return scans.with_masks(slices, table).sort_values(["case", "day", "slice"], ignore_index=True)


def population(slices: pd.DataFrame, scan: str) -> float:
    """Predict the stop line of a scan as the mean of the other cases', relative to the number of slices."""
    case = contest.case_of(scan)
    groups = {name: rows for name, rows in slices.groupby("scan") if contest.case_of(name) != case}
    found = {name: (earlier.last_bowel_slice(rows), len(rows)) for name, rows in groups.items()}
    depth = (slices["scan"] == scan).sum()
    return float(np.mean([(last + 0.5) / count for last, count in found.values() if last is not None])) * depth - 0.5


def register(slices: pd.DataFrame, plan: dict[str, cohort.Scan]) -> tuple[dict[str, int], dict[str, list], list]:
    """Register each scan with its earlier day: its shift in slices, errors by way (slices, mm, mm), and seconds."""
    shifts, errors, seconds = {}, {"not registered": [], "grey values": [], "local contrast": []}, []
    groups = dict(list(slices.groupby("scan")))
    pixel_mm = (alignment.SPEC.box_mm[1] - alignment.SPEC.box_mm[0]) / alignment.SPEC.height
    for later, before in earlier.days(slices).items():
        volumes = []
        for scan in (later, before):
            images = inputs.load(groups[scan]["path"].tolist())
            volumes.append(inputs.prepare(images, alignment.SPEC, scans.spacing_mm(groups[scan])))
        started = time.process_time()
        found = alignment.register(*volumes)
        seconds.append(time.process_time() - started)
        reach = alignment.MOST_SLICES, *(side // alignment.MOST_SHARE for side in volumes[0].shape[1:])
        grey = alignment.shift(*volumes, reach)
        true, scale = displacement_mm(plan[later], plan[before]), (contest.SLICE_THICKNESS_MM, pixel_mm, pixel_mm)
        for way, each in zip(errors, ((0, 0, 0), grey, found), strict=True):
            z, *plane = np.multiply(each, scale) - true
            errors[way].append((z / contest.SLICE_THICKNESS_MM, *plane))
        shifts[later] = found[0]
    return shifts, errors, seconds


def visits(slices: pd.DataFrame, shifts: dict[str, int]) -> list[Visit]:
    """List the scans with an earlier day, and the lines that are predicted for them."""
    groups, found = dict(list(slices.groupby("scan"))), []
    for later, before in earlier.days(slices).items():
        last = earlier.last_bowel_slice(groups[before])
        lines = {"the mean of the other cases": population(slices, later), "earlier day, not registered": last}
        if later in shifts:
            lines["earlier day, registered"] = last + shifts[later]
        truth = (groups[later][list(contest.ORGANS)] != "").to_numpy()
        if truth[:, BOWELS].any():
            found.append(Visit(later, truth, lines))
    return found


def line_errors(found: list[Visit]) -> dict[str, np.ndarray]:
    """Measure the errors of the predicted lines in slices, by way."""
    return {way: np.array([abs(visit.lines[way] - visit.end) for visit in found]) for way in found[0].lines}


def decoded_errors(found: list[Visit], draws: int, seed: int = 0) -> dict[tuple[str, float], np.ndarray]:
    """Measure the error of the decoded ends of both bowels, by way and weight; all see the same made-up presence."""
    rng, errors = np.random.default_rng(seed), {}
    ways = [way for way in found[0].lines if way.startswith("earlier")]
    for _ in range(draws):
        for visit in found:
            presence = ends.simulate(visit.truth, *CURVE, rng)
            last = [np.flatnonzero(visit.truth[:, k])[-1] for k in BOWELS]
            for way, weight in [("", 0.0), *((way, weight) for way in ways for weight in WEIGHTS)]:
                bonus = intervals.line_bonus(len(presence), visit.lines[way], weight) if way else None
                decoded = intervals.runs(presence, np.zeros(len(contest.ORGANS)), bonus)[BOWELS, 1]
                errors.setdefault((way, weight), []).extend(np.abs(decoded - last))
    return {key: np.array(part) for key, part in errors.items()}


def shift_table(errors: dict[str, list]) -> list[str]:
    """Write the errors of the shifts as a table."""
    lines = [
        "| | along the body, slices: mean | largest | off by more than 1 | up and down, mm | across, mm |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for way, part in errors.items():
        z, y, x = np.abs(part).T
        lines.append(
            f"| {way} | {z.mean():.2f} | {z.max():.0f} | {(z > 1).mean():.0%} | {y.mean():.1f} | {x.mean():.1f} |"
        )
    return lines


def line_table(tables: dict[str, tuple[dict, dict]]) -> list[str]:
    """Write the errors of the stop line as a table; tables: errors of lines and of decoded ends by kind of scan."""
    kinds = list(tables)
    head = [
        f"| | {' | '.join(f'{kind}: mean | beyond {ends.FAR}' for kind in kinds)} |",
        "| --- |" + " --- | --- |" * len(kinds),
    ]
    lines = list(tables[kinds[0]][0])
    decoded = list(tables[kinds[0]][1])
    rows = {f"{way}, without presence": [lines_of.get(way) for lines_of, _ in tables.values()] for way in lines}
    for way, weight in decoded:
        name = f"presence and {way}, weight {weight:g}" if way else "presence alone"
        rows[name] = [found.get((way, weight)) for _, found in tables.values()]
    return [*head, *(f"| {name} | {' | '.join(map(_cells, parts))} |" for name, parts in rows.items())]


def _cells(errors: np.ndarray | None) -> str:
    return "- | -" if errors is None else f"{errors.mean():.2f} | {(errors > ends.FAR).mean():.1%}"


def report(root: Path, given: argparse.Namespace) -> str:
    """Measure, and write the tables as text."""
    started = time.process_time()
    cv2.setNumThreads(1)
    slices = read_phantom(root)
    plan = {scan.name: scan for scan in cohort.plan(given.cases, given.seed, days=given.days)}
    strange = set(slices["scan"]) ^ set(plan)
    if strange:
        raise SystemExit(
            f"{root} was written with other --cases, --days or --seed: {min(strange)} is in one of them only"
        )
    shifts, errors, seconds = register(slices, plan)
    known = {"phantom": visits(slices, shifts)}
    if "KITLIB_REAL_DATA" in os.environ:
        known["real"] = visits(read_real(Path(os.environ["KITLIB_REAL_DATA"]) / "masks.csv"), {})
    tables = {kind: (line_errors(found), decoded_errors(found, given.draws)) for kind, found in known.items()}
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "scipy", "pandas"))
    a, ramp, deviation, correlation = CURVE
    counts = " and ".join(f"{len(found)} {kind} scans" for kind, found in known.items())
    lines = [
        "# The earlier day\n",
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}; "
        f"{time.process_time() - started:.0f} s of processor time.\n",
        "## Registration\n",
        f"{len(shifts)} pairs of a phantom of {given.cases} cases of {given.days} days (seed {given.seed}), against "
        f"where its plan put the patient. A pair takes {np.mean(seconds):.3f} s of processor time, at most "
        f"{np.max(seconds):.3f}. `register` compares local contrast; the row of grey values is the same search without "
        "it.\n",
        *shift_table(errors),
        "\n## The stop line\n",
        f"{counts} with an earlier day; errors of the bowels' last slice, in slices, and the share beyond {ends.FAR}. "
        f"The made-up presence has logit {a:+g} inside and {-a:+g} outside, from {ramp} slices from the ends on, with "
        f"noise of {deviation:g} and correlation {correlation:g}; {given.draws} draws a scan. The real scans have no "
        "images here, so nothing is registered. In the phantom the line lies at a fixed place of the patient, so a "
        "registered line is as exact as the shift.\n",
        *line_table(tables),
    ]
    return "\n".join([*lines, ""])


def main():
    """Measure, print, and save when asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="phantom that was written with these numbers; default: write one")
    parser.add_argument("--cases", type=int, default=8, help="cases of the phantom")
    parser.add_argument("--days", type=int, default=3, help="scans per case")
    parser.add_argument("--seed", type=int, default=0, help="seed of the phantom")
    parser.add_argument("--draws", type=int, default=20, help="draws of the noise for each scan")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/earlier.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = given.root or phantom.write(
            Path(temporary) / "phantom", given.cases, given.seed, days=given.days, processes=os.cpu_count()
        )
        text = report(root, given)
    print(text)
    if given.save:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
