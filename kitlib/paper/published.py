"""The paper's results, and tables that show them beside those of our trainings.

Source: section V of the paper, Table 8 and the text around Figures 7, 9 and 10.
"""

import pandas as pd

_MEASURES = ("best epoch", "Dice", "Dice at", "IoU", "IoU at", "accuracy", "accuracy at")
_RESULTS = {  # comparison -> row -> values of _MEASURES; "at" is the value at the epoch with the lowest loss
    "losses": {
        "BCE": (25, 0.6786, 0.4241, 0.7305, 0.3747, 0.6786, 0.4241),
        "soft Dice": (37, 0.448, 0.4458, 0.5678, 0.5309, 0.9683, 0.9548),
        "BCE + Dice": (36, 0.6957, 0.6957, 0.7665, 0.7631, 0.8628, 0.1534),
        "BCE + 0.5 Dice": (19, 0.7006, 0.7006, 0.7699, 0.7576, 0.9287, 0.6449),
    },
    "levels": {"4 levels": (27, 0.7, None, 0.75), "5 levels": (19, 0.7, None, 0.75)},
    "augmentation": {"with": (19, 0.7006, None, 0.7699), "the paper's first training": (6, 0.5, None, 0.6)},
}
_ABOVE = "larger than the Dice, but on the same pixels IoU = Dice / (2 - Dice), which is smaller"
_CEILING = "larger than 0.294, the mean Dice of a perfect prediction when empty masks count as 0"
_REPEATED = "a copy of the row's Dice"
_OTHER_RUN = "the best epoch of the 5-level training"


def cells(comparison: str) -> pd.DataFrame:
    """List the paper's results for one comparison, with a doubt where a value cannot be right.

    Args:
        comparison: a key of `experiments.SETS`; the paper has no results for "attention" and "neighbours".

    Returns:
        One row per value: `row`, `column`, `value` and `doubt`, empty where there is none.
    """
    found = []
    for row, values in _RESULTS.get(comparison, {}).items():
        for column, value in zip(_MEASURES, values, strict=False):
            doubt = _CEILING if column in ("Dice", "Dice at") else _ABOVE if column in ("IoU", "IoU at") else ""
            if comparison == "losses" and row == "BCE" and column in ("accuracy", "accuracy at"):
                doubt = _REPEATED
            if column == "best epoch" and (comparison, row) in (("losses", "BCE + 0.5 Dice"), ("augmentation", "with")):
                doubt = _OTHER_RUN
            if value is not None:
                found.append((row, column, value, doubt))
    return pd.DataFrame(found, columns=["row", "column", "value", "doubt"])


def beside(table: pd.DataFrame, comparison: str) -> pd.DataFrame:
    """Show the paper's values beside ours as text, such as "0.43 ±0.02 | 0.70?"; "?" marks a doubtful value.

    Args:
        table: of `experiments.table`: means and their intervals `... +-`.
        comparison: a key of `experiments.SETS`.
    """
    known = cells(comparison).set_index(["row", "column"])
    lines = {}
    for row in table.index:
        line = {}
        for column in [name for name in table.columns if f"{name} +-" in table.columns]:
            digits = 0 if "epoch" in column else 3
            text = f"{table.at[row, column]:.{digits}f} ±{table.at[row, f'{column} +-']:.{digits}f}"
            if (row, column) in known.index:
                value, doubt = known.loc[(row, column)]
                text += f" | {value:.{digits}f}{'?' if doubt else ''}"
            line[column] = text
        lines[row] = line
    return pd.DataFrame(lines).T.rename_axis("here | paper")
