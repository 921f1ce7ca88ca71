"""The command behind `python -m kitlib.scoring`: a submission in all conventions, and its worst scans."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kitlib import contest, files, submission
from kitlib.data import scans
from kitlib.scoring import borders, conventions, metric


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the panel and the worst scans; 1 when a file is at fault, with a line per fault."""
    options = _parser().parse_args(arguments)
    try:
        truth = read_truth(options.truth)
        slices = sizes(truth, options.data, options.sizes)
        if options.millimetres and "spacing_mm" not in slices:
            raise ValueError(
                f"{options.sizes} has no column spacing_mm, which --millimetres needs: add it, give the folder with "
                "--data instead, or leave --millimetres out"
            )
        problems = submission.check(options.submission, slices, any_order=True)
        if problems:
            print("\n".join(f"{where}: {what}" for where, what in problems))
            return 1
        prediction = submission.read(options.submission)
        scores = metric.scores(truth, prediction, slices, progress=not options.quiet)
    except (OSError, ValueError) as error:
        print(error)
        return 1
    print(report(scores, options.convention, options.worst))
    if options.millimetres:
        print("\nvolumes in millimetres, means over the scans where both masks hold the organ")
        table = borders.clinical(truth, prediction, slices)
        print(borders.clinical_means(table).to_string(float_format="%.3f"))
    return 0


def report(scores: dict[str, metric.Score], convention: str = "host", worst: int = 5) -> str:
    """Write the panel, the organs and the worst scans of one convention as text."""
    panel = metric.panel_of(scores)
    chosen = scores[convention]
    scan_means = chosen.scans.sort_values("value").head(worst)
    parts = [
        panel.to_string(float_format="%.5f"),
        f"{convention}, per organ\n" + chosen.organs.to_string(float_format="%.5f"),
        f"{convention}, worst scans\n" + scan_means.to_string(index=False, float_format="%.5f"),
    ]
    return "\n\n".join(parts)


def read_truth(path: str | Path) -> pd.DataFrame:
    """Read rows `id class segmentation` (a column `predicted` is taken for the masks too).

    Raises:
        ValueError: names the file and what it lacks.
    """
    table = files.read_csv(path, ["id", "class", "segmentation"])
    table = table.rename(columns={"predicted": "segmentation"})
    absent = {"id", "class", "segmentation"} - set(table.columns)
    if absent:
        raise ValueError(f"{path} has no column {', '.join(sorted(absent))}; it has {list(table.columns)}")
    return table


def sizes(truth: pd.DataFrame, data: str | Path | None = None, table: str | Path | None = None) -> pd.DataFrame:
    """Find order and size of the truth's slices: from a table `id height width`, or from the data folder.

    Args:
        truth: rows; each of its ids must be found.
        data: folder in the official layout; None looks where `scans.find_root` does.
        table: csv with columns id, height, width and, if there is one, spacing_mm; it goes before the folder.

    Raises:
        ValueError: names the first id without a size, or the first slice that the truth leaves out of a scan: distances
            along z are measured in the scan's depth, which must be the whole one.
    """
    if table:
        known = _read_sizes(table)
    else:
        root = scans.find_root(data)
        parts = [scans.read(root, split, problems=[]) for split in ("train", "test") if (root / split).is_dir()]
        known = pd.concat(parts) if parts else pd.DataFrame(columns=["id", "height", "width"])
    ids = pd.unique(truth["id"])
    known = known.drop_duplicates("id").set_index("id")
    lost = [name for name in ids if name not in known.index]
    if lost:
        where = table or data or "the data folder"
        raise ValueError(f"{where} has no size for {len(lost)} of {len(ids)} slices of the truth, first {lost[0]}")
    parsed = [contest.parse_id(name) for name in ids]
    scan_of = known.index.to_series().str.rsplit("_slice_", n=1).str[0]
    cut = known.index[scan_of.isin({name.scan for name in parsed}) & ~known.index.isin(ids)]
    if len(cut):
        raise ValueError(
            f"the truth leaves out slices of its scans, {len(cut)} in all, first {cut[0]}: a slice without masks "
            "needs its three empty rows too, since the depth of a scan counts"
        )
    found = known.loc[ids, [name for name in ("height", "width", "spacing_mm") if name in known]].reset_index()
    found["scan"] = [name.scan for name in parsed]
    found[["case", "day", "slice"]] = [tuple(name) for name in parsed]
    return found.sort_values(["case", "day", "slice"], ignore_index=True)


def _read_sizes(path: str | Path) -> pd.DataFrame:
    """Read a table of sizes, whose numbers must be some."""
    known = files.read_csv(path, ["id", "height", "width"])
    absent = {"id", "height", "width"} - set(known.columns)
    if absent:
        raise ValueError(f"{path} has no column {', '.join(sorted(absent))}; it has {list(known.columns)}")
    for name in [name for name in ("height", "width", "spacing_mm") if name in known]:
        numbers = pd.to_numeric(known[name], errors="coerce")
        whole = name != "spacing_mm"
        wrong = known[~((numbers > 0) & (numbers < np.inf) & ((numbers % 1 == 0) | (not whole)))]
        if len(wrong):
            raise ValueError(
                f"{path}: {wrong['id'].iloc[0]} has {name} {wrong[name].iloc[0]!r}; it is a "
                f"{'whole ' if whole else ''}number above 0"
            )
        known[name] = numbers if name == "spacing_mm" else numbers.astype(int)
    return known


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m kitlib.scoring", description="Score a submission in every convention.")
    parser.add_argument("truth", metavar="TRUTH.csv", help="rows id,class,segmentation, as train.csv has them")
    parser.add_argument("submission", metavar="SUBMISSION.csv", help="rows id,class,predicted")
    parser.add_argument("--data", help="folder of the competition, for the sizes of the slices")
    parser.add_argument("--sizes", help="csv with columns id,height,width[,spacing_mm], instead of the folder")
    parser.add_argument(
        "--convention", default="host", choices=list(conventions.CONVENTIONS), help="for the worst scans"
    )
    parser.add_argument("--worst", type=int, default=5, help="number of scans and organs to list")
    parser.add_argument("--millimetres", action="store_true", help="add the clinical distances; needs spacing_mm")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
