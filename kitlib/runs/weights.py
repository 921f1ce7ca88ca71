"""The weights of cross-validations in a mean over their networks: a weight.json in the folder of each.

A run reads it as `Run.weight`; without one it counts 1.
"""

from collections.abc import Sequence

from kitlib import files
from kitlib.runs import folder
from kitlib.runs.selection import HeldOut


def write_weights(found: Sequence[HeldOut], weights: Sequence[float]) -> None:
    """Store the weights of a mean over cross-validations, such as `postprocess.fusion.choose` finds.

    Each network gets its share of the weight of its cross-validation, however many it has. The files travel in bundles.
    In inference a network's passes over a scan, plain and mirrored, divide its share.

    Raises:
        ValueError: for a weight of 0 or less: names the cross-validation, which belongs in no ensemble.
    """
    for choice, weight in zip(found, weights, strict=True):
        if not weight > 0:
            raise ValueError(f"{choice.folder} has the weight {weight}; leave it out of the bundle instead")
    for choice, weight in zip(found, weights, strict=True):
        with files.replacing(choice.folder / folder.WEIGHT) as file:
            file.write(f"{weight / len(choice.runs)!r}")
