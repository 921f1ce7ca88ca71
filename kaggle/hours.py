"""Estimate the hours of a training on Kaggle: `python kaggle/hours.py`. Nothing is timed.

    hours = epochs * (3 * training slices + validation slices) * 2 * MAC / rate / 3600

MAC counts the multiply-accumulates of the whole U-Net for one slice, and a training step costs three forward passes.
RATES are an assumption of what one T4 reaches in half precision with XLA, far below its nominal 65 TFLOP/s. Reading
the data, the host score after each epoch and the first compilation come on top.
"""

import math

from kitlib.training import presets, recipes

ENCODERS = ("efficientnet-lite0", "efficientnetv2-b0", "efficientnetv2-s", "efficientnetv2-m")
DEPTH, FOLDS = 5, 5
SLICES, ANNOTATED = 38_496, 16_590  # of the competition's training set
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


def hours(role: str, encoder: str) -> tuple[float, float]:
    """Estimate the hours of one fold of five on one T4: at the higher rate, and at the lower one."""
    make, slices = ROLES[role]
    recipe, (_, grid) = make(encoder), presets.suited(accelerators=1, role=role)
    passes = recipe.epochs * (3 * slices * (FOLDS - 1) + SLICES) / FOLDS
    work = passes * 2 * macs(recipe.builder()((*grid, DEPTH)))
    return work / max(RATES) / 3600, work / min(RATES) / 3600


def main() -> None:
    """Print a table in Markdown."""
    print("| encoder | " + " | ".join(ROLES) + " |\n" + "|---" * (1 + len(ROLES)) + "|")
    for encoder in ENCODERS:
        cells = ["{:.1f} to {:.1f} h".format(*hours(role, encoder)) for role in ROLES]
        print(f"| {encoder} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
