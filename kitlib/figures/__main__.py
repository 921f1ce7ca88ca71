"""Draw the pictures of a run into its folder: `python -m kitlib.figures RUN [DATA]`.

figures/history.png       loss, Dice, IoU and host score over the epochs
figures/predictions.png   image, truth and out-of-fold prediction of validation slices (paper, Figure 11)
figures/folds.png         for a folder of folds: the curves and scores of all folds
figures/fold_table.png    beside it: the score of each fold and organ

With `--viewer` the command writes figures/viewer.html instead: a page to look at the predictions scan by scan. It does
the same for a submission: `python -m kitlib.figures SUBMISSION.csv DATA --truth TRUTH.csv --viewer`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kitlib import files, submission
from kitlib.data import scans
from kitlib.figures import viewer
from kitlib.figures.training import draw, trained_runs


def pages(source: Path, root: Path, truth: Path | None = None, **options) -> list[Path]:
    """Write the page of each run below a folder, or of a submission.

    Args:
        source: a run, a folder of folds, or a submission.
        root: folder of the competition.
        truth: masks of the submission's slices; None for truth.csv in `root`, which a phantom has.
        options: of `viewer.write`.

    Raises:
        FileNotFoundError: there is no such run, submission or truth.
        ValueError: the folder has no image of the truth's slices.
    """
    if source.suffix != ".csv":
        return [viewer.of_run(run, scans.read(root), **options) for run in trained_runs(source)]
    truth = truth or root / "truth.csv"
    if not truth.is_file():
        raise FileNotFoundError(f"{truth} does not exist; name the masks of the submission's slices: --truth TRUTH.csv")
    masks, predicted = files.read_csv(truth, ["id", "class", "segmentation"]), submission.read(source)
    path = source.with_name(f"{source.stem}-viewer.html")
    for split in ("test", "train"):
        slices = scans.read(root, split)
        slices = slices[slices["id"].isin(masks["id"])]
        if len(slices):
            return [viewer.write(path, masks, predicted, slices, name=str(source), **options)]
    raise ValueError(f"{root} has no slice of {truth}; name the folder with the images of these slices")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m kitlib.figures", description=__doc__.splitlines()[0])
    parser.add_argument(
        "run", type=Path, help="a run folder, a cross-validation folder, or (with --viewer) a submission.csv"
    )
    parser.add_argument("root", type=Path, nargs="?", help="folder of the competition, for pictures of predictions")
    parser.add_argument("--viewer", action="store_true", help="write an HTML page that shows the predictions")
    parser.add_argument("--truth", type=Path, help="masks of the submission's slices (default: DATA/truth.csv)")
    parser.add_argument(
        "--scans",
        type=int,
        default=12,
        help="number of scans on the page, those that lose the most points first (default: 12)",
    )
    options = parser.parse_args(arguments)
    try:
        if options.scans < 1:
            raise ValueError(f"--scans {options.scans}: expected a whole number of 1 or more")
        if options.run.suffix == ".csv" and not options.viewer:
            raise ValueError(f"{options.run} is a submission: add --viewer, or name a run folder")
        root = scans.find_root(options.root) if options.root or options.viewer else None
        if options.viewer:
            paths = pages(options.run, root, options.truth, most=options.scans, progress=sys.stderr.isatty())
        else:
            paths = draw(options.run, root)
        for path in paths:
            print(path)
    except (OSError, ValueError) as problem:
        print(problem, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
