"""What attention and augmentation bring: runs that differ in one setting, side by side.

`python benchmarks/comparison.py NAME=RUN [NAME=RUN ...] [--data TEXT] [--save]` reads run folders that
02_train left with `COMPARE=("plain", "unaugmented")`: same data, seed, order and steps. --save also draws
docs/pictures/gaps.png.
"""

import argparse
from pathlib import Path

from kitlib import files, runs
from kitlib.figures import training

RESULTS = Path(__file__).parent / "results" / "comparison.md"
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "gaps.png"
SHOWN = ("seed", "epochs", "batch_size", "learning_rate", "schedule", "empty_share", "loss")
FREE = {"network", "window_stages", "external_bottleneck", "augment", "augment_settings"}


def table(compared: dict[str, runs.Run]) -> str:
    """Write a Markdown table: scores on the validation scans, and Dice of both sets at the last epoch."""
    lines = [
        "| run | host score | Dice | Hausdorff | seconds | Dice, training | Dice, validation | gap |",
        "|--|--|--|--|--|--|--|--|",
    ]
    for name, run in compared.items():
        score, last = run.score(), run.history().iloc[-1]
        lines.append(
            f"| {name} | {score['score']:.3f} | {score['dice']:.3f} | {score['hausdorff']:.3f} "
            f"| {run.record['wall_seconds']:.0f} | {last['dice']:.3f} | {last['val_dice']:.3f} "
            f"| {last['dice'] - last['val_dice']:.3f} |"
        )
    return "\n".join(lines)


def setting(compared: dict[str, runs.Run]) -> str:
    """Describe the settings that the runs share.

    Raises:
        ValueError: when they differ in more than the attentions and the augmentation, or in the number of steps.
    """
    first, *others = compared.values()
    mine = first.parameters
    for run in others:
        theirs = run.parameters
        for name in sorted((mine.keys() | theirs.keys()) - FREE):
            if theirs.get(name) != mine.get(name):
                raise ValueError(f"{run.folder}: {name} is {theirs.get(name)}, {first.folder} has {mine.get(name)}")
        if len(run.history()) != len(first.history()):
            raise ValueError(f"{run.folder} has {len(run.history())} epochs, {first.folder} {len(first.history())}")
        if run.record["folds"] != first.record["folds"] or run.record["input_spec"] != first.record["input_spec"]:
            raise ValueError(f"{run.folder} and {first.folder} differ in their scans or their grid")
    folds, spec = first.record["folds"], first.record["input_spec"]
    return (
        f"{len(folds['train'])} scans to train on, validation: {', '.join(folds['held_out'])}; grid {spec['height']} x "
        f"{spec['width']}; {', '.join(f'{name} {mine[name]}' for name in SHOWN)}.\n\n"
        "Score, Dice and Hausdorff are the host's, at the size of the files; the last three columns are the Dice of "
        "the training's metric at the last epoch, pooled over slices per organ; an organ that is nowhere counts 1. "
        "One run each: differences of some hundredths are chance."
    )


def main() -> None:
    """Print the table, and save it and the picture with --save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", metavar="NAME=RUN", help="a name for a run, and its folder")
    parser.add_argument("--data", default="data not named", help="the data, for the table's heading")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/comparison.md and the picture")
    given = parser.parse_args()
    if not given.runs:
        print("no runs to compare: name some, as NAME=RUN")
        return
    compared = {name: runs.read(folder) for name, folder in (text.split("=", 1) for text in given.runs)}
    text = f"# With and without attention and augmentation\n\n{given.data}: {setting(compared)}\n\n{table(compared)}\n"
    print(text)
    if given.save:
        with files.replacing(RESULTS) as file:
            file.write(text)
        training.gaps({name: run.history() for name, run in compared.items()}).savefig(PICTURE, dpi=80)


if __name__ == "__main__":
    main()
