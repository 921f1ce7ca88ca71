"""The paper's results, and the references to it in this tree."""

import re
from pathlib import Path

from kitlib.paper import experiments, published

ROOT = Path(__file__).parents[2]
SECTIONS = {"I", "II", "II.A", "II.B", "II.C", "III", "IV", "IV.A", "IV.B", "IV.C", "V", "V.A", "V.A.1", "V.A.2"}
SECTIONS |= {"V.B", "V.B.1", "V.B.2", "V.B.3", "V.C", "V.D", "V.E", "V.F", *(f"V.F.{n}" for n in range(1, 6)), "VI"}


def test_published_cells_stand_beside_ours_with_their_doubts(trained):
    table = experiments.table(trained, experiments.SETS["losses"])
    text = published.beside(table, "losses")
    assert text.at["BCE", "accuracy"].endswith("| 0.679?")
    assert text.at[experiments.BASE, "best epoch"].endswith("| 19?")
    assert not published.cells("attention").size


def test_published_iou_is_impossible_for_every_published_dice():
    cells = published.cells("losses").pivot_table(index="row", columns="column", values="value")
    for end in ("", " at"):
        assert (cells[f"IoU{end}"] > cells[f"Dice{end}"] / (2 - cells[f"Dice{end}"]) + 0.05).all()


def sections(text):
    """The sections of the paper that a text refers to."""
    return set(re.findall(r"\b(?:II|III|IV|V|VI)\.[A-Z](?:\.\d)?\b", text))


def test_every_section_that_is_referred_to_is_in_the_paper():
    rooms = [ROOT / name for name in ("kitlib", "phantom", "notebooks", "docs", "benchmarks", "kaggle")]
    paths = [*ROOT.glob("*.md"), *(path for room in rooms for path in room.rglob("*"))]
    texts = [path.read_text(encoding="utf-8") for path in paths if path.suffix in (".py", ".md")]
    references = set().union(*map(sections, texts))
    assert {"II.B", "V.F.5"} <= references <= SECTIONS
    assert not sections("(V.F.5, V.G)") <= SECTIONS
