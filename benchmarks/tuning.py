"""Tuning of post-processing: `python benchmarks/tuning.py [--data ROOT] [--runs FOLDER] [--save]`.

The full grid on eight cases of a phantom, from out-of-fold probabilities to settings, and what these settings bring on
cases that had no part in it, beside the default settings, from which the search starts. The probabilities are those of
a cross-validation below --runs, or made from the truth. There is no peer that does this.
"""

import argparse
import importlib.metadata
import os
import platform
import time
from pathlib import Path

import numpy as np

from kitlib.data import scans
from kitlib.postprocess import rescoring, tuning
from kitlib.postprocess.cleaning import DEFAULT, PLAIN
from kitlib.runs import selection
from kitlib.scoring import bootstrap, host
from phantom import standin

RESULTS = Path(__file__).parent / "results" / "tuning.md"
CASES = 8


def part(slices, cases):
    """Give truth and slice table of some cases."""
    slices = slices[slices["case"].isin(cases)].reset_index(drop=True)
    return scans.rows(slices), slices


def measure(kept, spec, slices, presence):
    """Search on the first cases, score on the others, and say what it took and brought."""
    cases = slices["case"].unique()
    wall, cpu = time.perf_counter(), time.process_time()
    probabilities = rescoring.Probabilities(kept.__getitem__, spec)
    found = tuning.tune(probabilities, *part(slices, cases[:CASES]), presence=presence)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    unseen = rescoring.Rescorer(probabilities, *part(slices, cases[CASES:]), presence=presence)
    tried = {
        "threshold 0.5": PLAIN,
        "default": DEFAULT,
        "default, runs of slices at offset 0": tuning.with_runs(DEFAULT),
        "tuned": found.settings if found.helps else DEFAULT,
    }
    unseen.fill(tried.values())
    default = unseen.totals(DEFAULT)
    lines = [
        f"{min(CASES, len(cases))} cases, {found.evaluated} different settings, {wall:.0f} s ({cpu:.0f} s of "
        f"processor); {found.steps['kept'].sum()} of {len(found.steps)} steps kept. Held out in turn: default "
        f"{found.before.value:.4f}, tuned {found.after.value:.4f}, gain {between(found.gain)}: "
        f"{'the tuned settings are used' if found.helps else 'the default is kept'}.\n",
        f"| on {len(cases[CASES:])} cases not seen | host score | gain over the default, 95 % |",
        "| --- | --- | --- |",
    ]
    for name, settings in tried.items():
        totals = unseen.totals(settings)
        gain = between(bootstrap.gain(default, totals))
        lines.append(f"| {name} | {host.value(totals.sum(axis=0)):.4f} | {gain} |")
    changed = {name: value for name, value in vars(found.settings).items() if value != getattr(DEFAULT, name)}
    return "\n".join([*lines, "", f"Changed from the default: {changed or 'nothing'}"])


def between(gain):
    """Write a gain with its interval."""
    return f"{gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"


def machine():
    """Say what it ran on."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "scipy", "pandas"))
    load = f"load {os.getloadavg()[0]:.1f}"
    return f"{platform.machine()}, {os.cpu_count()} cores, {load}, Python {platform.python_version()}, {versions}."


def save(heading, text):
    """Put a section into the results and keep the others."""
    old = RESULTS.read_text(encoding="utf-8").split("\n## ")[1:] if RESULTS.is_file() else []
    sections = dict(section.strip().split("\n", 1) for section in old) | {heading: f"\n{text}"}
    written = [f"## {name}\n\n{body.strip()}\n" for name, body in sections.items()]
    RESULTS.write_text("\n".join(["# Tuning of post-processing\n", *written]), encoding="utf-8")


def main():
    """Measure, print, and save when asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, help="a competition with more than eight training cases; found when not given"
    )
    parser.add_argument("--runs", type=Path, help="folder of a cross-validation; without it, made probabilities")
    parser.add_argument("--save", action="store_true", help="write into benchmarks/results/tuning.md")
    given = parser.parse_args()
    slices = scans.read(scans.find_root(given.data))
    if given.runs:
        held_out = selection.choose_held_out(given.runs, scans=set(slices["scan"]))[0]
        slices = slices[slices["scan"].isin(held_out.scans)].reset_index(drop=True)
        spec, epochs = held_out.runs[0].spec, max(len(run.history()) for run in held_out.runs)
        heading = f"A network's, {len(held_out.runs)} folds, {epochs} epochs, {spec.height}x{spec.width}"
        read, presence = held_out, held_out.presence
    else:
        heading, read, presence = "Made from the truth, 128x128", standin.StandIn(slices), None
        spec = read.spec
    kept = {scan: np.rint(read(scan) * 255).astype(np.uint8) for scan in read.scans}
    text = f"{machine()}\n\n{measure(kept, spec, slices, presence)}"
    print(f"## {heading}\n\n{text}")
    if given.save:
        save(heading, text)


if __name__ == "__main__":
    main()
