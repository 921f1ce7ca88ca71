"""Pictures of a training: what the network sees, how it learns, what it predicts."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kitlib import contest, rle, runs
from kitlib.data import inputs
from kitlib.data.pipeline import Packed
from kitlib.figures.style import INK, WIDTH, canvas, look, organ_legend, overlay, picture_axis


@look
def stack(packed: Packed, place: int) -> Figure:
    """Draw the stack of one slice as the network gets it, with the masks on its middle."""
    images = packed.stack(place)
    depth = packed.spec.depth
    figure, axes = canvas(WIDTH / depth + 0.7, columns=depth)
    numbers = packed.slices["slice"].to_numpy()[packed.stacks[place]]
    masks = packed.truth(packed.slices.iloc[[place]])[0]
    for position, (axis, image, number) in enumerate(zip(axes[0], np.moveaxis(images, -1, 0), numbers, strict=True)):
        overlay(axis, image, masks if position == depth // 2 else np.zeros_like(masks))
        axis.set_title(f"slice {number}" + (", to outline" if position == depth // 2 else ""))
    organ_legend(figure)
    return figure


def busiest(slices: pd.DataFrame) -> int:
    """Find the slice on which all organs are well seen: its smallest one is the largest among all slices.

    Where no slice holds them all, the second smallest decides, and so on.

    Args:
        slices: table of slices with masks.

    Returns:
        The place of its row.
    """
    areas = np.sort(slices[list(contest.ORGANS)].map(rle.area).to_numpy(), axis=1)
    return int(np.lexsort(areas.T[::-1])[-1])


@look
def history(table: pd.DataFrame) -> Figure:
    """Draw loss, Dice and IoU over the epochs (paper, Figures 7, 9 and 10), and the host score where it was taken.

    Grey is what is learned from, dark what is held out; the best epoch is the one with the highest host score.
    """
    scored = table["score"].notna() if "score" in table else pd.Series(False, table.index)
    panels = {"loss": "Loss", "dice": "Dice", "iou": "IoU"} | ({"score": "Host score"} if scored.any() else {})
    judged = table["score"] if scored.any() else -table["val_loss"]
    figure, axes = canvas(3.2, columns=len(panels))
    for axis, (name, title) in zip(axes[0], panels.items(), strict=True):
        held_out = table[f"val_{name}"] if name != "score" else table["score"].interpolate(limit_area="inside")
        if name != "score":
            axis.plot(table["epoch"], table[name], color="#9AA5B1", label="learned from")
        axis.plot(table["epoch"], held_out, color=INK, label="held out")
        axis.axvline(table["epoch"][judged.idxmax()], color="#9AA5B1", linewidth=0.8, linestyle=":", label="best epoch")
        axis.set(title=title, xlabel="epoch")
        axis.locator_params(axis="x", integer=True)
        axis.grid(axis="y")
        if name != "loss":
            axis.set_ylim(0, 1)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@look
def gaps(histories: dict[str, pd.DataFrame]) -> Figure:
    """Draw Dice on the slices learned from and on those held out, a panel per run, so that the gap shows."""
    figure, axes = canvas(3.2, columns=len(histories), width=max(4.5, WIDTH * len(histories) / 3), sharey=True)
    for axis, (name, table) in zip(axes[0], histories.items(), strict=True):
        axis.plot(table["epoch"], table["dice"], color="#9AA5B1", label="learned from")
        axis.plot(table["epoch"], table["val_dice"], color=INK, label="held out")
        axis.fill_between(table["epoch"], table["val_dice"], table["dice"], color="#9AA5B1", alpha=0.2)
        axis.set(title=name, xlabel="epoch", ylim=(0, 1))
        axis.locator_params(axis="x", integer=True)
        axis.grid(axis="y")
    axes[0][0].set_ylabel("Dice")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@look
def predictions(run: runs.Run, slices: pd.DataFrame, count: int = 4) -> Figure:
    """Draw image, truth and out-of-fold prediction of some slices (paper, Figure 11).

    Args:
        run: has out-of-fold probabilities of the scans drawn.
        slices: held-out slices with masks; the busiest of each of `count` scans is drawn.
        count: rows of the picture.
    """
    names = [name for name in slices["scan"].unique() if name in run.scans][:count]
    figure, axes = canvas(WIDTH / 3 * len(names), rows=len(names), columns=3)
    for row, name in zip(axes, names, strict=True):
        scan = slices[slices["scan"] == name]
        place = busiest(scan)
        shown = scan.iloc[place]
        image = inputs.load([shown["path"]])[0]
        truth = np.stack([rle.decode(shown[organ], image.shape) for organ in contest.ORGANS], axis=-1)
        predicted = inputs.restore(run.probabilities(name)[place : place + 1], image.shape)[0] >= 0.5
        overlay(row[0], image, np.zeros_like(truth))
        overlay(row[1], image, truth)
        overlay(row[2], image, predicted)
        picture_axis(row[0], f"{name}, slice {shown['slice']}")
        picture_axis(row[1], "truth")
        picture_axis(row[2], "prediction")
    organ_legend(figure)
    return figure
