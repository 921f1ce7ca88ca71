"""Estimate the hours of a training on Kaggle: `python kaggle/hours.py`. Nothing is timed.

    hours = epochs * (3 * training slices + validation slices) * 2 * MAC / rate / 3600

MAC counts the multiply-accumulates of the whole U-Net for one slice, and a training step costs three forward passes.
Of a network for volumes they are those of one volume, and volumes are counted in place of slices.
RATES are an assumption of what one T4 reaches in half precision with XLA, far below its nominal 65 TFLOP/s. Reading
the data, the host score after each epoch and the first compilation come on top.
"""

import argparse
import math

from kitlib.data import pipeline
from kitlib.inference import windows
from kitlib.training import presets, recipes

ENCODERS = ("efficientnet-lite0", "efficientnetv2-b0", "efficientnetv2-s", "efficientnetv2-m")
FOLDS = 5
SLICES, ANNOTATED = 38_496, 16_590  # of the competition's training set
OF_A_SCAN = 144  # slices of most scans
RATES = 5e12, 8e12  # floating-point operations per second
ROLES = {"gate": (recipes.gate, SLICES), "segmenter": (recipes.segmenter, ANNOTATED)}  # slices to train on, all folds


def macs(network) -> int:
    """Count the multiply-accumulates of the convolutions and dense layers of a network for one slice."""
    total = 0
    for layer in network.layers:
        kernel = getattr(layer, "kernel", None)
        if kernel is not None:
            up = "Transpose" in type(layer).__name__  # each pixel that enters meets the whole kernel
            total += math.prod((layer.input if up else layer.output).shape[1:-1]) * math.prod(kernel.shape)
    return total


def hours(role: str, encoder: str, axis: str = "z") -> tuple[float, float]:
    """Estimate the hours of one fold of five on one T4: at the higher rate, and at the lower one.

    Along y and x an epoch draws as many pictures as there are slices, and every row or column of a scan is validated.
    """
    make, slices = ROLES[role]
    recipe, (_, grid) = make(encoder), presets.suited(accelerators=1, role=role)
    pictures = {"z": OF_A_SCAN, "y": grid[0], "x": grid[1]}[axis]
    return _hours(recipe, presets.spec("encoder", grid, axis=axis).shape, slices, SLICES / OF_A_SCAN * pictures)


def volume_hours() -> tuple[float, float]:
    """Estimate the hours of one fold of `recipes.volume`, as `hours` does."""
    spec = presets.spec("volume", presets.grid("volume", accelerators=1))
    validated = SLICES / OF_A_SCAN * len(windows.shares(OF_A_SCAN, spec.depth)[0])
    return _hours(recipes.volume(), spec.shape, pipeline.VISITS * SLICES / spec.depth, validated)


def _hours(recipe: recipes.Recipe, shape: tuple[int, int, int], trained: float, validated: float):
    """Estimate the hours of a fold, from the inputs that all folds together train on and validate on in an epoch."""
    passes = recipe.epochs * (3 * trained * (FOLDS - 1) + validated) / FOLDS
    work = passes * 2 * macs(recipe.builder()(shape))
    return work / max(RATES) / 3600, work / min(RATES) / 3600


def main() -> None:
    """Print a table in Markdown, and lines on other axes and volumes."""
    print("| encoder | " + " | ".join(ROLES) + " |\n" + "|---" * (1 + len(ROLES)) + "|")
    for encoder in ENCODERS:
        cells = ["{:.1f} to {:.1f} h".format(*hours(role, encoder)) for role in ROLES]
        print(f"| {encoder} | {' | '.join(cells)} |")
    for axis, name in (("y", "coronal"), ("x", "sagittal")):
        text = "A segmenter on {} pictures, `--encoder efficientnetv2-s --axis {}`: {:.1f} to {:.1f} h a fold."
        print(("\n" + text).format(name, axis, *hours("segmenter", "efficientnetv2-s", axis)))
    print("\nA network for volumes, `--preset volume`: {:.1f} to {:.1f} h a fold.".format(*volume_hours()))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
