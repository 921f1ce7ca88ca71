"""What experiments share: scores of predictions, tables, and a command that runs what is not done yet.

Every part of an experiment runs in a process of its own and leaves a file. A part whose file is there is not run again,
so that an interrupted call goes on.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from kitlib import files, inference, postprocess, submission
from kitlib.data import scans
from kitlib.scoring import bootstrap, host, metric

RESULTS = Path(__file__).parent / "results"
FIGURES = ("weights", "minutes", "epochs", "steps")
SCORE = ("threshold", "score", "95 % interval", "Dice", "Hausdorff")


def score(
    predictions: Iterable[tuple[Hashable, postprocess.Settings, inference.Prediction]],
    slices: pd.DataFrame,
    folder: Path,
    column: str,
    thresholds: Sequence[float],
) -> list[dict]:
    """Score predictions with each threshold, by way of csv files in a folder.

    Args:
        predictions: the value in the column, settings but for the threshold, and a scan; each value has all scans.
        slices: of the scans, with masks.
        folder: of the csv files.
        column: what sets the predictions apart.
        thresholds: of the probabilities.

    Returns:
        A line for each value and threshold, with the totals by case.
    """
    groups, rows = dict(list(slices.groupby("scan", sort=False))), {}
    for value, settings, found in predictions:
        for threshold in thresholds:
            settings = replace(settings, threshold=(threshold,) * 3)
            masks = postprocess.masks(found.probabilities, settings, found.presence)
            rows.setdefault((value, threshold), []).append(submission.encode(groups[found.scan], masks))
    lines, truth = [], scans.rows(slices)
    for (value, threshold), parts in rows.items():
        path = folder / f"{column}-{value}-{threshold}.csv"
        submission.write(path, pd.concat(parts), submission.expected_rows(slices))
        totals = metric.score(truth, submission.read(path), slices).totals().to_numpy(float).tolist()
        lines.append({column: value, "threshold": threshold, "totals": totals})
    return lines


def combine(paths: Iterable[Path], **wanted) -> tuple[float, np.ndarray]:
    """Add the totals by case of the lines of all seeds that are wanted; return the best threshold and its totals."""
    tables = {}
    for path in paths:
        for line in read(path):
            if wanted.items() <= line.items():
                tables[line["threshold"]] = tables.get(line["threshold"], 0) + np.array(line["totals"])
    return best(tables)


def best(tables: Mapping[Hashable, np.ndarray]) -> tuple[Hashable, np.ndarray]:
    """Return the key and the totals by case, (cases, 4), of the highest score."""
    return max(tables.items(), key=lambda entry: host.value(entry[1].sum(axis=0)))


def read(path: Path):
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, found) -> None:
    """Write a JSON file, whole or not at all."""
    with files.replacing(path) as file:
        file.write(json.dumps(found))


def page(title: str, *parts: str, packages: Sequence[str] = ("keras", "tensorflow")) -> str:
    """Write a page in Markdown: title, machine and versions, paragraphs and tables."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; {versions}."
    return "\n\n".join([f"# {title}", machine, *parts]) + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Write a table in Markdown."""
    lines = [f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in map(str, row))}|" for row in (columns, *rows)]
    return "\n".join([lines[0], "|--" * len(columns) + "|", *lines[1:]])


def added(seeds: int) -> str:
    """Say of how many trainings the totals are.

    >>> added(2)
    'totals of 2 seeds added'
    """
    return "one seed" if seeds == 1 else f"totals of {seeds} seeds added"


def figures(result: dict) -> tuple[str, ...]:
    """Write the cells of `FIGURES`."""
    return f"{result['weights']:,}", f"{result['curve'][-1]:.1f}", str(result["epochs"]), str(result["steps"])


def scored(threshold: float | str, totals: np.ndarray) -> tuple[str, ...]:
    """Write the cells of `SCORE` from totals by case, (cases, 4)."""
    value, low, high = bootstrap.interval(totals)
    dice, distance = host.means(totals.sum(axis=0))
    return str(threshold), f"{value:.4f}", f"{low:.4f} to {high:.4f}", f"{dice:.4f}", f"{distance:.4f}"


def differences(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Write the table of differences, by name, between the totals of the first and those of the second."""
    gains = {name: bootstrap.gain(before, after) for name, (after, before) in pairs.items()}
    rows = [(name, f"{gain.value:+.4f}", f"{gain.low:+.4f} to {gain.high:+.4f}") for name, gain in gains.items()]
    return table(("difference", "host score", "95 % interval over the cases, paired"), rows)


def parser(text: str, minutes: float) -> argparse.ArgumentParser:
    """Make the parser of the arguments that all experiments have."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    made = argparse.ArgumentParser(description=text.splitlines()[0])
    made.add_argument("folder", type=Path, help="folder of the experiment, written to")
    made.add_argument("--minutes", type=float, default=minutes, help="of each training (default: %(default)s)")
    made.add_argument("--save", action="store_true", help="write the tables into results/")
    return made


def run(done: Path, script: str, *arguments) -> None:
    """Run a part of an experiment in a process of its own, unless the file that it leaves is there."""
    if not done.is_file():
        started = time.monotonic()
        subprocess.run([sys.executable, script, *map(str, arguments)], check=True)
        print(f"{done}: {(time.monotonic() - started) / 60:.1f} min in all", flush=True)


def publish(text: str, name: str, save: bool) -> None:
    """Print a page, and save it as results/<name>.md if asked to."""
    print("\n" + text)
    if save:
        with files.replacing(RESULTS / f"{name}.md") as file:
            file.write(text)


def main(
    script: str, text: str, parts: Sequence[tuple[Callable, str, str]], report: Callable, minutes: float, seeds: int = 0
) -> None:
    """Run the parts of an experiment that are not done yet, print the tables, save them with --save.

    Args:
        script: file of the experiment.
        text: its docstring.
        parts: (part, name, file): part(folder, minutes, name, seed) leaves file in folder/<script>/<name><seed>.
        report: report(folder, minutes, seeds) writes the tables.
        minutes: default of --minutes.
        seeds: default of --seeds; 0 is an experiment without seeds, whose functions get none, and no name.
    """
    made, home = parser(text, minutes), Path(script).stem
    made.add_argument("--part", nargs=3 if seeds else 1, help=argparse.SUPPRESS)
    if seeds:
        made.add_argument("--seeds", type=int, default=seeds, help="trainings of each network (default: %(default)s)")
    given = made.parse_args()
    if given.part:
        name, *which = given.part
        functions = {part.__name__: part for part, _, _ in parts}
        functions[name](given.folder, given.minutes, *which[:1], *map(int, which[1:]))
        return
    for seed in range(given.seeds) if seeds else [""]:
        for part, name, file in parts:
            arguments = (given.folder, "--minutes", given.minutes, "--part", part.__name__)
            done = given.folder / home / f"{name}{seed}" / file
            run(done, script, *arguments, *((name, seed) if seeds else ()))
    publish(report(given.folder, given.minutes, *([given.seeds] if seeds else [])), home, given.save)
