"""Draw the pictures of a run into its folder: `python -m kitlib.figures RUN [DATA]`.

figures/history.png       loss, Dice, IoU and host score over the epochs
figures/predictions.png   image, truth and out-of-fold prediction of validation slices (paper, Figure 11)
figures/folds.png         for a folder of folds: the curves and scores of all folds
figures/fold_table.png    beside it: the score of each fold and organ
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kitlib import runs
from kitlib.data import scans
from kitlib.figures import style, training


def draw(folder: Path, root: Path | None = None) -> list[Path]:
    """Draw the pictures of a run folder, or of a folder of folds.

    Args:
        folder: a run, or a folder that holds fold0, fold1, ...
        root: the competition, for images and truth; None draws no predictions. Runs without out-of-fold probabilities
            of its scans, such as those of a bundle, are listed and left out of the pictures that need them.

    Raises:
        FileNotFoundError: the folder holds no run with a model.
    """
    found = runs.find(folder)
    if not found:
        raise FileNotFoundError(f"{folder} holds no run with a model; train first, or name another folder")
    slices, predicted, drawn = scans.read(root) if root is not None else None, [], []
    for run in found:
        if len(run.history()):
            drawn.append(style.save(training.history(run.history()), run.folder / "figures/history.png"))
        if slices is not None and not slices["scan"].isin(run.scans).any():
            print(f"{run.folder}: no predictions are drawn, because its oof/ holds no scan of {root}")
        elif slices is not None:
            predicted.append(run)
            drawn.append(style.save(training.predictions(run, slices), run.folder / "figures/predictions.png"))
    if len(found) > 1:
        drawn.append(style.save(training.folds(found), Path(folder) / "figures/folds.png"))
        if predicted:
            table = training.fold_table(training.organ_scores(predicted, slices))
            drawn.append(style.save(table, Path(folder) / "figures/fold_table.png"))
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m kitlib.figures", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a run folder, or a folder of folds")
    parser.add_argument("root", type=Path, nargs="?", help="folder of the competition, for pictures of predictions")
    options = parser.parse_args(arguments)
    try:
        for path in draw(options.folder, options.root):
            print(path)
    except (OSError, ValueError) as problem:
        print(problem, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
