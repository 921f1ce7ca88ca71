"""Score a submission: `python -m kitlib.scoring TRUTH.csv SUBMISSION.csv [--data ROOT | --sizes TABLE] [--ledger]`.

Prints the score in every convention and the worst scans, or, with --ledger, the errors and the points they cost.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kitlib import contest, files, submission
from kitlib.data import scans
from kitlib.scoring import borders, conventions, ledger, metric


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the panel and the worst scans, or the ledger; return 1 after listing the problems of a faulty file."""
    options = _parser().parse_args(arguments)
    try:
        print(_answer(options))
    except (OSError, ValueError) as error:
        print(error)
        return 1
    return 0


def _answer(options: argparse.Namespace) -> str:
    """Return the text to print; a faulty file is a ValueError with a line per problem."""
    for name in ("worst", "ledger"):
        if (getattr(options, name) or 0) < 0:
            raise ValueError(f"--{name} {getattr(options, name)}: expected a whole number of 0 or more")
    truth = read_truth(options.truth)
    slices = sizes(truth, options.data, options.sizes)
    if options.millimetres and "spacing_mm" not in slices:
        raise ValueError(
            f"{options.sizes} has no column spacing_mm, which --millimetres needs: add it, give the folder with --data "
            "instead, or leave --millimetres out"
        )
    prediction = submission.read(options.submission)
    before, after = files.header(options.truth), files.header(options.submission)
    if "segmentation" not in before and "predicted" not in after:  # either name alone may stand for the other
        raise ValueError(
            f"{options.truth} has a column predicted and {options.submission} a column segmentation: name the truth "
            "first, then the submission"
        )
    problems = submission.check(options.submission, slices, strict=False)
    if problems:
        raise ValueError("\n".join(f"{where}: {what}" for where, what in problems))
    if options.ledger is not None:
        return ledger_report(ledger.measure(truth, prediction, slices, not options.quiet), options.ledger)
    text = report(metric.scores(truth, prediction, slices, not options.quiet), options.convention, options.worst)
    if options.millimetres:
        means = borders.clinical_means(borders.clinical(truth, prediction, slices))
        text += "\n\nvolumes in millimetres, means over the scans where both masks contain the organ\n"
        text += means.to_string(float_format="%.3f")
    return text


def report(scores: dict[str, metric.Score], convention: str = "host", worst: int = 5) -> str:
    """Return the panel, the organs and the worst scans of one convention as text."""
    panel, chosen = metric.panel_of(scores), scores[convention]
    scan_means = chosen.scans.sort_values("value").head(worst)
    parts = [
        panel.to_string(float_format="%.5f"),
        f"{convention}, per organ\n" + chosen.organs.to_string(float_format="%.5f"),
        f"{convention}, worst scans\n" + scan_means.to_string(index=False, float_format="%.5f"),
    ]
    return "\n\n".join(parts)


def ledger_report(account: ledger.Ledger, rows: int = 0) -> str:
    """Return the largest rows of a ledger (0: all) as text, with its sum, its what-if scores and advice."""
    table = account.table
    shown = table.head(rows) if rows else table
    sums = (
        f"host score {account.score:.4f}: {table['points'].sum():.4f} points lost in {len(table)} rows; "
        f"with the right slices {account.right_presence:.4f}, with the right contours {account.right_contours:.4f}"
    )
    text = shown.to_string(index=False, float_format="%.4f") if len(shown) else "no errors"
    return "\n\n".join([sums, text, "\n".join(ledger.advice(table)[: len(shown)])]).strip()


def read_truth(path: str | Path) -> pd.DataFrame:
    """Read rows `id class segmentation`; a column `predicted` is taken for `segmentation` (`files.read_csv`)."""
    return files.read_csv(path, ["id", "class", "segmentation"])


def sizes(truth: pd.DataFrame, data: str | Path | None = None, table: str | Path | None = None) -> pd.DataFrame:
    """Build the slice table of the truth, from a table `id height width` or from the data folder.

    Args:
        truth: rows; every id must be found.
        data: folder in the official layout; None searches as `scans.find_root` does.
        table: csv with columns id, height, width and optionally spacing_mm; used instead of the folder.

    Raises:
        ValueError: names the first id without a size, or the first slice of a scan that the truth leaves out: distances
            along z are relative to the depth of the whole scan.
    """
    if table:
        known = _read_sizes(table)
    else:
        root = scans.find_root(data, "--data")
        parts = [scans.read(root, split, problems=[]) for split in ("train", "test") if (root / split).is_dir()]
        known = pd.concat(parts) if parts else pd.DataFrame(columns=["id", "height", "width"])
    ids = pd.unique(truth["id"])
    known = known.drop_duplicates("id").set_index("id")
    lost = [name for name in ids if name not in known.index]
    if lost:
        where = table or data or "the data folder"
        raise ValueError(
            f"{where} has no size for {len(lost)} of {len(ids)} slices of the truth, first {lost[0]}: give the folder "
            "of this truth with --data, or a table of sizes with --sizes"
        )
    parsed = [contest.parse_id(name) for name in ids]
    cut = known.index[known.index.map(contest.scan_of).isin({name.scan for name in parsed}) & ~known.index.isin(ids)]
    if len(cut):
        raise ValueError(
            f"the truth lacks {len(cut)} slices of its scans, first {cut[0]}: add three rows with empty "
            "fields for each slice without masks, because the depth of a scan counts"
        )
    slices = known.loc[ids, [name for name in ("height", "width", "spacing_mm") if name in known]].reset_index()
    slices["scan"] = [name.scan for name in parsed]
    slices[["case", "day", "slice"]] = [tuple(name) for name in parsed]
    return slices.sort_values(["case", "day", "slice"], ignore_index=True)


def _read_sizes(path: str | Path) -> pd.DataFrame:
    """Read a table of sizes, and check its numbers."""
    known = files.read_csv(path, ["id", "height", "width"], optional=["spacing_mm"])
    for name in [name for name in ("height", "width", "spacing_mm") if name in known]:
        numbers = pd.to_numeric(known[name], errors="coerce")
        whole = name != "spacing_mm"
        wrong = known[~((numbers > 0) & (numbers < np.inf) & ((numbers % 1 == 0) | (not whole)))]
        if len(wrong):
            raise ValueError(
                f"{path}, line {wrong.index[0]}: {wrong['id'].iloc[0]} has {name} {wrong[name].iloc[0]!r}; expected a "
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
        "--convention", default="host", choices=list(conventions.CONVENTIONS), help="convention of the tables"
    )
    parser.add_argument("--worst", type=int, default=5, help="number of scans and organs to list")
    parser.add_argument(
        "--ledger",
        type=int,
        nargs="?",
        const=0,
        metavar="ROWS",
        help="print which errors cost the most points instead: the ROWS largest, or all",
    )
    parser.add_argument("--millimetres", action="store_true", help="add the clinical distances; needs spacing_mm")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
